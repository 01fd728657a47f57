"""The sums that the losses are closed forms of, and their gradient, in one pass each over the logits.

Cross entropy, focal and the Dice-like losses need four small tables: for each sample and class the overlap, the
predicted mass, the voxels of truth and the surprise. The tables are summed up chunk of voxels by chunk, and so is
their gradient computed, which takes the softmax anew. One-hot truth, probabilities or logits of another precision
exist for one chunk at a time; the gradient is the only tensor of the logits' size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.losses.gathered import gathered

# Elements of a chunk: what stays in a CPU's cache, or keeps a GPU busy with few launches.
_CHUNK_CPU = 1 << 20
_CHUNK_GPU = 1 << 24

_Chunk = tuple[slice, slice]


class ClassSums(NamedTuple):
    """Sums over the voxels that are not ignored, one for each sample and class: (B, K) each.

    Attributes:
        overlap: Probability of the class, over the voxels that truly are of it.
        predicted: Probability of the class, over all voxels.
        truth: Number of voxels that truly are of the class.
        surprise: -(1 - p)^gamma log p, with p the probability of the true class, over the voxels of the class;
            with gamma 0 the cross entropy.
    """

    overlap: Tensor
    predicted: Tensor
    truth: Tensor
    surprise: Tensor


def class_sums(logits: Tensor, target: Tensor, *, ignore_index: int | None = None, gamma: float = 0.0) -> ClassSums:
    """Sum softmax probabilities over the voxels; differentiable once, in the logits.

    Where several processes train together, the samples are those of all of them, for `medseg.losses.gathered`.

    Computed outside autocast, in float32 for half-precision logits, else in the logits' own type. Contiguous and
    channels-last logits are both read in place, and the gradient has the layout of the logits.

    Args:
        logits: (B, K, *spatial), any floating type.
        target: Class indices (B, *spatial), any type that holds them.
        ignore_index: Voxels with this target take part in no sum.
        gamma: Focusing exponent of the surprise (Lin et al. 2017, arXiv:1708.02002).

    Raises:
        UsageError: The shapes do not belong together.
    """
    if logits.ndim < 3 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise UsageError(
            "target",
            expected=f"class indices (B, *spatial) for logits (B, K, *spatial) of shape {tuple(logits.shape)}",
            found=f"the shape {tuple(target.shape)}",
            remedy="pass indices without a channel axis, of the size of the logits",
        )
    with torch.autocast(logits.device.type, enabled=False):
        tables: Tensor = _Tables.apply(logits, target, ignore_index, gamma)  # type: ignore[no-untyped-call]
        return ClassSums(*gathered(tables))


class _Tables(torch.autograd.Function):
    """Tables (4, B, K) of logits and target; nothing but these two is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, ignore_index: int | None, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, target)
        ctx.ignore_index, ctx.gamma = ignore_index, gamma
        dtype = torch.promote_types(logits.dtype, torch.float32)
        tables = logits.new_zeros((4, *logits.shape[:2]), dtype=dtype)
        for chunk in _chunks(logits):
            tables[:, chunk[0]] += _tables_of(*_read(logits, target, chunk, ignore_index), gamma)
        return tables

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None, None]:
        logits, target = ctx.saved_tensors
        result = torch.empty_like(logits)  # keeps the memory layout
        for chunk in _chunks(logits):
            part = _gradient_of(*_read(logits, target, chunk, ctx.ignore_index), gradients[:, chunk[0]], ctx.gamma)
            result[chunk[0], :, chunk[1]] = part
        return result, None, None, None


def _chunks(logits: Tensor) -> Iterator[_Chunk]:
    """Cut a batch into several samples, or else into several rows of the first spatial axis of one sample."""
    most = _CHUNK_CPU if logits.device.type == "cpu" else _CHUNK_GPU
    samples, rows = logits.shape[0], logits.shape[2]
    elements = max(1, math.prod(logits.shape[1:]))
    sample_step = max(1, most // elements)
    row_step = max(1, min(rows, most * rows // elements))
    for sample in range(0, samples, sample_step):
        for row in range(0, rows, row_step):
            yield slice(sample, sample + sample_step), slice(row, row + row_step)


def _read(
    logits: Tensor, target: Tensor, chunk: _Chunk, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return log-probabilities (b, K, *s), true classes (b, 1, *s) and which voxels count (b, 1, *s)."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_p = F.log_softmax(logits[chunk[0], :, chunk[1]], dim=1, dtype=dtype)
    truth = target[chunk].long().unsqueeze(1)
    if ignore_index is None:
        return log_p, truth, None
    valid = truth != ignore_index
    return log_p, torch.where(valid, truth, 0), valid


def _tables_of(log_p: Tensor, truth: Tensor, valid: Tensor | None, gamma: float) -> Tensor:
    """Return the tables (4, b, K) of a chunk; overwrites `log_p`."""
    log_true = log_p.gather(1, truth)
    p = log_p.exp_()
    if valid is not None:
        p.mul_(valid)
        truth = torch.where(valid, truth, p.shape[1])  # of a class of their own, which is dropped
    values = torch.cat((log_true.exp(), torch.ones_like(log_true), -_focus(log_true, gamma) * log_true), 1)
    by_class = _histograms if p.device.type == "cpu" else _masked_sums
    overlap, count, surprise = by_class(values, truth, p.shape[1])
    return torch.stack((overlap, p.sum(tuple(range(2, p.ndim))), count, surprise))


def _histograms(values: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Sum values (b, V, *s) by the class (b, 1, *s) of the voxel: (V, b, K). The fastest way on a CPU."""
    samples = torch.arange(values.shape[0], device=values.device).view(-1, *[1] * (values.ndim - 1))
    bins = (truth + (classes + 1) * samples).flatten()
    # One after the other, for the sums of many equal numbers drift in float32.
    tables = [
        torch.bincount(bins, column.double().flatten(), (classes + 1) * values.shape[0])
        for column in values.unbind(1)
    ]
    return torch.stack(tables).view(len(tables), -1, classes + 1)[..., :classes].to(values.dtype)


def _masked_sums(values: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Do the same on a GPU, where a histogram's atomic additions would differ from run to run."""
    space, zero = tuple(range(2, values.ndim)), values.new_zeros(())
    tables = [torch.where(truth == label, values, zero).sum(space) for label in range(classes)]  # (b, V) each
    return torch.stack(tables, -1).transpose(0, 1)


def _focus(log_true: Tensor, gamma: float) -> Tensor | float:
    """Return (1 - p)^gamma."""
    return (-torch.expm1(log_true)).pow(gamma) if gamma else 1.0


def _slope(log_true: Tensor, gamma: float) -> Tensor | float:
    """Return the derivative of the surprise by log p."""
    if not gamma:
        return -1.0
    # A sure and right voxel has 1 - p = 0, whose power gamma - 1 may be infinite.
    miss = (-torch.expm1(log_true)).clamp_min(torch.finfo(log_true.dtype).tiny)
    slope: Tensor = miss.pow(gamma - 1) * (gamma * log_true.exp() * log_true - miss)
    return slope


def _gradient_of(log_p: Tensor, truth: Tensor, valid: Tensor | None, gradients: Tensor, gamma: float) -> Tensor:
    """Return the gradient (b, K, *s) by the logits of a chunk; overwrites `log_p`.

    With a_k the derivative of the loss by p_k, and c that by log p of the true class t, the softmax makes it
    p_k (a_k - sum_j p_j a_j - c) + [k = t] c.
    """
    flat = truth.flatten(1)
    by_overlap, by_predicted, _, by_surprise = gradients
    slope = by_surprise.gather(1, flat).view_as(truth) * _slope(log_p.gather(1, truth), gamma)
    p = log_p.exp_()
    if valid is not None:
        p.mul_(valid)
        slope.mul_(valid)
    hit = p.gather(1, truth) * by_overlap.gather(1, flat).view_as(truth)
    result: Tensor = p * by_predicted.view(*by_predicted.shape, *[1] * (p.ndim - 2))
    common = result.sum(1, keepdim=True).add_(hit).add_(slope)
    result.addcmul_(p, common, value=-1)
    return result.scatter_add_(1, truth, hit.add_(slope))
