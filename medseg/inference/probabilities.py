"""Probabilities of all classes or regions on the image's own grid, streamed to one HDF5 file.

The file holds one data set, ``probabilities``: float16, in compressed chunks of one class each. Its axes are the
class and the three of the image, in the order that its attribute ``axes`` says: mostly c, k, j, i, the one from
foot to head first. Its other attributes are those of
`medseg.inference.saved.Probabilities`, which reads it back. Any program that reads HDF5 reads it.

They come block by block, so that neither memory nor the size on disk grows as a whole float array would: most
probabilities are 0 or 1 in float16, and compress to next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.files import atomic_path
from medseg.inference.blocks import Place, Sink
from medseg.inference.saved import AXES, DATASET, FACTS, require_hdf5
from medseg.inference.steady import SteadyFile, steady_file
from medseg.model import ModelPackage
from medseg.volume import Grid

BACKGROUND = "background"

_CHUNK = 64  # voxels along an axis, but for the one that blocks come along
_MOST_PLANES = 16
_LAYER_BYTES = 128 << 20  # of a layer of chunks; two are in memory, as blocks need not end where chunks do
_SLOTS = 100_003  # of the table of these chunks: a prime, far above their number


@contextmanager
def saving_probabilities(target: Path | None, package: ModelPackage, native: Grid) -> Iterator[Sink | None]:
    """Give what `medseg.inference.label_on_grid` hands logits to; when all is done the file gets its name.

    Voxels that no block covers are background: its probability is 1 there, those of regions are 0.

    Args:
        target: The file; nothing is saved if None.
        package: The model.
        native: The image's grid.

    Yields:
        The sink, or None where there is no target.

    Raises:
        UsageError: h5py is not installed; the extra [probabilities] has it.
        StorageError: The file cannot be written. Nothing is left behind.
    """
    if target is None:
        yield None
        return
    h5py = require_hdf5()
    names = _names(package)
    order = _order_in(native)
    shape = [native.shape[axis] for axis in order]
    chunk, _ = _chunk(len(names), shape)
    whole_first = 1.0  # chunks that are written to their end leave the cache before others
    cache = {"rdcc_nbytes": cache_bytes(package, native), "rdcc_nslots": _SLOTS, "rdcc_w0": whole_first}
    with (
        atomic_path(target) as temporary,
        steady_file(temporary) as stream,
        h5py.File(stream, "w", **cache) as file,
    ):
        dataset = file.create_dataset(
            DATASET,
            (len(names), *shape),
            np.float16,
            chunks=(1, *chunk),
            compression="gzip",
            compression_opts=1,
            shuffle=True,
            fillvalue=0,
        )
        dataset.attrs.update(_facts(package, names, native, order))
        if not package.regions:
            _fill(dataset, chunk)
        yield _Writer(dataset, order, stream, regions=bool(package.regions))


def cache_bytes(package: ModelPackage, native: Grid) -> int:
    """Return the bytes that a file takes in memory while it is written: two layers of chunks.

    Args:
        package: The model.
        native: The image's grid.
    """
    return 2 * _chunk(len(_names(package)), [native.shape[axis] for axis in _order_in(native)])[1]


def shifted(sink: Sink | None, box: Place | None) -> Sink | None:
    """Return a sink for the blocks of a box of the image, their places counted from the box's first voxel."""
    if sink is None or box is None:
        return sink
    whole: Sink = sink
    first = [side.start or 0 for side in box]

    def put(place: Place, logits: Tensor) -> None:
        i, j, k = (slice(s.start + n, s.stop + n) for s, n in zip(place, first, strict=True))
        whole((i, j, k), logits)

    return put


@dataclass(frozen=True, eq=False)
class _Writer:
    """Turns logits into probabilities and puts them in their place."""

    dataset: Any
    order: Sequence[int]
    stream: SteadyFile
    regions: bool

    def __call__(self, place: Place, logits: Tensor) -> None:
        """Write the probabilities of a block.

        Args:
            place: Of the block, along i, j, k.
            logits: (K, *voxels).

        Raises:
            OSError: The disk is full, for example.
        """
        values = logits.sigmoid() if self.regions else logits.softmax(dim=0)
        values = values.to(torch.float16).permute(0, *(axis + 1 for axis in self.order)).contiguous()
        self.dataset[(slice(None), *(place[axis] for axis in self.order))] = values.cpu().numpy()
        self.stream.check()


def _names(package: ModelPackage) -> tuple[str, ...]:
    if package.regions:
        return tuple(region.name for region in package.regions)
    return BACKGROUND, *(label.name for label in package.labels)


def _order_in(native: Grid) -> tuple[int, ...]:
    """Return the axes of an image as a file has them: first the one from foot to head, as blocks come."""
    along = int(np.argmax(np.abs(native.affine[2, :3]) / native.spacing_mm))
    return (along, *(axis for axis in (2, 1, 0) if axis != along))


def _facts(package: ModelPackage, names: Sequence[str], native: Grid, order: Sequence[int]) -> dict[str, Any]:
    values = (
        ["c", *(AXES[axis] for axis in order)],
        list(names),
        native.affine,
        bool(package.regions),
        package.name,
        sorted(package.weights_sha256.values()),
    )
    return dict(zip(FACTS, values, strict=True))


def _chunk(channels: int, shape: Sequence[int]) -> tuple[tuple[int, int, int], int]:
    """Return a chunk's voxels and the bytes of a layer of chunks, of all channels.

    A chunk is thin along the first axis, as blocks are, so that a layer is small.
    """
    rows, columns = (min(_CHUNK, size) for size in shape[1:])
    plane_bytes = 2 * channels * (-(-shape[1] // rows) * rows) * (-(-shape[2] // columns) * columns)
    planes = max(1, min(_MOST_PLANES, shape[0], _LAYER_BYTES // plane_bytes))
    return (planes, rows, columns), planes * plane_bytes


def _fill(dataset: Any, chunk: Sequence[int]) -> None:
    """Write ones for the background, a layer of chunks after the other."""
    ones = np.ones((chunk[0], *dataset.shape[2:]), dtype=np.float16)  # h5py writes a single number row by row
    for start in range(0, dataset.shape[1], chunk[0]):
        dataset[0, start : start + chunk[0]] = ones[: dataset.shape[1] - start]
