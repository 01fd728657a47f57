"""Stored cases made from arrays, without preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from medseg.data.store import StoredCase, _sample_voxels


def stored_case(folder: Path, image: np.ndarray, classes: np.ndarray, spacing_mm: object = (1, 1, 1)) -> StoredCase:
    """Write a case (C, i, j, k), (i, j, k) as the store does."""
    folder.mkdir(parents=True)
    np.save(folder / "image.npy", image.astype(np.float32))
    np.save(folder / "label.npy", classes.astype(np.uint8))
    np.save(folder / "voxels.npy", _sample_voxels(classes))
    affine = np.diag([*np.asarray(spacing_mm, dtype=float), 1.0])
    (folder / "case.json").write_text(json.dumps({"id": folder.name, "affine": affine.tolist()}))
    return StoredCase(folder.name, folder)
