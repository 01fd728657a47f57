"""NIfTI headers: what they say of voxels, checked.

The format is that of the NIfTI-1 and NIfTI-2 data format documents of the NIMH Data Format Working Group.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medseg.errors import GridError, NiftiError
from medseg.findings import Finding, FindingCode
from medseg.volume import GRID_TOLERANCE_MM, Affine, Grid

_HEADER_SIZES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_BLOCK_BYTES = 1 << 22
_BAD_FORM = (GridError, HeaderDataError, ValueError, np.linalg.LinAlgError)
_LENGTH_UNITS_MM = {1: 1000.0, 3: 0.001}  # metre and micrometre; all else counts as mm


def read_header(path: Path, stream: IO[bytes]) -> Any:
    """Read a header, and on to the first voxel.

    Returns:
        nibabel's NIfTI-1 or NIfTI-2 header.

    Raises:
        NiftiError: It is none, not valid, or its voxels lie in another file.
        EOFError: The file ends before the first voxel.
    """
    start = stream.read(4)
    little, big = int.from_bytes(start, "little"), int.from_bytes(start, "big")
    size, order = (little, "<") if little in _HEADER_SIZES else (big, ">")
    if size not in _HEADER_SIZES:
        raise NiftiError(
            path, expected="a NIfTI-1 or NIfTI-2 header", found="other data", remedy="convert the file to NIfTI"
        )
    block = start + stream.read(size - 4)
    if len(block) < size:
        raise EOFError("the header is cut short")
    try:
        header = _HEADER_SIZES[size].from_fileobj(io.BytesIO(block), endianness=order, check=False)
        header.get_data_dtype()
    except (HeaderDataError, ValueError, KeyError) as error:
        raise NiftiError(path, expected="a valid header", found=str(error), remedy="export it again") from error
    magic = header["magic"].item()
    if magic != header.single_magic:
        raise NiftiError(
            path, expected="header and voxels in one", found=f"magic {magic!r}", remedy="convert the .hdr/.img pair"
        )
    _skip_to_voxels(stream, float(header["vox_offset"]), size)
    return header


def _skip_to_voxels(stream: IO[bytes], offset: float, header_size: int) -> None:
    """Read on from the end of the header, in blocks: the offset may be anything."""
    if not header_size <= offset < math.inf:
        raise EOFError("the voxel offset lies outside the file")
    left = int(offset) - header_size
    while left:
        block = stream.read(min(left, _BLOCK_BYTES))
        if not block:
            raise EOFError("the voxel offset lies outside the file")
        left -= len(block)


def checked_shape(path: Path, header: Any, max_voxels: int) -> tuple[int, int, int]:
    """Return the voxels along i, j, k.

    Raises:
        NiftiError: They are none, too many, or of several volumes.
    """
    count, *sizes = (int(size) for size in header["dim"])
    shape = sizes[: max(count, 0)]
    if not 2 <= count <= 7 or min(shape) < 1:
        raise NiftiError(
            path, expected="2 to 7 positive sizes", found=f"{count} sizes: {shape}", remedy="export it again"
        )
    if any(size != 1 for size in shape[3:]):
        raise NiftiError(
            path,
            expected="one 3-D volume",
            found=f"{len(shape)} dimensions of sizes {shape}",
            remedy="split it into one file per time point or channel",
        )
    i, j, k = (*shape, 1)[:3]
    if i * j * k > max_voxels:
        raise NiftiError(
            path,
            expected=f"at most {max_voxels} voxels",
            found=f"{i} x {j} x {k}",
            remedy="check the header; crop or resample a volume that really is so large",
        )
    return i, j, k


def checked_type(path: Path, header: Any) -> np.dtype[Any]:
    """Return the type that voxels are stored in.

    Raises:
        NiftiError: They are colours, complex numbers or longer than 64 bits.
    """
    dtype: np.dtype[Any] = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise NiftiError(
            path, expected="integers or real numbers", found=f"type {dtype}", remedy="export one grey channel"
        )
    return dtype


def scaling(path: Path, header: Any) -> tuple[float, float] | None:
    """Return slope and intercept of the values; None where they are as stored.

    Raises:
        NiftiError: The intercept is no number.
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope) or (slope, intercept) == (1, 0):
        return None
    if not math.isfinite(intercept):
        raise NiftiError(path, expected="a number as scl_inter", found=str(intercept), remedy="correct the header")
    return slope, intercept


def affine_of(path: Path, header: Any, shape: tuple[int, int, int]) -> tuple[Affine, tuple[Finding, ...]]:
    """Return where voxels lie, in RAS+ mm, and what is odd about it.

    Raises:
        NiftiError: The affine is singular or not finite.
    """
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    findings: list[Finding] = []
    try:
        if has_sform:
            grid = _grid(shape, header, header.get_sform)
            findings += _disagreement(grid, header) if has_qform else []
        elif has_qform:
            grid = _grid(shape, header, header.get_qform)
        else:
            grid = _grid(shape, header, header.get_base_affine)
            message = f"neither sform nor qform: {grid.orientation} axes assumed, as nibabel does"
            findings.append(Finding(FindingCode.NO_ORIENTATION, message))
    except _BAD_FORM as error:
        found = error.found if isinstance(error, GridError) else str(error)
        raise NiftiError(
            path, expected="a finite, invertible affine", found=found, remedy="correct sform or qform"
        ) from error
    return grid.affine, tuple(findings)


def _grid(shape: tuple[int, int, int], header: Any, form: Callable[[], Affine]) -> Grid:
    """Place the voxels by one of the header's forms, in mm."""
    affine = np.array(form(), dtype=np.float64)
    affine[:3] *= _LENGTH_UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return Grid(shape, affine)


def _disagreement(grid: Grid, header: Any) -> list[Finding]:
    try:
        difference = grid.difference(_grid(grid.shape, header, header.get_qform), 100 * GRID_TOLERANCE_MM)
    except _BAD_FORM as error:
        difference = error.found if isinstance(error, GridError) else str(error)
    if difference is None:
        return []
    return [Finding(FindingCode.FORMS_DISAGREE, f"sform and qform disagree ({difference}): sform taken")]
