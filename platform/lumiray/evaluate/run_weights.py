"""`--weights` that name a run or a checkpoint of ours, or a file on S3, where a system reads a local file."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lumiray.errors import UserError
from lumiray.registry import system
from lumiray.settings_file import job_from, read_settings, without_weights
from lumiray.storage import NotThere, absolute, base_name, exists, is_s3, join, local_path, parent, read_bytes
from lumiray.system import System, stage_named

SETTINGS, IDENTITY, CHECKPOINTS = "config.yaml", "run.json", "checkpoints"
FILES = (".pth", ".pt", ".safetensors", ".bin", ".ckpt")  # on S3 a folder is told from a file by its name alone


def is_folder(weights: str) -> bool:
    """Whether the weights are a run's, and no file."""
    return not weights.endswith(FILES) if is_s3(weights) else Path(local_path(weights)).is_dir()


def settings_in(slug: str, place: str, source: str) -> tuple[str, Any] | None:
    """A run's output folder and the system's settings in it, without its own weights; None where there is no run.

    Args:
        place: a run's output, one of its checkpoints, or anything else.
        source: what named it, for messages.

    Raises:
        UserError: the run trained another system.
    """
    for folder in _outputs(place):
        settings = join(folder, SETTINGS)
        if exists(settings):
            return folder, without_weights(job_from(slug, read_settings(settings), source).system)
    return None


def settings_of_run(slug: str, weights: str) -> Any | None:
    """The system's settings in the run that `--weights` name, without its own weights; None where they name none.

    Raises:
        UserError: the run trained another system, or the system has no setting for weights.
    """
    found = settings_in(slug, weights, f"--weights {weights}: the run") if is_folder(weights) else None
    if found is None:
        return None
    if not hasattr(found[1], "weights"):
        raise UserError(
            f"--weights {weights}: {slug} has no setting for weights. Its configuration needs a field "
            "`weights: str | None = None`, and its `build` has to load that file."
        )
    return found[1]


def stage_of_run(weights: str | None) -> str | None:
    """The stage that the run trained whose weights are meant; None where they are of no run."""
    if weights is None or not is_folder(weights):
        return None
    for folder in _outputs(weights):
        with suppress(NotThere, ValueError, LookupError, TypeError):
            return str(json.loads(read_bytes(join(folder, IDENTITY)))["identity"]["stage"])
    return None


def _outputs(place: str) -> tuple[str, ...]:
    """Folders that may be the output of the run that a place is of: itself, or that of a checkpoint."""
    holder = parent(absolute(place))
    return (place, parent(holder)) if base_name(holder) == CHECKPOINTS else (place,)


def with_own_weights(config: Any) -> Any:
    """A system's settings, its weights by an address that every process finds.

    Raises:
        UserError: none are given.
    """
    if not hasattr(config, "weights"):
        return config
    if config.weights is None:
        raise UserError(
            "--weights is missing: without them the network is random. Give a published checkpoint, or a run's output."
        )
    return dataclasses.replace(config, weights=config.weights if is_s3(config.weights) else absolute(config.weights))


def ready_system(slug: str, config: Any, device: Any) -> System:
    """A system in use: the networks of the stage that its weights are of, or of the last one, in eval mode.

    Raises:
        UserError: weights that are missing or do not fit.
        RunFailure: a damaged checkpoint.
    """
    with with_local_weights(slug, config) as local:
        made = system(slug, local)
        stage = stage_of_run(getattr(config, "weights", None))
        made.build(stage_named(made, stage) if stage else made.stages()[-1])
    made.networks.eval().to(device)
    return made


@contextmanager
def with_local_weights(slug: str, config: Any) -> Iterator[Any]:
    """The configuration with weights in a local file, for as long as the system is built.

    Raises:
        UserError: a folder that holds no checkpoint.
        RunFailure: a damaged checkpoint.
    """
    weights = getattr(config, "weights", None)
    if weights is None or not (is_s3(weights) or is_folder(weights)):
        yield config
        return
    with tempfile.TemporaryDirectory() as folder:
        if is_folder(weights):
            local = str(Path(folder) / "weights.safetensors")
            _export(slug, config, weights, local)
        else:
            local = str(Path(folder) / base_name(weights))
            Path(local).write_bytes(read_bytes(weights))
        try:
            yield dataclasses.replace(config, weights=local)
        except UserError as error:  # names the copy
            raise type(error)(str(error).replace(local, weights)) from None


def _export(slug: str, config: Any, weights: str, local: str) -> None:
    from lumiray.train.export import encode
    from lumiray.train.manifest import open_checkpoint
    from lumiray.train.restore import export_model

    state = export_model(open_checkpoint(absolute(weights)))
    own = system(slug, dataclasses.replace(config, weights=None))
    Path(local).write_bytes(encode(own.published_state(state), "safetensors"))
