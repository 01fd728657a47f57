"""Each network can learn: a few slices or one small volume of the phantom, by heart.

DeepLab scores every eighth voxel and interpolates: it gets the same organs in finer images, where they are larger.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.phantom import draw_torso
from tests.networks.probes import NAMES, small

ORGANS = torch.tensor([0, 1, 1, 2, 0, 0, 0, 0, 0])  # of the phantom's labels: lungs 1, liver 2
HEIGHTS = (0.35, 0.43, 0.7, 0.8)  # of the slices: two through the liver, two through the lungs
WHOLE = ((0, 64), (0, 44), (0, 53))  # voxels of 6 mm
INNER = ((28, 52), (10, 34), (18, 42))  # where lungs and liver meet
CLOSE = ((104, 152), (36, 84), (64, 112))  # and closer, voxels of 2 mm

NARROW: dict[str, Any] = {"channels": (8, 16, 32), "width_multiplier": 1.0}
NEAR: dict[str, Any] = {"backbone": "resnet18", "rates": (1, 2)}
SLICES: dict[str, tuple[float, int, float, dict[str, Any]]] = {  # spacing mm, steps, learning rate, fields
    "fcn32s": (6, 120, 6e-3, {}),
    "fcn16s": (6, 70, 6e-3, {}),
    "fcn8s": (6, 110, 6e-3, {}),
    "unet": (6, 60, 1e-2, {}),
    "attention_unet": (6, 60, 1e-2, {}),
    "resunet": (6, 60, 1e-2, {}),
    "deeplabv1": (3, 80, 6e-3, {"norm": "batch"}),
    "deeplabv2": (3, 50, 1e-2, {"backbone": "resnet18"}),
    "deeplabv3": (3, 60, 1e-2, {"backbone": "resnet18", "output_stride": 8}),
    "deeplabv3plus": (3, 60, 1e-2, {"backbone": "resnet18"}),
}
VOLUMES: dict[str, tuple[float, Any, int, float, dict[str, Any]]] = {  # and the part of the volume
    "fcn32s": (6, WHOLE, 50, 6e-3, {}),
    "fcn16s": (6, WHOLE, 60, 6e-3, {}),
    "fcn8s": (6, WHOLE, 60, 1e-2, {}),
    "unet": (6, INNER, 50, 1e-2, NARROW),
    "attention_unet": (6, INNER, 50, 1e-2, NARROW),
    "resunet": (6, INNER, 50, 1e-2, NARROW | {"blocks": (1, 1, 1)}),
    "deeplabv1": (2, CLOSE, 70, 1e-2, {"norm": "batch", "rates": (2,)}),
    "deeplabv2": (2, CLOSE, 60, 1e-2, NEAR),
    "deeplabv3": (2, CLOSE, 70, 1e-2, NEAR | {"multi_grid": (1,), "output_stride": 8}),
    "deeplabv3plus": (2, CLOSE, 60, 1e-2, NEAR | {"multi_grid": (1,)}),
}


@cache
def torso(spacing_mm: float) -> tuple[Tensor, Tensor]:
    """Return the image and the organs, (i, j, k)."""
    image, labels = draw_torso(3, (spacing_mm,) * 3, "CT")
    voxels = torch.from_numpy(np.ascontiguousarray(image.array, dtype=np.float32))
    organs = ORGANS[torch.from_numpy(labels.volume.array.astype(np.int64))]
    return (voxels - voxels.mean()) / voxels.std(), organs


def slices(spacing_mm: float) -> tuple[Tensor, Tensor]:
    """Return four slices, (4, 1, i, j) and (4, i, j)."""
    image, organs = (x[..., [int(x.shape[2] * at) for at in HEIGHTS]].movedim(2, 0) for x in torso(spacing_mm))
    return image[:, None].contiguous(), organs.contiguous()


def volume(spacing_mm: float, part: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """Return a part of the volume in two halves, (2, 1, i / 2, j, k) and (2, i / 2, j, k)."""
    cut = tuple(slice(*ends) for ends in part)
    image, organs = (torch.stack(x[cut].chunk(2)) for x in torso(spacing_mm))
    return image[:, None], organs


def fitted(network: nn.Module, x: Tensor, y: Tensor, steps: int, rate: float) -> nn.Module:
    optimizer = torch.optim.AdamW(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network.train()(x), y).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def dice(logits: Tensor, y: Tensor, organ: int) -> float:
    found, true = logits.argmax(1) == organ, y == organ
    return (2 * (found & true).sum() / (found.sum() + true.sum())).item()


def check(network: nn.Module, x: Tensor, y: Tensor) -> None:
    with torch.no_grad():
        logits = network(x)
    scores = [dice(logits, y, organ) for organ in (1, 2)]
    assert min(scores) > 0.95, scores


@pytest.mark.parametrize("name", NAMES)
def test_four_slices_are_learned_by_heart(name):
    spacing_mm, steps, rate, fields = SLICES[name]
    x, y = slices(spacing_mm)
    check(fitted(small(name, 2, dropout=0.0, **fields), x, y, steps, rate), x, y)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "deeplabv1" else ()) for name in NAMES]
)
def test_a_small_volume_is_learned_by_heart(name):
    spacing_mm, part, steps, rate, fields = VOLUMES[name]
    x, y = volume(spacing_mm, part)
    check(fitted(small(name, 3, dropout=0.0, **fields), x, y, steps, rate), x, y)
