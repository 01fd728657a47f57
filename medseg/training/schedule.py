"""How far training is, and the learning rate that belongs there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

_POLY_POWER = 0.9
_FIRST_RESERVE = 0.2  # of the time after set-up, until a validation was timed


@dataclass
class Pace:
    """The share of the training that is done: by steps, or by wall-clock time where there is a budget.

    Args:
        total_steps: Number of steps without a budget.
        budget_s: Seconds that the whole run may take, or None.
        spent_s: Seconds that earlier parts of a resumed run took.
        setup_s: Seconds that went into measuring and preprocessing, in all parts.
        reserve_s: Seconds of the budget to keep for what comes after the last step.
    """

    total_steps: int
    budget_s: float | None = None
    spent_s: float = 0.0
    setup_s: float = 0.0
    reserve_s: float = 0.0
    _start: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has taken, earlier parts included."""
        return self.spent_s + time.monotonic() - self._start

    def fraction(self, step: int) -> float:
        """Return the share done, 0 to 1, after `step` steps."""
        if self.budget_s is None:
            return min(1.0, step / self.total_steps)
        available_s = self.budget_s - self.reserve_s - self.setup_s
        if available_s <= 0:
            return 1.0
        return min(1.0, max(0.0, self.elapsed_s - self.setup_s) / available_s)

    def begin(self, *, spent_s: float, setup_s: float, reserve_s: float | None) -> None:
        """Say that this part's set-up is over.

        Args:
            spent_s: Seconds that earlier parts of the run took.
            setup_s: Seconds of them that were set-up.
            reserve_s: As earlier parts knew it, or None: a share of the budget.
        """
        self.setup_s = setup_s + time.monotonic() - self._start
        self.spent_s = spent_s
        if not reserve_s and self.budget_s is not None:
            reserve_s = _FIRST_RESERVE * max(0.0, self.budget_s - self.setup_s)
        self.reserve_s = reserve_s or 0.0


def rate_factor(fraction: float, schedule: Literal["cosine", "poly"], warmup: float) -> float:
    """Return the learning rate at a share of the training, relative to the highest one.

    It rises linearly in the first `warmup` share, then falls to 0 as half a cosine, or as (1 - x)^0.9
    (Chen et al. 2018, arXiv:1606.00915).
    """
    if fraction < warmup:
        return max(fraction / warmup, 0.01)
    x = (fraction - warmup) / (1 - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * x))
    return float((1 - x) ** _POLY_POWER)


def make_optimizer(
    network: nn.Module,
    name: Literal["adamw", "sgd"],
    learning_rate: float,
    *,
    weight_decay: float,
    momentum: float,
) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum."""
    parameters = list(network.parameters())
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(
        parameters, lr=learning_rate, weight_decay=weight_decay, momentum=momentum, nesterov=momentum > 0
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
