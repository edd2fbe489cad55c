"""A study in words: the table of its trials, and the settings of the best one as a job's YAML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lumiray.errors import RunFailure, UserError
from lumiray.evaluate.chart import short_number
from lumiray.settings_file import to_yaml
from lumiray.storage import absolute, base_name
from lumiray.tune.generations import lineage
from lumiray.tune.place import place_of
from lumiray.tune.study import GIVEN, Study, Trial, open_study


def named_study(output: str, storage: str | None) -> Study:
    """The study of a search's output.

    Raises:
        UserError: there is none.
    """
    return open_study(place_of(output, storage), study_name(output))


def study_name(output: str) -> str:
    """What a study is called in its database: the last name of its output."""
    return base_name(absolute(output))


def chosen(study: Study, output: str, number: int | None) -> Trial:
    """A trial by its number; the best one if there is none.

    Raises:
        UserError: no such trial.
        RunFailure: no trial is done yet.
    """
    if number is None:
        best = study.best()
        if best is None:
            raise RunFailure(f"{output}: no trial of this study is done yet ({counted(study.trials())}).")
        return best
    trials = {one.number: one for one in study.trials()}
    if number not in trials:
        raise UserError(f"--trial {number}: the study has trials {min(trials, default=0)} to {max(trials, default=0)}.")
    return trials[number]


def best_settings(output: str, storage: str | None, number: int | None = None) -> str:
    """The whole configuration of a trial, by default of the best one, which `--config` of a job takes.

    Raises:
        UserError, RunFailure: as `chosen`.
    """
    study = named_study(output, storage)
    trial = chosen(study, output, number)
    end = study.said(trial.figures) if trial.figures else trial.state
    said = f"# trial {trial.number} of study {study_name(output)}: {end}\n"
    if len(trial.generations) > 1:
        said += (
            f"# It changed its values on the way; these are the last ones, and its result is in trials/{trial.folder}\n"
        )
    return said + to_yaml(study.job_of(trial))


def shown(output: str, storage: str | None) -> str:
    """A table of all trials, the best settings, and which of them matter; the same is drawn into the HTML report."""
    from lumiray.tune.report import write_study_report

    study, name = named_study(output, storage), study_name(output)
    return "\n".join([*_lines(study, name), "", write_study_report(study, output, name)])


def _lines(study: Study, name: str) -> Iterator[str]:
    trials, best = study.trials(), study.best()
    yield f"{name}: {sought(study)}; {counted(trials)}"
    yield ""
    yield from _table([columns(study), *(row_of(one, study) for one in trials)])
    if given := study.given():
        yield f"learnt from {len(given)} trials of {given[0].notes[GIVEN]['study']}"
    if taken := [line for one in trials for line in lineage(one.number, one.generations)]:
        yield ""
        yield "taken over (above are the last values; those before them, also of other trials, led to the result)"
        yield from taken
    failed = [one for one in trials if one.notes.get("reason")]
    if failed:
        yield ""
        yield from (f"trial {one.number}: {one.notes['reason']}" for one in failed)
    if len(study.metrics) > 1 and best is not None:
        yield ""
        yield "front: no trial is better than these at one metric without being worse at another"
        yield from (f"    trial {one.number}: {study.said(one.figures)}" for one in study.front())
    elif best is not None:
        yield ""
        yield f"best: trial {best.number}, {study.metric} {best.value:.6g}"
        yield from (f"    {field}: {value}" for field, value in best.values.items())
    for place, metric in enumerate(study.metrics):
        if not (importance := study.importance(place)):
            continue
        yield ""
        yield f"share of {metric.name}'s variation that a field explains (PED-ANOVA, trials that are done)"
        yield from (f"    {field}: {share:.0%}" for field, share in importance.items())


def searched(study: Study) -> dict[str, str]:
    """The fields that a study varies, with what its space says of each."""
    return {
        str(name).removeprefix("space."): str(words) for name, words in study.about.items() if str(name)[:6] == "space."
    }


def columns(study: Study) -> list[str]:
    """Names of the columns of `row_of`."""
    return ["trial", "state", *(one.name for one in study.metrics), "steps", *searched(study), "seconds"]


def row_of(one: Trial, study: Study) -> list[str]:
    """A trial as texts, by column."""
    values = [_short(one.values[field]) if field in one.values else "-" for field in searched(study)]
    steps = str(one.curve[-1][0]) if one.curve else "-"
    seconds = f"{one.notes['seconds']:.0f}" if "seconds" in one.notes else "-"
    others = [_short(figure) for figure in one.figures[1:]] or ["-"] * (len(study.metrics) - 1)
    return [str(one.number), one.state, _short(one.last), *others, steps, *values, seconds]


def sought(study: Study) -> str:
    """What a study looks for."""
    words = " and ".join(f"{'lowest' if one.lowest else 'highest'} {one.name}" for one in study.metrics)
    return f"{study.about['system']}, {words}"


def counted(trials: list[Trial]) -> str:
    """How many trials there are of each kind."""
    found = Counter(one.state for one in trials)
    return ", ".join(f"{count} {state}" for state, count in found.items()) or "no trials"


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return short_number(value)
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _table(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip()
