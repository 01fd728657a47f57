"""Drawing a torso: parts -> label map (exact at voxel centres) and image (partial volume, blur, noise).

The image is painted like a picture, part over part; the share of a part in a voxel follows from how far the voxel's
centre is from the part's surface. The labels are painted in the same order, wherever the distance is not positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import UsageError
from medseg.labels import LabelMap
from medseg.phantom.anatomy import Part, Tissue, torso_parts
from medseg.phantom.contrast import CONTRASTS, finish
from medseg.phantom.labels import TORSO_LABELS
from medseg.phantom.shapes import Ellipsoid, Inset, Points, Shape, rotation
from medseg.volume import Affine, Volume

FIELD_OF_VIEW_MM = (384.0, 264.0, 320.0)
SPACING_RANGE_MM = (0.5, 20.0)
_Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Pose:
    """How one body lies in the field of view: turned, scaled, shifted and smoothly bent.

    Attributes:
        turn_and_scale: 3x3, body millimetres to scanner millimetres.
        shift_mm: Where the body's middle lies.
        waves: Directions and wave numbers (n, 3) of the bending, 1/mm.
        heights_mm: Size (n, 3) of each wave along x, y, z.
        phases: Start (n, 3) of each wave.
    """

    turn_and_scale: NDArray[np.float64]
    shift_mm: NDArray[np.float64]
    waves: NDArray[np.float64]
    heights_mm: NDArray[np.float64]
    phases: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Pose:
        """Return a random pose."""
        rx, ry, rz = rng.uniform((-4, -4, -6), (4, 4, 6)).tolist()
        directions = rng.standard_normal((3, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return cls(
            rotation((rx, ry, rz)) @ np.diag(rng.uniform((0.88, 0.88, 0.9), (1.06, 1.06, 1.08))),
            rng.uniform((-10, -6, -14), (10, 6, 14)),
            directions * (2 * np.pi / rng.uniform(140, 300, (3, 1))),
            rng.uniform(-3.5, 3.5, (3, 3)),
            rng.uniform(0, 2 * np.pi, (3, 3)),
        )

    def to_body(self, axes: tuple[Points, Points, Points]) -> Points:
        """Map the grid of three axes in scanner mm to body mm, (3, i, j, k)."""
        shifted = [axis - np.float32(shift) for axis, shift in zip(axes, self.shift_mm, strict=True)]
        body = _linear(np.linalg.inv(self.turn_and_scale).astype(np.float64), shifted)
        for wave, heights, phases in zip(self.waves, self.heights_mm, self.phases, strict=True):
            angle = _linear(wave[None], list(axes))[0]
            for axis in range(3):
                body[axis] += np.float32(heights[axis]) * np.sin(angle + np.float32(phases[axis]))
        return body

    def box_mm(self, shape: Shape) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lowest and the highest scanner mm that a shape can reach."""
        low, high = shape.bounds()
        reach = np.abs(self.heights_mm).sum(axis=0)
        ends = np.stack([low - reach, high + reach])
        corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), axis=-1).reshape(-1, 3)
        placed = corners @ self.turn_and_scale.T + self.shift_mm
        return placed.min(axis=0), placed.max(axis=0)


class Canvas:
    """An image and its labels while they are being painted.

    Args:
        axes: Voxel centres along i, j, k in scanner mm, shaped (i, 1, 1), (1, j, 1), (1, 1, k).
        spacing_mm: Voxel size.
        levels: Intensity of each tissue.
    """

    def __init__(
        self,
        axes: tuple[Points, Points, Points],
        spacing_mm: tuple[float, float, float],
        levels: dict[Tissue, float],
    ) -> None:
        shape = tuple(axis.size for axis in axes)
        self.axes = axes
        self.spacing_mm = np.array(spacing_mm)
        self.levels = levels
        self.image = np.full(shape, levels[Tissue.AIR], dtype=np.float32)
        self.labels = np.zeros(shape, dtype=np.uint8)

    def paint(self, part: Part, points: Points, box: _Box) -> None:
        """Paint one part over what is there; points (3, i, j, k) are in the part's own mm."""
        distance = part.shape.distance(points[(slice(None), *box)])
        width = np.float32(self.spacing_mm.mean())
        share = np.clip(np.float32(0.5) - distance / width, 0, 1)
        image = self.image[box]
        image += share * (np.float32(self.levels[part.tissue]) - image)
        if part.label is not None:
            self.labels[box][distance <= 0] = part.label

    def box(self, low_mm: NDArray[np.float64], high_mm: NDArray[np.float64]) -> _Box:
        """Return the voxels between two corners, and one voxel more for partial volume."""
        start = [float(axis.flat[0]) for axis in self.axes]
        low = np.floor((low_mm - start) / self.spacing_mm).astype(int) - 1
        high = np.ceil((high_mm - start) / self.spacing_mm).astype(int) + 2
        i, j, k = (slice(max(a, 0), max(b, 0)) for a, b in zip(low, high, strict=True))
        return i, j, k


def draw_torso(
    seed: int,
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 4.0),
    modality: str = "CT",
) -> tuple[Volume, LabelMap]:
    """Draw a torso, the same bytes for the same arguments.

    The anatomy depends on the seed alone: another spacing or modality shows the same body. A voxel's label is that
    of its centre. Axes are RAS+; the field of view is about 384 x 264 x 320 mm.

    Args:
        seed: Chooses body, pose and noise; 0 or more.
        spacing_mm: Voxel size along i, j, k; 0.5 to 20 mm.
        modality: ``CT`` (int16 Hounsfield units) or ``MR`` (int16, arbitrary units).

    Returns:
        The image and its labels (`TORSO_LABELS`), on one grid, i fastest in memory.

    Raises:
        UsageError: The seed is negative, the spacing is out of range or the modality is another one.
    """
    _check(seed, spacing_mm, modality)
    anatomy_rng, image_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    corner_mm = np.round(anatomy_rng.uniform((-212, -152, -560), (-172, -112, -100)), 2)
    pose = Pose.draw(anatomy_rng)
    parts = torso_parts(anatomy_rng)
    contrast = CONTRASTS[modality]
    canvas = Canvas(_axes(spacing_mm), spacing_mm, contrast.levels(np.random.default_rng([seed, 2])))
    _paint_table(canvas, pose, modality)
    points = pose.to_body(canvas.axes)
    for part in parts:
        canvas.paint(part, points, canvas.box(*pose.box_mm(part.shape)))
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = corner_mm + np.array(spacing_mm) / 2
    image = finish(canvas.image, canvas.axes, spacing_mm, contrast, image_rng)
    return _volumes(image, canvas.labels, affine, modality)


def _volumes(image: NDArray[Any], labels: NDArray[Any], affine: Affine, modality: str) -> tuple[Volume, LabelMap]:
    source = "torso phantom"
    volume = Volume(np.asfortranarray(image), affine, modality=modality, source=source)
    return volume, LabelMap(Volume(np.asfortranarray(labels), affine, source=source), TORSO_LABELS)


def _axes(spacing_mm: tuple[float, float, float]) -> tuple[Points, Points, Points]:
    """Return voxel centres in mm from the middle of the field of view, ready to broadcast."""
    lines = []
    for axis, (extent, step) in enumerate(zip(FIELD_OF_VIEW_MM, spacing_mm, strict=True)):
        centres = (np.arange(max(1, round(extent / step))) + 0.5) * step - extent / 2
        shape = [1, 1, 1]
        shape[axis] = centres.size
        lines.append(centres.astype(np.float32).reshape(shape))
    i, j, k = lines
    return i, j, k


def _paint_table(canvas: Canvas, pose: Pose, modality: str) -> None:
    if modality != "CT":
        return
    back_mm = float(pose.box_mm(Ellipsoid((0, 0, 0), (1, 100, 1)))[0][1])
    middle = (0.0, back_mm - 10.0, 0.0)
    board = Ellipsoid(middle, (190.0, 14.0, 1e4), power=6.0)
    points = np.stack(np.broadcast_arrays(*canvas.axes))
    everywhere = (slice(None), slice(None), slice(None))
    canvas.paint(Part(board, Tissue.MUSCLE), points, everywhere)
    canvas.paint(Part(Inset(board, 2.5), Tissue.FOAM), points, everywhere)


def _linear(matrix: NDArray[np.float64], axes: list[Points]) -> Points:
    """Return matrix @ (x, y, z) on the whole grid, (rows, i, j, k), without building the grid first."""
    rows = [sum(np.float32(weight) * axis for weight, axis in zip(row, axes, strict=True)) for row in matrix]
    return np.stack(rows)


def _check(seed: int, spacing_mm: tuple[float, float, float], modality: str) -> None:
    low, high = SPACING_RANGE_MM
    wrong = {
        "seed": (seed < 0, "0 or more", seed),
        "spacing_mm": (not all(low <= step <= high for step in spacing_mm), f"{low} to {high} mm", spacing_mm),
        "modality": (modality not in CONTRASTS, " or ".join(CONTRASTS), modality),
    }
    for name, (is_wrong, expected, found) in wrong.items():
        if is_wrong:
            raise UsageError(name, expected=expected, found=str(found), remedy="choose another value")
