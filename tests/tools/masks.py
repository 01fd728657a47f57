"""A mask that is awkward to write: holes, points that touch at corners, lines, the border, gaps, nothing at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.labels import CodedConcept, Label, LabelMap, LabelSet, Laterality
from medseg.volume import Grid, Volume


def _sct(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value=value, meaning=meaning)


LABELS = LabelSet(
    (
        Label(index=1, name="liver", color="#dd8265", code=_sct("10200004", "Liver")),
        Label(index=3, name="kidney_left", code=_sct("64033007", "Kidney"), laterality=Laterality.LEFT),
        Label(index=4, name="kidney_right", code=_sct("64033007", "Kidney"), laterality=Laterality.RIGHT),
        Label(index=6, name="aorta"),  # its code is found by its name
        Label(index=9, name="spleen"),  # not in the mask
        Label(
            index=12,
            name="lesion",
            code=_sct("52988006", "Lesion"),
            category=_sct("49755003", "Morphologically Abnormal Structure"),
            region=_sct("10200004", "Liver"),
        ),
        Label(index=200, name="own structure 7"),  # no terminology knows it
    )
)


def paint(grid: Grid) -> LabelMap:
    """Return a mask on a grid of 20 x 20 x 1 voxels or more, the same one every time."""
    array = np.zeros(grid.shape, dtype=np.uint8, order="F")
    x, y, z = (np.arange(size, dtype=np.float32) / max(size - 1, 1) for size in grid.shape)
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]

    def ball(centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
        a, b, c = centre
        return np.asarray((x - a) ** 2 + (y - b) ** 2 + ((z - c) / 2) ** 2 <= radius**2)

    array[ball((0.08, 0.3, 0.5), 0.26)] = 1  # reaches over the border
    array[ball((0.7, 0.3, 0.5), 0.2)] = 3
    array[ball((0.7, 0.3, 0.5), 0.1)] = 0  # a hole in the middle slices
    array[ball((0.7, 0.3, 0.5), 0.04)] = 3  # an island in the hole
    columns, rows, slices = grid.shape
    i, j, k = columns // 2, rows * 3 // 4, slices // 2
    array[i : i + 3, j : j + 3, k:] = 4
    array[i + 3 : i + 6, j + 3 : j + 6, k:] = 4  # touches at a corner
    array[i - 6 : i - 4, j - 8 : j + 4, :] = 6  # two voxels wide, through all slices
    array[columns // 10, rows // 3, k] = 12  # a single voxel within the liver
    array[columns // 10 + 3 : columns // 10 + 6, rows // 3, k] = 12  # one voxel wide
    rng = np.random.default_rng(5)
    array[-9:-1, -9:-1, :][rng.random((8, 8, slices)) < 0.5] = 200  # holes and corners of every kind
    return LabelMap(Volume(array, grid.affine), LABELS)
