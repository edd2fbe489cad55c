"""Evaluation of a restoration system on pairs: every picture's figures as a table, a page, and the worst ones drawn."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lumiray.config import JobConfig, RunConfig
from lumiray.data.index import ShardSet
from lumiray.data.listing import find
from lumiray.errors import RunFailure, UserError
from lumiray.evaluate.evaluate_options import EvaluateCommand
from lumiray.evaluate.fidelity import Measure
from lumiray.evaluate.named import FIDELITY
from lumiray.evaluate.panel import panel
from lumiray.evaluate.picture_table import PictureTable, literal, shown, to_csv, to_markdown
from lumiray.evaluate.worst import Case
from lumiray.registry import require_use
from lumiray.registry import system as make_system
from lumiray.storage import absolute, exists, join, list_names, remove_tree, without_secrets, write_atomically
from lumiray.system import Stage, System, stage_named
from lumiray.train.manifest import open_checkpoint
from lumiray.train.score import Asked, Subject, score_on_workers, whole_patterns

TABLE, PAGE, FIGURES, PANELS = "pictures.csv", "summary.md", "scores.json", "worst"
NOT_COMPUTED = {
    "lpips": "needs two files of weights that no package here ships; give --lpips-vgg and --lpips-linear",
    "niqe": "needs a fitted model of natural pictures that no package here ships",
}
NAMED = 10  # unusable rows on the page


def evaluate_pictures(
    command: EvaluateCommand, measures: Mapping[str, Callable[[], Measure]]
) -> tuple[dict[str, float], str]:
    """Evaluate, and write the table, the page, the figures and the drawings.

    Args:
        measures: further ones than the stage's, by name: what makes each, on a worker.

    Returns:
        the figures by name, and the folder that was written.

    Raises:
        UserError: the system restores nothing, or there is nothing to evaluate, or no measure for it.
        RunFailure: a worker failed, or no picture could be used.
    """
    options = command.options
    subject, stage = subject_of(command)
    listed = find(whole_patterns(options.val_shards))  # a missing shard is found before anything is started
    asked = Asked(options.workers, stage.evaluation_batch_size or 1, num_worst=options.worst, measures=measures)
    found, shards = score_on_workers(subject, listed, asked)
    table = table_of(found["pictures"], shards)
    now = time.time()
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    folder = options.output or join(command.run_folder or ".", "scores", moment)
    weights = without_secrets(subject.checkpoint or subject.job.system.weights)
    missing = {name: why for name, why in NOT_COMPUTED.items() if name not in table.measures}
    told = {
        "time": now,
        "system": command.slug,
        "stage": stage.name,
        "weights": weights,
        "val_shards": without_secrets(options.val_shards),
        "pictures": len(table),
        "metrics": found["metrics"],
        "not_computed": missing,
    }
    facts = (
        f"weights: {literal(weights)}, stage {stage.name}",
        f"shards: {literal(told['val_shards'])}",
        f"{len(table)} of {shards.num_rows} pairs{_unusable(table, shards)}",
    )
    panels = _draw(folder, found.get("worst", []), table)
    write_atomically(join(folder, TABLE), to_csv(table))
    write_atomically(join(folder, PAGE), to_markdown(command.slug, facts, table, panels, missing))
    write_atomically(join(folder, FIGURES), json.dumps(told, indent=1).encode())
    return found["metrics"], folder


def subject_of(command: EvaluateCommand) -> tuple[Subject, Stage]:
    """The networks that a command names: of a run's own stage, or of the last stage that has measures of pictures.

    Raises:
        UserError: the system restores nothing, there are no weights, or the run's stage has no measure.
    """
    require_use(command.slug, "restore")
    run, config = command.options.run, command.config
    weights = getattr(config, "weights", None)
    if run is None and weights is None:
        raise UserError("Say what to evaluate: --run OUTPUT of a training job, or --weights FILE.")
    if weights is not None:  # other files that the settings may name are those of training
        if not exists(weights):
            raise UserError(f"--weights {weights}: no such file.")
        config = replace(config, weights=absolute(weights))
    job, system = JobConfig(command.slug, RunConfig(), config), make_system(command.slug, config)
    if run is None:
        stage = next((one for one in reversed(system.stages()) if measures_of(one)), None)
        if stage is None:
            raise UserError(f"{command.slug} has no stage with a measure of pictures ({', '.join(FIDELITY)}).")
        return Subject(job, stage.name, None), stage
    manifest = open_checkpoint(absolute(run))
    stage = stage_named(system, manifest.identity["stage"])
    if not measures_of(stage):
        raise UserError(f"--run {run} is of {command.slug}/{stage.name}, {_without_measures(system)}")
    return Subject(job, stage.name, manifest.url), stage


def measures_of(stage: Stage) -> list[str]:
    """The stage's metrics that compare pictures."""
    return [name for name in stage.metrics if name in FIDELITY]


def _without_measures(system: System) -> str:
    others = [one.name for one in system.stages() if measures_of(one)]
    if not others:
        return "and no stage of it has a measure of pictures."
    return f"which has no measure of pictures; give the run of one that has: {', '.join(others)}."


def table_of(pictures: dict[str, dict[str, list[Any]]], shards: ShardSet) -> PictureTable:
    """The table of what the workers measured.

    Args:
        pictures: measure -> `row` (ordinals) and `value`, in the same order for all.

    Raises:
        RunFailure: no picture could be used.
    """
    ordinals = next(iter(pictures.values()))["row"]
    if not ordinals:
        raise RunFailure("None of the pairs could be used; the lines above say why. Mend the shards.")
    names, rows, keys = addresses(ordinals, shards)
    return PictureTable(ordinals, rows, names, keys, {name: one["value"] for name, one in pictures.items()})


def addresses(ordinals: Sequence[int], shards: ShardSet) -> tuple[list[str], list[int], list[str]]:
    """Shard, row within it and key of rows; keys are untrusted."""
    numbers, rows = (one.tolist() for one in shards.locate(np.asarray(ordinals, dtype=np.int64)))
    keys = {number: shards.keys(number) for number in sorted(set(numbers))}
    found = [keys[number][row] for number, row in zip(numbers, rows, strict=True)]
    return [shards.name_of(number) for number in numbers], rows, found


def _unusable(table: PictureTable, shards: ShardSet) -> str:
    """Which rows have no figures."""
    missing = sorted(set(range(shards.num_rows)) - set(table.ordinals))
    if not missing:
        return ""
    names, rows, keys = addresses(missing[:NAMED], shards)
    named = ", ".join(
        f"{literal(name)} row {row} ({literal(key)})" for name, row, key in zip(names, rows, keys, strict=True)
    )
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"; not usable: {named}{more}"


def _draw(folder: str, cases: Sequence[Case], table: PictureTable) -> list[str]:
    """Draw the worst pictures; returns their paths in the folder, which hold nothing of the keys."""
    for name in list_names(join(folder, PANELS)):
        if re.fullmatch(r"[0-9]+\.png", name):  # of an evaluation before
            remove_tree(join(folder, PANELS, name))
    places = {ordinal: place for place, ordinal in enumerate(table.ordinals)}
    drawn = []
    for number, case in enumerate(cases):
        place = places[case.row]
        figures = ", ".join(f"{name} {shown(name, values[place])}" for name, values in table.measures.items())
        lines = (f"{table.shards[place]} row {table.rows[place]}, key {table.keys[place]}", figures)
        drawn.append(f"{PANELS}/{number + 1}.png")
        write_atomically(join(folder, drawn[-1]), panel(case.pictures, lines))
    return drawn
