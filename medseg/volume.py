"""`Volume`: a 3-D array, the affine that places it in the patient, and where it came from.

World coordinates are RAS+ millimetres: x grows towards the patient's right, y towards the front, z towards
the head. The affine maps a voxel index (i, j, k) to the world position of that voxel's centre, as nibabel and
MONAI do. Arrays are indexed [i, j, k] and lie in memory with i fastest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GridError
from medseg.findings import Finding

Affine = NDArray[np.float64]

GRID_TOLERANCE_MM = 1e-3
MAX_VOXELS = 1 << 31
"""No reader and no resampling makes a larger volume: a header that asks for one is wrong."""

_SHEAR_TOLERANCE = 1e-4  # cosine between two axes: 0.006 degrees
_AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Grid:
    """The positions of the voxels of an image: a shape and an affine.

    Args:
        shape: Number of voxels along (i, j, k).
        affine: 4x4 float64, voxel index to RAS+ millimetres.

    Raises:
        GridError: The affine is not a finite, invertible 4x4 matrix with (0, 0, 0, 1) as its last row, or the
            shape is not three positive integers.
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        problem = _affine_problem(affine)
        if problem:
            raise GridError(
                "affine", expected="a finite, invertible 4x4 matrix", found=problem, remedy="correct the header"
            )
        if len(self.shape) != 3 or not all(isinstance(n, int | np.integer) and n > 0 for n in self.shape):
            raise GridError(
                "shape", expected="three positive sizes", found=str(self.shape), remedy="give a 3-D image"
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (i, j, k)."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @cached_property
    def orientation(self) -> str:
        """The patient direction that each index axis points to most, such as ``RAS`` or ``LPS``."""
        directions = self.affine[:3, :3] / np.array(self.spacing_mm)
        codes = [""] * 3
        left = [0, 1, 2]
        for axis in np.argsort(-np.abs(directions).max(axis=0), kind="stable"):
            world = max(left, key=lambda w: abs(directions[w, axis]))
            left.remove(world)
            codes[axis] = _AXIS_CODES[world][int(directions[world, axis] > 0)]
        return "".join(codes)

    @cached_property
    def is_sheared(self) -> bool:
        """Whether the index axes are not at right angles, as with gantry tilt."""
        directions = self.affine[:3, :3] / np.array(self.spacing_mm)
        cosines = directions.T @ directions - np.eye(3)
        return bool(np.abs(cosines).max() > _SHEAR_TOLERANCE)

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def world(self, index: NDArray[Any]) -> NDArray[np.float64]:
        """Map voxel indices (..., 3) to RAS+ millimetres (..., 3)."""
        turned = np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T
        return np.asarray(turned + self.affine[:3, 3], dtype=np.float64)

    def index(self, world_mm: NDArray[Any]) -> NDArray[np.float64]:
        """Map RAS+ millimetres (..., 3) to fractional voxel indices (..., 3)."""
        inverse = np.asarray(np.linalg.inv(self.affine), dtype=np.float64)
        return np.asarray(world_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def difference(self, other: Grid, tolerance_mm: float = GRID_TOLERANCE_MM) -> str | None:
        """Say how `other` differs from this grid, or None where they are the same.

        Two grids are the same when they have the same shape and no corner voxel lies further than
        `tolerance_mm` from its counterpart.
        """
        if self.shape != other.shape:
            return f"shape {_by(other.shape)} instead of {_by(self.shape)}"
        far = np.array(self.shape) - 1
        corners = np.array(np.meshgrid(*[(0, n) for n in far], indexing="ij")).reshape(3, -1).T
        worst = float(np.linalg.norm(self.world(corners) - other.world(corners), axis=1).max())
        return None if worst <= tolerance_mm else f"voxels up to {worst:.4g} mm away"


@dataclass(frozen=True, slots=True)
class SourceSlice:
    """A DICOM slice that a volume was made of.

    Attributes:
        place: Index along the volume's last axis; no whole number where slices were uneven and were resampled.
        sop_class_uid: SOPClassUID.
        sop_instance_uid: SOPInstanceUID; an identifier, kept out of `repr`.
        frame: Number of the frame within the instance, from 0.
    """

    place: float
    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)
    frame: int = 0


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image in the patient.

    Args:
        array: Values indexed [i, j, k]; HU for CT.
        affine: 4x4, voxel index to RAS+ millimetres.
        modality: DICOM modality (``CT``, ``MR``, ...) where it is known.
        source: Where it was read from, for messages; a path or a hashed series UID, never patient data.
        findings: What was odd about the input and was tolerated.
        slices: The DICOM slices it was made of, in order along the last axis; empty for other sources.

    Raises:
        GridError: The array is not 3-D or the affine is not valid.
    """

    array: NDArray[Any] = field(repr=False)
    affine: Affine
    modality: str | None = None
    source: str = ""
    findings: tuple[Finding, ...] = ()
    slices: tuple[SourceSlice, ...] = field(default=(), repr=False)
    grid: Grid = field(init=False)

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise GridError(
                self.source or "array",
                expected="a 3-D array",
                found=f"{self.array.ndim}-D, shape {_by(self.array.shape)}",
                remedy="pass one volume at a time",
            )
        i, j, k = self.array.shape
        object.__setattr__(self, "grid", Grid((i, j, k), self.affine))
        object.__setattr__(self, "affine", self.grid.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (i, j, k)."""
        return self.grid.spacing_mm


def require_same_grid(grid: Grid, other: Grid, *, owner: str, where: str) -> None:
    """Refuse a grid that is not the one it must be.

    Args:
        grid: What it must be.
        other: What it is.
        owner: Whose grid `grid` is, for the message.
        where: What `other` belongs to, for the message.

    Raises:
        GridError: They differ.
    """
    difference = grid.difference(other)
    if difference:
        raise GridError(
            where, expected=f"the grid of {owner}", found=difference, remedy="resample it onto that grid"
        )


def smallest_unsigned(largest: int) -> type[np.unsignedinteger[Any]]:
    """Return the smallest unsigned integer type that holds `largest`.

    Raises:
        ValueError: None does.
    """
    for kind in (np.uint8, np.uint16, np.uint32, np.uint64):
        if 0 <= largest <= np.iinfo(kind).max:
            return kind
    raise ValueError(f"no unsigned integer type holds {largest}")


def _affine_problem(affine: Affine) -> str | None:
    if affine.shape != (4, 4):
        return f"shape {_by(affine.shape)}"
    if not np.isfinite(affine).all():
        return "values that are not finite"
    if not np.array_equal(affine[3], (0, 0, 0, 1)):
        return f"last row {affine[3].tolist()}"
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        return "a singular matrix"
    return None


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
