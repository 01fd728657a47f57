"""The file of probabilities, read back: see `medseg.inference.probabilities`. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import InputError
from medseg.extras import import_extra
from medseg.nifti import case_name
from medseg.volume import Grid

Values = NDArray[np.float16]
Place = tuple[slice, slice, slice]

SUFFIX = ".probabilities.h5"
DATASET = "probabilities"
AXES = ("i", "j", "k")
FACTS = ("axes", "names", "affine_ras_mm", "regions", "model", "weights_sha256")
"""Attributes of the data set."""

_EVERYWHERE = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Probabilities:
    """The probabilities of one image; their numbers stay in the file until they are asked for.

    Attributes:
        path: The file.
        names: What each channel is: background and the labels, whose probabilities have the sum 1, or the regions.
        grid: Of the image.
        regions: Whether channels are regions, each with a probability of its own (sigmoid, not softmax).
        model: Name of the model package.
        weights_sha256: Of its weights.
    """

    path: Path
    names: tuple[str, ...]
    grid: Grid
    regions: bool
    model: str
    weights_sha256: tuple[str, ...]

    def read(self, name: str | None = None, place: Place = _EVERYWHERE) -> Values:
        """Read a part.

        Args:
            name: Of a channel; all of them by default.
            place: Which voxels along i, j, k; all by default.

        Returns:
            float16 (*voxels) of one channel, or (c, *voxels).

        Raises:
            InputError: There is no channel of this name, or the file cannot be read.
        """
        if name is not None and name not in self.names:
            raise InputError(self.path, expected=", ".join(self.names), found=name, remedy="choose one of these")
        channel = slice(None) if name is None else self.names.index(name)
        with _opened(self.path) as dataset:
            order = _order(dataset)
            values = np.asarray(dataset[(channel, *(place[axis] for axis in order))], dtype=np.float16)
        back = [order.index(axis) for axis in range(3)]
        return values.transpose(back) if name is not None else values.transpose(0, *(axis + 1 for axis in back))


def read_probabilities(path: str | Path) -> Probabilities:
    """Open a file of probabilities; reads no more than what is said about them.

    Raises:
        InputError: It is not there, cannot be read, or is no such file.
        UsageError: h5py is not installed; the extra [probabilities] has it.
    """
    path = Path(path)
    with _opened(path) as dataset:
        facts = dataset.attrs
        i, j, k = (int(dataset.shape[1 + _order(dataset).index(axis)]) for axis in range(3))
        return Probabilities(
            path,
            names=tuple(str(name) for name in facts["names"]),
            grid=Grid((i, j, k), np.array(facts["affine_ras_mm"], dtype=np.float64)),
            regions=bool(facts["regions"]),
            model=str(facts["model"]),
            weights_sha256=tuple(str(checksum) for checksum in facts["weights_sha256"]),
        )


def probabilities_path(label_map: Path) -> Path:
    """Return where the probabilities of a label map lie: ``NAME.probabilities.h5`` beside ``NAME.nii.gz``."""
    return label_map.with_name(case_name(label_map) + SUFFIX)


def require_hdf5() -> Any:
    """Return the module h5py.

    Raises:
        UsageError: It is not installed; the extra [probabilities] has it.
    """
    return import_extra("h5py", feature="--save-probabilities", extra="probabilities")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the data set of a file for reading."""
    h5py = require_hdf5()
    wanted = "a file of probabilities that medseg segment --save-probabilities made"
    try:
        with h5py.File(path, "r") as file:
            if DATASET not in file or not set(FACTS) <= set(file[DATASET].attrs):
                raise InputError(path, expected=wanted, found="another HDF5 file", remedy="give its path")
            yield file[DATASET]
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise InputError(path, expected=wanted, found=found, remedy="give its path, or make it again") from error


def _order(dataset: Any) -> tuple[int, ...]:
    """Return which axis of the image each axis of a data set is, but for the first, the class."""
    return tuple(AXES.index(str(name)) for name in dataset.attrs["axes"][1:])
