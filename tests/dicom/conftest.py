"""A small written series that tests alter, and helpers to do so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medseg.dicom.write import write_series
from medseg.volume import Volume

SHAPE = (7, 5, 6)  # all different: a swapped axis shows
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A regular oblique CT series of six slices."""
    write_series(make_volume(), tmp_path / "series", identity="test")
    return tmp_path / "series"


@pytest.fixture
def alter(folder: Path) -> Alter:
    """Change attributes of some files of the series: `alter([0, 3], Rows=4)` or with a function."""

    def change(which: Any = None, function: Callable[[pydicom.Dataset], None] | None = None, **values: Any) -> None:
        files = sorted(folder.iterdir())
        for index in range(len(files)) if which is None else which:
            dataset = pydicom.dcmread(files[index])
            if function:
                function(dataset)
            for keyword, value in values.items():
                if value is None:
                    del dataset[keyword]
                else:
                    setattr(dataset, keyword, value)
            dataset.save_as(files[index])

    return change
