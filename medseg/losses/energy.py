"""The CRF loss: neighbours that look alike should be predicted alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medseg.crf import CRF, pairwise_sums


def crf_loss(
    logits: Tensor,
    image: Tensor,
    crf: CRF,
    *,
    spacing_mm: Sequence[float] | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Return the mean over valid voxels i of sum_j k_ij (1 - p_i . p_j), p = softmax(logits), k of `medseg.crf`.

    Pairs count of which both voxels are valid. Differentiable once, in the logits; the image is a constant.
    Computed outside autocast in float32 (float64 for float64); two tensors of the size of the logits, whatever the
    window.

    Args:
        logits: (B, K, *spatial).
        image: (B, C, *spatial), what the network saw.
        crf: The kernels.
        spacing_mm: Voxel spacing along the spatial axes; 1 mm by default.
        valid: (B, *spatial), which voxels take part; all by default.

    Raises:
        UsageError: The shapes do not belong together, or the window holds no neighbour.

    Source: Obukhov et al. 2019 (arXiv:1906.04651); Marin et al. 2019, arXiv:1809.02322.
    """
    mask = None if valid is None else valid.unsqueeze(1)
    with torch.autocast(logits.device.type, enabled=False):
        loss: Tensor = _Energy.apply(logits, image, crf, spacing_mm, mask)  # type: ignore[no-untyped-call]
        return loss


class _Energy(torch.autograd.Function):
    """Energy of logits; k is symmetric, so that the sums K p which it is made of are its gradient too."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, image: Tensor, crf: CRF, spacing_mm: Sequence[float] | None, valid: Tensor | None
    ) -> Tensor:
        p = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
        if valid is not None:
            p.mul_(valid)
        sums, mass = pairwise_sums(p, image, crf, spacing_mm, valid)
        agreement = torch.zeros_like(mass)  # p_i . (K p)_i, (B, 1, *spatial)
        for number in range(p.shape[1]):
            one = slice(number, number + 1)
            agreement.addcmul_(p[:, one], sums[:, one])
        count = p.new_tensor(mass.numel()) if valid is None else valid.sum().clamp_min(1).to(p.dtype)
        if valid is not None:
            mass.mul_(valid)
        # The derivative by p is -2 K p / count; the softmax makes it p (K p - p . K p) of that.
        ctx.save_for_backward(sums.sub_(agreement).mul_(p).mul_(-2 / count), logits)
        return (mass - agreement).sum() / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        slope, logits = ctx.saved_tensors
        result = torch.empty_like(logits)
        for number in range(logits.shape[1]):
            # Scaled before it is rounded to half precision, where it may be too small unscaled.
            result[:, number] = slope[:, number] * gradient
        return result, None, None, None, None
