"""A series -> `Volume` with every voxel in its right place, or a refusal that says why not."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from medseg.dicom.frame import Frame
from medseg.dicom.geometry import LPS_TO_RAS, Vectors
from medseg.dicom.pixels import FrameReader, rescale_into
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.series import Series
from medseg.dicom.stack import Stack, stack_series
from medseg.volume import SourceSlice, Volume

_MOST_THREADS = 8
_STORED = (1.0, 0.0)
_ON_PLACE = 1e-9  # of a slice's distance: it is that slice, and no neighbour counts


def read_series(series: Series, policies: Policies | None = None) -> Volume:
    """Read a series into a volume.

    Slices are sorted along their normal, and columns of the affine come from PixelSpacing, ImageOrientationPatient
    and the slices' own positions (DICOM PS3.3 C.7.6.2.1.1), sheared where they say so (gantry tilt). Values are
    rescaled slice by slice in float32.

    Args:
        series: One of `scan_pile`.
        policies: What to do about irregular series; the safest by default.

    Returns:
        The volume, indexed [column, row, slice], i fastest in memory, with findings and the slices it was made of.

    Raises:
        DicomError: The series is not a volume, or pixels cannot be decoded; says why.
    """
    with quiet_pydicom():
        return read_stack(stack_series(series, policies or Policies()))


def read_stack(stack: Stack) -> Volume:
    """Read the pixels of a stack; the same as `read_series`, where the geometry is known already.

    Raises:
        DicomError: Pixels cannot be decoded.
    """
    where = f"series {stack.series.name}"
    with quiet_pydicom():
        array = _read_slices(stack.frames, where)
    if not stack.is_plain:
        array = _interpolated(array, stack.places, stack.count)
    affine = LPS_TO_RAS @ stack.affine + 0.0  # no negative zeros
    return Volume(
        array,
        affine,
        modality=stack.series.modality or None,
        source=where,
        findings=stack.findings,
        slices=tuple(
            SourceSlice(float(place), frame.header.sop_class_uid, frame.header.sop_instance_uid, frame.number)
            for place, frame in zip(stack.places, stack.frames, strict=True)
        ),
    )


def _read_slices(frames: tuple[Frame, ...], where: str) -> NDArray[np.float32]:
    """Return the values [column, row, slice] of frames in order, decoded in threads."""
    header = frames[0].header
    reader = FrameReader()
    first = reader.values(frames[0], f"{where}, slice 1 of {len(frames)}")  # before anything large is allocated
    array: NDArray[np.float32] = np.empty((header.columns, header.rows, len(frames)), dtype=np.float32, order="F")

    def read(k: int) -> None:
        values = reader.values(frames[k], f"{where}, slice {k + 1} of {len(frames)}") if k else first
        rescale_into(array[:, :, k].T, values, frames[k].rescale or _STORED)

    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(read, range(len(frames))):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    return array


def _interpolated(array: NDArray[np.float32], places: Vectors, count: int) -> NDArray[np.float32]:
    """Interpolate slices [column, row, slice] at their places to whole ones, linearly along the last axis."""
    out: NDArray[np.float32] = np.empty((*array.shape[:2], count), dtype=np.float32, order="F")
    before = np.clip(np.searchsorted(places, np.arange(count) + _ON_PLACE, side="right") - 1, 0, len(places) - 1)
    for k in range(count):
        low, target = int(before[k]), out[:, :, k]
        beyond = k - places[low]
        if abs(beyond) <= _ON_PLACE or low == len(places) - 1:
            target[:] = array[:, :, low]
            continue
        weight = np.float32(beyond / (places[low + 1] - places[low]))
        np.subtract(array[:, :, low + 1], array[:, :, low], out=target)
        target *= weight
        target += array[:, :, low]
    return out
