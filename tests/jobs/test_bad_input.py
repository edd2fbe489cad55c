"""What a user gets for bad input: one message that says what, where and the mend, and the exit code of its kind."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import TINY, start_job

from lumiray.command import guarded, parse

ROWS, BATCH = 48, 8  # of each of two shards; of a step
NO_PICTURE, NO_CAPTION, LONG = 11, 23, 30  # rows of the second shard
STEPS = 2 * ROWS // BATCH
USUAL = ("--model", TINY, "--global-batch-size", str(BATCH), "--warmup", "0", "--lr", "1e-3")
TRAINING = (
    *(*USUAL, "--micro-batch-size", "4", "--retries", "0"),
    *("--log.every", "1", "--checkpoint.every", "100", "--seed", "3"),
)


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, first: int, spoilt: bool) -> None:
    """A shard of rows with a picture and a caption, some of them not quite."""
    with tarfile.open(path, "w") as tar:
        for row in range(ROWS):
            parts = {"png": picture(first + row), "txt": f"picture number {first + row}".encode()}
            if spoilt and row == NO_PICTURE:
                parts["png"] = b"<html>404 Not Found</html>"
            if spoilt and row == NO_CAPTION:
                del parts["txt"]
            if spoilt and row == LONG:
                parts["txt"] = b"a very long caption " * 500
            for extension, data in parts.items():
                about = tarfile.TarInfo(f"{first + row:05d}.{extension}")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    shard(folder / "00000.tar", 0, spoilt=False)
    shard(folder / "00001.tar", ROWS, spoilt=True)
    return folder


def first_bad_step() -> int:
    """The step in which the plan first needs a row that is bad."""
    from lumiray.data.plan import Plan, PlanSettings, Source

    plan = Plan((Source("shards", 2 * ROWS),), PlanSettings(), BATCH, 4, 3)
    bad = {ROWS + NO_PICTURE, ROWS + NO_CAPTION}
    return next(step for step in range(STEPS) if bad & set(plan.batch(step).row.tolist()))


def checkpoints(output: Path) -> list[str]:
    return sorted(file.parent.name for file in output.glob("checkpoints/*/manifest.json"))


def last_message(text: str) -> str:
    """What follows the last `error: `; nothing before it may look like a crash."""
    assert "Traceback" not in text, text
    return text.rpartition("error: ")[2]


def test_bad_rows_are_replaced_and_named_and_the_run_goes_on(tmp_path: Path, ray_address: str, shards: Path) -> None:
    options = (*TRAINING, "--shards", str(shards), "--val-shards", str(shards), "--epochs", "1")
    job = start_job("clip_pretrain.py", str(tmp_path), *options, ray_address=ray_address)
    code, text = job.finish()
    assert code == 0, text
    lines = text.splitlines()
    key, other = f"{ROWS + NO_PICTURE:05d}", f"{ROWS + NO_CAPTION:05d}"
    assert f"replaced: 00001.tar row {NO_PICTURE} (key '{key}'): " in text
    assert next(line for line in lines if f"row {NO_PICTURE} " in line).endswith("not a picture (26 bytes)")
    assert f"replaced: 00001.tar row {NO_CAPTION} (key '{other}'): " in text
    assert "left out of the evaluation: 00001.tar row 11 (key" in text
    assert f"row {LONG} " not in text  # a long caption is cut
    assert job.rows()[STEPS]["replaced_rows"] == sum(line.startswith("replaced: ") for line in lines)
    assert all(row["loss"] is not None for row in job.rows().values())


def test_a_mixture_trains_and_goes_on_only_as_the_mixture_it_was(
    tmp_path: Path, ray_address: str, shards: Path
) -> None:
    def job(weight: int) -> tuple[int, str]:
        mix = (
            "--mix",
            f"a=1:{shards}/00000.tar",
            f"b={weight}:{shards}/00001.tar",
            "--epochs",
            "1",
            "--epochs-of",
            "b",
        )
        return start_job("clip_pretrain.py", str(tmp_path), *TRAINING, *mix, ray_address=ray_address).finish()

    code, text = job(3)
    assert code == 0, text
    steps = ROWS * 4 // 3 // BATCH
    assert f"a: {ROWS} rows in 1 shard(s), 25.0% of every batch; {steps} steps = 0.333 epochs" in text
    assert f"b: {ROWS} rows in 1 shard(s), 75.0% of every batch; {steps} steps = 1 epochs" in text
    assert f"replaced: b: 00001.tar row {NO_PICTURE} (key " in text  # all of it is seen
    assert f"step {steps}/{steps} " in text
    code, text = job(2)
    assert code == 2
    assert "data.b.weight: the run has 3.0, now it is 2.0" in last_message(text)


def test_more_bad_rows_than_allowed_end_the_run_with_what_it_has_done(
    tmp_path: Path, ray_address: str, shards: Path
) -> None:
    step = first_bad_step()
    assert step > 0
    options = (*TRAINING, "--shards", str(shards), "--epochs", "1", "--data.bad-rows-limit", "0")
    job = start_job("clip_pretrain.py", str(tmp_path), *options, ray_address=ray_address)
    code, text = job.finish()
    assert code == 1, text
    message = last_message(text)
    assert message.startswith("1 of 1000 rows could not be used, more than --data.bad-rows-limit 0 allows")
    assert "00001.tar row " in message
    assert checkpoints(tmp_path) == [f"step-{step:08d}"]


def test_a_bad_row_that_may_not_be_replaced_is_the_whole_message(
    tmp_path: Path, ray_address: str, shards: Path
) -> None:
    """As a worker meets it: raised in a decoder, wrapped by Ray's tasks and by Ray Data."""
    from lumiray.data.parallel import open_shards
    from lumiray.data.stream import Decoders, items
    from lumiray.train.checks import check_job
    from lumiray.train.failure import user_error_behind
    from lumiray.train.launch import make_stream

    options = (*TRAINING, "--shards", str(shards), "--output", str(tmp_path), "--epochs", "1")
    job = parse("clip", (*options, "--data.bad-rows", "fail")).job
    delivered = []
    with pytest.raises(Exception, match="Mend the shard") as raised:
        delivered += items(make_stream(check_job(job), open_shards), 0, 1, 0, Decoders())
    told = user_error_behind(raised.value)
    assert told is not None
    assert told.exit_code == 1
    assert re.fullmatch(
        r"00001.tar, row \d+ \(key '\d+'\): .* Mend the shard, or let such rows be replaced and logged with "
        r"--data.bad-rows skip\.",
        str(told),
    )
    assert all(one.entry.step < first_bad_step() for one in delivered)


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def test_weights_that_would_run_a_command_are_refused_and_run_nothing(
    tmp_path: Path, ray_address: str, shards: Path
) -> None:
    weights, mark = tmp_path / "weights.pt", tmp_path / "mark"
    weights.write_bytes(pickle.dumps({"state_dict": Hostile(f"touch {mark}")}))
    options = (*TRAINING, "--shards", str(shards), "--epochs", "1", "--weights", str(weights))
    job = start_job("clip_pretrain.py", str(tmp_path / "run"), *options, ray_address=ray_address)
    code, text = job.finish()
    assert code == 2, text
    message = last_message(text)
    assert message.startswith(f"--weights {weights}: not a file of tensors")
    assert "save the state dict as safetensors" in message
    assert not mark.exists()


def refused(capsys: pytest.CaptureFixture[str], *options: str, cluster: bool = False) -> tuple[int, str]:
    """Exit code and message of a job in this process: its checks, and what follows where there is a cluster."""
    from lumiray.train.checks import check_job
    from lumiray.train.launch import train

    def act() -> None:
        job = parse("clip", options).job
        train(job) if cluster else check_job(job)

    try:
        code = guarded(act)
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().err


def test_a_truncated_shard_is_named_before_a_worker_starts(
    tmp_path: Path, ray_address: str, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (shards / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(whole)
    (tmp_path / "00001.tar").write_bytes(whole[: len(whole) // 2 + 700])
    options = (*USUAL, "--shards", str(tmp_path), "--output", str(tmp_path / "run"), "--steps", "5")
    code, message = refused(capsys, *options, cluster=True)
    assert code == 2
    assert message.startswith(f"error: Shard {tmp_path / '00001.tar'} cannot be read past byte ")
    assert "Fetch or write it again, or leave it out" in message


def test_fp16_is_refused_without_a_gpu(
    tmp_path: Path, ray_address: str, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*USUAL, "--shards", str(shards), "--output", str(tmp_path / "run"), "--steps", "5")
    code, message = refused(capsys, *options, "--precision", "fp16", "--device", "cpu", cluster=True)
    assert code == 2
    assert message == "error: --precision fp16 needs GPUs: on CPUs use bf16 or fp32.\n"


OWN = {"gradient_clipping": 1.0, "zero_optimization": {"stage": 1}}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shards", "EMPTY"), "holds no .tar file"),
        (("--shards", "EMPTY/*.tar"), "No shards match"),
        (
            ("--shards", "SHARDS/{00000..00002}.tar"),
            "1 of the 3 shards of SHARDS/{00000..00002}.tar are missing: SHARDS",
        ),
        (("--val-shards", "SHARDS/00007.tar"), "There is no shard SHARDS/00007.tar"),
        (("--zero", "3", "--engine.compile", "True"), "--engine.compile works with --zero 0 to 2"),
        (("--weights", "EMPTY/b32.safetensors"), "--weights EMPTY/b32.safetensors: no such file"),
        (("--model", "ViT-B-32", "--weights", "laion2b_s34b_b79"), "Did you mean 'laion2b_s34b_b79k'"),
        (("--weights", "openai"), "open_clip has no such tag for a model of your own"),
        (("--engine.deepspeed", "EMPTY/own.json"), "own.json sets gradient_clipping, which options of the job set"),
        (("--engine.deepspeed", "EMPTY/none.json"), "none.json: cannot be read as JSON"),
        (("--resume", "EMPTY"), "EMPTY is no checkpoint and holds none"),
    ],
)
def test_what_can_be_known_is_refused_before_anything_starts(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "own.json").write_text(json.dumps(OWN))

    def placed(text: str) -> str:
        return text.replace("EMPTY", str(empty)).replace("SHARDS", str(shards))

    given = (*USUAL, "--shards", str(shards), "--output", str(tmp_path / "run"), "--steps", "5", *map(placed, options))
    code, message = refused(capsys, *given)
    assert code == 2, message
    assert message.startswith("error: ")
    assert placed(words) in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--shards", "s3://nowhere/{00000..00001}.tar"),
        ("--val-shards", "s3://nowhere"),
        ("--output", "s3://nowhere/run"),
    ],
)
def test_a_bucket_that_is_not_there_is_named(
    tmp_path: Path, shards: Path, s3: str, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    given = (*USUAL, "--shards", str(shards), "--output", str(tmp_path / "run"), "--steps", "5", *options)
    code, message = refused(capsys, *given)
    assert code == 2, message
    assert "nowhere" in message
    assert "bucket" in message.lower()


def killed_worker() -> Exception:
    """What Ray Train says of a worker whose process was killed, as the kernel does where memory ends."""
    import signal

    import ray
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    @ray.remote(num_cpus=0)
    class Worker:
        def poll(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        ray.get(Worker.remote().poll.remote())  # type: ignore[attr-defined]
    except ray.exceptions.RayActorError as error:
        health = WorkerHealthCheckFailedError("A worker health check failed.", failure=error)
        return WorkerGroupError("[Rank 1 Error Snippet]:", {0: RuntimeError("Connection closed by peer"), 1: health})
    raise AssertionError("it lives")


def test_a_worker_that_was_killed_is_said_with_what_mends_a_lack_of_memory(ray_address: str) -> None:
    from lumiray.train.failure import explained

    told = explained(killed_worker(), 4)
    assert told.startswith("Worker 1 was killed from outside, without a word, in attempt 4.")
    assert "Connection closed" not in told
    for mend in ("--micro-batch-size", "--grad-checkpointing", "--zero"):
        assert mend in told


def test_a_board_that_was_killed_does_not_hide_why(ray_address: str, capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    from lumiray.train.board import POLL_S, Board, shown

    board: Any = Board.remote()  # type: ignore[attr-defined]
    ray.get(board.show.remote("step 1", False))

    def run() -> None:
        with shown(board):
            ray.kill(board)
            time.sleep(3 * POLL_S)
            raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        run()
    assert "Traceback" not in capsys.readouterr().err


def errors_of_memory() -> dict[str, Exception]:
    """Errors as they arrive, where torch or NumPy is refused memory, or Ray's monitor ends a worker."""
    import ray
    import torch

    found: dict[str, Exception] = {}
    for name, ask in {
        "torch": lambda: torch.empty(1 << 50),
        "numpy": lambda: np.empty(1 << 60, np.uint8),
        "gpu": lambda: raise_(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")),
        "ray": lambda: raise_(
            ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.")
        ),
    }.items():
        try:
            ask()
        except Exception as error:
            found[name] = error
    return found


def raise_(error: Exception) -> Any:
    raise error


def test_memory_that_ran_out_is_told_from_other_failures_however_it_is_wrapped() -> None:
    from ray.train import WorkerGroupError

    from lumiray.train.failure import explained, out_of_memory

    errors = errors_of_memory()
    assert sorted(errors) == ["gpu", "numpy", "ray", "torch"]
    for error in errors.values():
        told = explained(WorkerGroupError(f"[Rank 0 Error Snippet]:\n{error}", {0: error}), 1)
        assert told.startswith("Memory ran out: ")
        assert str(error).splitlines()[0][:60] in told
        assert "--micro-batch-size" in told
    assert out_of_memory(RuntimeError("Connection closed by peer")) is None
    other = explained(WorkerGroupError("[Rank 0 Error Snippet]:", {0: KeyError("x")}), 2)
    assert other.startswith("Training failed in attempt 2")
