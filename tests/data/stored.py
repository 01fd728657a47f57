"""Stored cases made from arrays, without preprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from medseg.data.stored import StoredCase, write_case
from medseg.data.transforms import Prepared
from medseg.volume import Grid


def stored_case(folder: Path, image: np.ndarray, classes: np.ndarray, spacing_mm: object = (1, 1, 1)) -> StoredCase:
    """Write a case (C, i, j, k), (i, j, k) as the store does, in float32."""
    folder.mkdir(parents=True)
    grid = Grid(classes.shape, np.diag([*np.asarray(spacing_mm, dtype=float), 1.0]))
    case = StoredCase(folder.name, folder)
    write_case(
        case, Prepared(torch.from_numpy(image.astype(np.float32)), grid, torch.from_numpy(classes)), "float32"
    )
    return case
