"""Volumes to write as series, and ways to alter the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom

from medseg.volume import Volume

SHAPE = (37, 34, 6)  # all different: a swapped axis shows
SPACING_MM = (0.8, 1.1, 2.5)

Alter = Callable[..., None]


def oblique_affine(seed: int = 0, spacing_mm: tuple[float, float, float] = SPACING_MM) -> np.ndarray:
    """A random right-angled affine of either handedness."""
    rng = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine


def make_volume(modality: str = "CT", affine: np.ndarray | None = None) -> Volume:
    rng = np.random.default_rng(7)
    low, high = (-1024, 3000) if modality == "CT" else (0, 3000)
    array = np.asfortranarray(rng.integers(low, high, SHAPE).astype(np.int16))
    return Volume(array, oblique_affine() if affine is None else affine, modality=modality)


def shift(millimetres: tuple[float, float, float]) -> Callable[[pydicom.Dataset], None]:
    """Move a slice by mm along its row, its column and its normal."""

    def move(dataset: pydicom.Dataset) -> None:
        x, y = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        position = np.array(dataset.ImagePositionPatient) + np.array(millimetres) @ [x, y, np.cross(x, y)]
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]

    return move


def check_by_formula(folder: Path, volume: Volume, step: int = 1) -> None:
    """Each slice's own tags place each pixel (PS3.3 C.7.6.2.1.1) at that voxel of the volume, with that value."""
    inverse = np.linalg.inv(volume.affine)
    seen = set()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for file in files:
        dataset = pydicom.dcmread(file)
        position = np.array(dataset.ImagePositionPatient, dtype=float)
        x, y = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        row_mm, column_mm = (float(value) for value in dataset.PixelSpacing)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        j, i = np.mgrid[0 : dataset.Rows : step, 0 : dataset.Columns : step].reshape(2, -1)
        lps = position[:, None] + np.outer(x, column_mm * i) + np.outer(y, row_mm * j)
        ras = np.diag([-1, -1, 1]) @ lps
        index = inverse[:3, :3] @ ras + inverse[:3, 3:]
        k = int(np.rint(index[2, 0]))
        assert np.abs(index - [i, j, np.full_like(i, k)]).max() < 0.01
        expected = dataset.pixel_array[j, i] * slope + intercept
        assert np.allclose(volume.array[i, j, k], expected, rtol=1e-6, atol=1e-4)
        seen.add(k)
    assert seen == set(range(volume.array.shape[2])) == set(range(len(files)))
