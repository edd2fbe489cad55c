"""A folder of pictures in, a folder of results out: their names, what is done already, progress, and the end.

A result is there whole or not at all, and what is there is not done again: the same command goes on after any end.
A picture that cannot be restored is named and left out, and the others are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lumiray.data.picture_file import EXTENSIONS
from lumiray.errors import RunFailure, UserError
from lumiray.storage import absolute, base_name, entry, is_s3, join, list_entries, make_folder

Place = tuple[str, str]  # address of a picture, address of its result


class Folders(Protocol):
    """What options say about the folders."""

    @property
    def input(self) -> str:
        """Folder, local or s3://, of pictures."""

    @property
    def output(self) -> str:
        """Folder for the results."""

    @property
    def overwrite(self) -> bool:
        """Whether pictures are restored again whose result is there."""


@dataclass(frozen=True)
class Report:
    """What became of one picture, as a line."""

    text: str
    left_out: bool = False


@dataclass(frozen=True)
class Summary:
    """How many pictures were restored, left out, and found done; seconds that it took."""

    restored: int
    left_out: int
    there: int
    seconds: float


def each_picture(
    folders: Folders, result_of: Callable[[str], str], restored: Callable[[Sequence[Place]], Iterable[Report]]
) -> Summary:
    """Restore what is not restored yet; print a line for each picture and one for all, name again what was left out.

    Args:
        result_of: name of a picture -> name of its result.
        restored: does pictures in any order, and says of each what became of it.

    Raises:
        UserError: as `planned`.
        RunFailure: pictures could not be read or restored (the others are done).
    """
    started = time.monotonic()
    places = planned(folders, result_of)
    target = absolute(folders.output)
    there = set() if folders.overwrite else {one.name for one in list_entries(target)}
    waiting = [one for one in places if base_name(one[1]) not in there]
    make_folder(target)
    left_out: list[str] = []
    for number, report in enumerate(restored(waiting) if waiting else (), 1):
        left_out += [report.text] if report.left_out else []
        print(f"{report.text} ({number} of {len(waiting)})", flush=True)
    done = Summary(len(waiting) - len(left_out), len(left_out), len(places) - len(waiting), time.monotonic() - started)
    print(
        f"{done.restored} restored, {done.left_out} left out, {done.there} already there, in {done.seconds:.1f} s; "
        f"written to {folders.output}",
        flush=True,
    )
    if left_out:
        named = "\n".join(f"  {text}" for text in left_out)
        raise RunFailure(f"{len(left_out)} of {len(waiting)} pictures could not be restored:\n{named}")
    return done


def planned(folders: Folders, result_of: Callable[[str], str]) -> list[Place]:
    """Every picture directly in the input and its result, sorted by name.

    Raises:
        UserError: no such folder, no picture in it, the output is the input, or two results would have one name.
    """
    source, target = absolute(folders.input), absolute(folders.output)
    if not is_s3(source) and not entry(source).folder:
        raise UserError(f"--input {folders.input} is a file: give the folder that it is in.")
    if source.rstrip("/") == target.rstrip("/"):
        raise UserError(f"--output {folders.output} is the input: results would take the place of pictures there.")
    names = [one.name for one in list_entries(source) if not one.folder and not one.name.startswith(".")]
    results = {name: result_of(name) for name in names if name.lower().endswith(EXTENSIONS)}
    if not results:
        raise UserError(f"--input {folders.input} holds no picture ({', '.join(EXTENSIONS)}).")
    first: dict[str, str] = {}
    for name, result in results.items():
        if first.setdefault(result, name) != name:
            raise UserError(f"{first[result]} and {name} would both be written as {result}: rename one of them.")
    return [(join(source, name), join(target, result)) for name, result in results.items()]


def left_out(place: str, reason: object) -> Report:
    """The line of a picture that could not be restored."""
    return Report(f"left out: {base_name(place)}: {reason}", left_out=True)
