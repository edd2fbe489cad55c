"""Evaluation of boxes: average precision, its fixed form, recall of phrases, on one set or on several."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lumiray.config import JobConfig, RunConfig
from lumiray.data.listing import find
from lumiray.errors import UserError
from lumiray.evaluate.box_options import BoxOptions, named_sets
from lumiray.evaluate.detection import BoxEvaluator
from lumiray.evaluate.evaluate_options import EvaluateCommand
from lumiray.evaluate.fixed_ap import FixedApEvaluator
from lumiray.evaluate.named import Evaluator
from lumiray.evaluate.phrase_recall import PhraseRecallEvaluator
from lumiray.registry import system as make_system
from lumiray.storage import NotThere, absolute, exists, is_s3, join, read_bytes, without_secrets, write_atomically
from lumiray.train.manifest import open_checkpoint
from lumiray.train.score import Asked, Subject, score_on_workers, whole_patterns

MOST_OF_PICTURE = 3000  # with fixed average precision, where a picture has no limit: pictures have fewer
AVERAGE = "average"


def score_boxes(command: EvaluateCommand) -> tuple[dict[str, float], str]:
    """Evaluate on every set, and write the figures.

    Returns:
        the figures by name, of several sets as `SET/NAME` and their means as `average/NAME`; and the file written.

    Raises:
        UserError: there is nothing to evaluate.
        RunFailure: a worker failed.
    """
    options: BoxOptions = command.options
    subject = subject_of(command)
    sets = named_sets(options.val_shards)
    listed = {name: find(whole_patterns(one)) for name, one in sets.items()}  # all are there before anything starts
    asked = Asked(
        options.workers, options.batch_size, options.precision, options.device, evaluators=evaluators_of(options)
    )
    found = {name: score_on_workers(subject, shards, asked)[0]["metrics"] for name, shards in listed.items()}
    figures = figures_of(found)
    now = time.time()
    told = {
        "time": now,
        "system": command.slug,
        "stage": subject.stage,
        "weights": without_secrets(subject.checkpoint or subject.job.system.weights),
        "val_shards": {name: without_secrets(one) for name, one in sets.items()},
        "metrics": figures,
    }
    name = f"scores/{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}.json"
    place = options.output or join(command.run_folder or ".", name)
    write_atomically(place, json.dumps(told, indent=1).encode())
    return figures, place


def subject_of(command: EvaluateCommand) -> Subject:
    """The networks that a command names: of a run's own stage, or for weights of the last stage, which takes any.

    Raises:
        UserError: there are no weights.
    """
    options: BoxOptions = command.options
    config = command.config
    if options.run is None and config.weights is None:
        raise UserError("Say what to evaluate: --run OUTPUT of a training job, or --weights FILE.")
    if config.weights is not None and not exists(config.weights):
        raise UserError(f"--weights {config.weights}: no such file.")
    if "lvis" in options.measures:
        config = replace(config, detections=max(config.detections, MOST_OF_PICTURE))
    if options.run is not None:
        manifest = open_checkpoint(absolute(options.run))
        job = JobConfig(command.slug, RunConfig(), config)
        return Subject(job, manifest.identity["stage"], manifest.url)
    config = replace(config, weights=absolute(config.weights))
    system = make_system(command.slug, config)
    if not is_s3(config.weights):  # of which workers fetch a copy
        config = system.portable()
    return Subject(JobConfig(command.slug, RunConfig(), config), system.stages()[-1].name, None)


def evaluators_of(options: BoxOptions) -> list[Callable[[], Evaluator]]:
    """What makes the evaluations that are asked for.

    Raises:
        UserError: the file of classes cannot be read.
    """
    pictures = None if options.class_pictures is None else class_pictures(options.class_pictures)
    known: dict[str, Callable[[], Evaluator]] = {
        "coco": BoxEvaluator,
        "lvis": partial(FixedApEvaluator, pictures),
        "phrases": PhraseRecallEvaluator,
    }
    return [known[name] for name in dict.fromkeys(options.measures)]


def class_pictures(path: str) -> dict[int, int]:
    """Pictures that have a class, by its number: from 1 on in the order of ids, as shards are made of such a file.

    Raises:
        UserError: it is not there, or its `categories` have no `id` and `image_count`.
    """
    try:
        categories = json.loads(read_bytes(path))["categories"]
        ordered = sorted(categories, key=lambda one: one["id"])
        return {number: int(one["image_count"]) for number, one in enumerate(ordered, 1)}
    except NotThere:
        raise UserError(f"--class-pictures {path}: no such file.") from None
    except (ValueError, LookupError, TypeError):
        raise UserError(
            f"--class-pictures {path} is no JSON whose `categories` have `id` and `image_count`, as LVIS has it."
        ) from None


def figures_of(sets: dict[str, dict[str, float]]) -> dict[str, float]:
    """Figures of one set as they are; of several by `SET/NAME`, with the mean of every figure that all sets have."""
    if list(sets) == [""]:
        return sets[""]
    found = {f"{name}/{figure}": value for name, own in sets.items() for figure, value in own.items()}
    first = next(iter(sets.values()))
    common = [figure for figure in first if all(figure in own for own in sets.values())]
    return found | {f"{AVERAGE}/{one}": sum(own[one] for own in sets.values()) / len(sets) for one in common}
