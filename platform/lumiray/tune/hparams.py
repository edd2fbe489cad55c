"""Trials of a study as TensorBoard's HParams shows them: one session each, from the study's records.

The records are the only source, so that a driver which was killed leaves no session twice, and trials of every
algorithm are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from torch.utils.tensorboard import SummaryWriter

from lumiray.tune.metric import Metric
from lumiray.tune.study import Trial

# TensorBoard has no word for a trial that was stopped early: it is neither a success nor a failure
STATUS = {"done": Status.STATUS_SUCCESS, "failed": Status.STATUS_FAILURE, "stopped": Status.STATUS_UNKNOWN}


class Sessions:
    """Event files of the trials of a study, which grow with them.

    Args:
        folder: one folder for each trial is made in it; empty at first.
        metrics: of the study; curves are those of the first.
    """

    def __init__(self, folder: Path, metrics: tuple[Metric, ...]) -> None:
        self._folder, self._metrics = folder, metrics
        self._writers: dict[int, SummaryWriter] = {}
        self._told: dict[int, int] = {}  # the newest step of each trial that is written
        self._ended: set[int] = set()

    def update(self, trials: Iterable[Trial]) -> None:
        """Write what is new."""
        for trial in trials:
            if trial.number not in self._ended:
                self._update(trial)

    def _update(self, trial: Trial) -> None:
        number, (first, *others) = trial.number, self._metrics
        if number not in self._writers:
            self._writers[number] = SummaryWriter(str(self._folder / f"trial-{number:03d}"))
            self._told[number] = -1
            self._add(number, metadata.SESSION_START_INFO_TAG, started(trial))
        writer = self._writers[number]
        for step, value in trial.curve:
            if step > self._told[number]:
                writer.add_scalar(first.name, value, step)
                self._told[number] = step
        if trial.state in STATUS:
            for metric, figure in zip(others, trial.figures[1:]):
                writer.add_scalar(metric.name, figure, max(0, self._told[number]))
            end = HParamsPluginData(session_end_info=SessionEndInfo(status=STATUS[trial.state]))
            self._add(number, metadata.SESSION_END_INFO_TAG, end)
            self._ended.add(number)
            self._writers.pop(number).close()
        else:
            writer.flush()

    def _add(self, number: int, tag: str, data: HParamsPluginData) -> None:
        content = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
        value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=content))
        self._writers[number].file_writer.add_summary(Summary(value=[value]))


def started(trial: Trial) -> HParamsPluginData:
    """A session's beginning with the trial's values."""
    start = SessionStartInfo(group_name=f"trial {trial.number:03d}")
    for field, value in plain(trial.values).items():
        kind = "bool_value" if isinstance(value, bool) else "string_value" if isinstance(value, str) else "number_value"
        setattr(start.hparams[field], kind, value)
    return HParamsPluginData(session_start_info=start)


def plain(values: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Values as TensorBoard takes them: lists and null as JSON."""
    return {
        field: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for field, value in values.items()
    }
