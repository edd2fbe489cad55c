"""Which rows a run takes, said over the columns of a table: `width >= 256 and similarity > 0.28`.

The text is read by Python's parser and turned, node by node, into an expression of Arrow: comparisons of a column
with a number, a text, True, False or another column, `in (...)`, `is None`, `and`, `or`, `not`.  Nothing else is
understood, and nothing is ever run.  As in SQL, a comparison with a missing value is neither true nor false, and
a row is kept only where the whole is true.
"""

from __future__ import annotations

import ast
import hashlib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from lumiray.errors import UserError, near

_EXAMPLE = "It is written like \"width >= 256 and not (license == '?' or similarity < 0.28)\"."
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NUMBER, _TEXT, _TRUTH = "a number", "a text", "true or false"


@dataclass(frozen=True)
class Filter:
    """A condition on the columns of a table.  Made by `parse_filter`.

    Args:
        text: in one spelling for all that differ only in spaces, quotes or needless brackets.
    """

    text: str

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for the text."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()

    def expression(self, schema: Any, where: str) -> Any:
        """The condition as a `pyarrow.compute.Expression` over tables of this schema.

        Args:
            where: name of the table, for messages.

        Raises:
            UserError: a column is not there, or is compared with what it does not hold.
        """
        try:
            return _condition(_tree(self.text), schema)
        except _Unfit as error:
            raise UserError(f"--data.filter {self.text!r} does not fit {where}: {error}") from None


def parse_filter(text: str) -> Filter:
    """Read a condition, as far as that is possible without the table.

    Raises:
        UserError: it is not written as one; says what is wrong and how one is written.
    """
    try:
        tree = _tree(text)
        _condition(tree, None)
        return Filter(ast.unparse(tree))
    except SyntaxError as error:
        place = f"character {error.offset}" if error.offset else "its end"
        raise UserError(f"--data.filter {text!r} cannot be read: {error.msg}, at {place}. {_EXAMPLE}") from None
    except _Unfit as error:
        raise UserError(f"--data.filter {text!r} cannot be used: {error} {_EXAMPLE}") from None
    except (ValueError, RecursionError, MemoryError):
        raise UserError(
            f"--data.filter {text[:80]!r} cannot be read: it is nested too deeply, or holds characters that are no "
            f"text. {_EXAMPLE}"
        ) from None


class _Unfit(Exception):
    """A part of a condition that cannot be used; the message says which and why, in whole sentences."""


@dataclass(frozen=True)
class _Operand:
    """One side of a comparison.

    Args:
        about: for messages.
        kind: what it holds; None where that is not known, or a column holds nothing at all.
        value: as an expression.
        is_column, is_empty: whether it is a column, and one without any value.
    """

    about: str
    kind: str | None
    value: Any
    is_column: bool
    is_empty: bool = False


def _tree(text: str) -> ast.expr:
    return ast.parse(text.replace("\n", " ").strip(), mode="eval").body  # a YAML file may break a long line


def _condition(node: ast.expr, schema: Any | None) -> Any:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return reduce(operator.and_, [_condition(part, schema) for part in parts])
        case ast.BoolOp(values=parts):
            return reduce(operator.or_, [_condition(part, schema) for part in parts])
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return ~_condition(inner, schema)
        case ast.Compare(left=first, ops=signs, comparators=others):
            pairs = zip([first, *others], signs, others)  # a < b < c is a < b and b < c
            return reduce(operator.and_, [_pair(left, sign, right, schema) for left, sign, right in pairs])
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
            raise _Unfit(f"{_shown(node)}: conditions are joined by `and` and `or`.")
        case ast.Name(id=name):
            raise _Unfit(f"{name} alone is no condition: compare it, as in `{name} == True`.")
    raise _Unfit(f"{_shown(node)} is no comparison of a column.")


def _pair(left: ast.expr, sign: ast.cmpop, right: ast.expr, schema: Any | None) -> Any:
    match sign, right:
        case ((ast.In() | ast.NotIn()), (ast.Tuple(elts=values) | ast.List(elts=values) | ast.Set(elts=values))):
            if not values:
                raise _Unfit("`in` is followed by an empty list.")
            # equalities, for unlike Arrow's `isin` they tell a missing value from one that is not in the list
            found = reduce(operator.or_, [_compared(left, ast.Eq(), value, schema) for value in values])
            return ~found if isinstance(sign, ast.NotIn) else found
        case ((ast.In() | ast.NotIn()), _):
            raise _Unfit(f"`in` needs a list, as in `in ({_shown(right)},)`.")
        case ((ast.Is() | ast.IsNot()), ast.Constant(value=None)):
            side = _operand(left, schema)
            if not side.is_column:
                raise _Unfit(f"{side.about} is no column.")
            return side.value.is_valid() if isinstance(sign, ast.IsNot) else side.value.is_null()
        case ((ast.Is() | ast.IsNot()), _):
            raise _Unfit(f"`is` goes with None only: compare with {_shown(right)} by `==` or `!=`.")
    return _compared(left, sign, right, schema)


def _compared(left: ast.expr, sign: ast.cmpop, right: ast.expr, schema: Any | None) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    first, second = _operand(left, schema), _operand(right, schema)
    if not (first.is_column or second.is_column):
        raise _Unfit(f"{first.about} and {second.about} are compared, neither of them a column.")
    if None not in (first.kind, second.kind) and first.kind != second.kind:
        raise _Unfit(f"{first.about} ({first.kind}) is compared with {second.about} ({second.kind}).")
    if first.is_empty or second.is_empty:
        return pc.scalar(pa.scalar(None, pa.bool_()))
    return _COMPARISONS[type(sign)](first.value, second.value)


def _operand(node: ast.expr, schema: Any | None) -> _Operand:
    match node:
        case ast.Name(id=name):
            return _column(name, schema)
        case ast.Constant(value=bool() as value):
            return _constant(value, _TRUTH)
        case ast.Constant(value=int() | float() as value):
            return _constant(value, _NUMBER)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return _constant(-value, _NUMBER)
        case ast.Constant(value=str() as value):
            return _constant(value, _TEXT)
        case ast.Constant(value=None):
            raise _Unfit("nothing equals None: write `is None` or `is not None`.")
    raise _Unfit(f"{_shown(node)} is neither a column nor a number, a text, True or False.")


def _constant(value: bool | float | str, kind: str) -> _Operand:
    import pyarrow.compute as pc

    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _Unfit(f"{value} is too large a number.")
    return _Operand(repr(value), kind, pc.scalar(value), is_column=False)


def _column(name: str, schema: Any | None) -> _Operand:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.field(name)
    if schema is None:
        return _Operand(name, None, column, is_column=True)
    if name not in schema.names:
        raise _Unfit(f"it has no column {name!r}.{near(name, schema.names)} It has {', '.join(schema.names)}.")
    is_type, stored = pa.types, schema.field(schema.names.index(name)).type
    if is_type.is_dictionary(stored):
        stored = stored.value_type
        column = column.cast(stored)
    if is_type.is_decimal(stored):  # whose comparison with other numbers may be beyond its digits
        column = column.cast(pa.float64())
    kinds = {
        _NUMBER: is_type.is_integer(stored) or is_type.is_floating(stored) or is_type.is_decimal(stored),
        _TEXT: is_type.is_string(stored) or is_type.is_large_string(stored) or is_type.is_string_view(stored),
        _TRUTH: is_type.is_boolean(stored),
    }
    kind = next((kind for kind, applies in kinds.items() if applies), str(stored))
    is_empty = is_type.is_null(stored)
    return _Operand(name, None if is_empty else kind, column, is_column=True, is_empty=is_empty)


def _shown(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 80 else f"{text[:77]}..."
