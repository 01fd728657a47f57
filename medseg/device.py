"""Which device computes, and in which precision."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

from medseg.errors import DeviceError, UsageError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """Return a device: ``auto`` takes CUDA where it is present, else the CPU.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: It is not there, or is no name of a device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    cuda = re.fullmatch(r"cuda(?::([0-9]+))?", name)
    if cuda is None:
        raise DeviceError(
            f"device '{name}'", expected="auto, cpu, cuda or cuda:N", found=f"'{name}'", remedy="use one of these"
        )
    present = torch.cuda.device_count()
    if int(cuda[1] or 0) >= present:
        raise DeviceError(
            f"device '{name}'",
            expected="a CUDA device",
            found=f"{present} CUDA device(s)",
            remedy="use --device cpu, or check the driver and that torch is a CUDA build",
        )
    return torch.device("cuda", int(cuda[1])) if cuda[1] else torch.device("cuda")


def pick_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve ``auto``: bf16 on a CUDA device that has it, else fp16 there, fp32 on the CPU."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Return the autocast context of a precision; one that does nothing for fp32."""
    dtype = _TYPES.get(pick_precision(precision, device))
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
    return context


def place(network: nn.Module, device: torch.device, spatial_dims: int, *, channels_last: bool = True) -> nn.Module:
    """Move a network to a device, its weights in the memory format."""
    order = memory_format(spatial_dims, channels_last=channels_last)
    placed: nn.Module = network.to(device=device, memory_format=order)  # type: ignore[call-overload]
    return placed


def memory_format(spatial_dims: int, *, channels_last: bool = True) -> torch.memory_format:
    """Return the memory format of features: channels-last, in which most convolutions are faster, or not."""
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last_3d if spatial_dims == 3 else torch.channels_last


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that a device still has to give; None where nobody says."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_host_bytes()


def free_host_bytes() -> int | None:
    """Return the bytes that programs may still take here, or those of the machine; None where nobody says."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:  # noqa: PTH123 - not a file of a folder
            facts = dict(line.split(":") for line in stream)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows has no sysconf
        return None


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
