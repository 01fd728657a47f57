"""The sums of a batch that several processes share: each gets the tables of all samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def gathered(tables: Tensor) -> Tensor:
    """Return the tables of the samples of all processes, in the order of their ranks; itself where there is one.

    Every process then computes the loss of the whole batch, and the mean of their gradients, which
    `DistributedDataParallel` takes, is that loss's gradient. Only in training: tables without gradient stay alone.

    Args:
        tables: (4, B, K), B the same in all processes.

    Returns:
        (4, processes x B, K).
    """
    if not (tables.requires_grad and distributed.is_available() and distributed.is_initialized()):
        return tables
    whole: Tensor = _Gathered.apply(tables)  # type: ignore[no-untyped-call]
    return whole


class _Gathered(torch.autograd.Function):
    """all_gather along the samples; backward, the gradients of all processes are summed."""

    @staticmethod
    def forward(ctx: Any, tables: Tensor) -> Tensor:
        parts = [torch.empty_like(tables) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, tables.contiguous())
        ctx.samples = tables.shape[1]
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient.narrow(1, distributed.get_rank() * ctx.samples, ctx.samples)
