"""Affines and grids for property tests: every case reproducible from the numbers that hypothesis shows."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medseg.volume import Affine

SPACINGS_MM = st.tuples(*[st.floats(0.3, 6.0)] * 3)
POSITIONS_MM = st.tuples(*[st.floats(-400.0, 400.0)] * 3)
SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
ANGLES = st.tuples(*[st.floats(-180.0, 180.0)] * 3)


def axis_aligned() -> list[NDArray[np.float64]]:
    """The 48 matrices that permute and flip axes."""
    return [np.eye(3)[:, list(p)] * np.array(s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]


def affine_of(axes: NDArray[np.float64], spacing_mm: object, origin_mm: object = (0, 0, 0)) -> Affine:
    """Compose unit axes (columns), a spacing and the first voxel's position."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing_mm, dtype=float)
    affine[:3, 3] = np.asarray(origin_mm, dtype=float)
    return affine


def rotation(angles: object) -> NDArray[np.float64]:
    """Rotation about z, then y, then x by angles in degrees."""
    return np.asarray(Rotation.from_euler("zyx", np.asarray(angles, dtype=float), degrees=True).as_matrix())


def tilted(degrees: float, spacing_mm: object = (1, 1, 1), origin_mm: object = (0, 0, 0)) -> Affine:
    """Slices along z whose positions run off towards the front, as with gantry tilt."""
    axes = np.eye(3)
    axes[:, 2] = (0, np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees)))
    return affine_of(axes, spacing_mm, origin_mm)


@st.composite
def right_angled(draw: st.DrawFn) -> Affine:
    """Any rotation, mirrored or not, any spacing and position."""
    axes = rotation(draw(ANGLES)) * np.array(draw(st.sampled_from([(1, 1, 1), (-1, 1, 1), (1, 1, -1)])))
    return affine_of(axes, draw(SPACINGS_MM), draw(POSITIONS_MM))


@st.composite
def invertible(draw: st.DrawFn) -> Affine:
    """A right-angled affine, sheared by up to a third of each axis."""
    affine = draw(right_angled())
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = draw(st.tuples(*[st.floats(-0.35, 0.35)] * 3))
    affine[:3, :3] = affine[:3, :3] @ shear
    return affine
