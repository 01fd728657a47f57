"""One optimizer step: forward and backward in parts, gradients checked and clipped, the mean weights moved."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medseg.device import autocast, memory_format
from medseg.errors import TrainingError, is_out_of_memory
from medseg.networks.slices import centre_slices
from medseg.tensorfile import save_tensors
from medseg.training.finetune import hold_frozen
from medseg.training.run import Run
from medseg.training.schedule import cycled_momentum, rate_factor, set_rate

BAD_BATCH_FILE = "bad_batch.safetensors"
_SEED_STRIDE = 1_000_003


def take_step(run: Run, image: Tensor, label: Tensor, fraction: float) -> None:
    """Take one optimizer step on this process's patches.

    A step whose loss or gradient is not finite changes nothing and is counted; after `training.most_skipped` of
    them in a row the batch is saved beside the run and the training stops.

    Args:
        run: The run.
        image: (B, C, *patch).
        label: Class indices (B, *patch).
        fraction: Share of the training that is done.

    Raises:
        TrainingError: Too many steps in a row were not finite.
        RuntimeError: Memory is too small for a single patch; `medseg.errors.is_out_of_memory` tells it.
    """
    training, step = run.config.training, run.state.step
    torch.manual_seed(training.seed * _SEED_STRIDE + step)  # dropout is keyed too: a resumed run draws the same
    chosen = training.optimizer
    momentum = cycled_momentum(fraction) if chosen.schedule == "one_cycle" else None
    set_rate(run.optimizer, chosen.learning_rate * rate_factor(fraction, chosen.schedule, chosen.warmup), momentum)
    run.network.train()
    hold_frozen(run.network)
    before = [buffer.clone() for buffer in run.network.buffers()]
    loss = _gradients(run, image, label, before)
    if _is_healthy(run, loss):
        run.scaler.step(run.optimizer)
        if run.mean_weights is not None:
            run.mean_weights.update_parameters(run.network)
        run.state.skipped_in_row = 0
        run.losses.append(loss)
    else:
        _restore(run.network, before)
        run.state.skipped += 1
        run.state.skipped_in_row += 1
        if run.state.skipped_in_row >= training.most_skipped:
            raise _stopped(run, image, label, loss)
    run.scaler.update()
    run.state.step += 1


def _restore(network: nn.Module, buffers: Sequence[Tensor]) -> None:
    """Take back what a forward pass has done to running statistics."""
    for buffer, value in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(value)


def _gradients(run: Run, image: Tensor, label: Tensor, before: Sequence[Tensor]) -> Tensor:
    """Fill the gradients and return the loss; a batch that does not fit is cut into more parts."""
    while True:
        try:
            return _accumulated(run, image, label)
        except RuntimeError as error:
            if not is_out_of_memory(error) or run.world.size > 1 or run.state.parts >= len(image):
                raise
        _restore(run.network, before)
        run.state.parts = next(n for n in range(run.state.parts + 1, len(image) + 1) if len(image) % n == 0)
        run.note(f"out of memory: from step {run.state.step} on, batches are computed in {run.state.parts} parts")
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


def _accumulated(run: Run, image: Tensor, label: Tensor) -> Tensor:
    run.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=run.device)
    parts = list(zip(image.chunk(run.state.parts), label.chunk(run.state.parts), strict=True))
    order = memory_format(run.config.spatial_dims, channels_last=run.config.training.channels_last)
    for number, (part, target) in enumerate(parts, start=1):
        x = part.contiguous(memory_format=order)
        with _unsynchronised(run.trained, number < len(parts)):
            with autocast(run.config.training.precision, run.device):
                logits = run.trained(x)
            seen = centre_slices(x, run.package.network.slices)[:, : len(run.package.modalities)]
            loss = run.loss(logits, target, seen) / len(parts)
            run.scaler.scale(loss).backward()
        total += loss.detach()
    return run.world.sum(total) / run.world.size


def _unsynchronised(network: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Let the gradients of all parts but the last stay in this process."""
    if wanted and isinstance(network, DistributedDataParallel):
        context: AbstractContextManager[None] = network.no_sync()
        return context
    return nullcontext()


def _is_healthy(run: Run, loss: Tensor) -> bool:
    """Clip the gradients; whether loss and gradients are finite. In fp16 the scaler sees to the gradients."""
    limit = run.config.training.optimizer.clip_norm
    run.scaler.unscale_(run.optimizer)
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), limit or float("inf"))
    finite = torch.isfinite(loss)
    if not run.scaler.is_enabled():
        finite &= torch.isfinite(norm)
    return bool(finite)


def _stopped(run: Run, image: Tensor, label: Tensor, loss: Tensor) -> TrainingError:
    file = run.folder / BAD_BATCH_FILE
    if run.world.is_first:
        save_tensors(file, {"image": image.cpu(), "label": label.cpu()}, {"step": str(run.state.step)})
    return TrainingError(
        f"step {run.state.step}",
        expected="a finite loss and finite gradients",
        found=f"{float(loss)}, {run.state.skipped_in_row} steps in a row; the last batch is in {file.name}",
        remedy="lower training.optimizer.learning_rate, use precision: fp32, or look at the batch",
    )
