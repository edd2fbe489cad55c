"""Files of one idea and functions that fit on a screen (HOUSE: sizes)."""

from __future__ import annotations

import ast

import pytest
from tests.house.sources import EVERYTHING, PRODUCT, Source, functions, sources

MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 70, 7
LONGER_FILES: dict[str, str] = {}  # file -> why; a published network that is one thing may have 600 lines


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many a caller sees."""
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len(named) - (bool(named) and named[0].arg in ("self", "cls"))


@pytest.mark.parametrize("source", sources(*EVERYTHING), ids=lambda source: source.name)
def test_a_file_has_one_idea(source: Source) -> None:
    lines = len(source.text.splitlines())
    most = 600 if source.name in LONGER_FILES else MOST_LINES
    assert lines <= most, f"{source.name} has {lines} lines, {most} are the most: which two ideas are in it?"


def test_a_function_fits_on_a_screen_and_takes_few_values() -> None:
    found = []
    for source in sources(*PRODUCT, "benchmarks", "examples"):
        for function in functions(source.tree):
            lines = int(function.end_lineno or 0) - function.lineno + 1
            if lines > MOST_FUNCTION_LINES:
                found.append(f"{source.name}:{function.lineno} {function.name} has {lines} lines")
            if parameters(function) > MOST_PARAMETERS:
                found.append(f"{source.name}:{function.lineno} {function.name} takes {parameters(function)} values")
    assert not found, (
        f"at most {MOST_FUNCTION_LINES} lines; beyond {MOST_PARAMETERS} values a dataclass:\n" + "\n".join(found)
    )


def test_exceptions_name_files_that_still_need_them() -> None:
    lengths = {source.name: len(source.text.splitlines()) for source in sources(*EVERYTHING)}
    assert [name for name in LONGER_FILES if lengths.get(name, 0) <= MOST_LINES] == []
