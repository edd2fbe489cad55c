"""One DeepSpeed engine per player, and the only place that builds one.

A player's networks are wrapped in a module whose forward *is* its loss, because every ZeRO stage relies on
seeing one forward and one backward: parameters are gathered by the forward's hooks and gradients reduced by
the backward's.  A loss over the cluster's batch fits the same rule in two ways.  With one micro-batch per
worker the forward computes features and contrasts them at once.  With several, features are cached without
gradient, the contrast is differentiated with respect to the cache, and a second forward returns the inner
product of fresh features and that gradient, whose backward is the exact gradient of the large batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lumiray.config import RunConfig
from lumiray.errors import UserError
from lumiray.system import Batch, Player, System
from lumiray.train.average import start_average
from lumiray.train.engine_settings import deepspeed_settings, offloaded
from lumiray.train.fragments import start_fresh
from lumiray.train.recipe import check_zero, factor_of, rate_factors
from lumiray.train.terms import Sums, Totals, combine

FACTOR = "lr_factor"  # of a parameter group


class PlayerModule(nn.Module):
    """The module that DeepSpeed sees: a player's networks, with its losses as forward."""

    def __init__(self, system: System, player: Player) -> None:
        super().__init__()
        self.player = player
        self._system = (system,)  # in a tuple: other players' networks must not become submodules
        for name in player.networks:
            self.add_module(name, system.networks[name])

    @property
    def system(self) -> System:
        """The system whose networks and losses these are."""
        return self._system[0]

    @contextmanager
    def others_frozen(self) -> Iterator[None]:
        """While inside, nothing of other players' networks asks for a gradient.

        Their gradients would be left with no engine to reduce them, and ZeRO would be wrong without a word.
        """
        found = [
            value
            for name, network in self.system.networks.items()
            if name not in self.player.networks
            for value in network.parameters()
            if value.requires_grad
        ]
        for value in found:
            value.requires_grad_(False)
        try:
            yield
        finally:
            for value in found:
                value.requires_grad_(True)

    def shared(self, masters: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Parameters that `contrast` reads: fp32 master values, with gradient to the working weights."""
        found = {}
        parameters = dict(self.named_parameters())
        for name in self.player.shared:
            if name not in parameters:
                continue  # a softmax model has no logit_bias
            value = parameters[name].float()
            if masters is not None and name in masters:
                value = value + (masters[name] - value).detach()
            found[name] = value
        return found

    def forward(self, call: str, batch: Batch, **given: Any) -> Any:
        """Dispatch to one of the calls below; DeepSpeed's hooks run around it.

        Args:
            call: losses | features | contrast | surrogate | embed | embed_texts.
        """
        return getattr(self, f"_{call}")(batch, **given)

    def _losses(
        self, batch: Batch, scale: float, step: int, totals: Totals | None = None
    ) -> tuple[Tensor, Sums, Batch]:
        own = dict(batch)
        with self.others_frozen():
            outcome = combine(self.system.losses(self.player.name, own, step), scale, _device_of(batch), totals)
        left = {name: value.detach() for name, value in own.items() if name not in batch}
        return outcome.loss, outcome.terms, left

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        return self.system.features(self.player.name, batch)

    def _contrast(self, batch: Batch, scale: float, masters: Mapping[str, Tensor] | None) -> tuple[Tensor, Sums]:
        rows = self.system.features(self.player.name, batch)
        terms = self.system.contrast(self.player.name, rows, self.shared(masters))
        outcome = combine(terms, scale, _device_of(batch))
        return outcome.loss, outcome.terms

    def _surrogate(self, batch: Batch, gradients: Batch, shared_gradients: Batch) -> Tensor:
        rows = self.system.features(self.player.name, batch)
        value = sum((rows[name] * gradient).sum() for name, gradient in gradients.items())
        parameters = dict(self.named_parameters())
        for name, gradient in shared_gradients.items():
            value = value + (parameters[name].float() * gradient).sum()
        return value

    def _embed(self, batch: Batch) -> dict[str, Tensor]:
        return self.system.embed(batch)

    def _embed_texts(self, batch: Batch, texts: list[str]) -> Tensor:
        return self.system.embed_texts(texts)


def _device_of(batch: Batch) -> torch.device:
    return next(iter(batch.values())).device


def make_optimizer(module: nn.Module, player: Player, offload: bool, factors: Sequence[tuple[str, float]] = ()) -> Any:
    """The torch optimizer that DeepSpeed wraps: groups with and without weight decay, for every factor of the rate."""
    trained = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    if not trained:
        raise UserError(f"Player {player.name!r} has nothing to train: every parameter is locked.")
    settings = player.optimizer
    kinds: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in trained:
        decay = 0.0 if name in player.no_decay else settings.weight_decay
        factor = player.lr_factors.get(name, 1.0) * factor_of(name, factors)
        kinds.setdefault((factor, decay), []).append(value)
    groups = [{"params": members, "weight_decay": decay, FACTOR: factor} for (factor, decay), members in kinds.items()]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr)
    if offload:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        decoupled = settings.name == "adamw"
        return DeepSpeedCPUAdam(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, adamw_mode=decoupled)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    # one pass over memory, on a CPU as on a GPU: there seven times as fast, and without scratch of a parameter's size
    return kind(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def check_settings(settings: dict[str, Any], run: RunConfig) -> None:
    """Refuse what the pinned DeepSpeed, or this machine, cannot do.

    Raises:
        UserError: says what is in the way.
    """
    zero = settings["zero_optimization"]
    if run.engine.compile and zero.get("stage") == 3:
        raise UserError("--engine.compile works with ZeRO 0 to 2, and your DeepSpeed JSON asks for 3; leave one out.")
    if "nvme" in (offloaded(zero, "optimizer"), offloaded(zero, "param")):
        from deepspeed.ops.op_builder import AsyncIOBuilder

        if not AsyncIOBuilder().is_compatible(verbose=False):
            raise UserError(
                "nvme offload needs the library libaio with its headers on every node, and they are not there: install "
                "them (libaio-dev on Debian, libaio-devel on Fedora), or offload to cpu."
            )


def make_engine(system: System, player: Player, run: RunConfig, rows_per_rank: int, device: torch.device) -> Any:
    """A DeepSpeed engine around the player's networks (torch.distributed must be up).

    Raises:
        UserError: settings that cannot work here, or that DeepSpeed does not know.
    """
    import deepspeed
    from pydantic import ValidationError

    # a kernel that only inference uses, and that would be compiled at the first use on a CPU
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    module = PlayerModule(system, player)
    settings = deepspeed_settings(run, rows_per_rank, dist.get_world_size())
    check_settings(settings, run)
    check_zero(player, settings["zero_optimization"].get("stage", 0))
    offload = offloaded(settings["zero_optimization"], "optimizer") != "none"
    try:
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=make_optimizer(module, player, offload, rate_factors(run.finetune)),
            config=settings,
            dist_init_required=False,
        )
    except ValidationError as error:  # of pydantic, with which DeepSpeed reads its configuration
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UserError(f"--engine.deepspeed: DeepSpeed does not take {wrong}.") from None
    if dist.get_world_size() == 1 and engine.zero_optimization_stage() == 0:
        engine.enable_backward_allreduce = False  # it would copy every gradient twice, to itself
    start_fresh(engine)
    if player.ema is not None:
        start_average(engine)
    if engine.zero_optimization_stage() == 3:
        parameters = dict(module.named_parameters())
        for name in player.shared:
            if name in parameters:  # used outside the submodule that owns it: gathered with the whole forward
                deepspeed.zero.register_external_parameter(module, parameters[name])
    engine.train()
    if run.engine.compile:
        engine.compile()
    return engine


def gradient_norm(engine: Any) -> float | None:
    """Global norm of the reduced gradients where DeepSpeed does not compute it: stage 0 in fp32."""
    if engine.zero_optimization() or engine.bfloat16_enabled() or engine.fp16_enabled():
        return None
    gradients = [value.grad for value in engine.module.parameters() if value.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0


def set_learning_rate(engine: Any, rate: float) -> None:
    """Write the rate into every parameter group (before the step's forward pass, as published)."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group.get(FACTOR, 1.0)


def backward(engine: Any, loss: Tensor) -> None:
    """Go backward through DeepSpeed.

    In fp16 without ZeRO the pinned release divides gradients by a loss scale that it never multiplied with.
    """
    engine.backward(loss * _own_scale(engine))


def _own_scale(engine: Any) -> float:
    """The scale of losses where DeepSpeed leaves it to the caller: its optimizer of stage 0 in 16 bit (bf16: 1)."""
    unscaled = getattr(engine.optimizer, "loss_scale_config", None)
    return 1.0 if unscaled is None else float(unscaled.cur_scale)


def take_step(engine: Any) -> float | None:
    """Let the optimizer step on the reduced gradients.

    Returns:
        Their global norm before clipping, or None if they are not finite: they are dropped, nothing has moved.
    """
    norm, scale = gradient_norm(engine), _own_scale(engine)
    if norm is not None and not math.isfinite(norm):
        engine.zero_grad()
        return None
    engine.step()
    if not engine.was_step_applied():
        return None
    return float(engine.get_global_grad_norm()) / scale if norm is None else norm


def discard_gradients(engine: Any) -> None:
    """Drop gradients that are not finite, wherever a stage has put them: DeepSpeed does so in place of a step."""
    if gradient_norm(engine) is not None:
        engine.zero_grad()
        return
    engine.step()
    if engine.was_step_applied():
        raise RuntimeError("DeepSpeed stepped on gradients that are not finite")
