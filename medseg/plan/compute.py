"""`Compute`: what a training may use, and how large networks and patches are there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

import torch

from medseg.device import free_host_bytes, parse_memory, pick_device
from medseg.training.world import current, local_device

Kind = Literal["cpu", "cuda"]

_SHARE = {"cpu": 0.5, "cuda": 0.92}  # of the memory that is free; the rest is other programs', or CUDA's own
_ASKED = {"cpu": "--memory", "cuda": "92 % of --memory: the rest is CUDA's own"}
_SUPPOSED_BYTES = 8 * 10**9  # of a machine that does not say what it has
_CUDA = re.compile(r"cuda(:[0-9]+)?")


@dataclass(frozen=True)
class Compute:
    """A kind of device and the memory on it.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        memory_bytes: That a training step of one process may take, beside the process itself.
        source: Where that number comes from, for people.
        processes: That train one network together.
        unmeasured: Why no step can be measured here, for people; empty where one can.
    """

    kind: Kind
    memory_bytes: int
    source: str = "--memory"
    processes: int = 1
    unmeasured: str = ""

    @property
    def base_channels(self) -> int:
        """Channels of a network's finest stage."""
        return 16 if self.kind == "cpu" else 32

    def most_channels(self, dims: int) -> int:
        """Channels of a network's widest stages."""
        return {"cpu": 256, "cuda": 512 if dims == 2 else 320}[self.kind]

    def most_voxels(self, dims: int) -> int:
        """Voxels of the largest patch, whatever the memory: on a CPU time is what is short."""
        return {"cpu": 2**16, "cuda": 512**2 if dims == 2 else 192**3}[self.kind]

    @property
    def voxels_a_step(self) -> int | None:
        """Voxels of all patches that a CPU process takes a step; elsewhere memory decides."""
        return 3 * 2**16 if self.kind == "cpu" else None


def compute_for(device: str, memory: str | None = None) -> Compute:
    """Return what a training may use, for as many processes as train together here.

    Args:
        device: Where it runs: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. CUDA that is not here can be planned
            for where `memory` says how much there is.
        memory: Such as ``8GB``, in place of what is free on the device: what a step may take on a CPU, all that
            there is on a CUDA card. Where less is free here, no step can be measured.

    Raises:
        UsageError: The text is no amount of memory.
        DeviceError: The device is not there, and no memory is given.
    """
    processes = current().size
    if memory is not None and _CUDA.fullmatch(device) and not torch.cuda.is_available():
        return Compute("cuda", _asked("cuda", memory), _ASKED["cuda"], processes, "no such card here")
    target = pick_device(local_device(device))
    kind: Kind = "cuda" if target.type == "cuda" else "cpu"
    usable, source = _usable_cuda(target) if kind == "cuda" else _usable_cpu()
    if memory is None:
        return Compute(kind, usable, source, processes)
    asked = _asked(kind, memory)
    free = usable / _SHARE[kind]
    lacking = f"only {free / 1e9:.1f} GB are free here" if asked > free else ""
    return Compute(kind, asked, _ASKED[kind], processes, lacking)


def _asked(kind: Kind, memory: str) -> int:
    return int((_SHARE["cuda"] if kind == "cuda" else 1) * parse_memory(memory))


def _usable_cuda(device: torch.device) -> tuple[int, str]:
    free, _ = torch.cuda.mem_get_info(device)
    return int(_SHARE["cuda"] * free), f"92 % of what is free on {torch.cuda.get_device_name(device)}"


def _usable_cpu() -> tuple[int, str]:
    """Return the share of one process, where several train on this machine."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if current().size > 1 else 1
    free = free_host_bytes()
    source = "half of the memory that is free" if free else f"half of {_SUPPOSED_BYTES / 1e9:.0f} GB, a guess"
    if processes > 1:
        source += f", shared by {processes} processes"
    return int(_SHARE["cpu"] * (free or _SUPPOSED_BYTES) / processes), source
