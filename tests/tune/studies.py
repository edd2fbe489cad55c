"""A small study as a search leaves it, for whatever reads one."""

from __future__ import annotations

from pathlib import Path

from tests.settings import default_job

from lumiray.settings_file import to_yaml
from lumiray.tune.place import place_of
from lumiray.tune.space import Axis, Choice, Interval, Space
from lumiray.tune.study import Study, described, open_study

SPACE = Space((Axis("lr", Interval(1e-4, 1e-2, log=True)), Axis("channels", Choice(([4, 4, 8, 8], [8, 8, 8, 8])))))


def begun(output: Path, metric: str = "psnr") -> Study:
    """A study of cidnet without a trial, open."""
    about = {"system": "cidnet", "metric": metric, "job": to_yaml(default_job("cidnet"))} | described(SPACE)
    return open_study(place_of(str(output), None, new=True), output.name, about)


def small_study(output: Path) -> Study:
    """Three trials are done, of which 1 is the best, and one has failed."""
    study = begun(output)
    for number, value in enumerate((20.0, 22.5, 21.0)):
        study.report(study.ask(SPACE, "random", 0).number, 10, value)
        study.finish(number, "done", value, seconds=12.0)
    study.finish(study.ask(SPACE, "random", 0).number, "failed", reason="step 3: the loss is not finite")
    return study
