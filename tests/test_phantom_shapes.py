"""The phantom's shapes, partial volume and blur against closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medseg.phantom.anatomy import Part, Tissue
from medseg.phantom.contrast import blur
from medseg.phantom.shapes import Cut, Ellipsoid, Inset, Shape, Shell, Slabs, Tube, Union, Within, rotation
from medseg.phantom.torso import Canvas

BALL = Ellipsoid((1.0, -2.0, 3.0), (10.0, 10.0, 10.0))
EGG = Ellipsoid((4.0, 0.0, -3.0), (12.0, 6.0, 9.0), rotation((20.0, -35.0, 50.0)))


def grid_points(step: float, reach: float = 24.0) -> np.ndarray:
    line = np.arange(-reach + step / 2, reach, step, dtype=np.float32)
    return np.stack(np.meshgrid(line, line, line, indexing="ij"))


def test_distance_to_a_ball_is_exact() -> None:
    points = grid_points(3.0)
    expected = np.linalg.norm(points - np.array(BALL.center).reshape(3, 1, 1, 1), axis=0) - 10
    assert np.allclose(BALL.distance(points), expected, atol=1e-4)


@pytest.mark.parametrize("power", [2.0, 4.0])
def test_inside_an_ellipsoid_by_its_definition(power: float) -> None:
    shape = Ellipsoid(EGG.center, EGG.radii, EGG.rotation, power)
    points = grid_points(4.0).reshape(3, -1)
    inside = shape.distance(points) <= 0
    for point, found in zip(points.T, inside, strict=True):
        own = EGG.rotation.T @ (point - np.array(EGG.center))
        level = sum((abs(x) / r) ** power for x, r in zip(own, EGG.radii, strict=True))
        assert found == (level <= 1) or abs(level - 1) < 1e-5


def test_a_straight_tube_is_a_cylinder() -> None:
    points = grid_points(3.0)
    tube = Tube((2.0,), (-1.0,), (7.0, 7.0), (-10.0, 12.0))
    x, y, z = points
    expected = np.maximum(np.hypot(x - 2, y + 1) - 7, np.maximum(-10 - z, z - 12))
    assert np.allclose(tube.distance(points), expected, atol=1e-4)


def test_combined_shapes_are_set_operations() -> None:
    points = grid_points(2.0)
    ball, egg = BALL.distance(points) <= 0, EGG.distance(points) <= 0
    distance = BALL.distance(points)
    operations: list[tuple[Shape, np.ndarray]] = [
        (Union(BALL, EGG), ball | egg),
        (Cut(BALL, EGG), ball & ~(EGG.distance(points) < 0)),
        (Within(BALL, EGG), ball & egg),
        (Inset(BALL, 3), distance <= -3),
        (Shell(BALL, 4, 2), (distance <= -3) & (distance >= -5)),
        (Slabs(BALL, 10, 4, 1), ball & (np.abs((points[2] - 1 + 5) % 10 - 5) <= 2)),
    ]
    for shape, expected in operations:
        assert np.array_equal(shape.distance(points) <= 0, expected), shape
    blended = Union(BALL, EGG, 5.0).distance(points) <= 0
    assert blended[ball | egg].all()
    assert blended.sum() > (ball | egg).sum()


def test_shapes_stay_inside_their_bounds() -> None:
    points = grid_points(2.0, 30.0)
    shapes = [BALL, EGG, Union(BALL, EGG, 5.0), Tube((1.0, 0.2), (0.0, 0.1, 0.01), (4.0, 6.0), (-20.0, 15.0))]
    for shape in shapes:
        inside = points[:, shape.distance(points) <= 0]
        low, high = shape.bounds()
        assert (inside.min(axis=1) >= low - 1e-4).all()
        assert (inside.max(axis=1) <= high + 1e-4).all()


def test_partial_volume_adds_up_to_the_closed_form() -> None:
    lines = [(np.arange(16) + 0.5) * 3 - 24 for _ in range(3)]
    axes = tuple(line.astype(np.float32).reshape(np.roll([16, 1, 1], n)) for n, line in enumerate(lines))
    levels = {Tissue.AIR: 0.0, Tissue.MUSCLE: 1.0}
    canvas = Canvas(axes, (3.0, 3.0, 3.0), levels)  # type: ignore[arg-type]
    points = np.stack(np.broadcast_arrays(*axes))
    canvas.paint(Part(BALL, Tissue.MUSCLE, 1), points, canvas.box(*BALL.bounds()))
    exact = 4 / 3 * np.pi * (10**3 + 10 * 3**2 / 4)  # a ball whose edge fades over one voxel
    assert canvas.image.sum() * 27 == pytest.approx(exact, rel=0.003)
    assert ((canvas.image >= 0.5) == (canvas.labels == 1)).all()


def test_blur_is_a_gaussian() -> None:
    image = np.random.default_rng(0).random((20, 18, 16)).astype(np.float32)
    sigmas = [1.2, 0.7, 2.0]
    expected = gaussian_filter(image, sigmas, mode="nearest", radius=[int(np.ceil(3 * s)) for s in sigmas])
    assert np.allclose(blur(image, sigmas), expected, atol=1e-5)
