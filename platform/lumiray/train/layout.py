"""Where a DeepSpeed engine keeps the fp32 master weights: the only place that reads its private fields.

DeepSpeed has no public way to read or write master weights and moments locally, without a collective per tensor;
its own checkpoints unpickle.  So the fields of the pinned release are read here, for every ZeRO stage, and
`tests/train/test_fragments.py` says at once when a new release moved them.  Everything else works on `Partition`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lumiray.errors import UserError


@dataclass(frozen=True)
class Piece:
    """The slice of one parameter that lies in a partition.

    Args:
        shape: of the whole parameter.
        start: first element, within the flattened parameter.
        offset: first element, within the flattened partition.
        length: elements, at least 1.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    offset: int
    length: int


@dataclass(frozen=True)
class Partition:
    """One tensor that the base optimizer steps on this rank.

    Args:
        flat: the fp32 master values; the key of the base optimizer's state.  May end in padding.
        names: all parameters that share it over the ranks, also those without an element here.
        group: index of its parameter group.
    """

    flat: Tensor
    names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    group: int


@dataclass(frozen=True)
class Layout:
    """The master state of one engine on this rank.

    Args:
        partitions: in the same order of groups on every rank.
        parameters: every parameter of the networks by its stored name, frozen ones as well.
        trained: names of those that the optimizer moves.
        places: name -> (number of its partition, its piece); only parameters with an element on this rank.
    """

    partitions: tuple[Partition, ...]
    parameters: dict[str, nn.Parameter]
    trained: frozenset[str]
    places: dict[str, tuple[int, Piece]]

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of parameters that nothing trains."""
        return tuple(name for name in self.parameters if name not in self.trained)


def base_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The optimizer that DeepSpeed wraps (its own wrappers are no torch optimizers)."""
    outer = engine.optimizer
    return outer if isinstance(outer, torch.optim.Optimizer) else outer.optimizer


def is_replicated(engine: Any) -> bool:
    """True if every rank holds the whole master state (stage 0)."""
    return engine.zero_optimization_stage() == 0


def is_partitioned(engine: Any) -> bool:
    """True if also the working weights are cut over the ranks (stage 3)."""
    return engine.zero_optimization_stage() == 3


def shape_of(parameter: nn.Parameter) -> tuple[int, ...]:
    """The whole shape, also where ZeRO 3 holds only a part."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def layout_of(engine: Any) -> Layout:
    """Where the engine's master state lies on this rank; read once per engine.

    Raises:
        UserError: the engine is of a kind whose state cannot be read.
    """
    found: Layout | None = engine.__dict__.get("_lumiray_layout")  # kept on the engine, so that both go together
    if found is None:
        parameters = dict(engine.module.named_parameters())
        partitions = tuple(_read(engine, {id(value): name for name, value in parameters.items()}))
        trained = frozenset(name for one in partitions for name in one.names)
        places = {piece.name: (i, piece) for i, one in enumerate(partitions) for piece in one.pieces}
        found = Layout(partitions, parameters, trained, places)
        engine.__dict__["_lumiray_layout"] = found
    return found


def _read(engine: Any, names: dict[int, str]) -> list[Partition]:
    outer = engine.optimizer
    if isinstance(outer, torch.optim.Optimizer):
        groups = [[one for one in group["params"] if one.requires_grad] for group in outer.param_groups]
        return _whole(groups, groups, names)
    kind = type(outer).__name__
    if kind == "FP16_UnfusedOptimizer":  # stage 0 in 16 bit, bf16 as well
        return _whole(outer.fp16_groups, outer.fp32_groups, names)
    if kind == "DeepSpeedZeroOptimizer":
        return _shared_flats(outer.bit16_groups, outer.single_partition_of_fp32_groups, names)
    if kind == "BF16_Optimizer":  # stage 1 in bf16 with fp32 accumulation
        return _shared_flats(outer.bf16_groups, outer.fp32_groups_flat_partition, names)
    if kind == "DeepSpeedZeroOptimizer_Stage3":
        _refuse_unreadable(outer)
        return _sub_groups(outer, names)
    raise UserError(
        f"DeepSpeed chose {kind}, whose master weights cannot be read: checkpoints and clamps would be wrong. "
        "Leave out what your DeepSpeed JSON adds, or use --zero 0 to 3 without it."
    )


def _refuse_unreadable(outer: Any) -> None:
    if outer.offload_optimizer and any(place != "cpu" for place in outer.subgroup_to_device.values()):
        raise UserError(
            "offload_optimizer.ratio below 1 keeps optimizer state in two optimizers, which checkpoints cannot read: "
            "leave the ratio out of your DeepSpeed JSON."
        )


def _whole(working: list[list[Any]], masters: list[list[Any]], names: dict[int, str]) -> list[Partition]:
    """Stage 0: one partition per parameter, whole, on every rank."""
    found = []
    for group, (parameters, values) in enumerate(zip(working, masters, strict=True)):
        for parameter, master in zip(parameters, values, strict=True):
            if not master.is_contiguous():  # channels_last: fragments are slices in row-major order
                master.data = master.data.contiguous()
            name = names[id(parameter)]
            piece = Piece(name, tuple(parameter.shape), 0, 0, parameter.numel())
            found.append(Partition(master, (name,), (piece,), group))
    return found


def _shared_flats(groups: list[list[Any]], flats: list[Any], names: dict[int, str]) -> list[Partition]:
    """Stages 1 and 2: a group's parameters lie one behind the other, cut in equal parts over the ranks."""
    found = []
    for group, (parameters, flat) in enumerate(zip(groups, flats, strict=True)):
        pieces = []
        for parameter in parameters:
            mapping = parameter._hp_mapping
            if mapping is not None:
                inside, outside = mapping.lp_fragment_address, mapping.hp_fragment_address
                shape = tuple(parameter.shape)
                pieces.append(Piece(names[id(parameter)], shape, inside.start, outside.start, outside.numel))
        members = tuple(names[id(one)] for one in parameters)
        found.append(Partition(flat, members, tuple(pieces), group))
    return found


def _sub_groups(outer: Any, names: dict[int, str]) -> list[Partition]:
    """Stage 3: every parameter is cut in equal parts over the ranks, the last ones padded."""
    found = []
    for number, (parameters, flat) in enumerate(
        zip(outer.fp16_groups, outer.fp32_partitioned_groups_flat, strict=True)
    ):
        pieces = []
        for parameter in parameters:
            _, offset, size = outer.grad_position[outer.get_param_id(parameter)]
            start = parameter.ds_tensor.ds_numel * outer._get_param_partition_rank(parameter)
            length = min(size, parameter.ds_numel - start)
            if length > 0:
                pieces.append(Piece(names[id(parameter)], shape_of(parameter), start, offset, length))
        members = tuple(names[id(one)] for one in parameters)
        found.append(Partition(flat, members, tuple(pieces), outer.sub_group_to_group_id[number]))
    return found


def slice_of(flat: Tensor, piece: Piece) -> Tensor:
    """A piece's elements of a partition or of a moment of the same shape, as a view `(length,)`."""
    return flat.detach().view(-1).narrow(0, piece.offset, piece.length)


def is_swapped(engine: Any, number: int) -> bool:
    """True if a partition lies on NVMe between steps (stage 3 with optimizer offload to nvme)."""
    outer = engine.optimizer
    return bool(getattr(outer, "swap_optimizer", False) and outer._swappable_optimizer_subgroup(number))


@contextmanager
def in_memory(engine: Any, number: int, write: bool = False) -> Iterator[Partition]:
    """A partition while its tensors are in memory: from NVMe they are fetched, and put back if `write`."""
    outer = engine.optimizer
    swapped = is_swapped(engine, number)
    if swapped:
        outer._optimizer_states_and_gradient_swap_in(number)
    yield layout_of(engine).partitions[number]
    if swapped and write:
        outer._optimizer_states_and_gradient_swap_out(number)
    elif swapped:
        outer._release_swap_buffers(number)


@contextmanager
def rewriting(engine: Any) -> Iterator[None]:
    """Around writes to the master state: afterwards the working weights follow it.  Every rank must enter."""
    outer = engine.optimizer
    kind = type(outer).__name__
    if is_partitioned(engine):
        outer.checkpoint_event_prologue()  # gathered copies of small weights would hide what is written
    yield
    if kind == "FP16_UnfusedOptimizer":
        for working, masters in zip(outer.fp16_groups, outer.fp32_groups, strict=True):
            for parameter, master in zip(working, masters, strict=True):
                parameter.data.copy_(master.data)
    elif kind in ("DeepSpeedZeroOptimizer", "BF16_Optimizer"):
        outer.update_lp_params()
    elif is_partitioned(engine):
        for number in range(len(outer.fp16_groups)):
            with in_memory(engine, number):
                outer._reassign_or_swap_out_partitioned_parameters(number)
        outer.checkpoint_event_epilogue()
