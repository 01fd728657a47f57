"""Labels of another program on a real CT, as contours in millimetres, become the same voxels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.data.annotated import find_annotated
from medseg.data.dicom_import import DicomImportOptions, import_dicom
from medseg.data.structure_map import StructureMap
from tests.dicom.annotation_builder import item, rtstruct, save_object
from tests.dicom.builder import SeriesSpec
from tests.dicom.builder_parts import decimals

pytestmark = pytest.mark.data
LABEL = 5  # the liver


def contours(path: Path) -> list[Dataset]:
    """One rectangle for each run of voxels along the first axis; its corners by nibabel's affine, turned to LPS."""
    image = nib.load(path)
    mask = np.asanyarray(image.dataobj) == LABEL
    found = []
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        for j in np.flatnonzero(mask[:, :, k].any(axis=0)):
            steps = np.diff(np.concatenate([[0], mask[:, j, k].astype(int), [0]]))
            for start, stop in zip(np.flatnonzero(steps > 0) - 0.5, np.flatnonzero(steps < 0) - 0.5, strict=True):
                corners = [(start, j - 0.5, k), (stop, j - 0.5, k), (stop, j + 0.5, k), (start, j + 0.5, k)]
                world = nib.affines.apply_affine(image.affine, corners) * (-1, -1, 1)
                found.append(
                    item(
                        ContourGeometricType="CLOSED_PLANAR",
                        NumberOfContourPoints=4,
                        ContourData=decimals(world.ravel()),
                    )
                )
    return found


def test_labels_in_millimetres_become_the_voxels_they_were(data_root: Path, tmp_path: Path) -> None:
    folder, labels = data_root / "ct" / "example_ct_dicom", data_root / "ct" / "example_seg_dicom.nii.gz"
    first = dcmread(next(path for path in sorted(folder.iterdir()) if path.is_file()), stop_before_pixels=True)
    dataset = rtstruct(SeriesSpec(), {"Liver": contours(labels)})
    del dataset.ReferencedFrameOfReferenceSequence
    dataset.StudyInstanceUID = first.StudyInstanceUID
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
    save_object(dataset, tmp_path / "labels" / "1.dcm")
    structure_map = StructureMap.model_validate({"labels": [{"index": 1, "name": "liver", "match": ["liver"]}]})
    pile = find_annotated([folder, tmp_path / "labels"])
    result = import_dicom(pile, structure_map, tmp_path / "out", DicomImportOptions(folds=0))
    row = next(row for row in result.rows if row.is_taken)
    truth = nib.load(labels)
    made = nib.load(tmp_path / "out" / "labels" / f"{row.series}.nii.gz")
    expected = np.argwhere(np.asanyarray(truth.dataobj) == LABEL)
    assert len(expected) > 1000
    world = nib.affines.apply_affine(truth.affine, expected)
    index = nib.affines.apply_affine(np.linalg.inv(made.affine), world)
    assert np.abs(index - np.rint(index)).max() < 0.01
    found = np.zeros(made.shape, dtype=np.uint8)
    found[tuple(np.rint(index).astype(int).T)] = 1
    assert np.array_equal(found, np.asanyarray(made.dataobj))
