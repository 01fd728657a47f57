"""Tensors in files: reading them, and writing safetensors atomically, with the umask's permissions.

safetensors' own ``save_file`` reports a full disk by an error of its own, and only the owner may read its files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from medseg.errors import ModelError
from medseg.files import atomic_path

# what torch raises for a file that holds more than tensors
UnpicklingError = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
_SHOWN_DIGITS = 8
_SHOWN_CHARACTERS = 200


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a safetensors file atomically.

    Raises:
        StorageError: The file cannot be written.
    """
    _write(path, _encode(tensors, metadata))


def save_tensors_by_hash(folder: Path, stem: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Write tensors to ``STEM-1a2b3c4d.safetensors``, named by what it holds: other tensors never replace it.

    Returns:
        The file's name and its SHA-256.

    Raises:
        StorageError: The file cannot be written.
    """
    content = _encode(tensors, None)
    checksum = hashlib.sha256(content).hexdigest()
    name = f"{stem}-{checksum[:_SHOWN_DIGITS]}.safetensors"
    _write(folder / name, content)
    return name, checksum


def read_tensors(path: Path) -> Any:
    """Read a ``.safetensors`` file, or a PyTorch file from elsewhere that holds tensors only.

    Returns:
        What the file holds: a dictionary of tensors, or of such dictionaries.

    Raises:
        ModelError: It cannot be read, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, safetensors.SafetensorError) as error:
        raise ModelError(
            path,
            expected="a file of tensors, which holds no code",
            found=(str(error) or type(error).__name__).splitlines()[0][:_SHOWN_CHARACTERS],
            remedy="save it again as .safetensors",
        ) from error


def _encode(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> bytes:
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content: bytes = safetensors.torch.save(on_cpu, metadata)
    return content


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
