"""What is in the tree is finished: nothing is promised for later, nothing only pretends to work."""

from __future__ import annotations

import ast
import io
import re
import tokenize

from tests.house.sources import EVERYTHING, PRODUCT, functions, sources

LATER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
HERE = "tests/house/test_finished.py"


def is_empty(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    body = [one for one in function.body if not isinstance(one, ast.Expr) or not isinstance(one.value, ast.Constant)]
    return all(isinstance(one, ast.Pass) for one in body)


def only_described(node: ast.AST) -> bool:
    """Whether it is a protocol: what others have to offer."""
    return isinstance(node, ast.ClassDef) and any("Protocol" in ast.dump(base) for base in node.bases)


def test_no_comment_or_text_puts_something_off() -> None:
    found = []
    for source in sources(*EVERYTHING):
        if source.name == HERE or not LATER.search(source.text):
            continue
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING) and LATER.search(token.string):
                found.append(f"{source.name}:{token.start[0]} {token.string.strip()[:80]}")
    assert found == []


def test_nothing_is_left_to_be_implemented() -> None:
    """Libraries raise NotImplementedError and may be caught; the house's own code never raises it."""
    found = []
    for source in sources(*PRODUCT):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Raise) and node.exc is not None and "NotImplemented" in ast.dump(node.exc):
                found.append(f"{source.name}:{node.lineno}")
        described = {id(one) for one in ast.walk(source.tree) if only_described(one) for one in functions(one)}
        for function in functions(source.tree):
            abstract = any("abstractmethod" in ast.dump(one) for one in function.decorator_list)
            if is_empty(function) and not abstract and id(function) not in described:
                found.append(f"{source.name}:{function.lineno} {function.name} does nothing")
    assert found == []


def test_input_is_checked_with_raise() -> None:
    """`python -O` drops assertions; they may only state what the code around them has made sure of."""
    found = []
    for source in sources("platform", "models"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assert) and node.msg is not None:
                found.append(f"{source.name}:{node.lineno} an assertion with a message is meant for a user")
    assert found == []
