"""A folder of pictures restored by systems that are fitted to each of them, spread over the cluster's cores.

Every picture is a task of its own, so nothing is shared but the list of names: Ray Data hands them to a pool of
processes with one core each, which read, fit and write.  A result is there whole or not at all, and what is there is
not done again: the same command goes on after any end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumiray.data.picture_file import EXTENSIONS, Picture, png, read_picture
from lumiray.errors import RunFailure, UserError
from lumiray.evaluate.fit_options import FitCommand, FitOptions
from lumiray.storage import (
    absolute,
    base_name,
    entry,
    is_s3,
    join,
    list_entries,
    make_folder,
    read_bytes,
    write_atomically,
)


@dataclass(frozen=True)
class Summary:
    """How many pictures were restored, left out, and found done; seconds that it took."""

    restored: int
    left_out: int
    there: int
    seconds: float


def fit_folder(command: FitCommand) -> Summary:
    """Restore what is not restored yet; print a line for each picture and one for all.

    Raises:
        UserError: no such folder, no picture in it, or names that would meet in the output.
        RunFailure: pictures could not be read or fitted (the others are done), or nothing could be written.
    """
    options, started = command.options, time.monotonic()
    source, target = absolute(options.input), absolute(options.output)
    results = planned(options, source, target)
    there = set() if options.overwrite else {one.name for one in list_entries(target)}
    waiting = [name for name, result in results.items() if result not in there]
    make_folder(target)
    left_out = 0
    for number, report in enumerate(_reports(command, source, target, waiting, results), 1):
        left_out += report["left_out"]
        print(f"{report['text']} ({number} of {len(waiting)})", flush=True)
    done = Summary(len(waiting) - left_out, left_out, len(results) - len(waiting), time.monotonic() - started)
    print(
        f"{done.restored} restored, {done.left_out} left out, {done.there} already there, in {done.seconds:.1f} s; "
        f"written to {options.output}",
        flush=True,
    )
    if left_out:
        raise RunFailure(f"{left_out} of {len(waiting)} pictures could not be restored; the lines above say why.")
    return done


def planned(options: FitOptions, source: str, target: str) -> dict[str, str]:
    """Name of every picture in the input -> name of its result, sorted.

    Raises:
        UserError: no such folder, no picture in it, the output is the input, or two results would have one name.
    """
    if not is_s3(source) and not entry(source).folder:
        raise UserError(f"--input {options.input} is a file: give the folder that it is in.")
    if source.rstrip("/") == target.rstrip("/"):
        raise UserError(f"--output {options.output} is the input: results would take the place of PNG files there.")
    names = [one.name for one in list_entries(source) if not one.folder and not one.name.startswith(".")]
    results: dict[str, str] = {}
    for name in names:
        stem, dot, extension = name.rpartition(".")
        if (dot + extension).lower() in EXTENSIONS:
            results[name] = f"{stem}.png"
    if not results:
        raise UserError(f"--input {options.input} holds no picture ({', '.join(EXTENSIONS)}).")
    first: dict[str, str] = {}
    for name, result in results.items():
        if first.setdefault(result, name) != name:
            raise UserError(f"{first[result]} and {name} would both be written as {result}: rename one of them.")
    return results


def _reports(
    command: FitCommand, source: str, target: str, names: Sequence[str], results: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """What became of each picture, as they are done."""
    from lumiray.train.cluster import start_ray
    from lumiray.train.failure import user_error_behind

    if not names:
        return
    size = command.options.group
    tasks = [
        json.dumps([(join(source, name), join(target, results[name])) for name in names[start : start + size]])
        for start in range(0, len(names), size)
    ]
    start_ray()
    try:
        for batch in _pipeline(command, tasks).iter_batches(batch_size=None, prefetch_batches=0):
            yield from map(json.loads, batch["report"])
    except Exception as error:
        raise user_error_behind(error) or RunFailure(f"Fitting failed: {error}") from error


def _pipeline(command: FitCommand, tasks: list[str]) -> Any:
    """Tasks -> reports, by a pool of processes.  Ray must be up."""
    import ray
    import ray.data

    cores = int(ray.cluster_resources().get("CPU", 1))
    if (command.options.workers or 1) > cores:
        raise UserError(f"--workers {command.options.workers}: the cluster has {cores} cores, and each takes one.")
    rows = ray.data.from_items([{"task": one} for one in tasks], override_num_blocks=len(tasks))
    rows.context.enable_progress_bars = False
    rows.context.raise_original_map_exception = True  # a full disk arrives as one message, not as text in a trace
    return rows.map_batches(
        Fitter,
        batch_size=None,
        fn_constructor_args=(command.slug, command.config),
        # a process gets a task when it has done the one before: a fit takes minutes, and pictures differ in size
        compute=ray.data.ActorPoolStrategy(
            size=min(command.options.workers or cores, len(tasks)), max_tasks_in_flight_per_actor=1
        ),
        num_cpus=1,
    )


class Fitter:
    """Reads, fits and writes the pictures of tasks; one instance per process, on one core."""

    def __init__(self, slug: str, config: Any) -> None:
        import torch

        from lumiray.registry import fit_function

        torch.set_num_threads(1)
        self.fit, self.config = fit_function(slug), config

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do tasks (Ray Data's batch form); one report per picture."""
        reports = [json.dumps(report) for task in batch["task"] for report in self.task(json.loads(str(task)))]
        return {"report": np.array(reports)}

    def task(self, places: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """Restore pictures (address, address of the result); those of one size are fitted together."""
        groups: dict[tuple[Any, ...], list[tuple[str, str, Picture]]] = {}
        for place, result in places:
            try:
                picture = read_picture(read_bytes(place))
            except (UserError, ValueError) as error:  # gone since it was listed, or no picture
                yield _left_out(place, error)
            else:
                groups.setdefault((picture.color.shape, picture.color.dtype), []).append((place, result, picture))
        for group in groups.values():
            yield from self.fitted(group)

    def fitted(self, group: list[tuple[str, str, Picture]]) -> Iterator[dict[str, Any]]:
        """Fit and write pictures of one size."""
        import torch

        from lumiray.train.failure import out_of_memory

        started = time.monotonic()
        top = np.iinfo(group[0][2].color.dtype).max
        try:
            stacked = np.stack([picture.color for _, _, picture in group]).astype(np.float32) / top
            found = self.fit(torch.from_numpy(stacked).permute(0, 3, 1, 2), self.config)
        except Exception as error:
            if not isinstance(error, ValueError) and out_of_memory(error) is None:
                raise
            short = error if isinstance(error, ValueError) else "memory ran out; give it fewer --workers"
            for place, _, _ in group:
                yield _left_out(place, short)
            return
        seconds = (time.monotonic() - started) / len(group)
        for (place, result, picture), one in zip(group, found, strict=True):
            pixels = (one.restored * top).round().permute(1, 2, 0).cpu().numpy().astype(picture.color.dtype)
            write_atomically(result, png(Picture(pixels, picture.alpha, picture.profile)))
            height, width = pixels.shape[:2]
            text = f"{base_name(place)}: {width} x {height}, noise {255 * one.noise_level:.1f} of 255, {seconds:.1f} s"
            yield {"text": text, "left_out": False}


def _left_out(place: str, reason: Any) -> dict[str, Any]:
    return {"text": f"left out: {base_name(place)}: {reason}", "left_out": True}
