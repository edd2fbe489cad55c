"""The contract between a published system and the platform that trains it.

A `System` knows what is learnt: its networks, its losses, how one record becomes tensors.  The platform
knows everything else: where rows come from, how many workers there are, engines, precision, checkpoints.
Neither side looks into the other.  What passes between them is in this file, and nothing else is.

    system = lumiray.registry.system("clip", model="ViT-B-32")
    system.stages()                      what is trained, in which order, by which players
    system.prepare(stage, row, draw)     one row of a shard -> named arrays        (on the data plane's CPUs)
    system.build(stage)                  the networks, once per worker
    system.losses(player, batch, step)   one micro-batch -> named terms            (or the pair below)
    system.features(player, batch)       one micro-batch -> one feature row per sample, and
    system.contrast(player, rows, shared)    the whole global batch's rows -> named terms
    system.embed(batch)                  inference that evaluation reads
    system.restore(pictures)             inference of a restoration system: pictures -> better pictures
    system.ground(picture, text)         inference of a grounding system: a picture, phrases -> boxes around them

A loss over the whole cluster's batch (CLIP, GroupViT) is written as the pair `features` and `contrast`: the
trainer gathers nothing itself, it caches features over the micro-batches, asks `contrast` for the gradient
with respect to them, and carries that gradient into the networks.  So large-batch gradients are exact for
any number of workers and micro-batches, by one path.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:  # the data plane and `--help` read this file, and they do without torch
    import numpy as np
    from torch import Tensor, nn

Batch = dict[str, "Tensor"]


class Record(enum.StrEnum):
    """What one row of a shard holds (parts after the WebDataset naming convention `key.part.ext`)."""

    IMAGE_TEXT = "image-text"  # .jpg|.png|.webp and .txt or .json
    PAIR = "pair"  # .lq.* and .gt.*
    EXPOSURES = "exposures"  # .0.*, .1.*, ...
    CLEAN = "clean"  # one picture, degraded on the fly
    UNPAIRED = "unpaired"  # two independent streams
    GROUNDING = "grounding"  # a picture and .json with caption, boxes, spans
    SEGMENTATION = "segmentation"  # a picture, .seg.png and class names


class Scope(enum.Enum):
    """Over what a term's count is taken before the term is divided by it."""

    GLOBAL = "global"  # all rows of the cluster's batch
    MICRO = "micro"  # the rows of one micro-batch; micro-batches are then averaged


@dataclass(frozen=True)
class Term:
    """One named part of a loss: `weight * sum / count`, the count reduced over `scope`.

    Sums and counts travel apart because a mean of means is wrong as soon as counts differ.

    Args:
        sum: scalar, the sum over this worker's items, with gradient.
        count: how many items the sum is over in this micro-batch (may differ between them, may be 0).
        weight: factor of this term in the player's loss; 0 logs a term without training on it.
        least: of global scope: the mean count of a micro-batch is taken as at least this.
    """

    sum: Tensor
    count: float | Tensor
    scope: Scope = Scope.MICRO
    weight: float = 1.0
    least: float = 0.0

    @classmethod
    def mean(cls, value: Tensor, weight: float = 1.0) -> Term:
        """A term that is already a mean over its micro-batch."""
        return cls(value, 1.0, Scope.MICRO, weight)


@dataclass(frozen=True)
class Optimizer:
    """Settings of a player's optimizer: decay decoupled (AdamW) or added to the gradient (Adam), or plain SGD."""

    name: str = "adamw"  # adamw | adam | sgd
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Learning rate by 0-based optimizer step: linear warm-up, then `name` (card clip, Training).

    Args:
        floor: rate that the cosine ends at.
        milestones: of `steps`: optimizer steps from which on the rate is multiplied by `factor`; below 1 they are
            parts of the run.
    """

    name: str = "constant"  # cosine | constant | constant-cooldown | steps
    warmup: int = 0
    cooldown: int = 0
    cooldown_power: float = 1.0
    cooldown_end: float = 0.0
    floor: float = 0.0
    milestones: tuple[float, ...] = ()
    factor: float = 0.5


@dataclass(frozen=True)
class Player:
    """Networks that move together: one optimizer, one engine, one turn within a step.

    Args:
        networks: keys of `System.networks` that this player trains.  Parameters are named `KEY.name`,
            as in `clip.logit_scale`, here and in checkpoints.
        every: moves at steps that are multiples of this number.
        start: first step at which it moves.
        ema: decay of an exponential average of its weights, which is then what is evaluated, exported and handed
            to the next stage; None for none.
        inner_gradients: its losses call `torch.autograd.grad` themselves, as adaptive weights do.  ZeRO 3 is refused
            then: parameters that come and go with the backward pass cannot be differentiated within the forward.
        clamps: stored parameter name -> (low, high), applied to the fp32 master after each applied step.
        no_decay: stored parameter names exempt from weight decay.
        lr_factors: stored parameter name -> factor of its learning rate, where that is not 1.
        global_batch: True if the loss is the pair `features` and `contrast`.
        shared: stored parameter names without a batch axis that `contrast` reads, such as
            `clip.logit_scale`; it gets their fp32 master values where training runs in 16 bit.
    """

    name: str
    networks: tuple[str, ...]
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    every: int = 1
    start: int = 0
    ema: float | None = None
    inner_gradients: bool = False
    clamps: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    no_decay: frozenset[str] = frozenset()
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    global_batch: bool = False
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One period of training with its own record type, players and length.

    Args:
        players: in the order in which they move within a step.
        start: the stage whose result this one starts from, or None.
        sources: names of the sources of rows that it needs (`--mix`), in this order: `batch["source"]` counts
            them.  Empty: whatever there are.
        derives: name of the source whose rows the networks of the stage before add to (`System.derived`), once,
            before this stage begins.
        steps: published length in optimizer steps, or None where the user says it.
        evaluation_batch_size: rows of an evaluation's forward where the user names no other number; 1 where
            whole pictures are evaluated, for they may differ in size.  None: as many as in training.
        metrics: names of evaluations in `lumiray.evaluate` that fit this stage.
    """

    name: str
    record: Record
    players: tuple[Player, ...]
    start: str | None = None
    steps: int | None = None
    global_batch_size: int | None = None
    micro_batch_size: int | None = None
    evaluation_batch_size: int | None = None
    metrics: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    derives: str | None = None


@dataclass(frozen=True)
class Row:
    """One row of a shard as the data plane hands it over.

    Args:
        key: the WebDataset key; untrusted, may repeat between shards.
        parts: what follows the key's first dot (`jpg`, `txt`, `lq.png`) -> bytes as stored.
        identity: a number that no other row of the run has; with one source its 0-based ordinal over all shards.
    """

    key: str
    parts: Mapping[str, bytes]
    identity: int


@dataclass(frozen=True)
class Found:
    """What was found in a picture, best first.

    Args:
        boxes: fp32 `(n, 4)`, x1, y1, x2, y2 in pixels of the picture as given; the last pixel belongs to the box.
        scores: fp32 `(n,)` in [0, 1].
        labels: int64 `(n,)`, number of the phrase or class from 1 on.
        phrases: the phrase or class of each box, in words.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    phrases: list[str]


class BadRow(ValueError):
    """Raised by `prepare` for a row that cannot be used; the message says why, the platform says where."""


class System(ABC):
    """One published system.  Constructing it is cheap: no network exists before `build`."""

    slug: ClassVar[str]
    config_class: ClassVar[type]
    networks: nn.ModuleDict

    # of `restore`: how pictures may be cut into tiles, and become levels again
    receptive_field: ClassVar[int | None] = None
    """Side of the square of pixels that one restored pixel depends on; None where that is the whole picture."""
    multiple: ClassVar[int] = 1
    """Tiles begin at multiples of this: the network's coarser grids then lie as in the whole picture."""
    tile: ClassVar[int] = 512
    """Side of tiles where the whole picture is seen: fixed, for the result depends on it and not on a machine."""
    whole: ClassVar[bool] = False
    """Pictures are never cut into tiles, as faces that are all of one size."""
    truncates: ClassVar[bool] = False
    """Levels are cut off, as some published code does, not rounded."""

    def __init__(self, config: Any = None) -> None:
        self.config = self.config_class() if config is None else config

    def portable(self) -> Any:
        """The configuration without references to files that only this machine has; workers get this one."""
        return self.config

    def missing_weights(self) -> tuple[str, ...]:
        """Options for files of pre-trained parts that are not given: a run that starts from nothing is told of them."""
        return ()

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Stages in the order of training."""

    @abstractmethod
    def build(self, stage: Stage) -> nn.ModuleDict:
        """Make the networks (fp32, CPU), keep them in `self.networks`, return them."""

    @abstractmethod
    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, np.ndarray | int | float]:
        """Turn a row into named arrays, equal in shape for all rows of a batch.

        Args:
            draw: the only source of randomness in training; None in evaluation, which is deterministic.

        Raises:
            BadRow: the row cannot be used.
        """

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Stack prepared rows; systems with targets of varying size say here how they are packed.

        Raises:
            lumiray.errors.UserError: they differ in shape, as whole pictures of an evaluation may.
        """
        import numpy

        from lumiray.errors import UserError

        arrays = {name: [numpy.asarray(row[name]) for row in rows] for name in rows[0]}
        for name, values in arrays.items():
            shapes = sorted({one.shape for one in values})
            if len(shapes) > 1:
                raise UserError(
                    f"{self.slug}: {name} of one batch has the shapes {shapes[0]} and {shapes[-1]}, and a batch has "
                    "one. Evaluate pictures of several sizes one at a time: --evaluate.batch-size 1."
                )
        return {name: numpy.stack(values) for name, values in arrays.items()}

    def carried(self, stage: Stage, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a stage takes over from the result of the stage that it starts from.

        Args:
            state: all weights and buffers of that stage, averaged ones where it averages, by their names `KEY.name`.

        Returns:
            tensors for the networks of `stage`, by their names there; networks that get none keep what `build` gave.
        """
        own = self.networks.state_dict()
        return {name: value for name, value in state.items() if name in own}

    def derived(self, stage: Stage, row: Row) -> dict[str, bytes]:
        """Parts of a row of `stage.derives`, with what the networks of the stage before add; these are in eval mode.

        Raises:
            BadRow: the row cannot be used.
        """
        raise TypeError(f"{self.slug}: nothing is derived for {stage.name}")

    def moves(self, player: Player, step: int) -> bool:
        """Whether a player moves at a 0-based step of its stage; must not depend on anything else."""
        return step >= player.start and step % player.every == 0

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        """Named terms of one micro-batch; tensors are on the worker's device, dtype as `prepare` gave.

        Networks of other players may be used: while this runs nothing of them asks for a gradient.

        Args:
            batch: what is written into it under new names, the players after this one find there, in the same step.
            step: 0-based optimizer step of the stage.
        """
        raise TypeError(f"{self.slug}: player {player!r} has no per-batch loss")

    def counts(self, player: str, batch: Batch) -> dict[str, Tensor]:
        """Counts of the terms of global scope that `losses` will give for this micro-batch, scalars by name.

        The gradient of such a term needs the count of the whole global batch before the first forward.
        """
        return {}

    def features(self, player: str, batch: Batch) -> dict[str, Tensor]:
        """Named tensors `(b, ...)`, one row per sample, for players with `global_batch`.

        Floating ones are fp32 and carry gradient; integer ones (identities for masking) do not.
        """
        raise TypeError(f"{self.slug}: player {player!r} has no loss over the global batch")

    def contrast(self, player: str, rows: dict[str, Tensor], shared: dict[str, Tensor]) -> dict[str, Term]:
        """Terms over the cluster's batch from this worker's feature rows.

        In fp32.  Uses no network, for it may be called on cached rows.  Rows of other workers are reached
        through `lumizoo.blocks.contrast`, which communicates over torch.distributed where it is up.

        Args:
            rows: this worker's rows of all its micro-batches, `(m * b, ...)`.
            shared: `Player.shared` names -> fp32 values as stored (a logarithm stays a logarithm).
        """
        raise TypeError(f"{self.slug}: player {player!r} has no loss over the global batch")

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors (`KEY.name`) under the names and shapes of the published checkpoints."""
        return state

    def flops_per_sample(self, stage: Stage) -> float | None:
        """Arithmetic of forward and backward for one sample, in FLOPs, if the system knows it."""
        return None

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Outputs that this system's evaluations read, without gradient, fp32."""
        raise TypeError(f"{self.slug} has no embedding")

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Normalised features of texts, fp32 `(n, D)`: what zero-shot classification compares pictures with."""
        raise TypeError(f"{self.slug} does not embed texts")

    def restore(self, pictures: Tensor) -> Tensor:
        """Restored pictures of the same size: RGB in [0, 1], `(B, 3, H, W)` of any H and W, without gradient."""
        raise TypeError(f"{self.slug} restores no pictures")

    def ground(self, picture: Any, text: str, spans: Sequence[Any] | None = None, threshold: float = 0.5) -> Found:
        """Boxes around what phrases of a text speak of, without gradient.

        Args:
            picture: uint8 RGB `(H, W, 3)`, or what else the system takes.
            text: phrases that dots divide, as in `a cat. a red ball`, or any caption with `spans`.
            spans: for each phrase its [begin, end) in characters.
            threshold: of scores.

        Raises:
            lumiray.errors.UserError: the picture, the text or a span cannot be used.
        """
        raise TypeError(f"{self.slug} grounds no phrases")

    def readable(self, text: str, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Which phrases of a text, each a span of characters, `ground` can look for: a network reads only so much."""
        raise TypeError(f"{self.slug} grounds no phrases")


def stage_named(system: System, name: str | None) -> Stage:
    """The stage called `name`, or the first one.

    Raises:
        lumiray.errors.UserError: there is none of that name.
    """
    from lumiray.errors import UserError, near

    stages = system.stages()
    if name is None:
        return stages[0]
    for stage in stages:
        if stage.name == name:
            return stage
    names = [stage.name for stage in stages]
    raise UserError(f"{system.slug} has no stage {name!r}; it has {', '.join(names)}.{near(name, names)}")
