"""How much disk a store needs, known from the headers before anything is preprocessed."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from medseg.data.fingerprint import in_ras
from medseg.data.manifest import Case
from medseg.data.preprocessing import Preprocessing
from medseg.data.stored import StoreDtype, stored_bytes
from medseg.errors import GridError, StorageError
from medseg.volume import Grid, smallest_unsigned

_LENGTH_UNITS_MM = {"meter": 1000.0, "micron": 0.001}


def expected_bytes(case: Case, preprocessing: Preprocessing, classes: int, dtype: StoreDtype) -> int:
    """Return about how many bytes a case takes in the store, at most, if it is not cropped.

    It is 0 where the label cannot be read, which reading the case explains.

    Args:
        case: Its label's header is read.
        preprocessing: Complete.
        classes: Foreground classes.
        dtype: Of the stored images.
    """
    try:
        image = nib.load(case.label) if case.label else None
        if image is None:
            return 0
        i, j, k = (*image.shape, 1)[:3]
        grid = Grid((i, j, k), image.affine)
    except (OSError, ImageFileError, GridError, ValueError):
        return 0
    unit_mm = _LENGTH_UNITS_MM.get(image.header.get_xyzt_units()[0], 1.0)
    old = np.array(in_ras(grid.orientation, grid.spacing_mm)) * unit_mm
    new = preprocessing.spacing_mm or old
    finer = math.prod(1.0 if s == "keep" else o / float(s) for o, s in zip(old, new, strict=True))
    voxels = round(grid.voxel_count * finer)
    of_coarse = np.dtype(smallest_unsigned(max(preprocessing.coarse_labels, default=0))).itemsize
    return stored_bytes(voxels, len(case.images), classes, dtype) + (voxels * of_coarse if case.coarse else 0)


def require_space(folder: Path, needed: int, cases: int) -> None:
    """Refuse a folder whose disk has less room than cases need.

    Args:
        folder: Need not be there yet.
        needed: Bytes.
        cases: Their number, for the message.

    Raises:
        StorageError: The disk has less.
    """
    place = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise full_disk(folder, needed, cases, f"{in_words(free)} free")


def full_disk(folder: Path, needed: int, cases: int, found: str) -> StorageError:
    """Return the error of a disk that is too small for cases."""
    return StorageError(
        folder,
        expected=f"about {in_words(needed)} free for {cases} preprocessed case(s)",
        found=found,
        remedy="free some space, or choose a folder on another disk",
    )


def bytes_of(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def in_words(count: int) -> str:
    """Return bytes as megabytes or gigabytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
