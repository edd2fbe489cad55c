"""A folder of pictures restored by systems that are fitted to each of them, spread over the cluster's cores.

Every picture is a task of its own, so nothing is shared but the list of names: Ray Data hands them to a pool of
processes with one core each, which read, fit and write.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lumiray.data.picture_file import Picture, png, read_picture
from lumiray.errors import UserError
from lumiray.evaluate.fit_options import FitCommand
from lumiray.evaluate.picture_folder import Place, Report, Summary, each_picture, left_out
from lumiray.evaluate.picture_pool import Pool, over_cluster
from lumiray.storage import base_name, read_bytes, write_atomically


def fit_folder(command: FitCommand) -> Summary:
    """Restore what is not restored yet; see `each_picture`.

    Raises:
        UserError: no such folder, no picture in it, or names that would meet in the output.
        RunFailure: pictures could not be read or fitted (the others are done), or nothing could be written.
    """

    def pool_of(resources: dict[str, float]) -> Pool:
        cores, asked = int(resources.get("CPU", 1)), command.options.workers
        if (asked or 1) > cores:
            raise UserError(f"--workers {asked}: the cluster has {cores} cores, and each takes one.")
        return Pool(asked or cores)

    def fitted(places: Sequence[Place]) -> Iterator[Report]:
        return over_cluster(partial(Fitter, command.slug, command.config), places, command.options.group, pool_of)

    return each_picture(command.options, lambda name: f"{name.rpartition('.')[0]}.png", fitted)


class Fitter:
    """Reads, fits and writes pictures; one instance per process, on one core."""

    def __init__(self, slug: str, config: Any) -> None:
        import torch

        from lumiray.registry import fit_function

        torch.set_num_threads(1)
        self.fit, self.config = fit_function(slug), config

    def __call__(self, places: Sequence[Place]) -> Iterator[Report]:
        """Restore pictures; those of one size are fitted together."""
        groups: dict[tuple[Any, ...], list[tuple[str, str, Picture]]] = {}
        for place, result in places:
            try:
                picture = read_picture(read_bytes(place))
            except (UserError, ValueError) as error:  # gone since it was listed, or no picture
                yield left_out(place, error)
            else:
                groups.setdefault((picture.color.shape, picture.color.dtype), []).append((place, result, picture))
        for group in groups.values():
            yield from self.fitted(group)

    def fitted(self, group: list[tuple[str, str, Picture]]) -> Iterator[Report]:
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
                yield left_out(place, short)
            return
        seconds = (time.monotonic() - started) / len(group)
        for (place, result, picture), one in zip(group, found, strict=True):
            pixels = (one.restored * top).round().permute(1, 2, 0).cpu().numpy().astype(picture.color.dtype)
            write_atomically(result, png(replace(picture, color=pixels)))
            height, width = pixels.shape[:2]
            text = f"{base_name(place)}: {width} x {height}, noise {255 * one.noise_level:.1f} of 255, {seconds:.1f} s"
            yield Report(text)
