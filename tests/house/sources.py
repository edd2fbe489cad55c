"""The project's own files as text and syntax trees, and fresh processes to try them in."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("platform", "models", "jobs")  # what a user installs or submits
EVERYTHING = (*PRODUCT, "benchmarks", "examples", "tests")


@dataclass(frozen=True)
class Source:
    """One Python file."""

    name: str  # relative to the root, with forward slashes
    text: str
    tree: ast.Module


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Every Python file below the folders."""
    found = []
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            text = file.read_text()
            found.append(Source(file.relative_to(ROOT).as_posix(), text, ast.parse(text)))
    assert found
    return tuple(found)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function, also methods and those inside others."""
    yield from (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything that is imported, at the top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{'.' * node.level}{node.module or ''}.{alias.name}", node.lineno) for alias in node.names)


def fresh(*arguments: str, path: str = "platform:models") -> str:
    """What a new Python process prints that starts in the root, with `path` (relative to the root) to import from.

    Raises:
        AssertionError: it did not end well.
    """
    folders = os.pathsep.join(str(ROOT / one) for one in path.split(":"))
    environment = os.environ | {"PYTHONPATH": folders, "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


LOADED = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@cache
def help_of(program: str, *words: str, path: str = "platform:models") -> tuple[str, frozenset[str]]:
    """What `python PROGRAM WORDS --help` prints (a file or a module), and the packages that it imported for that."""
    import json

    text, _, loaded = fresh("-c", LOADED, program, *words, "--help", path=path).rpartition("LOADED ")
    return text, frozenset(json.loads(loaded))
