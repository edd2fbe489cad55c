"""What the tests of state run on every rank of a group: many cases in one start-up, plain numbers back."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
import torch.distributed as dist

STAGES = (0, 1, 2, 3)
PRECISIONS = ("fp32", "bf16", "fp16")
TABLE = [(stage, precision) for precision in PRECISIONS for stage in STAGES]
SAVED_AT, END = 3, 6


def get_ready() -> None:
    """Let DeepSpeed train in fp16 on the CPU: only its check of the device stands in the way."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True
    gc.freeze()  # DeepSpeed collects garbage for every engine of stage 3: not through all of torch each time


def everywhere(value: Any) -> list[Any]:
    """The value of every rank, in the order of ranks."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def scaled(precision: str, power: int = 18) -> dict[str, Any]:
    """Settings for fp16: a scale of 2**18 overflows in the first steps, 2**4 does not."""
    if precision != "fp16":
        return {}
    return {"settings": {"fp16": {"enabled": True, "initial_scale_power": power, "loss_scale_window": 2}}}


def save(url: str, step: int, engine: Any) -> None:
    from lumiray.train.checkpoint import Checkpointer

    writer = Checkpointer(url, dist.get_rank(), dist.get_world_size(), identity={"seed": 7})
    writer.save(step, {"player": engine}, {"step": step, "note": "é"}, {"recall": 0.5})
    writer.wait()
    writer.close()
    dist.barrier()


def load(url: str, engine: Any) -> dict[str, Any]:
    from lumiray.train.checkpoint import latest, restore

    manifest = latest(url)
    assert manifest is not None
    return restore(manifest, {"player": engine})


def plain(tensors: dict[str, torch.Tensor] | None) -> dict[str, list[float]]:
    return {name: value.double().flatten().tolist() for name, value in (tensors or {}).items()}


def fragments(rank: int, world: int) -> dict[str, Any]:
    """Read, write and clamp the state of every kind of engine."""
    get_ready()
    return {
        "fields": {f"{stage}/{precision}": fields(stage, precision) for stage, precision in TABLE},
        "read": {f"{stage}/{precision}": read(stage, precision) for stage, precision in TABLE},
        "clamp": {f"{stage}/{precision}": clamps(stage, precision) for stage, precision in TABLE},
        "fresh": [fresh(stage) for stage in (0, 1)],
        "accumulating": read(1, "bf16", settings={"data_types": {"grad_accum_dtype": "fp32"}}),
        "offload": read(2, "bf16", zero={"offload_optimizer": {"device": "cpu"}}),
        "offload3": read(3, "bf16", zero={"offload_optimizer": {"device": "cpu"}}),
    }


FIELDS = {
    "FP16_UnfusedOptimizer": (
        "fp16_groups",
        "fp32_groups",
        "optimizer",
        "refresh_fp32_params",
        "loss_scale_config",
    ),
    "DeepSpeedZeroOptimizer": (
        "bit16_groups",
        "single_partition_of_fp32_groups",
        "optimizer",
        "update_lp_params",
        "loss_scaler",
    ),
    "DeepSpeedZeroOptimizer_Stage3": (
        "fp16_groups",
        "fp32_partitioned_groups_flat",
        "grad_position",
        "get_param_id",
        "sub_group_to_group_id",
        "_get_param_partition_rank",
        "checkpoint_event_prologue",
        "checkpoint_event_epilogue",
        "_reassign_or_swap_out_partitioned_parameters",
        "_swappable_optimizer_subgroup",
        "swap_optimizer",
        "offload_optimizer",
        "loss_scaler",
    ),
}


def fields(stage: int, precision: str) -> list[str]:
    """Private fields of DeepSpeed that `layout.py` reads and this release does not have."""
    engine = tiny.make_engine(stage, precision)
    outer = engine.optimizer
    missing = [name for name in FIELDS.get(type(outer).__name__, ()) if not hasattr(outer, name)]
    parameter = engine.module.shift
    if stage in (1, 2):
        mappings = [one._hp_mapping for one in engine.module.parameters() if one.requires_grad]
        held = next(one for one in mappings if one is not None)
        missing += [name for name in ("lp_fragment_address", "hp_fragment_address") if not hasattr(held, name)]
        missing += [name for name in ("start", "numel") if not hasattr(held.hp_fragment_address, name)]
    if stage == 3:
        wanted = ("ds_tensor", "ds_shape", "ds_numel", "ds_process_group")
        missing += [name for name in wanted if not hasattr(parameter, name)]
        missing += [] if hasattr(parameter.ds_tensor, "ds_numel") else ["ds_tensor.ds_numel"]
    return missing


def read(stage: int, precision: str, **given: Any) -> dict[str, Any]:
    """Compare fragments with what DeepSpeed's own collectives say, and writes with what they then say."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    from lumiray.train.fragments import full_fp32_state, local_fragments, master_values, owned_fragments

    engine = tiny.make_engine(stage, precision, **scaled(precision, 4), **given)
    tiny.train(engine, 0, 2)
    own = [
        (one.name, one.start, one.values.tolist(), one.moments["exp_avg"].tolist()) for one in owned_fragments(engine)
    ]
    theirs = {}
    for name, value in engine.module.named_parameters():
        if value.requires_grad and stage:
            theirs[name] = [safe_get_full_fp32_param(value).flatten().tolist(), None]
            if value.ndim > 1 or stage == 3:  # under stages 1 and 2 DeepSpeed loses those of all but one group
                theirs[name][1] = safe_get_full_optimizer_state(value, "exp_avg").flatten().tolist()
    full = full_fp32_state(engine)
    assert (full is None) == (dist.get_rank() > 0)
    small = master_values(engine, ["scale", "frozen.bias", "no such", "shift"])
    for one in local_fragments(engine):
        one.values.fill_(7.0)
    again = master_values(engine, ["first.weight"])["first.weight"]
    return {
        "owned": everywhere(own),
        "theirs": theirs,
        "full": plain(full),
        "dtypes": {name: str(value.dtype) for name, value in (full or {}).items()},
        "shapes": {name: list(value.shape) for name, value in (full or {}).items()},
        "small": everywhere(plain(small)),
        "written": sorted(set(again.flatten().tolist())),
        "step": sorted({one.step for one in local_fragments(engine)} - {None}),
        "working": tiny.working(engine),
    }


def clamps(stage: int, precision: str) -> dict[str, Any]:
    """The scale after two clamped steps, and after one more from a checkpoint."""
    from lumiray.train.fragments import clamp, master_values

    engine = tiny.make_engine(stage, precision, **scaled(precision, 4))
    found = []
    for step in range(2):
        tiny.train(engine, step, step + 1)
        moved = float(master_values(engine, ["scale"])["scale"])
        clamp(engine, tiny.BOUNDS)
        found.append([moved, float(master_values(engine, ["scale"])["scale"]), tiny.working(engine)["scale"][0]])
    return {"steps": everywhere(found), "dtype": str(engine.module.shift.dtype)}


def fresh(stage: int) -> dict[str, list[float]]:
    """Master weights in bf16 after one step of AdamW."""
    engine = tiny.make_engine(stage, "bf16")
    tiny.train(engine, 0, 1)
    from lumiray.train.fragments import full_fp32_state

    return plain(full_fp32_state(engine))


OF_TWO_BY_ONE = ["0-fp32>3", "1-fp32>1", "2-fp32>0", "3-fp32>2"]
OF_TWO_BY_THREE = ["0-fp32>1", "1-fp32>3", "2-fp32>2", "3-fp32>0"]
OF_ONE_BY_THREE = ["one>0", "one>1", "one>3"]


def by_two(rank: int, world: int, root: str) -> dict[str, Any]:
    get_ready()
    everything = [f"{saved}-fp32>{loaded}" for saved in STAGES for loaded in STAGES]
    return {
        "table": {f"{s}/{precision}": resume(s, precision, f"{root}/{s}-{precision}") for s, precision in TABLE},
        "across": across(root, everything),
        "others": others(f"{root}/others"),
        "refused": {name: everywhere(answer(case, f"{root}/{name}")) for name, case in REFUSED.items()},
    }


def by_one(rank: int, world: int, root: str) -> dict[str, Any]:
    get_ready()
    return {"table": {"one": resume(2, "fp32", f"{root}/one")}, "across": across(root, OF_TWO_BY_ONE)}


def by_three(rank: int, world: int, root: str) -> dict[str, Any]:
    get_ready()
    return {"across": across(root, [*OF_TWO_BY_THREE, *OF_ONE_BY_THREE])}


def others(root: str) -> dict[str, Any]:
    offload = {"zero": {"offload_optimizer": {"device": "cpu"}}}
    return {
        "momentum": resume(1, "fp32", f"{root}/momentum", optimizer="momentum"),
        "sgd": resume(3, "bf16", f"{root}/sgd", optimizer="sgd"),
        "cpu-adam": resume(3, "bf16", f"{root}/cpu-adam", optimizer="cpu-adam", **offload),
        "before-any-step": resume(0, "bf16", f"{root}/before", steps=0),
    }


def resume(stage: int, precision: str, url: str, steps: int = SAVED_AT, **given: Any) -> dict[str, Any]:
    """An uncut run, and one continued from its checkpoint in an engine with other weights and other moments."""
    from lumiray.train.fragments import full_fp32_state
    from lumiray.train.loss_scale import loss_scale_state

    given |= scaled(precision)
    engine = tiny.make_engine(stage, precision, **given)
    tiny.train(engine, 0, steps)
    save(url, steps, engine)
    at_save, scale = plain(full_fp32_state(engine)), loss_scale_state(engine)
    losses = tiny.train(engine, steps, END)
    other = tiny.make_engine(stage, precision, seed=5, **given)
    tiny.train(other, 90, 91)
    position = load(url, other)
    restored_scale = loss_scale_state(other)
    continued = tiny.train(other, steps, END)
    uncut, resumed = (tiny.state(one) | tiny.working(one) for one in (engine, other))
    return {
        "position": position,
        "at_save": at_save,
        "end": plain(full_fp32_state(engine)),
        "differences": everywhere([name for name in uncut if uncut[name] != resumed.get(name)]),
        "losses": everywhere([losses, continued]),
        "scale": [scale, restored_scale, loss_scale_state(engine), loss_scale_state(other)],
    }


def across(root: str, names: list[str]) -> dict[str, Any]:
    """Continue checkpoints of other groups and stages, each named FOLDER>STAGE."""
    from lumiray.train.fragments import full_fp32_state

    found = {}
    for name in names:
        folder, stage = name.split(">")
        engine = tiny.make_engine(int(stage), seed=6)
        load(f"{root}/{folder}", engine)
        restored = plain(full_fp32_state(engine))
        steps = everywhere([value for key, value in tiny.state(engine).items() if key.endswith("/step")])
        counts = {one[0] for rank in steps for one in rank}
        tiny.train(engine, SAVED_AT, END)
        found[name] = {"restored": restored, "end": plain(full_fp32_state(engine)), "steps": sorted(counts)}
    return found


def answer(case: Callable[[str], None], url: str) -> str:
    from lumiray.errors import RunFailure

    try:
        case(url)
    except RunFailure as error:
        return str(error)
    return "no error"


def first_file(url: str, rank: int, step: int = 2) -> Path:
    folder = Path(url) / "checkpoints" / f"step-{step:08d}"
    return next(iter(sorted(folder.glob(f"rank-{rank:05d}*.safetensors"))))


def two_saves(url: str) -> None:
    engine = tiny.make_engine(1)
    for step in (1, 2):
        tiny.train(engine, step - 1, step)
        save(url, step, engine)


def corrupt(url: str) -> None:
    """One bit of a file that only rank 1 reads."""
    two_saves(url)
    if dist.get_rank() == 0:
        path = first_file(url, 1)
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
    dist.barrier()
    load(url, tiny.make_engine(1))


def truncate(url: str) -> None:
    two_saves(url)
    if dist.get_rank() == 0:
        path = first_file(url, 0)
        path.write_bytes(path.read_bytes()[:-8])
    dist.barrier()
    load(url, tiny.make_engine(1))


def missing(url: str) -> None:
    two_saves(url)
    if dist.get_rank() == 0:
        shutil.rmtree(Path(url) / "checkpoints" / "step-00000001")
        first_file(url, 0).unlink()
    dist.barrier()
    load(url, tiny.make_engine(0))


def other_names(url: str) -> None:
    """A model with one tensor more, one less, one of another shape."""

    def change(module: Any) -> None:
        module.extra = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
        module.shift = torch.nn.Parameter(torch.zeros(4))
        del module.unused

    save(url, 1, tiny.make_engine(0))
    load(url, tiny.make_engine(0, change=change))


def other_optimizer(url: str) -> None:
    engine = tiny.make_engine(1, optimizer="momentum")
    tiny.train(engine, 0, 1)
    save(url, 1, engine)
    load(url, tiny.make_engine(1))


REFUSED = {
    "corrupt": corrupt,
    "truncated": truncate,
    "missing": missing,
    "names": other_names,
    "optimizer": other_optimizer,
}
