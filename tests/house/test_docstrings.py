"""Whoever reads a name from outside finds what it does, and what it gives."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.house.sources import PRODUCT, functions, sources


def public(tree: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public functions and classes of a module, and public methods of those classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def test_every_module_says_what_it_is() -> None:
    assert [one.name for one in sources(*PRODUCT) if not ast.get_docstring(one.tree)] == []


def test_every_public_name_has_a_docstring() -> None:
    missing = [
        f"{source.name}:{node.lineno} {node.name}"
        for source in sources("platform", "models", "jobs")
        for node in public(source.tree)
        if not ast.get_docstring(node)
    ]
    assert missing == []


def test_every_public_function_says_what_it_returns_and_the_type_of_all_it_takes() -> None:
    missing = []
    for source in sources("platform", "models", "jobs"):
        for node in public(source.tree):
            if isinstance(node, ast.ClassDef):
                continue
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [one.arg for one in named if one.annotation is None and one.arg not in ("self", "cls")]
            if node.returns is None or bare:
                missing.append(f"{source.name}:{node.lineno} {node.name} {bare}")
    assert missing == []


def test_docstrings_end_their_first_sentence_on_the_first_line() -> None:
    """Editors and `help` show that line alone."""
    long = []
    for source in sources("platform", "models", "jobs"):
        for function in functions(source.tree):
            text = ast.get_docstring(function)
            if text and not text.splitlines()[0].rstrip().endswith((".", ":", "?", "`", ")")):
                long.append(f"{source.name}:{function.lineno} {function.name}: {text.splitlines()[0]}")
    assert long == []
