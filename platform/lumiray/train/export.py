"""A run's weights as one file that other programs load."""

from __future__ import annotations

import io
from typing import Any

from lumiray.errors import UserError
from lumiray.registry import system as make_system
from lumiray.settings_file import job_from, read_settings
from lumiray.storage import absolute, join, write_atomically

FORMATS = ("open_clip", "safetensors")


def export_run(run: str, form: str, output: str, checkpoint: str | None = None) -> str:
    """Write the fp32 master weights of a run's newest checkpoint (or of the one named) to a file.

    Args:
        form: `open_clip` - a `.pt` that plain open_clip loads; `safetensors` - the same tensors as safetensors.

    Returns:
        one line saying what was written.

    Raises:
        UserError: unknown format, or the run has no checkpoint.
    """
    from lumiray.train.manifest import latest, open_checkpoint
    from lumiray.train.restore import export_model

    if form not in FORMATS:
        raise UserError(f"--format {form!r}: choose {' or '.join(FORMATS)}.")
    manifest = open_checkpoint(absolute(checkpoint)) if checkpoint else latest(absolute(run))
    if manifest is None:
        raise UserError(f"{run} holds no complete checkpoint.")
    settings = read_settings(join(run, "config.yaml"))
    job = job_from(str(settings["system"]), settings, run)
    state = make_system(job.slug, job.system).published_state(export_model(manifest))
    write_atomically(output, encode(state, form))
    return f"step {manifest.step} of {run}: {len(state)} tensors to {output}"


def encode(state: dict[str, Any], form: str) -> bytes:
    """The file's bytes."""
    if form == "safetensors":
        from safetensors.torch import save

        return save({name: value.contiguous() for name, value in state.items()})
    import torch

    buffer = io.BytesIO()
    torch.save({"state_dict": state}, buffer)
    return buffer.getvalue()
