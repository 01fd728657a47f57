"""Changes of intensities, in place: x is (slices, *spatial), one channel of one patch."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny


def add_noise(x: Tensor, std: float, seed: int) -> None:
    """Add Gaussian noise, the same for the same seed and device."""
    generator = torch.Generator(x.device).manual_seed(seed)
    x.add_(torch.randn(x.shape, generator=generator, device=x.device), alpha=std)


def change_contrast(x: Tensor, factor: float) -> None:
    """Multiply the distance to the mean, within the range of values that there was."""
    low, high = torch.aminmax(x)
    x.lerp_(x.mean(), 1 - factor)
    if factor > 1:
        torch.maximum(torch.minimum(x, high, out=x), low, out=x)


def change_gamma(x: Tensor, exponent: float, *, inverted: bool = False) -> None:
    """Raise the values, scaled to 0..1, to a power, and give them back their mean and standard deviation.

    Args:
        x: Changed in place; a constant one stays as it is.
        exponent: Above 0.
        inverted: Scale them from the top down, so that the power works on the bright end.
    """
    low, high = torch.aminmax(x)
    span = (high - low).clamp_min_(_TINY)
    start, sign = (high, -1) if inverted else (low, 1)
    x.sub_(start).mul_(sign / span)
    mean = x.mean()
    spread = torch.linalg.vector_norm(x - mean)
    x.log_().mul_(exponent).exp_()
    x.sub_(x.mean())
    x.mul_(sign * span * spread / torch.linalg.vector_norm(x).clamp_min_(_TINY))
    x.add_(start + sign * span * mean)


def change_bias(x: Tensor, log_factor: Tensor) -> None:
    """Multiply the distance to the minimum by a smooth factor.

    Args:
        x: Changed in place.
        log_factor: Natural logarithm of the factor, (1, *spatial).
    """
    low = x.amin()
    x.sub_(low).mul_(log_factor.exp()).add_(low)
