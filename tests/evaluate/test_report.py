"""A run's report: figures, charts and settings of runs that ended well, were cut, went wrong, or hardly began."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from lumiray.errors import UserError
from lumiray.evaluate.report import headline, read_rows, read_scores, time_unit, write_report

EVIL = "<script>alert('x')</script>"


def train_row(step: int, **changed: Any) -> dict[str, Any]:
    row = {"step": step, "kind": "train", "time_s": 2.0 * step, "loss": 5 - step / 10, "lr": 1e-3, "grad_norm": 1.0}
    return row | {"samples_per_s": 100.0 + step, "data_wait_share": 0.01} | changed


def evaluation_row(step: int, **changed: Any) -> dict[str, Any]:
    recall = {"text_to_image_R@1": 0.125, "text_to_image_R@10": 0.5, "image_to_text_R@10": 0.25}
    return {"step": step, "kind": "evaluation", "time_s": 2.0 * step} | recall | changed


START = {"step": 0, "kind": "start", "time_s": 1.0}


def write_rows(run: Path, *rows: dict[str, Any], cut: str = "") -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + cut)


class Page(HTMLParser):
    """What a browser makes of a report: its text, its tags, and whether they close as they opened."""

    def __init__(self, run: Path | str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.html = Path(write_report(str(run))).read_text()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.words.append(data.strip())

    def figures(self) -> dict[str, str]:
        """The headline: what it is -> value."""
        pairs = re.findall(r'<div class="figure"><b>(.*?)</b><span>(.*?)</span>', self.html)
        return {words: value for value, words in pairs}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 20 steps with an evaluation, whole."""
    folder = tmp_path / "b32"
    folder.mkdir()
    write_rows(folder, START, *[train_row(step) for step in range(1, 21)], evaluation_row(20))
    (folder / "status.json").write_text(json.dumps({"state": "done", "step": 20}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": {"lr": 0.001, "shards": EVIL}, EVIL: [EVIL]}))
    return folder


def test_a_run_that_ended_shows_its_figures_charts_and_settings(run: Path) -> None:
    page = Page(run)
    assert page.open == []
    assert page.figures() == {
        "text to picture, R@1": "12.5 %",
        "text to picture, R@10": "50.0 %",
        "picture to text, R@10": "25.0 %",
        "loss at the end": "3.000",
        "samples, median": "111/s",
    }
    assert {"b32", "done at step 20", "run.lr", "0.001"} <= set(page.words)
    assert "Accuracy is of the evaluation at step 20." in page.words
    assert page.tags.count("svg") == 6


def test_a_run_of_restoration_shows_decibels_in_place_of_recall(run: Path) -> None:
    found = {"step": 20, "kind": "evaluation", "time_s": 2.0, "psnr": 27.083, "ssim": 0.81254, "psnr_gt_mean": 28.5}
    write_rows(run, START, *[train_row(step) for step in range(1, 21)], found)
    page = Page(run)
    assert page.figures()["PSNR"] == "27.08 dB"
    assert page.figures()["SSIM"] == "0.8125"
    assert "PSNR in dB" in page.words
    assert "Recall" not in page.words


def test_names_and_values_with_html_in_them_come_out_as_text(run: Path, tmp_path: Path) -> None:
    (run / "scores").mkdir()
    score = {"val_shards": f"shards/{EVIL}", "metrics": {"text_to_image_R@1": 0.4, EVIL: 0.5}}
    (run / "scores" / "1.json").write_text(json.dumps(score))
    evil = tmp_path / "<img src=x onerror=alert(1)>"
    run.rename(evil)
    page = Page(evil)
    assert "script" not in page.tags and "img" not in page.tags
    assert {evil.name, f"shards/{EVIL}", EVIL, str([EVIL])} <= set(page.words)
    assert page.words.count(EVIL) == 3  # the value of a setting, the name of one, a metric


def test_scores_count_before_the_evaluations_of_training(run: Path) -> None:
    (run / "scores").mkdir()
    for name, value in (("20250101-000000", 0.3), ("20250102-000000", 0.75)):
        score = {"val_shards": f"shards/{name}", "metrics": {"text_to_image_R@1": value, "zero_shot_top1": 0.625}}
        (run / "scores" / f"{name}.json").write_text(json.dumps(score))
    (run / "scores" / "notes.json").write_text("[1, 2]")
    (run / "scores" / "half.json").write_text('{"metrics": {"te')
    page = Page(run)
    assert page.figures()["text to picture, R@1"] == "75.0 %"
    assert page.figures()["zero-shot, top 1"] == "62.5 %"
    assert "Accuracy is of the evaluation on shards/20250102-000000." in page.words
    assert {"shards/20250101-000000", "0.3000", "0.7500"} <= set(page.words)


def test_a_line_cut_by_a_kill_is_left_out(run: Path) -> None:
    rows = [train_row(step) for step in (1, 2)]
    write_rows(run, *rows, cut='{"step": 3, "kind": "tra')
    assert [row["step"] for row in read_rows(str(run))] == [1, 2]
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes() + "é".encode()[:1])
    assert [row["step"] for row in read_rows(str(run))] == [1, 2]
    Page(run)


def test_a_run_that_was_killed_says_so_and_so_does_one_that_was_started_again(run: Path) -> None:
    assert "done at step 20" in Page(run).words
    (run / "status.json").write_text(json.dumps({"state": "interrupted", "step": 12}))
    assert "no end recorded: running or killed, logged to step 20" in Page(run).words
    (run / "status.json").unlink()
    assert "no end recorded: running or killed, logged to step 20" in Page(run).words


def test_losses_that_were_not_finite_break_nothing_and_are_said(run: Path) -> None:
    lost = {"loss": None, "grad_norm": None, "samples_per_s": None}
    write_rows(run, train_row(1), train_row(2, **lost), train_row(3, **lost))
    page = Page(run)
    assert page.figures() == {"loss at the end": "not finite", "samples, median": "101/s"}
    write_rows(run, train_row(1, **lost), evaluation_row(1, **{"text_to_image_R@1": None}))
    figures = Page(run).figures()
    assert figures["loss at the end"] == "not finite"
    assert "text to picture, R@1" not in figures


def test_parts_that_a_run_does_not_have_are_sentences(run: Path) -> None:
    write_rows(run, train_row(1))
    assert "Nothing was recorded for this chart." in Page(run).words  # no evaluation
    for name in ("metrics.jsonl", "config.yaml", "status.json"):
        (run / name).unlink()
    page = Page(run)
    assert {"No figures yet: nothing was logged.", "No configuration was written.", "nothing logged yet"} <= set(
        page.words
    )
    assert "svg" not in page.tags


def test_a_run_that_does_not_exist_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        write_report(str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


def test_a_run_is_named_by_its_folder_however_it_is_addressed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "b32" in Page(f"{run}/").words
    monkeypatch.chdir(run)
    assert "b32" in Page(".").words


def test_time_goes_on_where_a_run_was_resumed(run: Path) -> None:
    first = [START, train_row(1, time_s=3.0), train_row(2, time_s=4.0)]
    again = [START | {"step": 2, "time_s": 9.0}, train_row(3, time_s=10.0), evaluation_row(3, time_s=11.0)]
    third = [START | {"step": 3, "time_s": 2.0}, train_row(4, time_s=3.0)]
    write_rows(run, *first, *again, *third)
    assert [row["time_s"] for row in read_rows(str(run))] == [1, 3, 4, 13, 14, 15, 17, 18]


def test_zero_shot_accuracy_has_a_chart_where_it_was_evaluated(run: Path) -> None:
    assert "Zero-shot accuracy" not in Page(run).words
    write_rows(run, train_row(1), evaluation_row(1, zero_shot_top1=0.5, zero_shot_top5=0.75))
    page = Page(run)
    assert "Zero-shot accuracy" in page.words
    assert page.figures()["zero-shot, top 1"] == "50.0 %"


@pytest.mark.parametrize(
    ("longest_s", "unit"), [(0, "seconds"), (170, "seconds"), (200, "minutes"), (10_000, "minutes"), (11_000, "hours")]
)
def test_long_times_are_written_in_large_units(longest_s: float, unit: str) -> None:
    assert time_unit(longest_s)[0] == unit


def test_the_sheet_of_queries_is_part_of_the_page(run: Path) -> None:
    assert "img" not in Page(run).tags
    (run / "sheet.png").write_bytes(b"\x89PNG anything")
    page = Page(run)
    assert "img" in page.tags
    assert "data:image/png;base64,iVBORyBhbnl0aGluZw==" in page.html


def test_a_headline_needs_nothing() -> None:
    assert headline([], []) == []


def test_scores_come_oldest_first_whatever_their_files_are_called(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    for name, time in {"a": 30.0, "b": 10.0, "c": 20.0}.items():
        (tmp_path / "scores" / f"{name}.json").write_text(json.dumps({"time": time, "metrics": {"at": time}}))
    (tmp_path / "scores" / "d.json").write_text('{"metrics": null}')
    assert [one["metrics"]["at"] for one in read_scores(str(tmp_path))] == [10, 20, 30]
