"""Shapes as signed distances in millimetres: negative inside, zero on the surface, positive outside.

The sign is exact at every point, so a label is exact wherever it is asked for. The size is a first-order
approximation (value over gradient), good near the surface, where partial volume is worked out from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]  # (3, ...): x, y, z in mm
Distances = NDArray[np.float32]  # (...): mm
Vector = tuple[float, float, float]
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]  # lowest and highest x, y, z in mm

_TINY = np.float32(1e-6)
_STRAIGHT = np.eye(3)


class Shape(Protocol):
    """Anything that knows how far a point is from its surface."""

    def distance(self, points: Points) -> Distances:
        """Return the signed distance of points (3, ...) in mm."""

    def bounds(self) -> Bounds:
        """Return the lowest and the highest corner of a box that holds the shape."""


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """An ellipsoid, or with a power above 2 a superellipsoid: more like a box with round edges.

    Attributes:
        center: Middle, mm.
        radii: Half axes, mm.
        rotation: 3x3 matrix from the ellipsoid's own axes to x, y, z.
        power: Exponent; |x/a|^p + |y/b|^p + |z/c|^p = 1 on the surface.
    """

    center: Vector
    radii: Vector
    rotation: NDArray[np.float64] = field(default_factory=lambda: _STRAIGHT)
    power: float = 2.0

    def distance(self, points: Points) -> Distances:
        """Return the signed distance of points (3, ...) in mm."""
        offsets = [points[axis] - np.float32(self.center[axis]) for axis in range(3)]
        turn = self.rotation.T.astype(np.float32)
        scaled = [np.abs(_mix(turn[axis] / np.float32(self.radii[axis]), offsets)) for axis in range(3)]
        return _distance(scaled, self.radii, self.power)

    def bounds(self) -> Bounds:
        """Return the lowest and the highest corner of a box that holds the shape."""
        reach = np.abs(self.rotation) @ np.array(self.radii)
        return np.array(self.center) - reach, np.array(self.center) + reach


@dataclass(frozen=True)
class Tube:
    """A tube that runs from foot to head along a curved line, with an elliptical section.

    Attributes:
        line_x: Polynomial coefficients of the middle's x over z, lowest power first; mm.
        line_y: The same for y.
        radii: Half axes of the section along x and y, mm.
        ends: Lowest and highest z, mm.
    """

    line_x: tuple[float, ...]
    line_y: tuple[float, ...]
    radii: tuple[float, float]
    ends: tuple[float, float]

    def distance(self, points: Points) -> Distances:
        """Return the signed distance of points (3, ...) in mm."""
        x, y, z = points
        scaled = [
            np.abs(x - _along(self.line_x, z)) / np.float32(self.radii[0]),
            np.abs(y - _along(self.line_y, z)) / np.float32(self.radii[1]),
        ]
        across = _distance(scaled, self.radii, 2.0)
        low, high = (np.float32(end) for end in self.ends)
        result: Distances = np.maximum(across, np.maximum(low - z, z - high))
        return result

    def bounds(self) -> Bounds:
        """Return the lowest and the highest corner of a box that holds the shape."""
        z = np.linspace(*self.ends, 33, dtype=np.float32)
        reach = np.array([*self.radii, 0.0])
        middle = np.stack([_along(self.line_x, z), _along(self.line_y, z), z])
        return middle.min(axis=1) - reach, middle.max(axis=1) + reach


@dataclass(frozen=True)
class Union:
    """Two shapes grown together; the seam is rounded over `blend_mm`."""

    first: Shape
    second: Shape
    blend_mm: float = 0.0

    def distance(self, points: Points) -> Distances:
        """Return the signed distance of points (3, ...) in mm."""
        one, two = self.first.distance(points), self.second.distance(points)
        result: Distances = np.minimum(one, two)
        if self.blend_mm > 0:
            blend = np.float32(self.blend_mm)
            overlap = np.maximum(blend - np.abs(one - two), np.float32(0)) / blend
            result -= overlap * overlap * blend / np.float32(4)
        return result

    def bounds(self) -> Bounds:
        """Return the lowest and the highest corner of a box that holds the shape."""
        (low, high), (other_low, other_high) = self.first.bounds(), self.second.bounds()
        return np.minimum(low, other_low) - self.blend_mm, np.maximum(high, other_high) + self.blend_mm


@dataclass(frozen=True)
class Cut:
    """A shape without what lies inside `away`."""

    shape: Shape
    away: Shape

    def distance(self, points: Points) -> Distances:
        """Return the signed distance of points (3, ...) in mm."""
        result: Distances = np.maximum(self.shape.distance(points), -self.away.distance(points))
        return result

    def bounds(self) -> Bounds:
        """Return the lowest and the highest corner of a box that holds the shape."""
        return self.shape.bounds()


@dataclass(frozen=True)
class Inset:
    """What lies at least `depth_mm` under the surface of a shape."""

    shape: Shape
    depth_mm: float

    def distance(self, points: Points) -> Distances:
        """Return the signed distance of points (3, ...) in mm."""
        result: Distances = self.shape.distance(points) + np.float32(self.depth_mm)
        return result

    def bounds(self) -> Bounds:
        """Return the lowest and the highest corner of a box that holds the shape."""
        return self.shape.bounds()


@dataclass(frozen=True)
class Within:
    """The part of a shape that lies inside `container`."""

    shape: Shape
    container: Shape

    def distance(self, points: Points) -> Distances:
        """Return the signed distance of points (3, ...) in mm."""
        result: Distances = np.maximum(self.shape.distance(points), self.container.distance(points))
        return result

    def bounds(self) -> Bounds:
        """Return the lowest and the highest corner of a box that holds the shape."""
        return self.shape.bounds()


@dataclass(frozen=True)
class Shell:
    """The layer of a shape whose middle lies `depth_mm` under the surface."""

    shape: Shape
    depth_mm: float
    thickness_mm: float

    def distance(self, points: Points) -> Distances:
        """Return the signed distance of points (3, ...) in mm."""
        from_middle = np.abs(self.shape.distance(points) + np.float32(self.depth_mm))
        result: Distances = from_middle - np.float32(self.thickness_mm / 2)
        return result

    def bounds(self) -> Bounds:
        """Return the lowest and the highest corner of a box that holds the shape."""
        return self.shape.bounds()


@dataclass(frozen=True)
class Slabs:
    """A shape cut into slices along z, like a column into vertebrae or a cage into ribs.

    Attributes:
        shape: What is cut.
        period_mm: From one slice to the next.
        thickness_mm: Of each slice.
        offset_mm: z of the middle of one slice at y = 0.
        slope: How far a slice rises per mm of y.
    """

    shape: Shape
    period_mm: float
    thickness_mm: float
    offset_mm: float = 0.0
    slope: float = 0.0

    def distance(self, points: Points) -> Distances:
        """Return the signed distance of points (3, ...) in mm."""
        height = points[2] - np.float32(self.slope) * points[1] - np.float32(self.offset_mm)
        period = np.float32(self.period_mm)
        from_middle = np.abs(height - np.round(height / period) * period)
        result: Distances = np.maximum(self.shape.distance(points), from_middle - np.float32(self.thickness_mm / 2))
        return result

    def bounds(self) -> Bounds:
        """Return the lowest and the highest corner of a box that holds the shape."""
        return self.shape.bounds()


def rotation(angles_deg: Vector) -> NDArray[np.float64]:
    """Return the 3x3 matrix that turns about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        one, two = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[one, one] = turn[two, two] = np.cos(angle)
        turn[two, one] = np.sin(angle) * (1 if axis != 1 else -1)
        turn[one, two] = -turn[two, one]
        matrix = turn @ matrix
    return matrix


def _along(coefficients: tuple[float, ...], z: Points) -> Points:
    """Return the polynomial's value at each z."""
    value = np.zeros_like(z)
    for coefficient in reversed(coefficients):
        value = value * z + np.float32(coefficient)
    return value


def _mix(weights: NDArray[np.float32], parts: list[Distances]) -> Distances:
    mixed: Distances = weights[0] * parts[0] + weights[1] * parts[1] + weights[2] * parts[2]
    return mixed


def _distance(scaled: list[Distances], radii: tuple[float, ...], power: float) -> Distances:
    """Return (f - 1) / |gradient of f| for f = (sum of scaled^power)^(1/power)."""
    p = np.float32(power)
    f: Distances = np.maximum(np.sum([part**p for part in scaled], axis=0) ** np.float32(1 / power), _TINY)
    slopes = [(part / f) ** (p - 1) / np.float32(radius) for part, radius in zip(scaled, radii, strict=True)]
    steepness = np.sqrt(np.sum([slope * slope for slope in slopes], axis=0))
    result: Distances = (f - 1) / np.maximum(steepness, np.float32(1 / max(radii)))
    return result
