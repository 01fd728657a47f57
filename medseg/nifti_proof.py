"""A label map that was written as NIfTI, read back by nibabel and compared with its mask."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medseg.labels import LabelMap
from medseg.proof import Limits, Proof, Tally, judge, pixels_of, proof_error
from medseg.volume import Affine, Grid

_QFORM_VOXELS = 0.1  # a qform keeps its angles in 32 bits, which some programs take before the sform
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)


def prove_label_map(path: Path, labels: LabelMap) -> Proof:
    """Prove that a NIfTI file is the mask that it was made from: the same grid, and the same value in every voxel.

    Both ways in which the format places voxels have to agree, as programs differ in which they read.

    Args:
        path: What was written.
        labels: The mask; its values are those of the file.

    Raises:
        ProofError: The file is not the mask; it names the label and the numbers.
    """
    began, where = perf_counter(), path.name
    with _reading(where):
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
        sform, qform = (getattr(image, f"get_{name}form")(coded=True)[0] for name in "sq")
    if array.shape != labels.array.shape or array.dtype.kind != "u":
        found = f"{array.dtype} in {array.shape}"
        raise proof_error(where, f"unsigned whole numbers in {labels.array.shape}", found)
    _check_forms(labels.grid, sform, qform, where)
    expected, found_tally = _tallies(labels, array, Grid(labels.grid.shape, sform), where)
    proofs = judge(where, expected, found_tally, Limits(most_distance_mm=0.1))
    return Proof(where, "NIfTI", proofs, perf_counter() - began)


def _check_forms(grid: Grid, sform: Affine | None, qform: Affine | None, where: str) -> None:
    if sform is None:
        raise proof_error(where, "the grid of the mask", "no sform")
    if difference := grid.difference(Grid(grid.shape, sform)):
        raise proof_error(where, "the grid of the mask", difference)
    near = _QFORM_VOXELS * min(grid.spacing_mm)
    if qform is not None and (difference := grid.difference(Grid(grid.shape, qform), near)):
        raise proof_error(where, "a qform that agrees", difference)


def _tallies(
    labels: LabelMap, array: np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]], grid: Grid, where: str
) -> tuple[Tally, Tally]:
    """Count the voxels of mask and file, plane by plane, each where its own affine has them."""
    expected, found = Tally(labels.labels), Tally(labels.labels)
    values = labels.labels.channel_values
    size = len(values)
    for k in range(array.shape[2]):
        planes = [part[:, :, k].T for part in (labels.array, array)]
        rows, columns = pixels_of(planes[0] | planes[1])
        here = [np.searchsorted(values, plane[rows, columns]) for plane in planes]
        for plane, classes in zip(planes, here, strict=True):
            if classes.max(initial=0) >= size or (values[classes] != plane[rows, columns]).any():
                raise proof_error(where, "values that the labels name", f"others on plane {k + 1}")
        expected.add_plane(here[0], (columns, rows), k, labels.affine)
        found.add_plane(here[1], (columns, rows), k, grid.affine)
        found.over += np.bincount(here[1] * size + here[0], minlength=size**2).reshape(size, size)
    return expected, found


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what nibabel raises on a damaged file into a `ProofError`."""
    try:
        yield
    except _DAMAGED as error:
        found = f"one that cannot be read ({type(error).__name__})"
        raise proof_error(where, "a whole file", found) from error
