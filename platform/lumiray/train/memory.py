"""What a worker holds besides activations: weights, gradients, optimizer state, buffers; and what a checkpoint takes.

Pure counting over the sizes of parameters, after what the pinned DeepSpeed does at each ZeRO stage.  Buffers are
what its communication and the optimizer's step take for a moment; they decide whether a run fits.  The rules below
are held against real engines by `tests/train/test_memory.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumiray.system import Player
from lumiray.train.engine_settings import offloaded

FP32 = 4  # bytes
WORKING_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
ALLREDUCE_BUCKET = 500_000_000  # elements that DeepSpeed reduces at once at stage 0
DEFAULTS = {  # of the pinned DeepSpeed, in elements
    "reduce_bucket_size": 500_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_param_persistence_threshold": 100_000,  # what is smaller stays whole
}


@dataclass(frozen=True)
class Size:
    """One parameter: its elements, and whether the optimizer moves it."""

    elements: int
    trained: bool = True


@dataclass(frozen=True)
class Cut:
    """How state is cut over the workers, and where it lies.

    Args:
        zero: DeepSpeed's `zero_optimization`, with its stage.
        precision: fp32 | bf16 | fp16.
        moments: tensors that the optimizer keeps per parameter: 2 for AdamW, 0 for plain SGD.
        accumulates: whether a worker runs several micro-batches in a step.
        on_gpu: buckets take their whole size there.
    """

    zero: Mapping[str, Any]
    precision: str
    workers: int
    moments: int = 2
    accumulates: bool = False
    on_gpu: bool = True

    @property
    def stage(self) -> int:
        """ZeRO stage."""
        return int(self.zero.get("stage", 0))

    def elements(self, key: str) -> int:
        """A size from DeepSpeed's settings, or its default."""
        return int(self.zero.get(key, DEFAULTS[key]))

    def offloaded(self, part: str) -> str:
        """Where `optimizer` or `param` lies: none, cpu or nvme."""
        return offloaded(self.zero, part)


@dataclass(frozen=True)
class State:
    """Bytes of one worker on its device, and in its host's memory.

    Args:
        weights: that forward and backward use.
        gradients: as they wait for the optimizer.
        optimizer: fp32 master weights and moments.
        buffers: besides these, at the worst moment of a step.
        host: what is offloaded to the host's memory.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    buffers: int = 0
    host: int = 0

    @property
    def device(self) -> int:
        """All that lies on the device at once."""
        return self.weights + self.gradients + self.optimizer + self.buffers

    def __add__(self, other: State) -> State:
        return State(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


def moments_of(player: Player) -> int:
    """Tensors that an optimizer keeps per parameter, and the average of the weights if there is one."""
    return 2 * (player.optimizer.name != "sgd") + (player.ema is not None)


def state_memory(sizes: Sequence[Size], cut: Cut) -> State:
    """State of one engine on one worker."""
    every, trained = sum(one.elements for one in sizes), sum(one.elements for one in sizes if one.trained)
    working, workers, stage = WORKING_BYTES[cut.precision], cut.workers, cut.stage
    weights, gradients = every * working, trained * working
    # at stage 0 in fp32 the weights are their own master
    optimizer = trained * FP32 * (cut.moments + (stage > 0 or working < FP32))
    if stage == 0:
        held = State(weights, gradients, optimizer)
    elif stage < 3:
        held = State(weights, gradients // workers, optimizer // workers)
    else:
        most = cut.elements("stage3_param_persistence_threshold")
        small = sum(one.elements for one in sizes if one.elements <= most)
        whole = 0 if cut.offloaded("param") != "none" else small * working
        held = State(weights // workers + whole, gradients // workers, optimizer // workers)
    peak = max(_in_backward(weights, gradients, trained, cut), _in_step(held.gradients, trained, cut))
    return _offloaded(held, trained, peak, cut)


def _in_backward(weights: int, gradients: int, trained: int, cut: Cut) -> int:
    """Bytes of gradients, and of what reduces and gathers, when backward ends."""
    working = WORKING_BYTES[cut.precision]
    if cut.stage == 0:  # reduced in a copy
        return gradients + (min(gradients, ALLREDUCE_BUCKET * working) if cut.workers > 1 else 0)
    share = gradients // cut.workers
    if cut.stage == 1:  # whole until the last micro-batch is done
        return gradients + share
    bucket = cut.elements("reduce_bucket_size")
    reducing = (bucket if cut.on_gpu else min(bucket, trained)) * working  # memory of a CPU is taken as it is used
    if cut.stage == 2:
        return share * (2 if cut.accumulates else 1) + reducing * (2 if cut.zero.get("overlap_comm") else 1)
    live = min(weights, cut.elements("stage3_max_live_parameters") * working)
    ahead = min(weights, cut.elements("stage3_prefetch_bucket_size") * working)
    return share + reducing + live + ahead


def _in_step(gradients: int, trained: int, cut: Cut) -> int:
    """Bytes of gradients, and of what the optimizer makes of them, during its step."""
    if cut.offloaded("optimizer") != "none":
        return gradients
    in_fp32 = 0 if WORKING_BYTES[cut.precision] == FP32 else trained * FP32
    if cut.stage == 0:
        return gradients + in_fp32
    if cut.stage == 3:
        return gradients + trained * FP32 // cut.workers
    flat = gradients  # a copy, which is there until that in fp32 is made
    return gradients + flat + in_fp32 // cut.workers


def _offloaded(held: State, trained: int, peak: int, cut: Cut) -> State:
    """Move what is offloaded to the host; what goes to NVMe is in nobody's memory between steps."""
    weights, gradients, optimizer, host = held.weights, held.gradients, held.optimizer, 0
    buffers = max(0, peak - gradients)
    if cut.offloaded("optimizer") != "none":
        host += trained * FP32 // cut.workers  # gradients, in fp32
        host += optimizer if cut.offloaded("optimizer") == "cpu" else 0
        gradients = optimizer = 0
    if cut.offloaded("param") != "none":
        host += weights if cut.offloaded("param") == "cpu" else 0
        weights = 0
    return State(weights, gradients, optimizer, buffers, host)


def checkpoint_bytes(sizes: Sequence[Size], precision: str, moments: int) -> int:
    """Bytes of one engine's checkpoint, all workers: fp32 master weights and moments, frozen weights as they work."""
    trained = FP32 * (1 + moments)
    return sum(one.elements * (trained if one.trained else WORKING_BYTES[precision]) for one in sizes)
