from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import collect
from collect import Benchmark

GOOD = """
import json, sys
print("some progress")
print(json.dumps({"benchmark": "good", "ratio": 1.5, "speed": 0.9, "arguments": sys.argv[1:]}))
print("a word at the end of the process", file=sys.stderr)
"""
BAD = """
import sys
print("working")
sys.exit("the disk is full")
"""
CHATTY = "print('no numbers today')"
SKIPPED = """print('{"benchmark": "skipped", "skipped": "no GPU"}')"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("good", GOOD), ("bad", BAD), ("chatty", CHATTY), ("skipped", SKIPPED)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


BENCHMARKS = (
    Benchmark("bad", at_most={"ratio": 1.0}),
    Benchmark("good", ("--rows", "7"), at_most={"ratio": 1.05, "absent": 2.0}, at_least={"speed": 0.5}),
    Benchmark("chatty"),
    Benchmark("skipped", at_least={"speed": 1.0}),
)


def collected(folder: Path, *arguments: str) -> tuple[int, dict]:
    results = folder / "results"
    code = collect.main(list(arguments), BENCHMARKS, folder, results)
    (file,) = results.iterdir()
    return code, json.loads(file.read_text())


def test_a_failing_benchmark_is_recorded_and_the_others_still_run(folder: Path, capsys: pytest.CaptureFixture) -> None:
    code, content = collected(folder)
    found = content["benchmarks"]
    assert code == 1
    assert list(found) == ["bad", "good", "chatty", "skipped"]
    assert found["bad"]["exit_code"] == 1
    assert sorted(found["bad"]["last_lines"]) == ["the disk is full", "working"]
    assert "result" not in found["bad"]
    assert found["chatty"]["exit_code"] == 0
    assert "JSON" in found["chatty"]["failure"]
    assert found["good"]["result"] == {"benchmark": "good", "ratio": 1.5, "speed": 0.9, "arguments": ["--rows", "7"]}
    assert found["good"]["arguments"] == ["--rows", "7"]
    shown = capsys.readouterr()
    assert "some progress" in shown.out and "the disk is full" in shown.err


def test_targets_are_judged_and_shown_at_the_end(folder: Path, capsys: pytest.CaptureFixture) -> None:
    code, content = collected(folder, "--only", "good", "skipped")
    assert code == 0, "a missed target is no failure"
    targets = {one["key"]: one for one in content["benchmarks"]["good"]["targets"]}
    assert targets["ratio"] == {"key": "ratio", "value": 1.5, "target": "<= 1.05", "met": False}
    assert targets["speed"] == {"key": "speed", "value": 0.9, "target": ">= 0.5", "met": True}
    assert targets["absent"]["met"] is None
    table = capsys.readouterr().out.partition("benchmark  ")[2]
    rows = {tuple(line.split()[:2]): line for line in table.splitlines()}
    assert rows["good", "ratio"].endswith("<= 1.05 MISSED")
    assert rows["good", "speed"].endswith(">= 0.5 met")
    assert rows["good", "absent"].endswith("not measured")
    assert rows["skipped", "skipped:"].endswith("no GPU")


def test_the_file_says_what_was_measured_on_what(folder: Path) -> None:
    _, content = collected(folder, "--only", "good")
    assert list(content["benchmarks"]) == ["good"]
    assert content["versions"]["python"] == sys.version.split()[0]
    assert {"torch", "ray", "deepspeed", "open_clip_torch", "lumiray"} <= content["versions"].keys()
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["memory_gib"] > 0
    assert content["machine"]["cpu"]
    assert set(content["commit"]) == {"hash", "changed"}
    assert content["benchmarks"]["good"]["load_before"] >= 0


def test_what_is_done_is_kept_when_a_run_is_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = collect.run

    def interrupted(benchmark: Benchmark, where: Path) -> dict:
        if benchmark.name == "chatty":
            raise KeyboardInterrupt
        return run(benchmark, where)

    monkeypatch.setattr(collect, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect.main([], BENCHMARKS, folder, folder / "results")
    (file,) = (folder / "results").iterdir()
    assert list(json.loads(file.read_text())["benchmarks"]) == ["bad", "good"]


def test_an_unknown_name_is_refused_with_the_known_ones(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as refused:
        collect.main(["--only", "goood"], BENCHMARKS, folder, folder / "results")
    assert refused.value.code == 2
    assert "good" in capsys.readouterr().err
    assert not (folder / "results").exists()


def test_every_listed_benchmark_is_a_script_and_says_what_it_measures() -> None:
    pages = (ROOT / "benchmarks" / "README.md").read_text()
    for benchmark in collect.BENCHMARKS:
        script = ROOT / "benchmarks" / f"{benchmark.name}.py"
        assert script.exists(), benchmark.name
        assert f"`{benchmark.name}.py`" in pages
        for key in (*benchmark.at_most, *benchmark.at_least):
            assert key in script.read_text() and key in pages, key
