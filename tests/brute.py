"""Labels the long way, in numpy and float64: every class interpolated at every native voxel, then one chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from medseg.data.resample import GridMap
from medseg.inference.tiles import Slab
from medseg.volume import Grid
from tests.affines import axis_aligned, rotation


@dataclass
class Drawn:
    """An engine whose logits are given, cut into slabs of given depths."""

    logits: NDArray[np.float64]
    depths: Sequence[int] = ()

    def slabs(self, image: object, advance: object = None) -> Iterator[Slab]:
        logits, start = torch.from_numpy(self.logits.astype(np.float32)), 0
        for depth in (*self.depths, logits.shape[-1]):
            if start < logits.shape[-1]:
                memory = logits[..., start : start + depth].clone()
                yield Slab(start, memory)
                memory.fill_(torch.nan)  # it is not read any more once the next one is asked for
            start += depth


def coordinates(grids: GridMap) -> NDArray[np.float64]:
    """Where native voxels lie, (3, *native shape); tilts that count as rounding are left out."""
    matrix = grids.matrix.copy()
    if grids.target_axes is not None:
        kept = np.zeros((3, 3))
        kept[range(3), grids.target_axes] = 1
        matrix[:3, :3] *= kept
    index = np.indices(grids.target.shape)
    return np.tensordot(matrix[:3, :3], index, 1) + matrix[:3, 3][:, None, None, None]


def inside(at: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Which points lie within the voxels, to a ten thousandth of one."""
    return np.all([(c >= -0.5001) & (c <= n - 0.4999) for c, n in zip(at, shape, strict=True)], axis=0)


def interpolated(
    logits: NDArray[np.float64], at: NDArray[np.float64], nearest_axis: int | None = None
) -> NDArray[np.float64]:
    """Trilinear values (K, *points), border values outside."""
    low, share = [], []
    for axis, size in enumerate(logits.shape[1:]):
        c = np.clip(at[axis], 0, size - 1)
        c = np.minimum(np.floor(c + 0.5 + 1e-6), size - 1) if axis == nearest_axis else c
        low.append(np.floor(c).astype(int))
        share.append(c - low[-1])
    total = np.zeros((len(logits), *at.shape[1:]))
    for corner in product((0, 1), repeat=3):
        index = [np.minimum(a + s, n - 1) for a, s, n in zip(low, corner, logits.shape[1:], strict=True)]
        weight = np.prod([w if s else 1 - w for w, s in zip(share, corner, strict=True)], axis=0)
        total += weight * logits[:, index[0], index[1], index[2]]
    return total


def chosen(values: NDArray[np.float64], regions: bool) -> NDArray[np.int64]:
    """The first largest channel, or 1 + the last region above 0."""
    if not regions:
        return values.argmax(axis=0)
    above = values > 0
    last = len(values) - above[::-1].argmax(axis=0)
    return np.where(above.any(axis=0), last, 0)


def is_close(values: NDArray[np.float64], regions: bool) -> NDArray[np.bool_]:
    """Where rounding may decide: the two largest, or a region and 0, are within 1e-5."""
    scale = 1e-5 * max(1.0, float(np.abs(values).max()))
    if regions:
        return (np.abs(values) < scale).any(axis=0)
    if len(values) == 1:
        return np.zeros(values.shape[1:], dtype=bool)
    two = np.sort(values, axis=0)[-2:]
    return two[1] - two[0] < scale


@st.composite
def dyadic_grids(draw: st.DrawFn, *, sheared: bool = False) -> GridMap:
    """Grids whose coordinates, and products of three of their fractions, float32 holds exactly."""
    sixteenths = st.integers(4, 40).map(lambda n: n / 16)
    affine = np.eye(4)
    affine[:3, :3] = draw(st.sampled_from(axis_aligned())) * np.array(draw(st.tuples(*[sixteenths] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.integers(-32, 160).map(lambda n: n / 16)] * 3))
    if sheared:
        affine[draw(st.sampled_from([(0, 1), (1, 2), (2, 0), (2, 1)]))] += draw(st.integers(3, 16)) / 16
    source = draw(st.tuples(*[st.integers(1, 9)] * 3))
    try:
        return GridMap(Grid(source, np.eye(4)), Grid(draw(st.tuples(*[st.integers(2, 12)] * 3)), affine))
    except ValueError:  # the shear made it singular
        return draw(dyadic_grids())


@st.composite
def any_grids(draw: st.DrawFn) -> GridMap:
    """Two grids, rotated, sheared, flipped, of other spacing and partly outside one another."""
    angles = draw(st.tuples(*[st.integers(-180, 180)] * 3))
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = draw(st.tuples(*[st.sampled_from([0.0, 0.0, 0.2, -0.3])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ shear * np.array(draw(st.tuples(*[st.floats(0.3, 2.0)] * 3)))
    shape, target = (draw(st.tuples(*[st.integers(1, 9)] * 3)) for _ in range(2))
    middle = affine[:3, :3] @ ((np.array(target) - 1) / 2)
    affine[:3, 3] = (np.array(shape) - 1) / 2 - middle + draw(st.tuples(*[st.floats(-2, 2)] * 3))
    world = np.diag([1.0, 2.0, 1.5, 1.0])
    return GridMap(Grid(shape, world), Grid(target, world @ affine))


@st.composite
def slab_depths(draw: st.DrawFn) -> list[int]:
    return draw(st.lists(st.integers(1, 4), max_size=4))
