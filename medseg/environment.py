"""What a run was computed with: versions and hardware, without names of hosts, users or folders."""

from __future__ import annotations

import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from medseg import __version__
from medseg.files import write_text

ENVIRONMENT_FILE = "environment.json"
_LIBRARIES = ("torch", "monai", "numpy", "nibabel", "pydicom")
_CPU_INFO, _DRIVER = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/version")
_GIB = 2**30


def environment() -> dict[str, Any]:
    """Return the versions of medseg, Python and the libraries, the system, the processor and the GPUs.

    What cannot be found out is None.
    """
    return {
        "medseg": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def write_environment(folder: Path) -> Path:
    """Write `environment` into a run folder as ``environment.json``.

    Raises:
        StorageError: The file cannot be written.
    """
    path = folder / ENVIRONMENT_FILE
    write_text(path, json.dumps(environment(), indent=1) + "\n")
    return path


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    named = re.search(r"^model name\s*: *(.+)$", _text(_CPU_INFO), re.MULTILINE)
    return named[1] if named else platform.processor() or None


def _cores() -> int | None:
    """Return the cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[dict[str, Any]]:
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "memory_gib": round(gpu.total_memory / _GIB, 1)} for gpu in found]


def _driver() -> str | None:
    """Return the version of NVIDIA's kernel driver."""
    version = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", _text(_DRIVER), re.MULTILINE)
    return version[1] if version else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
