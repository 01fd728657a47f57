"""Real series: the formula, another converter, labels drawn on them, and those that must be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.findings import FindingCode
from medseg.volume import Volume
from tests.dicom.one import read_folder
from tests.dicom.written_series import check_by_formula


@pytest.mark.data
@pytest.mark.parametrize(
    "path",
    [
        "ct/example_ct_dicom",
        "mr_study/12-T1post-05670",
        "mr_study/13_HCropVolume",
        "mr_study/34909-T1prereg-84610",
        "mr_study/36459-FLAIRreg-76244",
        "mr_study/37916-T2reg-88910",
    ],
)
def test_real_series_by_the_formula(data_root: Path, path: str) -> None:
    check_by_formula(data_root / path, read_folder(data_root / path), step=7)


def between(volume: Volume, image: Any) -> np.ndarray:
    """Index into another image for every voxel (3, n); fails unless they are the same voxels."""
    matrix = np.linalg.inv(image.affine) @ volume.affine
    exact = matrix[:3, :3] @ np.indices(volume.array.shape).reshape(3, -1) + matrix[:3, 3:]
    nearest = np.rint(exact).astype(int)
    assert np.abs(exact - nearest).max() < 0.01
    assert nearest.min() >= 0
    assert (nearest.max(axis=1) < image.shape).all()
    return nearest


@pytest.mark.data
def test_the_real_ct_lies_on_the_grid_of_its_labels(data_root: Path) -> None:
    volume = read_folder(data_root / "ct" / "example_ct_dicom")
    labels = nib.load(data_root / "ct" / "example_seg_dicom.nii.gz")
    values = np.asanyarray(labels.dataobj)[tuple(between(volume, labels))].reshape(volume.array.shape)
    assert 60 < volume.array[values == 5].mean() < 120  # liver, HU
    assert volume.array[values == 52].mean() > 100  # aorta with contrast medium
    assert {f.code for f in volume.findings} == {FindingCode.SERIES_UID_MISSING, FindingCode.SOP_CLASS_MISSING}


GROUND_TRUTH = [
    "vendors/ge/001",
    "vendors/ge/001_implicit",
    "vendors/generic/001",
    "vendors/generic/001_implicit",
    "vendors/generic/002_non_isotropic",
    "vendors/siemens/001",
    "vendors/siemens/001_implicit",
    "codecs/compressed/001",
    "codecs/compressed_j2k/001",
    "codecs/compressed_rle/001",
    "codecs/compressed_jpeg/001",
    "codecs/compressed_jpegls/001",
    "failing/slicecount/001",
]


@pytest.mark.data
@pytest.mark.parametrize("path", GROUND_TRUTH)
def test_another_converter_agrees(data_root: Path, path: str) -> None:
    """dicom2nifti's output: the same values at the same places."""
    folder = data_root / "dicom" / path
    volume = read_folder(folder)
    image = nib.load(folder.with_name(folder.name + "_ground_truth.nii.gz"))
    values = np.asanyarray(image.dataobj)[tuple(between(volume, image))]
    assert np.allclose(values, volume.array.reshape(-1), rtol=1e-6, atol=1e-5)
