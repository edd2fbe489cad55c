"""The dashboard draws what runs tell, and everything that they tell."""

from __future__ import annotations

import json
import re

from tests.house.sources import ROOT

from lumiray.train.gauges import GAUGES, TAGS

BOARD = json.loads((ROOT / "cluster" / "grafana.json").read_text())
PANELS = BOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_every_drawn_number_is_one_that_runs_tell_and_the_other_way_round() -> None:
    assert {name for text in EXPRESSIONS for name in re.findall(r"ray_lumiray_\w+", text)} == {
        f"ray_{name}" for name in GAUGES
    }


def test_panels_choose_the_run_and_the_session_of_ray() -> None:
    variables = {one["name"] for one in BOARD["templating"]["list"]}
    assert {"datasource", "SessionName", "run"} == variables
    assert "run" in TAGS
    for text in EXPRESSIONS:
        for selector in re.findall(r"\{(.*?)\}", text):
            assert selector == 'run=~"$run", SessionName=~"$SessionName"'


def test_panels_say_what_they_show_and_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"].endswith(".") for panel in PANELS)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in PANELS)
