"""How far training is, and the learning rate that belongs there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]
Schedule = Literal["cosine", "poly", "one_cycle"]

_POLY_POWER = 0.9
_CYCLE_TOP, _CYCLE_START, _CYCLE_END = 0.3, 25.0, 1e4
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


def rate_factor(fraction: float, schedule: Schedule, warmup: float) -> float:
    """Return the learning rate at a share of the training, relative to the highest one.

    ``cosine`` and ``poly`` rise linearly in the first `warmup` share, then fall to 0 as half a cosine, or as
    (1 - x)^0.9 (Chen et al. 2018, arXiv:1606.00915). ``one_cycle`` rises from 1/25 in the first 0.3 and falls to
    4e-6, both as half a cosine (Smith and Topin 2018, arXiv:1708.07120, with the numbers of torch's OneCycleLR).
    """
    if schedule == "one_cycle":
        return _cycle(fraction, 1 / _CYCLE_START, 1.0, 1 / _CYCLE_START / _CYCLE_END)
    if fraction < warmup:
        return max(fraction / warmup, 0.01)
    x = (fraction - warmup) / (1 - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * x))
    return float((1 - x) ** _POLY_POWER)


def cycled_momentum(fraction: float) -> float:
    """Return the momentum of ``one_cycle``: from 0.95 to 0.85 where the rate is highest, and back."""
    return _cycle(fraction, 0.95, 0.85, 0.95)


def _cycle(fraction: float, first: float, middle: float, last: float) -> float:
    """Go from one value to the next as half a cosine, and on to the third."""
    if fraction < _CYCLE_TOP:
        start, end, x = first, middle, fraction / _CYCLE_TOP
    else:
        start, end, x = middle, last, (fraction - _CYCLE_TOP) / (1 - _CYCLE_TOP)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * x))


def make_optimizer(
    network: nn.Module,
    name: Literal["adamw", "sgd"],
    learning_rate: float,
    *,
    weight_decay: float,
    momentum: float,
    groups: list[dict[str, Any]] | None = None,
) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum, on all parameters or on `groups` of them."""
    parameters: list[Any] = list(network.parameters()) if groups is None else groups
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(
        parameters, lr=learning_rate, weight_decay=weight_decay, momentum=momentum, nesterov=momentum > 0
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float | None = None) -> None:
    """Set the learning rate of every group of parameters, times the group's ``lr_scale`` where it has one.

    Args:
        optimizer: From `make_optimizer`.
        rate: Learning rate.
        momentum: Of SGD, or the first beta of AdamW; None leaves it.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None:
            group["momentum"] = momentum


def mean_weights(network: nn.Module, decay: float) -> AveragedModel:
    """Return the running mean of a network's weights and statistics, to be updated after each step.

    The decay of the first steps is smaller, (1 + n) / (10 + n), so that the random start is soon forgotten.

    Source: Polyak and Juditsky 1992; the form of Tan and Le 2019 (arXiv:1905.11946).
    """

    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value.to(mean), weight)
            else:
                mean.copy_(value)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)
