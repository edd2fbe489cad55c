"""The language of filters: what each part of it keeps, what it refuses, and that it runs nothing."""

from __future__ import annotations

import decimal
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lumiray.data.filter import parse_filter
from lumiray.errors import UserError

COLUMNS: dict[str, Any] = {
    "key": ["a", "b", "c", "d"],
    "width": pa.array([100, 200, 300, None], pa.int32()),
    "height": pa.array([150, 150, 300, 400], pa.int64()),
    "similarity": pa.array([0.1, 0.3, None, 0.5], pa.float32()),
    "language": ["en", "de", None, "it's"],
    "license": pa.array(["cc", "?", "cc", None]).dictionary_encode(),
    "safe": [True, False, None, True],
    "price": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("2.50"), decimal.Decimal("3.00")]),
    "title": pa.array(["x", "y", "z", "x"], pa.large_string()),
    "nothing": pa.nulls(4),
    "seen": pa.array([0, 1, 2, None], pa.timestamp("s")),
}
TABLE = pa.table(COLUMNS)


def kept(text: str) -> str:
    """Keys of the rows that a filter keeps, as a Parquet file is read with it."""
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer)
    condition = parse_filter(text).expression(TABLE.schema, "the table")
    found = pq.read_table(pa.BufferReader(buffer.getvalue()), columns=["key"], filters=condition)
    return "".join(found["key"].to_pylist())


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("width == 200", "b"),
        ("width != 200", "ac"),
        ("width < 200", "a"),
        ("width <= 200", "ab"),
        ("width > 200", "c"),
        ("width >= 200", "bc"),
        ("200 <= width", "bc"),
        ("100 < width < 300", "b"),
        ("width > 150.5", "bc"),
        ("width > -1", "abc"),
        ("width < 5000000000", "abc"),
        ("height > width", "a"),
        ("height > similarity", "abd"),
        ("similarity >= 0.3", "bd"),
        ("language == 'en'", "a"),
        ('language == "it\'s"', "d"),
        ("language > 'e'", "ad"),
        ("title == 'x'", "ad"),
        ("title != language", "abd"),
        ("license == 'cc'", "ac"),
        ("license == language", ""),
        ("safe == True", "ad"),
        ("safe != True", "b"),
        ("price > 2", "cd"),
        ("language in ('en', 'de')", "ab"),
        ("language in ['en']", "a"),
        ("language not in {'en'}", "bd"),
        ("not language in ('en',)", "bd"),
        ("width in (100, 300.0)", "ac"),
        ("width is None", "d"),
        ("width is not None", "abc"),
        ("nothing is None", "abcd"),
        ("seen is None", "d"),
        ("nothing > 3", ""),
        ("not nothing == 'x'", ""),
        ("nothing > 3 or width == 100", "a"),
        ("not width > 100", "a"),  # a row without a width is not known to be as small
        ("not (width > 100 and similarity > 0.2)", "a"),
        ("width == 100 or width == 200 and language == 'en'", "a"),  # `and` binds more closely than `or`
        ("(width == 100 or width == 200) and language == 'de'", "b"),
        ("not width == 100 and height == 150", "b"),  # and `not` more closely than `and`
        ("width == 100 or\n  width == 300\n", "ac"),  # as a YAML file gives it
        ("  width == 100", "a"),
    ],
)
def test_a_condition_keeps_the_rows_of_which_it_is_true(text: str, keys: str) -> None:
    assert kept(text) == keys
    assert kept(parse_filter(text).text) == keys


def test_one_condition_has_one_spelling() -> None:
    one, other = (
        parse_filter('(width>=256)and height>=256  and language == "en"'),
        parse_filter("width >= 256 and (height >= 256) and language=='en'"),
    )
    assert one == other
    assert one.digest == other.digest != parse_filter("width >= 256").digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read: invalid syntax"),
        ("width >", "cannot be read: invalid syntax, at its end"),
        ("width = 3", "cannot be read: invalid syntax, at character 7.*license == "),
        ("width > 3 AND height > 3", "cannot be read: invalid syntax"),
        ("width > 3; height > 3", "cannot be read: invalid syntax"),
        ("(width > 3", "cannot be read: '\\(' was never closed"),
        ("width > 3 & height > 3", "3 & height is neither a column nor a number"),
        ("(width > 3) & (height > 3)", "conditions are joined by `and` and `or`"),
        ("safe", "safe alone is no condition: compare it, as in `safe == True`"),
        ("width > 3 and 1", "1 is no comparison of a column"),
        ("1 < 2", "1 and 2 are compared, neither of them a column"),
        ("width == None", "nothing equals None: write `is None` or `is not None`"),
        ("width is 3", "`is` goes with None only"),
        ("3 is None", "3 is no column"),
        ("language in 'en'", r"`in` needs a list, as in `in \('en',\)`"),
        ("language in ()", "`in` is followed by an empty list"),
        ("language in (width > 3,)", "width > 3 is neither a column nor"),
        ("width > 10000000000000000000", "10000000000000000000 is too large a number"),
        ("width * height > 9", r"width \* height is neither a column nor a number"),
        ("width > 3j", "3j is neither a column nor"),
        ("language == b'en'", "b'en' is neither a column nor"),
        ("width > -'a'", "-'a' is neither a column nor"),
        ("not " * 20_000 + "width > 3", "nested too deeply"),
        ("(" * 300 + "width > 3" + ")" * 300, "cannot be read"),
        ("width > 3\0", "cannot be read"),
        ("width == '\ud800'", "cannot be read"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_reason_and_an_example(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        parse_filter(text)
    assert str(refused.value).startswith("--data.filter ")
    assert 'It is written like "width >= 256' in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch MARK')",
        "__import__('os').system('touch MARK') == 0",
        "width > 3 or open('MARK', 'w') is None",
        "width in [open('MARK', 'w')]",
        "width in (x for x in [open('MARK', 'w')])",
        "().__class__.__bases__[0] == width",
        "(lambda: open('MARK', 'w'))() == width",
        "width == (y := open('MARK', 'w'))",
        'f\'{open("MARK", "w")}\' == language',
        "[open('MARK', 'w') for _ in (1,)] == width",
        "open('MARK', 'w') if width > 3 else 0",
        "width.__class__ == 3",
        "width[open('MARK', 'w')] == 3",
        "await_ == print('x')",
    ],
)
def test_nothing_in_a_condition_is_ever_run(text: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(UserError, match=r"--data\.filter .* cannot be"):
        parse_filter(text.replace("MARK", str(mark)))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("widht > 3", "it has no column 'widht'. Did you mean 'width'"),
        ("widht is None", "It has key, width, height, similarity"),
        ("__import__ == 3", "it has no column '__import__'"),
        ("width == 'x'", r"width \(a number\) is compared with 'x' \(a text\)"),
        ("width in (1, 'x')", r"width \(a number\) is compared with 'x' \(a text\)"),
        ("language > 3", r"language \(a text\) is compared with 3 \(a number\)"),
        ("license > 3", r"license \(a text\) is compared with 3 \(a number\)"),
        ("width == True", r"width \(a number\) is compared with True \(true or false\)"),
        ("width == language", r"width \(a number\) is compared with language \(a text\)"),
        ("seen > '2020'", r"seen \(timestamp\[s\]\) is compared with '2020' \(a text\)"),
    ],
)
def test_a_condition_that_does_not_fit_a_table_is_refused_by_column(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        parse_filter(text).expression(TABLE.schema, "s3://set/00000.parquet")
    assert "does not fit s3://set/00000.parquet: " in str(refused.value)
