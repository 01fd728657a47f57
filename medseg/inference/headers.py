"""The grid of a study from headers alone: what a dry run knows before any voxel is read."""

from __future__ import annotations

from medseg.dicom.geometry import LPS_TO_RAS
from medseg.nifti import read_nifti_grid
from medseg.study import Study
from medseg.volume import Grid

_FLOAT32_BYTES = 4


def study_grid(study: Study) -> tuple[Grid, int]:
    """Return the grid of a study and the bytes of a voxel once it is read; of the first file where it has several.

    Raises:
        InputError: The study cannot be read right, or its first file's header cannot.
    """
    if study.problem:
        raise study.problem
    if study.stack is None:
        return read_nifti_grid(study.files[0])
    header = study.stack.frames[0].header
    shape = (header.columns, header.rows, study.stack.count)
    return Grid(shape, LPS_TO_RAS @ study.stack.affine), _FLOAT32_BYTES
