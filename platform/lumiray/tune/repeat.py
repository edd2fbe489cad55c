"""Is the winner better than the noise?  Its settings and those that all trials share, run again with other seeds.

    lumiray study repeat studies/cidnet --seeds 5

Both are trained under each seed, so leads are compared seed by seed.  The runs are a study of their own, below the
first one's output, which goes on where it was stopped.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lumiray import __version__
from lumiray.errors import RunFailure, UserError, check_number
from lumiray.storage import absolute, join
from lumiray.tune.lease import lease
from lumiray.tune.options import SearchOptions
from lumiray.tune.place import place_of
from lumiray.tune.study import Study, Trial, open_study
from lumiray.tune.summary import chosen, named_study, study_name

STUDENT_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for 95 % of both sides, by degrees of freedom from 1; beyond them it is near 2."""


@dataclass(frozen=True)
class Lead:
    """By how much the winner is ahead, seed by seed; above 0 it is better, whichever way the metric goes."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean lead."""
        return statistics.fmean(self.by_seed.values())

    @property
    def margin(self) -> float:
        """Half the width of the mean's 95 % interval."""
        count = len(self.by_seed)
        student = STUDENT_95[count - 2] if count - 2 < len(STUDENT_95) else 2.0
        return student * statistics.stdev(self.by_seed.values()) / math.sqrt(count)


def repeat(output: str, number: int | None, seeds: int, storage: str | None = None) -> str:
    """Run a trial's settings and the shared ones under several seeds; what came out, in words.

    Args:
        number: of the trial; the best one if None.
        seeds: how many, from 1 on; the study's own seed is left out, for the winner was chosen under it.

    Raises:
        UserError: no such trial, one without settings that could be repeated, or fewer than two seeds.
        RunFailure, Interrupted: as a search does.
    """
    check_number("seeds", seeds, 2)
    study = named_study(output, storage)
    trial = chosen(study, output, number)
    if len(trial.generations) > 1:
        raise UserError(
            f"Trial {trial.number} went on from other trials' checkpoints and changed its values on the way, so it has "
            "no settings to repeat. Name a trial that did not with --trial, or search again under another --seed."
        )
    job = study.job_of(replace(trial, values={}))
    folder = join(absolute(output), "repeats", str(trial.number))
    job = replace(job, run=replace(job.run, output=folder))
    used = [one for one in range(1, seeds + 2) if one != job.run.seed][:seeds]
    planned = [{**values, "seed": seed} for seed in used for values in (dict(trial.values), {})]
    about = {
        **study.about,
        **{"version": __version__, "repeats": trial.number, "algorithm": "planned", "scheduler": "none", "grace": None},
        "space.seed": "from 1 on",
    }
    name = f"{study_name(output)}-repeat-{trial.number}"
    with lease(folder):
        again = open_study(place_of(folder, storage, new=True), name, about)
        _run(again, job, planned)
    return "\n".join(told(leads(again, used, place), trial, metric.name) for place, metric in enumerate(study.metrics))


def _run(study: Study, job: Any, planned: Sequence[Mapping[str, Any]]) -> None:
    from lumiray.train.cluster import start_ray
    from lumiray.tune.search import drive

    options = SearchOptions(metric=str(study.about["metric"]), trials=len(planned))

    def next_planned() -> Trial | None:
        begun = len(study.trials())
        return study.begin(planned[begun]) if begun < len(planned) else None

    start_ray()
    drive(study, options, job, next_planned)


def leads(study: Study, seeds: Sequence[int], metric: int = 0) -> Lead:
    """The lead at one of the metrics under every seed for which both came to their end.

    Raises:
        RunFailure: fewer than two.
    """
    sign = study.metrics[metric].sign
    found: dict[int, dict[bool, float]] = {seed: {} for seed in seeds}
    for one in study.trials():
        if one.figures and one.values["seed"] in found:
            found[one.values["seed"]][len(one.values) > 1] = one.figures[metric]
    both = {seed: sign * (values[True] - values[False]) for seed, values in found.items() if len(values) == 2}
    if len(both) < 2:
        raise RunFailure(f"Only {len(both)} seed(s) came to the end with both settings; two are needed to compare.")
    return Lead(both)


def told(lead: Lead, trial: Trial, metric: str) -> str:
    """The comparison in words."""
    if lead.mean - lead.margin > 0:
        verdict = "larger than the noise"
    elif lead.mean + lead.margin < 0:
        verdict = "the shared settings are better"
    else:
        verdict = "not larger than the noise"
    lines = [f"seed {seed}: {value:+.4g}" for seed, value in lead.by_seed.items()]
    return "\n".join(
        [
            f"lead of trial {trial.number} over the settings that all trials share, {metric}",
            *lines,
            f"mean {lead.mean:+.4g}, 95 % interval +/- {lead.margin:.3g}: {verdict}",
        ]
    )
