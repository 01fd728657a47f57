"""Normalising intensities: each channel by its own rule, in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cc3d
import numpy as np
import torch
from torch import Tensor

from medseg.data.preprocessing import (
    CTIntensity,
    Intensity,
    PlainIntensity,
    RGBIntensity,
    UnitIntensity,
    ZScoreIntensity,
)
from medseg.errors import InputError

_SMALLEST_STD = 1e-8
_FACES = 6  # neighbours of a voxel


def normalize(image: Tensor, rules: Sequence[Intensity], inside: Tensor | None = None) -> None:
    """Normalise each channel by its own rule, in place.

    Args:
        image: float32 (C, i, j, k).
        rules: One a channel, complete.
        inside: bool (i, j, k), what rules with `filled` measure and change; `filled_mask` by default.

    Raises:
        InputError: A channel that is to be of an RGB image has values beyond 0 to 255.
    """
    masked = any(has_mask(rule) for rule in rules)
    mask = filled_mask(image) if masked and inside is None else inside
    for channel, rule in zip(image, rules, strict=True):
        if has_mask(rule):
            _zscore(channel, mask)
        else:
            _RULES[type(rule)](channel, rule)


def has_mask(rule: Intensity) -> bool:
    """Whether a rule measures and changes the voxels of `filled_mask` only."""
    return isinstance(rule, ZScoreIntensity) and rule.filled


def filled_mask(image: Tensor) -> Tensor:
    """Return the voxels that are not zero in at least one channel, and the holes among them.

    A hole is a set of zeros that no path over faces leads out of to the border of the image.

    Args:
        image: (C, i, j, k).

    Returns:
        bool (i, j, k).
    """
    mask = (image != 0).any(dim=0)
    outside = cc3d.connected_components((~mask).numpy().view(np.uint8), connectivity=_FACES)
    faces = [outside.take(end, axis=axis) for axis in range(3) for end in (0, -1)]
    open_air = np.unique(np.concatenate([face.ravel() for face in faces]))
    holes = np.ones(int(outside.max()) + 1, dtype=bool)
    holes[open_air] = False
    holes[0] = True  # the mask itself
    return torch.from_numpy(holes[outside])


def _ct(channel: Tensor, rule: CTIntensity) -> None:
    if rule.clip_hu is None or rule.mean_hu is None or rule.std_hu is None:
        raise ValueError("the CT intensity rule is not complete; see Preprocessing.completed")
    channel.clamp_(*rule.clip_hu).sub_(rule.mean_hu).div_(rule.std_hu)


def _zscore_by(channel: Tensor, rule: ZScoreIntensity) -> None:
    _zscore(channel, channel != 0 if rule.nonzero else None)


def _zscore(channel: Tensor, mask: Tensor | None) -> None:
    values = channel if mask is None else channel[mask]
    if values.numel() == 0:
        return
    mean, std = values.mean(dtype=torch.float64), values.to(torch.float64).std(correction=0)
    scale = std if std > _SMALLEST_STD else torch.ones_like(std)
    normalised = channel.sub(mean.to(channel)).div_(scale.to(channel))
    channel.copy_(normalised if mask is None else torch.where(mask, normalised, channel))


def _unit(channel: Tensor, _rule: UnitIntensity) -> None:
    channel.sub_(channel.min())
    channel.div_(channel.max().clamp_min(_SMALLEST_STD))


def _rgb(channel: Tensor, _rule: RGBIntensity) -> None:
    low, high = float(channel.min()), float(channel.max())
    if low < 0 or high > 255:
        raise InputError(
            "intensities",
            expected="0 to 255, as in a colour image of 8 bits",
            found=f"{low:g} to {high:g}",
            remedy="choose a model for this kind of image",
        )
    channel.div_(255)


def _leave(_channel: Tensor, _rule: object) -> None:
    """Change nothing."""


_RULES: dict[type, Callable[[Tensor, Any], None]] = {
    CTIntensity: _ct,
    ZScoreIntensity: _zscore_by,
    UnitIntensity: _unit,
    RGBIntensity: _rgb,
    PlainIntensity: _leave,
}
