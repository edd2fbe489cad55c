"""Two players as a GAN has them: one that makes, averaged, and a critic with batch normalisation that starts later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lumiray.system import Batch, Optimizer, Player, Record, Schedule, Stage, System, Term

K, MICRO, STEPS = 4, 3, 4
DECAY, FACTOR, CRITIC_STARTS, CRITIC_RESTS = 0.7, 0.5, 1, 2
LR = 0.1


@dataclass(frozen=True)
class DuelConfig:
    """Whether the weight of the critic's word follows from gradients; ZeRO 3 refuses that."""

    adaptive: bool = True


class Maker(nn.Module):
    """Makes rows; its first layer is frozen, as parts are in later stages."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7).requires_grad_(False)
        self.middle = nn.Linear(7, 7)
        self.last = nn.Linear(7, 3, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(self.first(rows))))


def adaptive_weight(wanted: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """How large the gradient of one loss at a weight is against that of another, at most 1."""
    one, two = (torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (wanted, other))
    return (one / (two + 1e-4)).clamp(0, 1).detach()


class Duel(System):
    """The maker copies rows and is judged; the critic sees what the maker made in the same step."""

    slug = "duel"
    config_class = DuelConfig

    def stages(self) -> tuple[Stage, ...]:
        maker = Player("maker", ("maker",), Optimizer("sgd", lr=LR), Schedule("steps", milestones=(2,)), ema=DECAY)
        maker = replace(maker, inner_gradients=self.config.adaptive)
        critic = Player("critic", ("critic",), Optimizer("sgd", lr=LR), start=CRITIC_STARTS)
        return (Stage("duel", Record.CLEAN, (maker, critic)),)

    def build(self, stage: Stage) -> nn.ModuleDict:
        critic = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
        self.networks = nn.ModuleDict({"maker": Maker(), "critic": critic})
        return self.networks

    def prepare(self, stage: Stage, row: Any, draw: Any) -> dict[str, Any]:
        raise AssertionError("tests feed tensors")

    def moves(self, player: Player, step: int) -> bool:
        return super().moves(player, step) and not (player.name == "critic" and step == CRITIC_RESTS)

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        maker, critic = self.networks["maker"], self.networks["critic"]
        if player == "critic":
            real, made = critic(batch["wanted"]), critic(batch["made"])
            return {"hinge": Term.mean((1 - real).relu().mean() + (1 + made).relu().mean())}
        made = maker(batch["rows"])
        batch["made"] = made
        error = (made - batch["wanted"]).abs().mean()
        if step < CRITIC_STARTS:
            return {"l1": Term.mean(error)}
        judged = -critic(made).mean()
        weight = adaptive_weight(error, judged, maker.last.weight) if self.config.adaptive else torch.tensor(0.6)
        return {"l1": Term.mean(error), "judged": Term.mean(weight * judged, FACTOR), "seen": Term.mean(weight, 0.0)}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"made": self.networks["maker"](batch["rows"])}


def built(adaptive: bool = True) -> Duel:
    """The same weights at every call."""
    torch.manual_seed(3)
    system = Duel(DuelConfig(adaptive))
    system.build(system.stages()[0])
    return system


def global_batch(step: int) -> Batch:
    """Rows of a step, the same everywhere."""
    draw = torch.Generator().manual_seed(step)
    rows = torch.randn(K * MICRO, 5, generator=draw)
    return {"rows": rows, "wanted": torch.sin(rows[:, :3]) + 0.1 * torch.randn(K * MICRO, 3, generator=draw)}


def cut(batch: Batch, number: int) -> Batch:
    """Micro-batch `number` of a global batch."""
    return {name: value[number * MICRO : (number + 1) * MICRO] for name, value in batch.items()}


def in_plain_torch(adaptive: bool) -> dict[str, Any]:
    """The whole run in one process without any engine: weights, averages and running statistics at its end."""
    system = built(adaptive)
    maker, critic = system.networks["maker"], system.networks["critic"]
    trained = [value for value in maker.parameters() if value.requires_grad]
    optimizers = {"maker": torch.optim.SGD(trained, lr=LR), "critic": torch.optim.SGD(critic.parameters(), lr=LR)}
    average = {name: value.detach().clone() for name, value in maker.named_parameters()}
    logged = []
    for step in range(STEPS):
        batch = global_batch(step)
        micros = [cut(batch, number) for number in range(K)]
        optimizers["maker"].param_groups[0]["lr"] = LR * (0.5 if step >= 2 else 1.0)
        numbers: dict[str, float] = {}
        for player in system.stages()[0].players:
            if not system.moves(player, step):
                continue
            optimizer = optimizers[player.name]
            for one in optimizers.values():
                one.zero_grad()
            for micro in micros:
                terms = system.losses(player.name, micro, step)
                micro |= {name: value.detach() for name, value in micro.items()}
                (sum(one.weight * one.sum / K for one in terms.values())).backward()  # type: ignore[union-attr]
                for name, one in terms.items():
                    numbers[name] = numbers.get(name, 0.0) + float(one.sum.detach()) / K
            optimizer.step()
            if player.ema:
                for name, value in maker.named_parameters():
                    average[name].lerp_(value.detach(), 1 - player.ema)
        logged.append(numbers)
    return {
        "weights": plain(system.networks.state_dict()),
        "average": plain({f"maker.{name}": value for name, value in average.items()}),
        "logged": logged,
    }


def plain(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    """As JSON carries them."""
    return {name: value.double().flatten().tolist() for name, value in tensors.items()}
