"""A series -> `Volume` with every voxel in its right place, or a refusal that says why not.

Only positions and orientations place a slice: InstanceNumber, SliceThickness and SpacingBetweenSlices do not count.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from medseg.dicom.geometry import (
    LPS_TO_RAS,
    order_along,
    orientation_problem,
    place_problem,
    slice_affine,
    slice_normal,
    stack_affine,
    stack_problem,
)
from medseg.dicom.header import Header, quiet_pydicom
from medseg.dicom.pixels import check_decoder, read_values, rescaled, result_type
from medseg.dicom.scan import Series, scan_folder
from medseg.errors import DicomError
from medseg.findings import FindingCode
from medseg.volume import MAX_VOXELS, Affine, Volume

MAX_SLICE_PIXELS = 1 << 26
_MAX_THREADS = 8
_MAX_NAMED = 6
_SPACING_TOLERANCE = 1e-3
_NOT_A_SLICE_TYPES = {"LOCALIZER", "MOSAIC"}
_GREY = ("MONOCHROME1", "MONOCHROME2", "")
_EXPORT = "export the series again, or segment another one"


def read_folder(folder: Path) -> Volume:
    """Read the one image series of a folder and its subfolders.

    Raises:
        DicomError: There is no series or more than one, or `read_series` refuses it.
    """
    series = scan_folder(folder)
    if len(series) != 1:
        listed = [f"{s.name} ({s.modality or 'no modality'}, {len(s.headers)} files)" for s in series[:_MAX_NAMED]]
        more = ", ..." if len(series) > _MAX_NAMED else ""
        raise DicomError(
            folder,
            expected="exactly one image series",
            found=f"{len(series)}: {', '.join(listed)}{more}" if series else "none",
            remedy="give the folder of one series" if series else "give a folder with DICOM slices, or NIfTI files",
        )
    return read_series(series[0])


def read_series(series: Series) -> Volume:
    """Read a series of single-frame grey slices into a volume.

    Slices are sorted along their normal. Columns of the affine come from PixelSpacing, ImageOrientationPatient and
    the slices' own positions (DICOM PS3.3 C.7.6.2.1.1). Values are rescaled slice by slice: int16 where that is
    exact for all, float32 otherwise.

    Args:
        series: One of `scan_folder`.

    Returns:
        The volume, indexed [column, row, slice], i fastest in memory, with the series' findings.

    Raises:
        DicomError: The series is not a regular stack of slices, or pixels cannot be decoded; says why.
    """
    where = f"series {series.name}"
    with quiet_pydicom():
        _check_files(series, where)
        headers, affine_lps = _stack(series.headers, where)
        for syntax in sorted({header.transfer_syntax_uid for header in headers}):
            check_decoder(syntax, where)
        array = _read_voxels(headers, where)
    affine = LPS_TO_RAS @ affine_lps + 0.0  # no negative zeros
    return Volume(array, affine, modality=series.modality or None, source=where, findings=series.findings)


def _check_files(series: Series, where: str) -> None:
    """Refuse what is not a series of grey single-frame slices of one size."""
    damaged = [f.message for f in series.findings if f.code is FindingCode.DAMAGED_FILE]
    if damaged:
        raise _refusal(where, "whole files only", f"{damaged[0]}", "copy the folder again")
    headers = series.headers
    for is_wrong, expected, found in _FILE_RULES:
        count = sum(is_wrong(header) for header in headers)
        if count:
            raise _refusal(where, expected, f"{found} in {count} of {len(headers)} files")
    if len(headers) < 2:
        raise _refusal(where, "at least 2 slices", "a single slice", "segment a series with more slices")
    for name, values in _shared(headers).items():
        if len(values) > 1:
            raise _refusal(where, f"one {name} for all slices", ", ".join(sorted(values)))
    first = headers[0]
    if first.rows * first.columns * len(headers) > MAX_VOXELS:
        found = f"{first.columns} x {first.rows} x {len(headers)}"
        raise _refusal(where, f"at most {MAX_VOXELS} voxels", found, "check Rows and Columns")


def _is_multiframe(header: Header) -> bool:
    name = pydicom.uid.UID(header.sop_class_uid).name
    return header.frames != 1 or "Enhanced" in name or "Multi-frame" in name


def _lacks_spacing(header: Header) -> bool:
    spacing = header.pixel_spacing_mm
    return spacing is None or min(spacing) <= 0


_FILE_RULES: tuple[tuple[Callable[[Header], bool], str, str], ...] = (
    (
        lambda h: not _NOT_A_SLICE_TYPES.isdisjoint(h.image_type),
        "slices of a volume",
        "a localizer or mosaic (ImageType)",
    ),
    (_is_multiframe, "single-frame slices", "a multi-frame object"),
    (
        lambda h: h.samples_per_pixel != 1 or h.photometric not in _GREY,
        "grey slices",
        "colour (SamplesPerPixel, PhotometricInterpretation)",
    ),
    (
        lambda h: h.rows * h.columns > MAX_SLICE_PIXELS,
        f"at most {MAX_SLICE_PIXELS} pixels a slice",
        "absurd Rows and Columns",
    ),
    (lambda h: h.position_mm is None, "a position for every slice", "no valid ImagePositionPatient"),
    (lambda h: h.orientation is None, "an orientation for every slice", "no valid ImageOrientationPatient"),
    (_lacks_spacing, "a pixel spacing for every slice", "no valid PixelSpacing"),
    (
        lambda h: h.rescale is None,
        "a valid RescaleSlope and RescaleIntercept",
        "missing, zero or invalid ones, or a lookup table",
    ),
)


def _shared(headers: Iterable[Header]) -> dict[str, set[str]]:
    headers = tuple(headers)
    return {
        "matrix (Columns x Rows)": {f"{header.columns} x {header.rows}" for header in headers},
        "modality": {header.modality or "none" for header in headers},
    }


def _stack(headers: tuple[Header, ...], where: str) -> tuple[tuple[Header, ...], Affine]:
    """Return the slices in order, and the 4x4 matrix from (column, row, slice) to LPS+ mm."""
    positions = np.array([header.position_mm for header in headers], dtype=np.float64)  # (n, 3)
    orientations = np.array([header.orientation for header in headers], dtype=np.float64)  # (n, 6)
    spacings = np.array([header.pixel_spacing_mm for header in headers], dtype=np.float64)  # (n, 2)
    _refuse_if(orientation_problem(orientations), where)
    if np.abs(spacings / spacings[0] - 1).max() > _SPACING_TOLERANCE:
        raise _refusal(where, "one PixelSpacing for all slices", "different ones")
    normal = slice_normal(orientations[0])
    order = order_along(positions, normal)
    _refuse_if(stack_problem(positions[order], normal), where)
    affine = stack_affine(positions[order], orientations[order[0]], spacings[order[0]])
    slices = [slice_affine(positions[k], orientations[k], spacings[k]) for k in order]
    _refuse_if(place_problem(affine, slices, (headers[0].columns - 1, headers[0].rows - 1)), where)
    return tuple(headers[k] for k in order), affine


def _read_voxels(headers: tuple[Header, ...], where: str) -> NDArray[Any]:
    """Return the values [column, row, slice], decoded in threads."""
    dtype = result_type(headers)
    shape = (headers[0].columns, headers[0].rows, len(headers))
    array: NDArray[Any] = np.empty(shape, dtype=dtype, order="F")

    def read(k: int) -> None:
        values = read_values(headers[k], f"{where}, slice {k + 1} of {len(headers)}")
        array[:, :, k] = rescaled(values, headers[k].rescale or (1.0, 0.0), dtype).T

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(read, range(len(headers))):
            pass
    return array


def _refuse_if(problem: str | None, where: str) -> None:
    if problem:
        raise _refusal(where, "an evenly spaced stack of parallel slices", problem)


def _refusal(where: str, expected: str, found: str, remedy: str = _EXPORT) -> DicomError:
    return DicomError(where, expected=expected, found=found, remedy=remedy)
