"""`Compute`: what a training may use, and how large networks and patches are there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

import torch

from medseg.errors import UsageError

_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
_SHARE = {"cpu": 0.5, "cuda": 0.92}  # of the memory that is free


@dataclass(frozen=True)
class Compute:
    """A device and the memory on it.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        memory_bytes: That one training process may use.
        source: Where that number comes from, for people.
    """

    kind: Literal["cpu", "cuda"]
    memory_bytes: int
    source: str = "--memory"

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
        """Voxels of all patches of a step on a CPU; elsewhere memory decides."""
        return 3 * 2**16 if self.kind == "cpu" else None


def compute_at_hand(device: torch.device, memory: str | None = None) -> Compute:
    """Return what there is on a device.

    Args:
        device: Where the training runs.
        memory: Such as ``8GB``, in place of what is free: the plan is then for such a CUDA card if the text ends in
            nothing else, wherever it is made.

    Raises:
        UsageError: The text is no amount of memory.
    """
    if memory is not None:
        return Compute("cuda" if device.type == "cuda" else "cpu", parse_memory(memory))
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return Compute(
            "cuda", int(_SHARE["cuda"] * free), f"92 % of what is free on {torch.cuda.get_device_name(device)}"
        )
    return Compute("cpu", int(_SHARE["cpu"] * _free_memory()), "half of the memory that is free")


def parse_memory(text: str) -> int:
    """Return the bytes of an amount such as ``8GB``, ``500MB`` or ``7.5GiB``.

    Raises:
        UsageError: It is none.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([MG]i?B)\s*", text, re.IGNORECASE)
    if not match or float(match[1]) == 0:
        raise UsageError(
            "--memory", expected="an amount such as 8GB or 500MB", found=f"'{text}'", remedy="write it so"
        )
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _free_memory() -> int:
    """Return the bytes that programs may still take; where the system does not say it, those of the machine."""
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:  # noqa: PTH123 - not a file of a folder
            facts = dict(line.split(":") for line in stream)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return page * os.sysconf("SC_PHYS_PAGES")
