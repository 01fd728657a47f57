"""The grid of a study from headers alone: what a dry run knows before any voxel is read."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medseg.dicom.geometry import LPS_TO_RAS
from medseg.errors import GridError, NiftiError
from medseg.study import Study
from medseg.volume import Grid

_LENGTH_UNITS_MM = {"meter": 1000.0, "micron": 0.001}
_FLOAT32_BYTES = 4


def study_grid(study: Study) -> tuple[Grid, int]:
    """Return the grid of a study and the bytes of a voxel once it is read; of the first file where it has several.

    Raises:
        InputError: The study cannot be read right, or its first file's header cannot.
    """
    if study.problem:
        raise study.problem
    if study.stack is None:
        return _nifti_grid(study.files[0])
    header = study.stack.frames[0].header
    shape = (header.columns, header.rows, study.stack.count)
    return Grid(shape, LPS_TO_RAS @ study.stack.affine), _FLOAT32_BYTES


def _nifti_grid(path: Path) -> tuple[Grid, int]:
    try:
        image = nib.load(path)
        i, j, k = (*image.shape, 1)[:3]
        affine = np.array(image.affine, dtype=np.float64)
        affine[:3] *= _LENGTH_UNITS_MM.get(image.header.get_xyzt_units()[0], 1.0)
        grid = Grid((i, j, k), affine)
    except (OSError, EOFError, ImageFileError, HeaderDataError, GridError, ValueError) as error:
        raise NiftiError(
            path, expected="a header that can be read", found=type(error).__name__, remedy="export it again"
        ) from error
    is_scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    return grid, _FLOAT32_BYTES if is_scaled else image.header.get_data_dtype().itemsize
