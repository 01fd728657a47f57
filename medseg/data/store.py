"""Cases preprocessed once, in parallel, and kept on disk.

Each case is a folder, as `medseg.data.stored` describes, named by a hash of the case's files, its labels and the
preprocessing: a changed file or setting gives another name, so that nothing stale is ever read. A folder is
written under a temporary name and renamed, so that several processes can build one store, and one that was
killed is completed by the next.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.data.channels import present_volumes
from medseg.data.coarse import read_coarse
from medseg.data.digest import digest_facts
from medseg.data.manifest import Case
from medseg.data.preprocessing import Preprocessing
from medseg.data.space import bytes_of, expected_bytes, full_disk, require_space
from medseg.data.stored import MAX_VOXELS_A_CLASS, StoredCase, StoreDtype, write_case
from medseg.data.transforms import build_transforms, check_same_grid, prepare
from medseg.errors import ManifestError, StorageError
from medseg.files import storage_error
from medseg.labels import LabelSet
from medseg.nifti import read_nifti
from medseg.threads import map_threads
from medseg.volume import Volume, smallest_unsigned

__all__ = ["MAX_VOXELS_A_CLASS", "StoreDtype", "StoredCase", "build_store", "file_stamp", "read_case"]

_LAYOUT_VERSION = 3
_LEFT_OVER_S = 3600.0  # no case takes as long to write
_FULL = (errno.ENOSPC, errno.EDQUOT)


def read_case(case: Case) -> tuple[list[Volume | None], Volume]:
    """Read the images of a case, None for a channel that it has not, and the label that it must have.

    Raises:
        NiftiError: A file cannot be read.
        GridError: The files do not lie on one grid.
        ManifestError: The case has no label.
    """
    if case.label is None:
        raise ManifestError(case.id, expected="a label", found="none", remedy="leave the case out of the folds")
    images = [None if path is None else read_nifti(path) for path in case.images]
    label = read_nifti(case.label)
    first, *others = present_volumes(images)
    for volume in (*others, label):
        check_same_grid(first, volume)
    return images, label


def build_store(
    folder: Path,
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    labels: LabelSet,
    advance: Callable[[int, int], None] | None = None,
    *,
    dtype: StoreDtype = "float16",
    ignore_value: int | None = None,
) -> list[StoredCase]:
    """Preprocess every case that is not in the folder yet, at most 4 at a time.

    Several processes may build one store at once. Each ends with every case; of a case that two of them have
    made, one is kept.

    Args:
        folder: Of the store; may hold the cases of other settings too.
        cases: Labelled cases.
        preprocessing: Complete.
        labels: Turn label values into class indices; values that are not in the set are refused.
        advance: Called with (cases done, cases in all).
        dtype: Of the images; a case with a value beyond float16 is kept in float32.
        ignore_value: Label value of the voxels that nobody judged.

    Raises:
        InputError: A case cannot be read, or its label holds unknown values.
        StorageError: The disk is full, or would be. What was stored before is kept, and nothing half-written.
    """
    builder = _Builder(folder, preprocessing, labels, dtype, ignore_value)
    _remove_left_over(folder)
    stored = [builder.target(case) for case in cases]
    missing = [case for case, target in zip(cases, stored, strict=True) if not target.is_whole]
    needed = builder.bytes_of(missing)
    if not preprocessing.crops:
        require_space(folder, needed, len(missing))
    elif missing:  # the first case shows what the crop leaves
        builder.build(missing[0])
        left = bytes_of(builder.target(missing[0]).folder) / max(builder.bytes_of(missing[:1]), 1)
        require_space(folder, round(left * builder.bytes_of(missing[1:])), len(missing) - 1)
    try:
        map_threads(builder.build, cases, advance)
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            left_out = [case for case in missing if not builder.target(case).is_whole]
            room = builder.bytes_of(left_out)
            raise full_disk(folder, room, len(left_out), "the disk is full") from error
        raise
    return stored


@dataclass(frozen=True)
class _Builder:
    """Turns cases into stored cases."""

    folder: Path
    preprocessing: Preprocessing
    labels: LabelSet
    dtype: StoreDtype
    ignore_value: int | None = None

    def target(self, case: Case) -> StoredCase:
        """Say where a case is stored: under a hash of what it is made from, files by size and time of change."""
        facts = {
            "layout": _LAYOUT_VERSION,
            "files": file_stamp(case),
            "preprocessing": digest_facts(self.preprocessing),
            "labels": self.labels.indices,
            "ignore_value": self.ignore_value,
            "dtype": self.dtype,
        }
        if case.coarse is not None:
            facts["coarse"] = _stamp(case.coarse)
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
        return StoredCase(case.id, self.folder / key)

    def build(self, case: Case) -> StoredCase:
        """Preprocess and write a case unless it is there by now."""
        target = self.target(case)
        if not target.is_whole:
            images, label = read_case(case)
            classes = _class_indices(label, self.labels, case, self.ignore_value)
            ignore_index = None if self.ignore_value is None else self.labels.ignore_index
            transforms = build_transforms(self.preprocessing, len(images))
            prepared = prepare(transforms, images, classes, read_coarse(case))
            with _new_folder(target) as temporary:
                write_case(StoredCase(case.id, temporary), prepared, self.dtype, ignore_index)
        return target

    def bytes_of(self, cases: Sequence[Case]) -> int:
        """Return about how many bytes cases take, at most, without a crop."""
        return sum(expected_bytes(case, self.preprocessing, len(self.labels), self.dtype) for case in cases)


def file_stamp(case: Case) -> list[tuple[str, int, int]]:
    """Return (path, bytes, time of change in ns) of a case's files, zeros for one that is not there."""
    return [_stamp(path) for path in (*case.images, case.label)]


def _stamp(path: Path | None) -> tuple[str, int, int]:
    status = path.stat() if path is not None and path.is_file() else None
    return str(path or ""), status.st_size if status else 0, status.st_mtime_ns if status else 0


def _class_indices(label: Volume, labels: LabelSet, case: Case, ignore_value: int | None) -> Volume:
    slices = [label.array[..., k] for k in range(label.array.shape[2])]  # one at a time: less memory
    unknown = np.unique([value for one in slices for value in labels.unknown_values(one, ignore_value)])
    if unknown.size:
        raise ManifestError(
            case.label,
            expected=f"the values {', '.join(map(str, labels.class_values(ignore_value)))}",
            found=f"also {', '.join(f'{value:g}' for value in unknown[:5])}",
            remedy="add them to the manifest's labels, or correct the label map",
        )
    classes = np.empty(label.array.shape, smallest_unsigned(labels.ignore_index), order="F")
    for k, one in enumerate(slices):
        classes[..., k] = labels.class_indices(one, ignore_value)
    return Volume(classes, label.affine, source=label.source)


@contextmanager
def _new_folder(target: StoredCase) -> Iterator[Path]:
    """Give a temporary folder beside the target; on success it is renamed, unless another process was first.

    Raises:
        StorageError: It cannot be written. Nothing is left behind.
    """
    owner = f"{os.getpid()}@{platform.node()}"
    temporary = target.folder.with_name(f".{secrets.token_hex(4)}.{owner}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.folder.exists() and not target.is_whole:
            shutil.rmtree(target.folder)  # a file of it was deleted
        try:
            temporary.rename(target.folder)
        except OSError:
            if not target.is_whole:
                raise
    except OSError as error:
        raise storage_error(target.folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_left_over(folder: Path) -> None:
    """Remove temporary folders of processes that were killed."""
    for temporary in folder.glob(".*.*@*"):
        pid, _, host = temporary.name.split(".", 2)[2].partition("@")
        gone = host == platform.node() and pid.isdigit() and not _is_running(int(pid))
        with suppress(FileNotFoundError):
            if gone or time.time() - temporary.stat().st_mtime > _LEFT_OVER_S:
                shutil.rmtree(temporary, ignore_errors=True)


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # elsewhere signal 0 ends the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
