"""A label map as NIfTI is the mask, or the difference is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import ProofError
from medseg.labels import LabelMap, LabelSet
from medseg.nifti import write_nifti
from medseg.nifti_proof import prove_label_map
from medseg.volume import Volume

LABELS = LabelSet.from_names({2: "liver", 5: "kidney_left", 300: "kidney_right"})


def mask(affine: Any = None) -> LabelMap:
    array = np.zeros((12, 9, 7), dtype=np.uint16, order="F")
    array[1:6, 2:6, 1:5] = 2
    array[7:11, 1:8, 2:] = 5
    array[1:3, 7:, :3] = 300
    turned = np.array([[0.7, -0.9, 0, 20], [0.3, 1.1, 0.2, -9], [0, 0.1, -2.5, 4], [0, 0, 0, 1.0]])
    return LabelMap(Volume(array, turned if affine is None else affine), LABELS)


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
@pytest.mark.parametrize("affine", [None, np.diag([-1.5, 2.0, -3.0, 1.0])], ids=["sheared", "flipped"])
def test_what_is_the_mask_passes(tmp_path: Path, name: str, affine: Any) -> None:
    labels = mask(affine)
    write_nifti(tmp_path / name, labels)
    proof = prove_label_map(tmp_path / name, labels)
    assert (proof.what, proof.kind) == (name, "NIfTI")
    for label, value in zip(proof.labels, (2, 5, 300), strict=True):
        count = int((labels.array == value).sum())
        assert (label.expected_voxels, label.found_voxels, label.dice) == (count, count, 1.0)
        assert label.distance_mm < 1e-3


Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def one_less(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed[tuple(np.argwhere(array == 5)[0])] = 0
    return changed


def swapped(array: np.ndarray) -> np.ndarray:
    return np.where(array == 2, 5, np.where(array == 5, 2, array))


WRONG: dict[str, tuple[Change, str]] = {
    "mirrored": (lambda array, affine: (array[::-1], affine), "label "),
    "flipped": (lambda array, affine: (array[:, :, ::-1], affine), "label "),
    "a voxel less": (lambda array, affine: (one_less(array), affine), "label kidney_left"),
    "swapped": (
        lambda array, affine: (np.where(array == 2, 5, np.where(array == 5, 2, array)), affine),
        "those of",
    ),
    "a label less": (lambda array, affine: (np.where(array == 300, 0, array), affine), "kidney_right.* found 0"),
    "unknown": (lambda array, affine: (np.where(array == 300, 301, array), affine), "others on plane 1"),
    "moved": (lambda array, affine: (array, affine + np.eye(4)[:, [3, 0, 1, 2]] * 0.01), "the grid of the mask"),
    "mirrored affine": (lambda array, affine: (array, np.diag([-1.0, 1, 1, 1]) @ affine), "the grid of the mask"),
    "cut": (lambda array, affine: (array[:-1], affine), r"\(12, 9, 7\), found"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_caught(tmp_path: Path, wrong: str) -> None:
    labels = mask()
    change, said = WRONG[wrong]
    array, affine = change(labels.array, labels.affine.copy())
    affine[3] = [0, 0, 0, 1]
    nib.save(nib.Nifti1Image(array.astype(np.uint16), affine), tmp_path / "mask.nii.gz")
    with pytest.raises(ProofError, match=said):
        prove_label_map(tmp_path / "mask.nii.gz", labels)


def test_forms_that_disagree_and_damage_are_caught(tmp_path: Path) -> None:
    labels, path = mask(np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "mask.nii"
    write_nifti(path, labels)
    image = nib.load(path)
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    image.set_qform(np.diag([-1.0, 1.0, 2.0, 1.0]), code=1)
    nib.save(image, tmp_path / "other.nii")
    with pytest.raises(ProofError, match="a qform that agrees"):
        prove_label_map(tmp_path / "other.nii", labels)
    write_nifti(tmp_path / "cut.nii.gz", labels)
    content = (tmp_path / "cut.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[:-30])
    for name in ("cut.nii.gz", "none.nii.gz"):
        with pytest.raises(ProofError, match="a whole file"):
            prove_label_map(tmp_path / name, labels)
