"""`augment`: the drawn changes, done to a batch of patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.data.augment.draws import Draw
from medseg.data.augment.intensity import add_noise, change_bias, change_contrast, change_gamma
from medseg.data.augment.sampling import resample
from medseg.data.augment.separable import blur, lower_resolution


def augment(image: Tensor, label: Tensor, draws: Sequence[Draw], *, masks: int = 0) -> tuple[Tensor, Tensor]:
    """Change a batch of patches, on the device where they are.

    Args:
        image: float32 (B, C + masks, *spatial); overwritten. C is the number of channels drawn for, or a multiple.
        label: Class indices (B, *spatial); overwritten.
        draws: One a patch.
        masks: Last channels that are no intensities: they are moved, and keep their values.

    Returns:
        Image and label, of the same sizes. One grid moves both: the image linearly, with the border's value from
        outside; labels to the nearest, with background from outside.
    """
    for patch, classes, d in zip(image, label, draws, strict=True):
        _move(patch, classes, d)
        _change_intensities(patch[: len(patch) - masks], d)
    return image, label


def _move(image: Tensor, label: Tensor, d: Draw) -> None:
    """Flips cost nothing where the patch is moved anyway."""
    if d.matrix is not None or d.elastic is not None:
        matrix = np.eye(label.ndim) if d.matrix is None else d.matrix.copy()
        matrix[:, list(d.flips)] *= -1
        shift = None if d.elastic is None else d.elastic.on_voxels(label.shape, image.device)
        if shift is not None and d.flips:
            shift = shift.flip([axis + 1 for axis in d.flips])
        resample(image, label, matrix, shift)
    elif d.flips:
        image.copy_(image.flip([axis + 1 for axis in d.flips]))
        label.copy_(label.flip(d.flips))


def _change_intensities(image: Tensor, d: Draw) -> None:
    """Change one patch (C, *spatial) in place, in nnU-Net's order."""
    if d.bias is not None:
        log_factor = d.bias.on_voxels(image.shape[1:], image.device)
        for x in torch.split(image, 1):
            change_bias(x, log_factor)
    if d.noise_std:
        add_noise(image, d.noise_std, d.noise_seed)
    changes: tuple[tuple[Sequence[Any] | None, Callable[[Tensor, Any], object]], ...] = (
        (d.blur, lambda x, sigmas: x.copy_(blur(x, sigmas))),
        (d.brightness, Tensor.mul_),
        (d.contrast, change_contrast),
        (d.low_resolution, lambda x, shares: x.copy_(lower_resolution(x, shares))),
        (d.inverted_gamma, partial(change_gamma, inverted=True)),
        (d.gamma, change_gamma),
    )
    for values, change in changes:
        for x, value in _channels(image, values):
            change(x, value)


def _channels(image: Tensor, values: Sequence[Any] | None) -> Iterator[tuple[Tensor, Any]]:
    """Go through the channels and their values; the slices of one channel stand side by side."""
    if values is None:
        return iter(())
    return zip(torch.split(image, image.shape[0] // len(values)), values, strict=True)
