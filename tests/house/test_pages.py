"""What README.md and the other pages say can be done, can be done: targets, files, verbs and options exist."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest
from tests.house.pages import commands, files, inline, make_targets, named_files, write_files
from tests.house.sources import ROOT, help_of, sources
from tests.house.test_options import SEARCH_JOB, job_of, trained

from lumiray.cli import parser
from lumiray.command import SHORT

PAGES = [
    file.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "jobs/*.md", "models/**/*.md", "benchmarks/*.md", "docs/**/*.md", "examples/**/*.md")
    for file in sorted(ROOT.glob(pattern))
]
SOURCES = "platform:models"
MADE = {"benchmarks/results"}  # what a command leaves


def unknown_targets(page: str) -> list[str]:
    known = make_targets((ROOT / "Makefile").read_text())
    given = [*commands(page), *(text.split() for text in inline(page))]
    words = [word for one in given if one[:1] == ["make"] for word in one[1:]]
    return [word for word in words if word not in known and "=" not in word and not word.startswith("-")]


def options_of(job: str, *system: str, path: str = SOURCES) -> set[str]:
    """Options in a job's help, with those of a system where the job takes one; at the start of their lines."""
    text, _ = help_of(job, *system, path=path)
    found = {line.split()[1].rstrip(",") for line in text.splitlines() if line.startswith("│ --")} | {"--help"}
    return found | {short for short, whole in SHORT.items() if whole in found}


def with_packages(page: str, folder: Path) -> str:
    """Where Python finds this house and the packages that a page brings, which are written below the folder."""
    write_files(page, folder)
    brought = {str((folder / name).parents[1]) for name in files(page) if name.endswith("/entry_points.txt")}
    return ":".join((SOURCES, *sorted(brought)))


def wrong_job_commands(page: str, path: str = SOURCES) -> list[str]:
    """Options and jobs that a page uses and that do not exist."""
    found = []
    for words in commands(page):
        for job in (word for word in words if word.startswith("jobs/") and word.endswith(".py")):
            if not (ROOT / job).exists():
                found.append(f"{job} does not exist")
                continue
            given = words[words.index(job) + 1 :]
            used = {word.partition("=")[0] for word in given if word.startswith("--")}
            system = [word for word in given[:1] if not word.startswith("-")]
            found += [f"{job} has no option {one}" for one in sorted(used - options_of(job, *system, path=path))]
    return found


def unknown_inline_options(page: str) -> list[str]:
    """Options in running text that nothing here has."""
    known = {option for file in sorted((ROOT / "jobs").glob("*.py")) for option in options_of(f"jobs/{file.name}")}
    known |= options_of(SEARCH_JOB)
    known |= {option for slug in trained() for option in options_of(*job_of(slug))}
    known |= {text for one in every_parser(parser()) for action in one._actions for text in action.option_strings}
    known |= {  # of benchmarks and examples, as their code writes them
        node.value
        for source in sources("benchmarks", "examples")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    known |= {"--working-dir", "--address", "--runtime-env-json"}  # of ray
    words = [word.strip(",.;:()").partition("=")[0] for text in inline(page) for word in text.split()]
    return [word for word in words if word.startswith("--") and word != "--" and word not in known]


def every_parser(one: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    nested = [action for action in one._actions if isinstance(action, argparse._SubParsersAction)]
    return [one, *(inner for action in nested for choice in action.choices.values() for inner in every_parser(choice))]


def refused_by_lumiray(page: str) -> list[str]:
    """Commands of `lumiray` that its own parser does not take."""
    found = []
    for words in commands(page):
        if words[:1] == ["lumiray"] and "..." not in words:
            try:
                parser().parse_args(words[1:])
            except SystemExit as end:
                found += [" ".join(words)] if end.code else []
    return found


def missing_files(page: str, folder: str = "") -> list[str]:
    return sorted(one for one in named_files(page, folder) - MADE if not (ROOT / one).exists())


BAD_PAGE = """
```
make demo && make nothing-like-this   # a comment with make other
$ python jobs/clip_pretrain.py --shards a --outptu b \\
    --no-such-option
ray job submit --working-dir . -- python jobs/clip_nowhere.py --shards a
lumiray shards mkae a b
lumiray shards info a
```
See `platform/lumiray/nowhere.py`, [this](docs/nowhere.md), `jobs/*.py`, `--wokers` and `make never`.
"""


def test_the_rules_below_find_what_is_wrong_on_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert unknown_targets(BAD_PAGE) == ["nothing-like-this", "never"]
    assert wrong_job_commands(BAD_PAGE) == [
        "jobs/clip_pretrain.py has no option --no-such-option",
        "jobs/clip_pretrain.py has no option --outptu",
        "jobs/clip_nowhere.py does not exist",
    ]
    assert refused_by_lumiray(BAD_PAGE) == ["lumiray shards mkae a b"]
    assert missing_files(BAD_PAGE) == ["docs/nowhere.md", "jobs/clip_nowhere.py", "platform/lumiray/nowhere.py"]
    assert missing_files("[a](here.md)", "jobs") == ["jobs/here.md"]
    assert unknown_inline_options(BAD_PAGE) == ["--wokers"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_what_exists(name: str) -> None:
    page = (ROOT / name).read_text()
    assert unknown_targets(page) == []
    assert missing_files(page, Path(name).parent.as_posix()) == []


@pytest.mark.parametrize("name", PAGES)
def test_commands_on_a_page_are_understood(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / name).read_text()
    assert wrong_job_commands(page, with_packages(page, tmp_path)) == []
    assert unknown_inline_options(page) == []
    assert refused_by_lumiray(page) == []


def test_the_makefile_says_what_each_target_is_for() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {line.partition(":")[0] for line in makefile.splitlines() if "## " in line and not line.startswith("\t")}
    assert {"env", "demo", "test", "bench"} <= named
    (phony,) = (line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    assert named == set(phony.split()[1:])
