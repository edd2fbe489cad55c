"""Where a run's numbers go, each place read back by its own reader: files, TensorBoard, W&B, MLflow, on disk and S3."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lumiray.config import LogConfig
from lumiray.errors import UserError
from lumiray.storage import exists, join, list_names, read_bytes
from lumiray.train import sinks
from lumiray.train.progress import Progress, duration
from lumiray.train.sinks import BAD_ROWS, LinesFile, Sink, TensorBoard, open_sinks


def row(step: int, kind: str = "train", **numbers: float) -> dict[str, Any]:
    return {"step": step, "kind": kind, "time_s": float(step)} | (numbers or {"loss": 1.0 / step})


def write(sink: Sink, *rows: dict[str, Any]) -> None:
    for one in rows:
        sink.write(one)
    sink.close()


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_bytes(join(output, sinks.METRICS)).decode().splitlines()]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a folder."""
    found = EventAccumulator(str(folder)).Reload()
    return {tag: {one.step: one.value for one in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


@pytest.fixture(params=["disk", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "disk" else join(request.getfixturevalue("s3"), "run")


def test_metrics_of_a_killed_run_go_on_where_it_resumes(output: str) -> None:
    write(LinesFile(output, 0), *(row(step) for step in range(1, 6)), row(4, "evaluation", recall=0.5))
    if not output.startswith("s3://"):  # cut by a kill in the middle of a line
        with open(join(output, sinks.METRICS), "a") as file:
            file.write('{"step": 6, "kind": "tr')
    write(LinesFile(output, 3), row(4, loss=math.nan), row(5, loss=2.0))
    assert [(one["step"], one["loss"]) for one in lines(output)] == [(1, 1), (2, 1 / 2), (3, 1 / 3), (4, None), (5, 2)]


def test_metrics_on_a_store_that_cannot_append_are_there_at_each_evaluation(s3: str) -> None:
    sink = LinesFile(s3, 0)
    sink.write(row(1))
    assert list_names(s3) == []
    sink.write(row(1, "evaluation", recall=0.5))
    assert [one["kind"] for one in lines(s3)] == ["train", "evaluation"]
    sink.write(row(2))
    sink.close()
    assert [one["step"] for one in lines(s3)] == [1, 1, 2]


def test_tensorboard_shows_the_curves_without_the_steps_that_a_resume_made_void(output: str, tmp_path: Path) -> None:
    write(TensorBoard(output, 0), *(row(step, loss=step, lr=0.5) for step in range(1, 6)), row(2, "evaluation", a=7.0))
    write(TensorBoard(output, 3), *(row(step, loss=10.0 * step) for step in (4, 5)))
    folder = Path(output) / "tensorboard"
    if output.startswith("s3://"):
        folder = tmp_path / "copied"
        folder.mkdir()
        for name in list_names(join(output, "tensorboard")):
            (folder / name).write_bytes(read_bytes(join(output, "tensorboard", name)))
    found = scalars(folder)
    assert found["train/loss"] == {1: 1, 2: 2, 3: 3, 4: 40, 5: 50}
    assert found["evaluation/a"] == {2: 7}
    assert found["train/lr"][3] == 0.5
    assert set(found) == {"train/loss", "train/lr", "evaluation/a"}


def test_weights_and_biases_gets_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    *_, sink = open_sinks(str(tmp_path / "b32"), 0, LogConfig(wandb="emoji"))
    write(sink, row(1, loss=0.5), row(2, loss=0.25), row(2, "evaluation", recall=0.75))
    wandb.teardown()  # its own process closes the file: a run that is finished may still be in that one's buffer
    found = history_of_wandb(next(tmp_path.glob("wandb/offline-run-*/run-*.wandb")))
    assert {"train/loss": 0.5}.items() <= found[1].items()
    assert {"train/loss": 0.25, "evaluation/recall": 0.75}.items() <= found[2].items()


def records(data: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log, W&B's offline form: blocks of 32 KiB, a record may be cut into several parts."""
    place, parts = 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:  # no header fits: the block's end is filled
            place += left
            continue
        length, part = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # whole, or last
            yield parts
            parts = b""


def history_of_wandb(file: Path) -> dict[int, dict[str, float]]:
    """Logged numbers by step, read from an offline run's records."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[int, dict[str, float]] = {}
    for data in records(file.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            numbers = {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in record.history.item}
            found.setdefault(record.history.step.num, {}).update(numbers)
    return found


def test_mlflow_gets_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the light client has no other store of its own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    mlflow.set_tracking_uri(None)
    *_, sink = open_sinks(str(tmp_path / "b32"), 0, LogConfig(mlflow="emoji"))
    recall = {"text_to_image_R@10": 0.75, "bad": math.nan}
    write(sink, row(1, loss=0.5), row(2, loss=0.25), row(2, "evaluation", **recall))
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("emoji")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("b32", "FINISHED")
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history] == [(1, 0.5), (2, 0.25)]
    assert found.data.metrics["evaluation/text_to_image_R_at_10"] == 0.75


def test_a_tracker_that_is_not_installed_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(sinks.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"--log\.wandb needs the package wandb: pip install 'lumiray\[tracking\]'"):
        open_sinks(str(tmp_path), 0, LogConfig(wandb="emoji"))


def test_bad_rows_are_listed_in_a_file_of_their_own_without_those_that_a_resume_made_void(output: str) -> None:
    def progress(first_step: int) -> Progress:
        return Progress(output, lambda text, live: None, total_steps=9, first_step=first_step, log=LogConfig())

    def listed() -> list[tuple[int, str]]:
        return [(one["step"], one["key"]) for one in map(json.loads, read_bytes(join(output, BAD_ROWS)).splitlines())]

    began = progress(0)
    began.close()
    assert not exists(join(output, BAD_ROWS))
    began = progress(0)
    began.replaced(2, [{"shard": "0.tar", "row": 1, "key": "one", "reason": "broken"}])
    began.replaced(5, [{"key": "two"}, {"key": "three"}])
    began.close()
    assert listed() == [(2, "one"), (5, "two"), (5, "three")]
    resumed = progress(4)
    resumed.close()
    assert listed() == [(2, "one")]


def test_the_line_of_progress_says_what_goes_on(tmp_path: Path) -> None:
    shown: list[tuple[str, bool]] = []
    progress = Progress(
        str(tmp_path), lambda text, live: shown.append((text, live)), total_steps=1000, first_step=0, log=LogConfig()
    )
    values = {"loss": 2.5, "samples_per_s": 64.04, "step_s": 4.0, "data_wait_share": 0.125, "memory_gb": 3.96}
    progress.step(100, values)
    progress.evaluation(100, {"text_to_image_R@10": 0.51234, "candidates": 1911.0})
    progress.close()
    line = "step 100/1000  loss 2.5000  64.0/s  waiting 12%  4.0 GB  1h 00m left"
    assert shown == [(line, True), ("evaluation at step 100: text_to_image_R@10 0.5123", False)]
    train, evaluation = lines(str(tmp_path))
    assert values.items() <= train.items() and evaluation["candidates"] == 1911
    assert scalars(tmp_path / "tensorboard")["train/samples_per_s"] == pytest.approx({100: 64.04})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (86399, "23h 59m"),
        (180000, "2d 02h"),
    ],
)
def test_durations_are_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
