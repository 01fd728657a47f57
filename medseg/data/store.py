"""Cases preprocessed once and kept on disk, memory-mapped: reading a patch costs the patch, not the volume.

A case is a folder named by a hash of the case's files, its labels and the preprocessing, with ``image.npy``
(C, i, j, k), ``label.npy`` (class indices i, j, k), ``voxels.npy`` (n, 4: class, i, j, k) and ``case.json``,
which is written last. A changed file or setting gives another name, so that nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.manifest import Case
from medseg.data.preprocessing import Preprocessing
from medseg.data.transforms import Prepared, build_transforms, check_same_grid, prepare
from medseg.errors import ManifestError
from medseg.files import atomic_path, write_text
from medseg.labels import LabelSet
from medseg.nifti import read_nifti
from medseg.volume import Grid, Volume, smallest_unsigned

MAX_VOXELS_A_CLASS = 10_000
_LAYOUT_VERSION = 1
_MARKER = "case.json"


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case on disk.

    Args:
        id: The case's id in the manifest.
        folder: Where its files are.
    """

    id: str
    folder: Path

    @property
    def image(self) -> NDArray[np.float32]:
        """The image (C, i, j, k), memory-mapped anew: a process may not keep a map open for every case."""
        image: NDArray[np.float32] = np.load(self.folder / "image.npy", mmap_mode="r")
        return image

    @property
    def label(self) -> NDArray[np.integer[Any]]:
        """Class indices (i, j, k), memory-mapped anew."""
        label: NDArray[np.integer[Any]] = np.load(self.folder / "label.npy", mmap_mode="r")
        return label

    @cached_property
    def grid(self) -> Grid:
        """Where the preprocessed voxels lie in the patient."""
        affine = np.array(json.loads((self.folder / _MARKER).read_text())["affine"])
        return Grid(self.shape, affine)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Size of the preprocessed case."""
        i, j, k = self.label.shape
        return i, j, k

    @property
    def _voxels(self) -> NDArray[np.int32]:
        voxels: NDArray[np.int32] = np.load(self.folder / "voxels.npy", mmap_mode="r")
        return voxels

    @cached_property
    def _spans(self) -> dict[int, slice]:
        """The rows of each class in the list of voxels, which is ordered by class."""
        classes, first, count = np.unique(self._voxels[:, 0], return_index=True, return_counts=True)
        return {int(c): slice(int(a), int(a + n)) for c, a, n in zip(classes, first, count, strict=True)}

    @cached_property
    def classes(self) -> NDArray[np.int32]:
        """The foreground classes that are present."""
        return np.array(list(self._spans), dtype=np.int32)

    def voxels_of(self, class_index: int) -> NDArray[np.int32]:
        """Return at most 10,000 voxel indices (n, 3) of one class, memory-mapped."""
        return self._voxels[self._spans.get(class_index, slice(0)), 1:]

    def patch(self, corner: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Copy a patch; what reaches outside the case is 0, the mean and the background.

        Args:
            corner: First voxel (i, j, k); may be negative.
            size: Voxels along (i, j, k).

        Returns:
            Image float32 (C, *size) and class indices int64 (*size).
        """
        stored_image, stored_label = self.image, self.label
        image = torch.zeros((stored_image.shape[0], *size))
        label = torch.zeros(tuple(size), dtype=torch.int64)
        spans = [
            (max(c, 0), max(c, 0, min(c + s, n))) for c, s, n in zip(corner, size, self.shape, strict=True)
        ]  # first voxel and the one after the last; empty where the patch lies outside
        source = tuple(slice(first, end) for first, end in spans)
        target = tuple(slice(first - c, end - c) for (first, end), c in zip(spans, corner, strict=True))
        image[(slice(None), *target)] = torch.from_numpy(np.array(stored_image[(slice(None), *source)]))
        label[target] = torch.from_numpy(stored_label[source].astype(np.int64))
        return image, label

    def whole(self) -> Prepared:
        """Return the whole case in memory."""
        return Prepared(
            torch.from_numpy(np.array(self.image)), self.grid, torch.from_numpy(self.label.astype(np.int64))
        )


def read_case(case: Case) -> tuple[list[Volume], Volume]:
    """Read the images and the label of a case that has one.

    Raises:
        NiftiError: A file cannot be read.
        GridError: The files do not lie on one grid.
        ManifestError: The case has no label.
    """
    if case.label is None:
        raise ManifestError(case.id, expected="a label", found="none", remedy="leave the case out of the folds")
    images = [read_nifti(path) for path in case.images]
    label = read_nifti(case.label)
    for volume in (*images[1:], label):
        check_same_grid(images[0], volume)
    return images, label


def build_store(
    folder: Path,
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    labels: LabelSet,
    advance: Callable[[int, int], None] | None = None,
) -> list[StoredCase]:
    """Preprocess every case that is not in the folder yet.

    Args:
        folder: Of the store; may hold the cases of other settings too.
        cases: Labelled cases.
        preprocessing: Complete.
        labels: Turn label values into class indices; values that are not in the set are refused.
        advance: Called with (cases done, cases in all).

    Raises:
        InputError: A case cannot be read, or its label holds unknown values.
        StorageError: The disk is full.
    """
    stored = []
    transforms = build_transforms(preprocessing, len(cases[0].images) if cases else 1)
    for number, case in enumerate(cases):
        target = StoredCase(case.id, folder / _key(case, preprocessing, labels))
        if not (target.folder / _MARKER).is_file():
            images, label = read_case(case)
            classes = _class_indices(label, labels, case)
            _write(target, prepare(transforms, images, classes))
        stored.append(target)
        if advance:
            advance(number + 1, len(cases))
    return stored


def _class_indices(label: Volume, labels: LabelSet, case: Case) -> Volume:
    unknown = labels.unknown_values(label.array)
    if unknown:
        raise ManifestError(
            case.label,
            expected=f"the values 0, {', '.join(map(str, labels.indices))}",
            found=f"also {', '.join(f'{value:g}' for value in unknown[:5])}",
            remedy="add them to the manifest's labels, or correct the label map",
        )
    classes = np.searchsorted(labels.channel_values, label.array)
    return Volume(classes.astype(smallest_unsigned(len(labels))), label.affine, source=label.source)


def _write(case: StoredCase, prepared: Prepared) -> None:
    if prepared.label is None:
        raise ValueError("a stored case has a label")
    classes = prepared.label.numpy()
    arrays = {
        "image.npy": prepared.image.numpy(),
        "label.npy": classes.astype(smallest_unsigned(int(classes.max()))),
        "voxels.npy": _sample_voxels(classes),
    }
    for name, array in arrays.items():
        with atomic_path(case.folder / name) as temporary, temporary.open("wb") as stream:
            np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    write_text(case.folder / _MARKER, json.dumps({"id": case.id, "affine": prepared.grid.affine.tolist()}))


def _sample_voxels(classes: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Return (n, 4): class, i, j, k of at most 10,000 random voxels of each foreground class."""
    rng = np.random.default_rng(0)
    rows = [np.empty((0, 4), dtype=np.int32)]
    for index in np.unique(classes[classes > 0]):
        voxels = np.argwhere(classes == index)
        if len(voxels) > MAX_VOXELS_A_CLASS:
            voxels = voxels[rng.choice(len(voxels), MAX_VOXELS_A_CLASS, replace=False)]
        rows.append(np.column_stack((np.full(len(voxels), index), voxels)).astype(np.int32))
    return np.concatenate(rows)


def _key(case: Case, preprocessing: Preprocessing, labels: LabelSet) -> str:
    """Hash what a stored case is made from; files by size and time of change."""
    files = [path for path in (*case.images, case.label) if path is not None]
    facts = {
        "layout": _LAYOUT_VERSION,
        "files": [[str(path), *_stamp(path)] for path in files],
        "preprocessing": preprocessing.model_dump(mode="json"),
        "labels": labels.indices,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _stamp(path: Path) -> tuple[int, int]:
    if not path.is_file():
        return 0, 0
    status = path.stat()
    return status.st_size, status.st_mtime_ns
