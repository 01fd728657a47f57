"""Fully connected random fields cut to a window: neighbours that look alike should bear the same label.

Two voxels i and j at positions x (mm) with image values I are tied by

    k_ij = w_b / Z_b exp(-|x_i - x_j|^2 / 2 s_b^2 - |I_i - I_j|^2 / 2 s_I^2)
         + w_s / Z_s exp(-|x_i - x_j|^2 / 2 s_s^2),

the bilateral (appearance) and the spatial (smoothness) kernel of Krähenbühl & Koltun 2011 (arXiv:1210.5644), for j
in a window around i, i itself left out. Z is the sum of the spatial Gaussian over the window (no larger than the
image), so that a weight says what a whole neighbourhood of equal brightness counts for, whatever the spacing and
the radius; without `normalize` Z is 1, as in the papers.

One operator, `pairwise_sums`, is behind the CRF loss (`medseg.losses`) and the mean-field refinement of finished
probabilities. It takes any number of spatial axes. As k is symmetric, it walks half of the window's offsets, and
for each one adds a shifted slice to the other both ways: nothing is padded or unfolded, and memory does not grow
with the window.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medseg.errors import UsageError

_Offset = tuple[int, ...]


class CRF(BaseModel):
    """The kernels of a conditional random field, and how long mean-field inference runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    bilateral_weight: float = Field(default=10.0, ge=0, description="w_b, of neighbours that look alike.")
    bilateral_sigma_mm: float = Field(default=3.0, gt=0, description="s_b, reach of the bilateral kernel.")
    intensity_sigma: float = Field(
        default=0.2,
        gt=0,
        description="s_I: difference, in units of the normalised image, that tells tissues apart.",
    )
    spatial_weight: float = Field(default=3.0, ge=0, description="w_s, of neighbours whatever they look like.")
    spatial_sigma_mm: float = Field(default=1.0, gt=0, description="s_s, reach of the spatial kernel.")
    radius_mm: float = Field(default=3.0, gt=0, description="Half the window's width along each axis.")
    normalize: bool = Field(default=True, description="Whether Gaussians sum to 1 over the window; else peak at 1.")
    iterations: int = Field(default=5, ge=1, description="Mean-field updates.")


def mean_field(probabilities: Tensor, image: Tensor, crf: CRF, spacing_mm: Sequence[float] | None = None) -> Tensor:
    """Refine softmax maps by mean-field inference with the Potts model.

    From Q = p, each update is Q_i(l) = p_i(l) exp(sum_j k_ij Q_j(l)), divided by its sum over the classes l: with
    unary potentials -log p and a cost of k_ij for each pair of unequal labels. A neighbourhood that looks alike and
    agrees adds up to w_b + w_s to the log-odds of its label, less at the border of the image.

    Memory: two tensors of the size of `probabilities` beside it, in float32 (float64 for float64).

    Args:
        probabilities: (K, *spatial), from 0 to 1, summing to 1 over K. Of logits: ``logits.softmax(0)``.
        image: (C, *spatial), what the network saw.
        crf: Kernels and number of updates.
        spacing_mm: Voxel spacing along the spatial axes; 1 mm by default.

    Returns:
        Probabilities (K, *spatial).

    Raises:
        UsageError: The shapes do not belong together, or the window holds no neighbour.

    Source: Krähenbühl & Koltun 2011, arXiv:1210.5644, algorithm 1.
    """
    dtype = torch.promote_types(probabilities.dtype, torch.float32)
    q = probabilities.detach()[None].to(dtype, copy=True, memory_format=torch.contiguous_format)  # (1, K, *spatial)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        for _ in range(crf.iterations):
            _update(q, probabilities, image, crf, spacing_mm)
    return q[0]


def _update(q: Tensor, probabilities: Tensor, image: Tensor, crf: CRF, spacing_mm: Sequence[float] | None) -> None:
    message, _ = pairwise_sums(q, image[None], crf, spacing_mm)
    # A probability that was rounded to 0 was at most the least that its type holds, and may be overruled.
    kind = torch.finfo(probabilities.dtype)
    least = max(kind.tiny * kind.eps, torch.finfo(q.dtype).tiny)
    for label, p in enumerate(probabilities):  # one by one, for the sake of memory
        message[0, label] += p.to(q.dtype).clamp_min(least).log()
    torch.softmax(message, dim=1, out=q)


def pairwise_sums(
    values: Tensor,
    image: Tensor,
    crf: CRF,
    spacing_mm: Sequence[float] | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return sum_j k_ij v_j and sum_j k_ij over the window around each voxel i.

    Both sums are made of the same additions, so that they are equal to the last bit where v is 1.

    Args:
        values: v, (B, K, *spatial), float32 or float64; must be 0 where not valid.
        image: (B, C, *spatial), any type.
        crf: The kernels.
        spacing_mm: Voxel spacing along the spatial axes; 1 mm by default.
        valid: (B, 1, *spatial), of what voxels j the second sum is; all by default.

    Returns:
        (B, K, *spatial) and (B, 1, *spatial).

    Raises:
        UsageError: The shapes do not belong together, or the window holds no neighbour.
    """
    spacing = check_grid(values, image, crf, spacing_mm)
    guide = image.to(values.dtype) / (math.sqrt(2) * crf.intensity_sigma)
    ones = torch.ones_like(values[:, :1]) if valid is None else valid.to(values.dtype)
    sums, mass = torch.zeros_like(values), torch.zeros_like(ones)
    for offset, bilateral, spatial in _kernel(values.shape[2:], crf, spacing):
        here, there = _slices(offset)
        if bilateral:
            difference = guide[here] - guide[there]
            k = difference.square_().sum(1, keepdim=True).neg_().exp_().mul_(bilateral).add_(spatial)
        else:
            k = values.new_tensor(spatial)
        for total, addend in ((sums, values), (mass, ones)):
            total[here].addcmul_(addend[there], k)
            total[there].addcmul_(addend[here], k)
    return sums, mass


def check_grid(values: Tensor, image: Tensor, crf: CRF, spacing_mm: Sequence[float] | None) -> tuple[float, ...]:
    """Return the spacing in millimetres of tensors (B, K, *spatial), (B, C, *spatial), checked.

    Raises:
        UsageError: The shapes do not belong together, or the window holds no neighbour.
    """
    if image.shape[0] != values.shape[0] or image.shape[2:] != values.shape[2:]:
        raise UsageError(
            "image",
            expected=f"the size {tuple(values.shape[2:])} of the probabilities, and as many samples",
            found=f"the shape {tuple(image.shape)} for {tuple(values.shape)}",
            remedy="pass the image as the network saw it",
        )
    axes = values.ndim - 2
    spacing = (1.0,) * axes if spacing_mm is None else tuple(spacing_mm)
    if len(spacing) != axes or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise UsageError(
            "spacing_mm",
            expected=f"{axes} positive numbers, one a spatial axis",
            found=str(list(spacing)),
            remedy="give the voxel spacing in millimetres",
        )
    check_window(crf, spacing)
    return spacing


def check_window(crf: CRF, spacing_mm: Sequence[float]) -> None:
    """Refuse a window that holds no neighbour.

    Raises:
        UsageError: It does not reach the nearest voxel.
    """
    if crf.radius_mm < min(spacing_mm):
        raise UsageError(
            "radius_mm",
            expected=f"a window that reaches a neighbour, {min(spacing_mm):g} mm away",
            found=f"{crf.radius_mm:g} mm",
            remedy=f"set radius_mm to at least {min(spacing_mm):g}",
        )


def _kernel(shape: Sequence[int], crf: CRF, spacing: Sequence[float]) -> Iterator[tuple[_Offset, float, float]]:
    """Yield half the offsets of the window, and the spatial part of either kernel there."""
    reach = [
        min(size - 1, math.floor(crf.radius_mm / step * (1 + 1e-9)))
        for size, step in zip(shape, spacing, strict=True)
    ]
    window = itertools.product(*(range(-r, r + 1) for r in reach))
    half = [offset for offset in window if offset > (0,) * len(reach)]
    squares = [sum((n * step) ** 2 for n, step in zip(offset, spacing, strict=True)) for offset in half]
    bilateral = _gaussian(squares, crf.bilateral_sigma_mm, crf.bilateral_weight, crf.normalize)
    spatial = _gaussian(squares, crf.spatial_sigma_mm, crf.spatial_weight, crf.normalize)
    return zip(half, bilateral, spatial, strict=True)


def _gaussian(squares: Sequence[float], sigma: float, weight: float, normalize: bool) -> list[float]:
    """Return the weighted Gaussian at squared distances (mm^2); normalised, it sums to `weight` over the window."""
    # The nearest neighbour is taken as 1 first, lest all of a narrow Gaussian rounds to 0.
    nearest = min(squares, default=0.0) if normalize else 0.0
    values = [math.exp((nearest - square) / (2 * sigma**2)) for square in squares]
    total = 2 * sum(values) if normalize else 1.0
    return [weight * value / total for value in values]


def _slices(offset: _Offset) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the indices of all voxels i, and of j = i + offset, of the pairs within a tensor (B, K, *spatial)."""
    everything = (slice(None), slice(None))
    here = tuple(slice(max(0, -n), -n if n > 0 else None) for n in offset)
    there = tuple(slice(max(0, n), n if n < 0 else None) for n in offset)
    return everything + here, everything + there
