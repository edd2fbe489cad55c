"""A run as one HTML page that needs no server: figures, curves, settings, and pictures to look at."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from lumiray.evaluate.chart import Line, line_chart
from lumiray.storage import exists, join, list_names, read_bytes, write_atomically

TEMPLATE = Path(__file__).with_name("report.html.jinja")
REPORT, SHEET = "report.html", "sheet.png"


@dataclass(frozen=True)
class Chart:
    """A chart with its title and one sentence on how to read it."""

    title: str
    words: str
    svg: str


def write_report(run: str) -> str:
    """Write `report.html` into a run's folder, local or s3://; returns its address.

    Parts that a run does not have are left out with a sentence.
    """
    rows = read_rows(run)
    scores = read_scores(run)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=run.rstrip("/").rpartition("/")[2],
        status=_json(run, "status.json") or {"state": "running", "step": 0},
        headline=headline(scores, rows),
        scores=scores,
        charts=charts(rows),
        settings=list(flat(_yaml(run, "config.yaml")).items()),
        sheet=base64.b64encode(read_bytes(join(run, SHEET))).decode() if exists(join(run, SHEET)) else None,
    )
    place = join(run, REPORT)
    write_atomically(place, page.encode())
    return place


def read_rows(run: str) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl; a last line cut by a kill is left out."""
    place = join(run, "metrics.jsonl")
    rows = []
    for line in read_bytes(place).decode().splitlines() if exists(place) else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def read_scores(run: str) -> list[dict[str, Any]]:
    """What `clip_evaluate.py` wrote into the run's folder, oldest first."""
    folder = join(run, "scores")
    names = sorted(list_names(folder)) if exists(folder) else []
    found = [_json(run, f"scores/{name}") for name in names if name.endswith(".json")]
    return [one for one in found if one]


def charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss, recall, throughput, waiting, learning rate and gradient norm."""
    training = [row for row in rows if row.get("kind") == "train"]
    evaluations = [row for row in rows if row.get("kind") == "evaluation"]

    def curve(name: str, source: Sequence[Mapping[str, Any]], label: str, x: str = "step") -> Line:
        return Line(label, [(row[x], row[name]) for row in source if row.get(name) is not None])

    recall = [
        curve(f"{direction}_R@{k}", evaluations, f"{words} R@{k}")
        for direction, words in (("text_to_image", "text to picture"), ("image_to_text", "picture to text"))
        for k in (1, 10)
    ]
    return [
        Chart("Loss", "Contrastive loss of each logged step.", line_chart([curve("loss", training, "loss")], "step")),
        Chart("Recall", "On the evaluation shards during training.", line_chart(recall, "step", percent=True)),
        Chart(
            "Throughput",
            "Samples per second over all workers.",
            line_chart([curve("samples_per_s", training, "samples/s", "time_s")], "seconds"),
        ),
        Chart(
            "Waiting for data",
            "Share of the time in which the next batch was not there yet.",
            line_chart([curve("data_wait_share", training, "waiting", "time_s")], "seconds", percent=True),
        ),
        Chart("Learning rate", "As set before each step.", line_chart([curve("lr", training, "lr")], "step")),
        Chart("Gradient norm", "Global, before clipping.", line_chart([curve("grad_norm", training, "norm")], "step")),
    ]


def headline(scores: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The figures that people look for first: (value, what it is)."""
    evaluations = [row for row in rows if row.get("kind") == "evaluation"]
    metrics = scores[-1]["metrics"] if scores else (evaluations[-1] if evaluations else {})
    names = (
        ("text_to_image_R@1", "text to picture, R@1"),
        ("text_to_image_R@10", "text to picture, R@10"),
        ("image_to_text_R@10", "picture to text, R@10"),
    )
    found = [(f"{100 * metrics[name]:.1f} %", words) for name, words in names if name in metrics]
    training = [row for row in rows if row.get("kind") == "train"]
    if training:
        found.append((f"{training[-1]['loss']:.3f}" if training[-1]["loss"] is not None else "-", "loss at the end"))
        speeds = sorted(row["samples_per_s"] for row in training)
        found.append((f"{speeds[len(speeds) // 2]:.0f}/s", "samples, median"))
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _json(run: str, name: str) -> dict[str, Any] | None:
    place = join(run, name)
    return json.loads(read_bytes(place)) if exists(place) else None


def _yaml(run: str, name: str) -> dict[str, Any]:
    place = join(run, name)
    return (yaml.safe_load(read_bytes(place)) or {}) if exists(place) else {}
