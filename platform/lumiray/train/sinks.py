"""Where a run's numbers go besides the terminal: metrics.jsonl, TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

from lumiray.config import LogConfig
from lumiray.errors import UserError
from lumiray.storage import (
    exists,
    is_s3,
    join,
    local_path,
    make_folder,
    put_file,
    read_bytes,
    write_atomically,
)

METRICS, BAD_ROWS = "metrics.jsonl", "bad_rows.jsonl"
UPLOAD_S = 30.0  # between copies of growing files to a store that cannot append


class Sink(Protocol):
    """Takes rows of numbers."""

    def write(self, row: dict[str, Any]) -> None:
        """Take one row: `step`, `kind`, `time_s` and named numbers."""

    def close(self) -> None:
        """Nothing more comes."""


class LinesFile:
    """A JSON object per line, each with its step.  Lines past the step a run resumes from are void and dropped."""

    def __init__(self, output: str, first_step: int, name: str = METRICS) -> None:
        self._url = join(output, name)
        before = read_bytes(self._url).decode() if exists(self._url) else ""
        kept = [line for line in before.splitlines() if _step_of(line) <= first_step]
        self._lines = kept
        self._remote = is_s3(output)
        self._uploaded = time.monotonic()
        if self._remote:
            self._file = None
        else:
            make_folder(output)
            write_atomically(self._url, "".join(line + "\n" for line in kept).encode())
            self._file = open(local_path(self._url), "a", encoding="utf-8")  # noqa: SIM115 - closed in close()

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; numbers that are not finite become null."""
        line = json.dumps({name: _plain(value) for name, value in row.items()})
        if self._file:
            self._file.write(line + "\n")
            self._file.flush()
            return
        self._lines.append(line)
        if time.monotonic() - self._uploaded > UPLOAD_S or row["kind"] in ("start", "evaluation"):
            self._upload()

    def _upload(self) -> None:
        self._uploaded = time.monotonic()
        write_atomically(self._url, "".join(line + "\n" for line in self._lines).encode())

    def close(self) -> None:
        """Write what is left."""
        if self._file:
            self._file.close()
        else:
            self._upload()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut by a kill


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TensorBoard:
    """Event files in `<output>/tensorboard`, copied there at the end and now and then where that is S3."""

    def __init__(self, output: str, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._url = join(output, "tensorboard")
        self._temporary = Path(tempfile.mkdtemp(prefix="lumiray-tb-")) if is_s3(output) else None
        folder = str(self._temporary or local_path(self._url))
        self._writer = SummaryWriter(folder, purge_step=first_step + 1 if first_step else None)
        self._copied = time.monotonic()

    def write(self, row: dict[str, Any]) -> None:
        """One scalar per number."""
        for name, value in row.items():
            if isinstance(value, (int, float)) and name not in ("step", "time_s"):
                self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        if self._temporary and time.monotonic() - self._copied > UPLOAD_S:
            self._copy()

    def _copy(self) -> None:
        self._copied = time.monotonic()
        self._writer.flush()
        for file in self._temporary.glob("*") if self._temporary else ():
            put_file(str(file), join(self._url, file.name))

    def close(self) -> None:
        """Flush, and copy to the store."""
        self._writer.close()
        if self._temporary:
            self._copy()
            shutil.rmtree(self._temporary, ignore_errors=True)


class WeightsAndBiases:
    """A run of a Weights & Biases project; the account comes from its own environment."""

    def __init__(self, project: str, output: str) -> None:
        self._run = _package("wandb").init(project=project, name=output.rstrip("/").rpartition("/")[2])

    def write(self, row: dict[str, Any]) -> None:
        """Log the row's numbers at its step."""
        self._run.log({f"{row['kind']}/{name}": value for name, value in row.items()}, step=row["step"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MlFlow:
    """A run of an MLflow experiment at MLFLOW_TRACKING_URI."""

    def __init__(self, experiment: str, output: str) -> None:
        self._mlflow = _package("mlflow")
        self._mlflow.set_experiment(experiment)
        self._mlflow.start_run(run_name=output.rstrip("/").rpartition("/")[2])

    def write(self, row: dict[str, Any]) -> None:
        """Log the row's numbers at its step."""
        numbers = {
            f"{row['kind']}/{name.replace('@', '_at_')}": float(value)
            for name, value in row.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        self._mlflow.log_metrics(numbers, step=row["step"])

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"--log.{name} needs the package {name}: pip install 'lumiray[tracking]'.") from None


def open_sinks(output: str, first_step: int, log: LogConfig) -> list[Sink]:
    """The sinks that a run asks for; metrics.jsonl and TensorBoard always.

    Raises:
        UserError: a package that was asked for is not installed.
    """
    sinks: list[Sink] = [LinesFile(output, first_step), TensorBoard(output, first_step)]
    if log.wandb:
        sinks.append(WeightsAndBiases(log.wandb, output))
    if log.mlflow:
        sinks.append(MlFlow(log.mlflow, output))
    return sinks
