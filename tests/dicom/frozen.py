"""The series and the masks that the label objects in `tests/dicom/frozen` were made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.dicom.builder import OBLIQUE, SeriesSpec

FOLDER = Path(__file__).parent / "frozen"
SHAPE = (24, 20, 5)  # columns, rows, slices
SPACING_MM = (0.9, 0.9, 2.5)  # rt-utils 1.2 mistakes rows for columns where pixels are not square

AXIAL_CT = SeriesSpec("frozen axial", shape=SHAPE, spacing_mm=SPACING_MM, study="frozen axial")
OBLIQUE_MR = replace(AXIAL_CT, name="frozen oblique", study="frozen oblique", modality="MR", orientation=OBLIQUE)


def masks() -> dict[str, NDArray[np.bool_]]:
    """Masks [column, row, slice] that touch and do not overlap; none is symmetric."""
    i, j, k = np.indices(SHAPE)
    liver = ((i - 9) / 6.2) ** 2 + ((j - 8) / 5.1) ** 2 + ((k - 1.5) / 1.9) ** 2 < 1
    liver &= ~((i == 9) & (j == 8))  # a hole
    spleen = (i >= 16) & (i < 21 - k // 2) & (j >= 4) & (j < 15) & (k >= 1)
    return {"Liver": liver & ~spleen, "Spleen": spleen}


def fractions() -> NDArray[np.float64]:
    """Fractions [column, row, slice] of one structure, some of them one half."""
    i, j, k = np.indices(SHAPE)
    return np.where((k > 0) & (k < 4), (i * 7 + j * 3 + k) % 5 / 4, 0.0)
