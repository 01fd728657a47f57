"""A preprocessed case on disk, memory-mapped: reading a patch costs the patch, not the volume.

It is a folder with ``image.npy`` (float16 or float32; C, k, j, i), ``label.npy`` (class indices; k, j, i),
``voxels.npy`` (uint32: places in the flattened label, one class after the other) and ``case.json`` (id, affine,
which channels the case has, how many voxels of each class are listed); in a cascade also ``coarse.npy`` (label
values of the first stage; k, j, i). The last axis of a volume comes first, so that its slices lie together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.transforms import Prepared
from medseg.volume import Grid, smallest_unsigned

MAX_VOXELS_A_CLASS = 10_000
StoreDtype = Literal["float16", "float32"]

_IMAGE, _LABEL, _VOXELS, _FACTS = "image.npy", "label.npy", "voxels.npy", "case.json"
_COARSE = "coarse.npy"
_VOXELS_FOR_ONE_LISTED = {"float16": 8, "float32": 125}  # lists of half a byte a voxel, or 0.032, at most


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
    def is_whole(self) -> bool:
        """Whether all its files are there."""
        if not all((self.folder / name).is_file() for name in (_IMAGE, _LABEL, _VOXELS, _FACTS)):
            return False
        return not self._has_coarse or (self.folder / _COARSE).is_file()

    @property
    def image(self) -> NDArray[np.floating[Any]]:
        """The image (C, i, j, k), memory-mapped anew: a process may not keep a map open for every case."""
        image: NDArray[np.floating[Any]] = np.load(self.folder / _IMAGE, mmap_mode="r", allow_pickle=False)
        return image.transpose(0, 3, 2, 1)

    @property
    def label(self) -> NDArray[np.unsignedinteger[Any]]:
        """Class indices (i, j, k), memory-mapped anew."""
        label: NDArray[np.unsignedinteger[Any]] = np.load(self.folder / _LABEL, mmap_mode="r", allow_pickle=False)
        return label.transpose(2, 1, 0)

    @cached_property
    def grid(self) -> Grid:
        """Where the preprocessed voxels lie in the patient."""
        return Grid(self.shape, np.array(self._facts["affine"]))

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Size of the preprocessed case."""
        i, j, k = self.label.shape
        return i, j, k

    @cached_property
    def present(self) -> tuple[bool, ...]:
        """Which channels the case has; the others are 0."""
        return tuple(self._facts["present"])

    @cached_property
    def classes(self) -> NDArray[np.int32]:
        """The foreground classes that are present, without that of ignored voxels."""
        return np.array([index for index in self._spans if index], dtype=np.int32)

    @cached_property
    def has_ignored(self) -> bool:
        """Whether there are voxels that nobody judged; if so, `voxels_of` class 0 gives some that somebody did.

        It gives none where nobody judged any.
        """
        return 0 in self._spans

    def voxels_of(self, class_index: int) -> NDArray[np.int64]:
        """Return some voxels (n, 3) of one class.

        They are at most 10,000, and those of all classes together at most an eighth of the case's voxels, or one in
        125 where the image is in float32.
        """
        listed = np.load(self.folder / _VOXELS, mmap_mode="r", allow_pickle=False)
        places = listed[self._spans.get(class_index, slice(0))]
        return np.stack(np.unravel_index(places, self.shape, order="F"), axis=-1)

    def patch(self, corner: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Copy a patch; what reaches outside the case is 0, the mean and the background.

        Args:
            corner: First voxel (i, j, k); may be negative.
            size: Voxels along (i, j, k).

        Returns:
            Image float32 (C, *size) and class indices int64 (*size). In a cascade the image has one more channel,
            the label values of the first stage; see `medseg.data.coarse.with_masks`.
        """
        spans = [
            (max(c, 0), max(c, 0, min(c + s, n))) for c, s, n in zip(corner, size, self.shape, strict=True)
        ]  # first voxel and the one after the last; empty where the patch lies outside
        target = tuple(slice(first - c, end - c) for (first, end), c in zip(spans, corner, strict=True))
        read_image, read_label = (_read_box(self.folder / name, spans[::-1]) for name in (_IMAGE, _LABEL))
        image = torch.zeros((len(read_image) + self._has_coarse, *size))
        label = torch.zeros(tuple(size), dtype=torch.int64)
        # turned round while a voxel still has few bytes
        channels = slice(len(read_image))
        image[(channels, *target)] = torch.from_numpy(np.ascontiguousarray(read_image.transpose(0, 3, 2, 1)))
        if self._has_coarse:
            read_coarse = _read_box(self.folder / _COARSE, spans[::-1])
            image[-1][target] = torch.from_numpy(read_coarse.T.astype(np.float32))
        label[target] = torch.from_numpy(np.ascontiguousarray(read_label.T))
        return image, label

    def whole(self) -> Prepared:
        """Return the whole case in memory."""
        return Prepared(
            torch.from_numpy(np.array(self.image)).float(),
            self.grid,
            torch.from_numpy(self.label.astype(np.int64)),
            None if all(self.present) else self.present,
            self._whole_coarse(),
        )

    @cached_property
    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / _FACTS).read_text(encoding="utf-8"))
        return facts

    def _whole_coarse(self) -> Tensor | None:
        if not self._has_coarse:
            return None
        return torch.from_numpy(np.load(self.folder / _COARSE, allow_pickle=False).T.astype(np.int64))

    @property
    def _has_coarse(self) -> bool:
        return bool(self._facts.get("coarse"))

    @cached_property
    def _spans(self) -> dict[int, slice]:
        """Where the voxels of each class stand in the list."""
        counts = [(int(index), int(count)) for index, count in self._facts["listed"]]
        ends = accumulate(count for _, count in counts)
        return {index: slice(end - count, end) for (index, count), end in zip(counts, ends, strict=True)}


def write_case(
    case: StoredCase, prepared: Prepared, dtype: StoreDtype = "float16", ignore_index: int | None = None
) -> None:
    """Write a case into its folder, which is there and empty, and flush it to disk.

    Args:
        case: What to write.
        prepared: With class indices as its label.
        dtype: Of the image; float32 is taken where a value is beyond float16.
        ignore_index: Class index of the voxels that nobody judged.

    Raises:
        OSError: It cannot be written.
        ValueError: There is no label.
    """
    if prepared.label is None:
        raise ValueError("a stored case has a label")
    labels = prepared.label.permute(2, 1, 0).numpy()
    classes = np.ascontiguousarray(labels, dtype=smallest_unsigned(int(labels.max())))
    image = np.ascontiguousarray(_in_dtype(prepared.image, dtype).permute(0, 3, 2, 1).numpy())
    listed = list_voxels(classes, ignore_index, for_one=_VOXELS_FOR_ONE_LISTED[image.dtype.name])
    arrays = {
        _IMAGE: image,
        _LABEL: classes,
        _VOXELS: np.concatenate([np.empty(0, np.uint32), *listed.values()]),
    }
    if prepared.coarse is not None:
        coarse = prepared.coarse.permute(2, 1, 0).numpy()
        arrays[_COARSE] = np.ascontiguousarray(coarse, dtype=smallest_unsigned(int(coarse.max())))
    for name, array in arrays.items():
        with _flushed(case.folder / name) as stream:
            np.save(stream, array, allow_pickle=False)
    facts = {
        "id": case.id,
        "affine": prepared.grid.affine.tolist(),
        "present": prepared.present or [True] * len(prepared.image),
        "listed": [[index, len(places)] for index, places in listed.items()],
        "coarse": _COARSE in arrays,
    }
    with _flushed(case.folder / _FACTS) as stream:
        stream.write(json.dumps(facts).encode())


def list_voxels(
    classes: NDArray[np.unsignedinteger[Any]], ignore_index: int | None = None, *, for_one: int = 8
) -> dict[int, NDArray[np.uint32]]:
    """Choose voxels of each foreground class that is present, the same ones every time.

    Args:
        classes: Class indices, contiguous in C order.
        ignore_index: Class index of the voxels that nobody judged; where there are some, voxels that somebody did
            judge are listed as class 0.
        for_one: Voxels of the case for each one that may be listed.

    Returns:
        Ascending places in the flattened array by class: all of them, or a random choice of 10,000, or fewer
        where all lists would exceed their share of the voxels; at least one of each class.
    """
    rng = np.random.default_rng(0)
    flat = classes.reshape(-1)
    foreground = np.flatnonzero(flat).astype(np.uint32)
    values = flat[foreground]
    present = np.unique(values).tolist()
    has_ignored = ignore_index in present
    lists = [0, *(index for index in present if index != ignore_index)] if has_ignored else present
    most = max(1, min(MAX_VOXELS_A_CLASS, flat.size // for_one // max(len(lists), 1)))
    listed = {}
    for index in lists:
        places = foreground[values == index] if index else np.flatnonzero(flat != ignore_index).astype(np.uint32)
        if len(places) > most:
            places = np.sort(places[rng.choice(len(places), most, replace=False, shuffle=False)])
        listed[int(index)] = places
    return listed


def stored_bytes(voxels: int, channels: int, classes: int, dtype: StoreDtype) -> int:
    """Return about how many bytes a case takes on disk, at most.

    Args:
        voxels: Of the preprocessed case.
        channels: Image channels.
        classes: Foreground classes.
        dtype: Of the image.
    """
    listed = min(voxels // _VOXELS_FOR_ONE_LISTED[dtype], classes * MAX_VOXELS_A_CLASS)
    a_voxel = channels * np.dtype(dtype).itemsize + np.dtype(smallest_unsigned(classes)).itemsize
    return voxels * a_voxel + 4 * listed


def _read_box(path: Path, spans: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Read a box of the last three axes of a .npy file, and all of an axis before them.

    It takes one read of whole rows for each slice: a map would have the disk read much more around them.
    """
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
        (first, end), (top, bottom), (left, right) = spans
        box = np.empty((*shape[:-3], end - first, bottom - top, right - left), dtype)
        for channel, slices in enumerate(box if box.ndim == 4 else box[None]):
            for number, rows in enumerate(slices, start=channel * shape[-3] + first):
                stream.seek(start + (number * shape[-2] + top) * shape[-1] * dtype.itemsize)
                read = stream.read((bottom - top) * shape[-1] * dtype.itemsize)
                rows[...] = np.frombuffer(read, dtype).reshape(bottom - top, shape[-1])[:, left:right]
    return box


@contextmanager
def _flushed(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _in_dtype(image: Tensor, dtype: StoreDtype) -> Tensor:
    values, most = image.numpy(), torch.finfo(torch.float16).max
    if dtype == "float32" or values.max() > most or values.min() < -most:
        return image
    return image.half()
