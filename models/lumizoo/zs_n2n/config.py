"""Settings of one fit.  Defaults are the published ones (card zs-n2n, Training); additions are off."""

from __future__ import annotations

from dataclasses import dataclass

from lumiray.errors import UserError, check_number


@dataclass(frozen=True)
class ZsN2nConfig:
    """How long and how fast the network is fitted, and which of its weights are kept."""

    steps: int = 2000
    """Steps of Adam, each on the whole picture; strong noise is taken out best by fewer, such as 500."""
    lr: float = 1e-3
    """Learning rate of the first steps."""
    halve_every: int = 1500
    """Steps after which the learning rate is halved, again and again."""
    seed: int = 0
    """Of the first weights and of the blocks that are held out: equal seeds give equal pictures."""
    average_last: int = 0
    """Keep the mean of the weights after each of so many last steps; 0 keeps the last weights, as published."""
    patience: int = 0
    """End when the loss on held-out blocks has not improved for so many steps, with the best weights; 0 never does."""
    held_out: float = 0.1
    """With --patience: share of the 2 x 2 blocks that the fit does not see as targets."""

    def __post_init__(self) -> None:
        """Refuse numbers that no fit could use, by option.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("steps", self.steps, 1)
        check_number("halve-every", self.halve_every, 1)
        check_number("seed", self.seed, 0, 2**63 - 1)
        check_number("average-last", self.average_last, 0, self.steps)
        check_number("patience", self.patience, 0)
        check_number("held-out", self.held_out, 0.01, 0.9)
        if not self.lr > 0:
            raise UserError(f"--lr is {self.lr}; it must be above 0.")
        if self.average_last and self.patience:
            raise UserError("--average-last and --patience both say which weights are kept; leave one out.")


CONFIG = ZsN2nConfig
