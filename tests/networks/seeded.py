"""Weights and images by rule: a tensor's bits follow from its name and shape alone, the same on every machine.

A fixture made with such weights need not hold them. The integers come from PCG64, whose stream NumPy keeps from
version to version; what follows rounds once at each step, so that no library of mathematics has a say in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int, ...]


def spread(name: str, shape: Shape, centre: float, half_width: float) -> Tensor:
    """Return float32 values drawn evenly from `centre` ± `half_width`, keyed by `name`."""
    count = math.prod(shape)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")
    words = np.random.PCG64(seed).random_raw(-(-count // 4)).astype("<u8", copy=False)
    values = words.view("<u2")[:count].astype(np.float32)
    values *= np.float32(2**-15)
    values -= np.float32(1 - 2**-16)  # odd multiples of 2**-16 between -1 and 1, exact so far
    values *= np.float32(half_width)
    values += np.float32(centre)
    return torch.from_numpy(values).reshape(shape)


def seeded_tensor(name: str, shape: Shape) -> Tensor:
    """Return the value of one entry of a state dict.

    Kernels and matrices have the variance 2 / fan-in (He et al. 2015), and a batch norm a running variance near 2:
    signals neither vanish down a plain network nor explode along the sums of a residual one.
    """
    kind = name.rpartition(".")[-1]
    if len(shape) > 1:
        return spread(name, shape, 0.0, math.sqrt(6 / math.prod(shape[1:])))
    if kind == "running_var":
        return spread(name, shape, 2.0, 0.5)
    if kind == "weight":
        return spread(name, shape, 1.0, 0.2)
    return spread(name, shape, 0.0, 0.1)


def seeded_state(shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Return a state dict of the names and shapes given."""
    return {name: seeded_tensor(name, tuple(shape)) for name, shape in shapes.items()}


def seeded_image(name: str, shape: Shape) -> Tensor:
    """Return an image of noise with mean 0 and variance 1, keyed by `name`."""
    return spread(name, shape, 0.0, math.sqrt(3))


def checksum(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, shapes and bits of a state dict, whatever its order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().numpy().data)
    return digest.hexdigest()
