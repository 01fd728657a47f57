"""NIfTI files <-> `Volume`: strict, checked to the last byte, written atomically.

The format is that of the NIfTI-1 and NIfTI-2 data format documents of the NIMH Data Format Working Group.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from medseg.errors import NiftiError
from medseg.files import atomic_path
from medseg.labels import LabelMap
from medseg.nifti_header import affine_of, checked_shape, checked_type, read_header, scaling
from medseg.volume import MAX_VOXELS, Grid, Volume, smallest_unsigned

SUFFIXES = (".nii.gz", ".nii")
_BLOCK_BYTES = 1 << 22
_GZIP_LEVEL = 1
_INTENT_LABEL = 1002
_SCANNER_COORDINATES = 1
_LONGEST_AXIS = 32767  # NIfTI-1 stores sizes in 16 bits
_DAMAGED = (OSError, EOFError, cast("type[Exception]", isal_zlib.error))


def is_nifti(path: Path) -> bool:
    """Whether a file name ends with ``.nii`` or ``.nii.gz``."""
    return path.name.lower().endswith(SUFFIXES)


def case_name(path: Path) -> str:
    """Return a NIfTI file's name without its suffix."""
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".gz") else path.stem


def read_nifti(path: str | Path, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a 3-D NIfTI file, to the end of its stream so that the gzip checksum is verified.

    A 4-D file with one time point and a 2-D image are read as 3-D. Values keep the type that they are stored
    in, unless the header scales them: then they are float32. The sform comes before the qform; shear is kept.
    Positions in metres or micrometres are turned into millimetres.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.
        max_voxels: Refused above this, before anything is allocated.

    Raises:
        NiftiError: The file is missing, corrupt, truncated, too large, one half of an .hdr/.img pair, has several
            time points, holds colours or complex numbers, or its affine is singular or not finite.
    """
    path = Path(path)
    with _refusing(path), _open_for_reading(path) as stream:
        header = read_header(path, stream)
        shape = checked_shape(path, header, max_voxels)
        array = _read_voxels(path, stream, header, shape)
        while stream.read(_BLOCK_BYTES):
            pass
    affine, findings = affine_of(path, header, shape)
    return Volume(_scaled(path, array, header), affine, source=str(path), findings=findings)


def read_nifti_grid(path: str | Path, max_voxels: int = MAX_VOXELS) -> tuple[Grid, int]:
    """Read where the voxels of a 3-D NIfTI file lie, and the bytes that each takes once it is read.

    Only the header is read, by the rules of `read_nifti`: what that refuses for its header is refused here.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.
        max_voxels: Refused above this.

    Raises:
        NiftiError: As `read_nifti`, but for what is wrong behind the header.
    """
    path = Path(path)
    with _refusing(path), _open_for_reading(path) as stream:
        header = read_header(path, stream)
    shape = checked_shape(path, header, max_voxels)
    stored = checked_type(path, header).itemsize
    affine, _ = affine_of(path, header, shape)
    return Grid(shape, affine), stored if scaling(path, header) is None else np.dtype(np.float32).itemsize


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a `NiftiError`."""
    try:
        if not path.is_file():
            raise NiftiError(path, expected="a NIfTI file", found="no such file", remedy="check the path")
        yield
    except PermissionError as error:
        raise NiftiError(path, expected="a file to read", found="no permission", remedy="ask for it") from error
    except _DAMAGED as error:
        what = f"a corrupt or truncated one ({str(error) or type(error).__name__})"
        remedy = "copy or export it again"
        raise NiftiError(path, expected="a whole NIfTI file", found=what, remedy=remedy) from error


def write_nifti(path: str | Path, volume: Volume | LabelMap) -> None:
    """Write a volume, or a label map in the smallest unsigned type that holds its largest label.

    The affine goes into the sform bit for bit as far as the format's float32 goes, and into the qform unless it
    is sheared, which a qform cannot express. Label maps get intent code 1002 (label). The same input gives the
    same bytes.

    Args:
        path: Ends with ``.nii`` or ``.nii.gz``.
        volume: What to write.

    Raises:
        NiftiError: NIfTI-1 has no such type or size, or a label map holds values beyond its labels.
        StorageError: The file cannot be written; nothing is left under its name.
    """
    path = Path(path)
    array = _storable(path, volume)
    header = _header_for(array, volume.grid, isinstance(volume, LabelMap))
    with atomic_path(path) as temporary, _open_for_writing(temporary) as stream:
        stream.write(header.binaryblock)
        stream.write(b"\0" * (int(header["vox_offset"]) - len(header.binaryblock)))
        for k in range(array.shape[2]):
            stream.write(array[:, :, k].tobytes(order="F"))


@contextmanager
def _open_for_reading(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        if path.name.lower().endswith(".gz"):
            with igzip.IGzipFile(fileobj=raw, mode="rb") as stream:
                yield stream
        else:
            yield raw


@contextmanager
def _open_for_writing(path: Path) -> Iterator[IO[bytes]]:
    with path.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            with igzip.IGzipFile("", "wb", compresslevel=_GZIP_LEVEL, fileobj=raw, mtime=0) as stream:
                yield stream
        else:
            yield raw


def _read_voxels(path: Path, stream: IO[bytes], header: Any, shape: tuple[int, int, int]) -> NDArray[Any]:
    dtype = checked_type(path, header)
    flat = np.empty(int(np.prod(shape, dtype=np.int64)), dtype=dtype)
    target = memoryview(flat.data).cast("B")
    filled = 0
    while filled < len(target):
        count = cast(io.RawIOBase, stream).readinto(target[filled : filled + _BLOCK_BYTES])
        if not count:
            raise EOFError(f"{filled} of {len(target)} voxel bytes are there")
        filled += count
    native = flat.astype(dtype.newbyteorder("="), copy=False)
    return native.reshape(shape, order="F")


def _scaled(path: Path, array: NDArray[Any], header: Any) -> NDArray[Any]:
    if (change := scaling(path, header)) is None:
        return array
    slope, intercept = change
    scaled = array.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(intercept)
    return scaled


def _storable(path: Path, volume: Volume | LabelMap) -> NDArray[Any]:
    """Return the voxels in the type and byte order that the file gets."""
    array = volume.array
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8 or array.dtype == np.float16:
        raise NiftiError(
            path, expected="integers or 32 or 64 bit floats", found=f"type {array.dtype}", remedy="convert them"
        )
    if max(array.shape) > _LONGEST_AXIS:
        raise NiftiError(
            path, expected=f"sizes up to {_LONGEST_AXIS}", found=f"{array.shape}", remedy="crop the volume"
        )
    if not isinstance(volume, LabelMap):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    largest, low, high = volume.labels.largest, array.min(), array.max()
    if not 0 <= low <= high <= largest or array.dtype.kind == "f":
        raise NiftiError(
            path,
            expected=f"whole label values from 0 to {largest}",
            found=f"values of type {array.dtype} from {low} to {high}",
            remedy="correct the label map or its labels",
        )
    return array.astype(smallest_unsigned(largest), copy=False)


def _header_for(array: NDArray[Any], grid: Grid, is_label: bool) -> Any:
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_zooms(grid.spacing_mm)
    header.set_sform(grid.affine, code=_SCANNER_COORDINATES)
    if grid.is_sheared:
        header["qform_code"] = 0
    else:
        header.set_qform(grid.affine, code=_SCANNER_COORDINATES, strip_shears=True)
    header.set_xyzt_units("mm", "sec")
    if is_label:
        header["intent_code"] = _INTENT_LABEL
        header["cal_max"] = float(array.max())
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header
