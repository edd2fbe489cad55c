"""A folder of pictures restored by a trained system: its networks loaded once per process, large pictures in tiles.

One process does it here, without Ray; with several, or where a cluster is at RAY_ADDRESS, Ray Data shares the pictures
out, one at a time.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from lumiray.data.picture_file import MOST_PIXELS, encoded, read_picture
from lumiray.evaluate.picture_folder import Place, Report, Summary, each_picture, left_out, planned
from lumiray.evaluate.picture_pool import over_cluster, pool_of_workers
from lumiray.evaluate.restore_options import RestoreCommand
from lumiray.evaluate.run_weights import ready_system, with_own_weights
from lumiray.registry import require_use
from lumiray.storage import NotThere, base_name, read_bytes, write_atomically

EXTENSIONS = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}  # the first is given to other names


def restore_folder(command: RestoreCommand) -> Summary:
    """Restore what is not restored yet; see `each_picture`.  Then write the page of `--compare`, if asked for.

    Raises:
        UserError: a system that restores no pictures, weights that are missing or do not fit, folders as `planned`.
        RunFailure: pictures could not be restored (the others are done), or nothing could be written.
    """
    command = dataclasses.replace(command, config=_whole(command))
    options = command.options
    result_of = partial(result_name, form=options.format)
    places = planned(options, result_of)  # refused before a network is built
    restorer = Restorer(command, processes=options.workers)
    print(restorer.words(), flush=True)

    def restored(waiting: Sequence[Place]) -> Iterator[Report]:
        if options.workers == 1 and not os.environ.get("RAY_ADDRESS"):
            yield from restorer(waiting)
        else:
            yield from over_cluster(
                partial(Restorer, command, options.workers), waiting, 1, partial(pool_of_workers, options.workers)
            )

    try:
        return each_picture(options, result_of, restored)
    finally:  # also where some pictures were left out
        if options.compare:
            from lumiray.evaluate.compare import write_comparison

            print(write_comparison(options.compare, command.slug, restorer.words(), places), flush=True)


def result_name(name: str, form: str) -> str:
    """The name of a picture's result: its own, with the extension of the form if it has another."""
    stem, dot, extension = name.rpartition(".")
    kept = (dot + extension).lower() in EXTENSIONS[form]
    return name if kept else stem + EXTENSIONS[form][0]


def _whole(command: RestoreCommand) -> Any:
    """The settings, with weights that every process finds.

    Raises:
        UserError: the system restores nothing, or is given no weights.
    """
    require_use(command.slug, "restore")
    return with_own_weights(command.config)


class Restorer:
    """Reads, restores and writes pictures; one instance per process.

    Args:
        processes: that share the memory of a machine.
    """

    def __init__(self, command: RestoreCommand, processes: int = 1) -> None:
        import torch

        from lumiray.evaluate.tile_size import chosen_tiling, measured_memory

        self._options = command.options
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._system = ready_system(command.slug, command.config, device)
        self._memory = measured_memory(self._system, device, processes)
        tile = "none" if self._system.whole else command.options.tile
        self._tiling = chosen_tiling(tile, self._system, self._memory, device)
        self._compared = self._system.receptive_field is not None  # then there is nothing to compare

    def words(self) -> str:
        """How pictures are cut, in one line."""
        if self._tiling is None:
            return "pictures are restored in one piece"
        side, overlap = self._tiling.side, self._tiling.side - self._tiling.stride
        seen = "as without tiles, for no pixel depends on more than a tile holds"
        if self._system.receptive_field is None:
            seen = "not quite as without tiles, for the network sees the whole picture"
        return f"pictures of more than {side} pixels a side are restored in tiles that overlap by {overlap}: {seen}"

    def __call__(self, places: Sequence[Place]) -> Iterator[Report]:
        """Restore pictures one after the other."""
        from lumiray.train.failure import out_of_memory

        for place, result in places:
            try:
                yield self.restored(place, result)
            except (NotThere, ValueError) as error:  # no picture, or one that the result's form cannot hold
                yield left_out(place, error)
            except Exception as error:
                if out_of_memory(error) is None:
                    raise
                yield left_out(place, "memory ran out; give --tile 256, or fewer --workers")

    def restored(self, place: str, result: str) -> Report:
        """Restore one picture and write it.

        Raises:
            ValueError: no picture, a broken or too large one, or one that memory or the form of the result cannot hold.
            NotThere: it is gone since it was listed.
        """
        from lumiray.evaluate.tile_size import difference
        from lumiray.evaluate.tiling import restore_tiled

        started, tiling = time.monotonic(), self._tiling
        picture = read_picture(read_bytes(place), MOST_PIXELS)
        height, width = picture.color.shape[:2]
        if tiling is None and self._memory.per_pixel * height * width > self._memory.free:
            raise ValueError(f"in one piece it takes {self._memory.words(height * width)}; give --tile auto")
        color = restore_tiled(self._system.restore, picture.color, tiling, self._system.truncates)
        write_atomically(result, encoded(dataclasses.replace(picture, color=color), self._options.format))
        text = f"{base_name(place)}: {width} x {height}"
        tiles = tiling.count(height, width) if tiling is not None else 1
        text += f", {tiles} tiles of {tiling.side}" if tiling is not None and tiles > 1 else ""
        text += f", {time.monotonic() - started:.1f} s"
        if tiling is not None and tiles > 1 and not self._compared and self._memory.fits(3 * tiling.side**2 // 2):
            self._compared = True
            text += f"; {difference(self._system.restore, picture.color, tiling)}"
        return Report(text)
