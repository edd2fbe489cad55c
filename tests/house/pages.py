"""What the project's pages promise: commands in their code blocks, files and options that they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("platform", "models", "jobs", "benchmarks", "examples", "tests", "docs", ".ci")
FENCE = re.compile(r"^ *(```+|~~~+)([^\n]*)\n(.*?)^ *\1 *$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^`([\w./-]+)`\n```[^\n]+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("", "sh", "bash", "shell", "console", "text")


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of every code block."""
    for _, language, text in FENCE.findall(page):
        yield language.strip().split(" ")[0].lower(), text


def files(page: str) -> dict[str, str]:
    """Files that a page gives in full: the line before a block names it, alone and in backticks."""
    return dict(FILE.findall(page))


def write_files(page: str, folder: Path) -> None:
    """Write the files that a page gives below a folder."""
    for name, text in files(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def commands(page: str) -> Iterator[list[str]]:
    """Words of every command in a shell block: continued lines joined, comments and prompts left out."""
    for language, text in blocks(page):
        if language not in SHELLS:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            try:
                words = shlex.split(line.removeprefix("$ "), comments=True)
            except ValueError:
                continue  # a drawing or an output, no command
            for part in split_at(words, {"&&", "||", ";", "|", "--"}):
                yield part[: part.index(">")] if ">" in part else part


def split_at(words: list[str], marks: set[str]) -> Iterator[list[str]]:
    """Parts between marks; a part that ends with `;` ends there (`--` starts the command that is submitted)."""
    part: list[str] = []
    for word in words:
        if word in marks or word.endswith(";"):
            part += [word.rstrip(";")] if word not in marks else []
            if part:
                yield part
            part = []
        else:
            part.append(word)
    if part:
        yield part


def inline(page: str) -> list[str]:
    """Texts in single backticks outside of blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", page))


def named_files(page: str, folder: str = "") -> set[str]:
    """Paths of the project that a page names, as links, in backticks or in blocks, relative to the root.

    Args:
        folder: where the page lies; its links start there.
    """
    prose = FENCE.sub("", page)
    links = (one.partition("#")[0] for one in re.findall(r"\]\(([^)\s]+)\)", prose))
    found = {(Path(folder) / one).as_posix() for one in links if one and "://" not in one}
    words = [word for text in inline(page) for word in text.split()]
    words += [word for _, text in blocks(page) for word in text.split()]
    for word in words:
        word = word.strip("'\",;:()")
        if word.split("/")[0] in FOLDERS and "/" in word and not re.search(r"[*<>{}$=]|\.\.\.|OUTPUT", word):
            found.add(word.rstrip("/."))
    return found


def make_targets(makefile: str) -> set[str]:
    return {
        name for line in re.findall(r"^([a-z][a-z -]*):(?!=)", makefile, flags=re.MULTILINE) for name in line.split()
    }
