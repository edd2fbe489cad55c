"""A job that trains on the rows that a filter keeps, and what it says of a filter that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import start_job
from tests.jobs.test_bad_input import NO_CAPTION, NO_PICTURE, ROWS, TRAINING, USUAL, refused, shard

from lumiray.train.checks import check_job
from lumiray.train.dry_run import describe_job

SPOILT = {ROWS + NO_PICTURE, ROWS + NO_CAPTION}
KEPT = 2 * ROWS - len(SPOILT) - 16  # rows that are whole and not of the 16 small ones


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards with tables, which know the two rows that are spoilt and call 16 rows small."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(2):
        shard(folder / f"{number:05d}.tar", number * ROWS, spoilt=number == 1)
        rows = range(number * ROWS, number * ROWS + ROWS)
        columns = {
            "key": [f"{row:05d}" for row in rows],
            "width": [100 if row < 16 else 300 for row in rows],
            "fault": pa.array(["spoilt" if row in SPOILT else None for row in rows], pa.string()),
        }
        pq.write_table(pa.table(columns), folder / f"{number:05d}.parquet")
    return folder


def test_a_job_never_reads_what_a_filter_leaves_out(tmp_path: Path, ray_address: str, shards: Path) -> None:
    def job(wanted: str) -> tuple[int, str]:
        options = (*TRAINING, "--shards", str(shards), "--epochs", "2", "--data.bad-rows", "fail")
        return start_job(
            "clip_pretrain.py", str(tmp_path), *options, "--data.filter", wanted, ray_address=ray_address
        ).finish()

    code, text = job("width >= 256 and fault is None")
    assert code == 0, text  # a spoilt row would have ended it
    assert f"filter keeps {KEPT} of {2 * ROWS} rows in 2 shard(s); {-(-2 * KEPT // 8)} steps = " in text
    code, text = job("fault is None")
    assert code == 2, text
    assert "data: the run has " in text
    assert "data.filter: the run has 'width >= 256 and fault is None', now it is 'fault is None'" in text


def test_the_spelling_of_a_filter_is_no_other_run(tmp_path: Path, shards: Path) -> None:
    from lumiray.command import parse

    def filter_of(text: str) -> str | None:
        options = (*USUAL, "--shards", str(shards), "--output", str(tmp_path), "--steps", "5", "--data.filter", text)
        return check_job(parse("clip", options).job).job.run.data.filter

    assert filter_of("(width>=256)and fault is None") == filter_of("width >= 256 and\n fault is None")


def test_a_dry_run_says_what_a_filter_keeps(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lumiray.command import parse

    mix = ("--mix", f"a=1:{shards}/00000.tar", f"b=1:{shards}/00001.tar", "--steps", "5")
    options = (*USUAL, *mix, "--val-shards", str(shards), "--output", str(tmp_path), "--data.filter", "fault is None")
    describe_job(parse("clip", options).job)
    said = capsys.readouterr().out
    assert f"a: filter keeps {ROWS} of {ROWS} rows in 1 shard(s), 50.0% of every batch" in said
    assert f"b: filter keeps {ROWS - 2} of {ROWS} rows in 1 shard(s), 50.0% of every batch" in said


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("width >= 256 &", "--data.filter 'width >= 256 &' cannot be read: "),
        ("__import__('os').abort() == 0", "__import__('os').abort() is neither a column nor a number"),
        ("widht >= 256", "00000.parquet: it has no column 'widht'. Did you mean 'width'?"),
        ("width == 'large'", "00000.parquet: width (a number) is compared with 'large' (a text)."),
    ],
)
def test_a_filter_that_cannot_be_used_is_refused_before_anything_starts(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str], shown: str, words: str
) -> None:
    options = ("--shards", str(shards), "--output", str(tmp_path / "run"), "--steps", "5", "--data.filter", shown)
    code, message = refused(capsys, *USUAL, *options)
    assert code == 2, message
    assert message.startswith("error: --data.filter ")
    assert words in message


def test_shards_without_tables_and_filters_that_keep_nothing_are_refused(
    tmp_path: Path, ray_address: str, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = (*USUAL, "--output", str(tmp_path / "run"), "--steps", "5")
    code, message = refused(capsys, *usual, "--shards", str(shards), "--data.filter", "width > 9999", cluster=True)
    assert code == 2, message
    assert message == f"error: --data.filter 'width > 9999' keeps none of the {2 * ROWS} rows of {shards}.\n"
    shard(tmp_path / "00000.tar", 0, spoilt=False)
    code, message = refused(capsys, *usual, "--shards", str(tmp_path), "--data.filter", "width > 3")
    assert code == 2, message
    assert message.startswith(f"error: There is no {tmp_path}/00000.parquet: --data.filter reads columns of ")
