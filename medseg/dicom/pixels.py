"""The pixels of one file -> stored values and rescaled values, or the reason why not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import HTJ2K, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, JPEG2000Lossless

from medseg.dicom.header import PYDICOM_ERRORS, Header
from medseg.errors import DicomError

_OPENJPEG = "pylibjpeg"
_MOST_BITS = 64
_JPEG_2000 = (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)


def check_decoder(transfer_syntax_uid: str, where: str) -> None:
    """Make sure that pixels of a transfer syntax can be decoded here.

    Raises:
        DicomError: The transfer syntax is missing or unknown, or its decoder is not installed.
    """
    uid = pydicom.uid.UID(transfer_syntax_uid)
    try:
        available = bool(get_decoder(uid).is_available)
    except PYDICOM_ERRORS:
        available = False
    if not available:
        raise DicomError(
            where,
            expected="a transfer syntax that can be decoded here",
            found=uid.name if uid.is_transfer_syntax else "none or an unknown one",
            remedy="install its decoder (pyjpegls or python-gdcm), or export the series uncompressed",
        )


def read_values(header: Header, where: str) -> NDArray[Any]:
    """Return the stored values (rows, columns) of one file.

    Raises:
        DicomError: They are missing, truncated, too many or cannot be decoded.
    """
    try:
        dataset = pydicom.dcmread(header.path)
        _check_length(dataset)
        plugin = _OPENJPEG if header.transfer_syntax_uid in _JPEG_2000 else ""
        values: NDArray[Any] = pixel_array(dataset, raw=True, decoding_plugin=plugin)
    except PYDICOM_ERRORS as error:
        raise _undecodable(where, type(error).__name__) from error
    if values.shape != (header.rows, header.columns):
        raise _undecodable(where, f"an image of shape {values.shape}")
    return values


def rescaled(values: NDArray[Any], rescale: tuple[float, float], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return ``slope * values + intercept``, computed in the given type."""
    slope, intercept = rescale
    result: NDArray[Any] = values.astype(dtype)
    if dtype.kind == "f":
        result *= dtype.type(slope)
    result += dtype.type(intercept)
    return result


def result_type(headers: Iterable[Header]) -> np.dtype[Any]:
    """Return int16 where it holds every possible rescaled value of every file exactly, else float32."""
    fits = all(_fits_int16(header) for header in headers)
    return np.dtype(np.int16 if fits else np.float32)


def _fits_int16(header: Header) -> bool:
    slope, intercept = header.rescale or (0.0, 0.0)
    bits = min(header.bits_stored or _MOST_BITS, _MOST_BITS)
    low = -(1 << (bits - 1)) if header.is_signed else 0
    high = low + (1 << bits) - 1
    limits = np.iinfo(np.int16)
    within = limits.min <= low + intercept and high + intercept <= limits.max
    return slope == 1 and intercept.is_integer() and within


def _check_length(dataset: Any) -> None:
    """Refuse uncompressed pixels beyond the image: Rows, Columns or NumberOfFrames would be wrong."""
    expected = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    is_compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    if not is_compressed and len(dataset.PixelData) > expected + 1:
        raise ValueError


def _undecodable(where: str, reason: str) -> DicomError:
    return DicomError(
        where,
        expected="whole pixel data that fits the header",
        found=f"truncated, undecodable or other pixel data ({reason})",
        remedy="copy or export the series again",
    )
