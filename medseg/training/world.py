"""`World`: the processes that train one network together, under torchrun; most often only this one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from medseg.errors import UsageError

_PATIENCE = timedelta(hours=12)  # that the others wait while one measures and stores the data


@dataclass(frozen=True)
class World:
    """The processes of a training, and which of them this one is.

    Attributes:
        rank: Of this process; 0 writes the files.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def agree(self, values: Tensor) -> Tensor:
        """Return the values of rank 0, in every process; overwrites `values`."""
        if self.size > 1:
            distributed.broadcast(values, src=0)
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes; overwrites `values`."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def share(self, count: int) -> range:
        """Return which of `count` things in a row this process takes; the first ones are rank 0's.

        Raises:
            UsageError: They cannot be dealt evenly.
        """
        if count % self.size:
            raise UsageError(
                "training.batch_size",
                expected=f"a multiple of {self.size}, the number of processes",
                found=str(count),
                remedy="correct it, or start another number of processes",
            )
        part = count // self.size
        return range(self.rank * part, (self.rank + 1) * part)

    def with_shared_statistics(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return a network whose batch normalisation measures the patches of all GPUs; on CPUs each its own."""
        if self.size == 1 or device.type != "cuda":
            return network
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return shared

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return a network whose gradients are averaged over the processes; itself where there is one."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_device(device: str) -> str:
    """Return the device of this process: the GPU of its local rank where several processes share a machine.

    Raises:
        UsageError: One GPU is named for several processes.
    """
    if not is_launched() or device == "cpu" or not torch.cuda.is_available():
        return device
    if device not in ("auto", "cuda"):
        raise UsageError(
            "--device",
            expected="auto: torchrun gives each process its GPU",
            found=device,
            remedy="leave it out",
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the other processes that torchrun started; where it did not, be the only one.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if not is_launched() or distributed.is_initialized():
        yield current()
        return
    on_gpu = local_device(device).startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(local_device(device))
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield current()
    finally:
        distributed.destroy_process_group()


def current() -> World:
    """Return the world of the process group that was joined, or that of one process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return World()
    return World(distributed.get_rank(), distributed.get_world_size())
