"""Volumes between processes: raw files in a scratch folder, mapped into memory; no /dev/shm is needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.batch.owner import is_gone, this_process
from medseg.files import make_folder, storage_error
from medseg.findings import Finding
from medseg.volume import Affine, SourceSlice, Volume

_PREFIX = ".medseg-scratch"


@dataclass(frozen=True)
class Parked:
    """A volume whose voxels lie in a file, i fastest.

    Attributes:
        path: The file.
        dtype: Of the voxels, as numpy writes it.
        shape: (i, j, k).
        affine: 4x4, voxel index to RAS+ mm.
        modality: As of `Volume`, and so are the next three.
    """

    path: Path
    dtype: str
    shape: tuple[int, int, int]
    affine: Affine
    modality: str | None
    source: str
    findings: tuple[Finding, ...]
    slices: tuple[SourceSlice, ...] = field(repr=False)

    def volume(self) -> Volume:
        """Return the volume, its voxels mapped: changes are not written to the file."""
        array = np.memmap(self.path, dtype=self.dtype, mode="c", shape=self.shape, order="F")
        return Volume(array.view(np.ndarray), self.affine, self.modality, self.source, self.findings, self.slices)

    def drop(self) -> None:
        """Delete the file; who has mapped it keeps the voxels."""
        with suppress(OSError):
            self.path.unlink()


def park(volume: Volume, path: Path) -> Parked:
    """Write the voxels of a volume to a file; it is not flushed to the disk, as nobody needs it after a crash.

    Raises:
        StorageError: It cannot be written.
    """
    array = volume.array
    try:
        with path.open("wb") as stream:
            for k in range(array.shape[2]):
                stream.write(array[:, :, k].tobytes(order="F"))
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise storage_error(path, error) from error
    return Parked(
        path,
        array.dtype.str,
        volume.grid.shape,
        volume.affine,
        volume.modality,
        volume.source,
        volume.findings,
        volume.slices,
    )


@contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """Give a folder of this process's own in the output folder, removed at the end; abandoned ones are removed now.

    Raises:
        StorageError: It cannot be made.
    """
    for left in output.glob(f"{_PREFIX}-*"):
        if is_gone(_owner_of(left)):
            shutil.rmtree(left, ignore_errors=True)
    folder = make_folder(output / f"{_PREFIX}-{this_process().replace(':', '-')}")
    try:
        try:
            (folder / "owner").write_text(this_process(), encoding="utf-8")
        except OSError as error:
            raise storage_error(folder, error) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def study_folder(scratch: Path, key: str) -> Path:
    """Return the folder of a study within a scratch folder, made where it is not there; see `forget_study`.

    Raises:
        StorageError: It cannot be made.
    """
    try:
        (scratch / key).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(scratch, error) from error
    return scratch / key


def forget_study(scratch: Path, key: str) -> None:
    """Delete all that a study has left in a scratch folder, also that of a process that was killed."""
    shutil.rmtree(scratch / key, ignore_errors=True)


def _owner_of(folder: Path) -> str:
    try:
        return (folder / "owner").read_text(encoding="utf-8")
    except OSError:
        return ""
