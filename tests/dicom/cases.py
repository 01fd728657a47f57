"""Reading with the reader under test, and checking what it made of files against the law.

`check` is for volumes whose slices are those of the files, `check_interpolated` for those that were resampled along
their slices. Both are told by the files alone: positions, pixels and UIDs are read by pydicom.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from medseg.dicom.policy import Policies
from medseg.errors import DicomError
from medseg.reading import read_volumes
from medseg.volume import Volume
from tests.dicom.law import Frame, check_law, frames_of

NamedFrame = tuple[tuple[str, int], Frame]

LAW_VOXELS = 0.01 + 2e-6
"""The law's tolerance, and what positions of 1 % jitter are rounded by in their decimals."""


def read(path: Path, **policies: Any) -> tuple[list[Volume], list[str]]:
    """Return the volumes that are read, and the reason for each series that is refused."""
    refused: list[DicomError] = []
    try:
        volumes = read_volumes(path, None, Policies(**policies), refused=refused.append)
    except DicomError as error:
        return [], [e.reason for e in refused] or [error.reason]
    return volumes, [error.reason for error in refused]


def read_one(path: Path, **policies: Any) -> Volume:
    """Return the one volume of a path; nothing is refused."""
    volumes, refused = read(path, **policies)
    assert not refused
    assert len(volumes) == 1
    return volumes[0]


def reason(path: Path, **policies: Any) -> str:
    """Return why the only series of a path is refused."""
    volumes, refused = read(path, **policies)
    assert not volumes
    assert len(refused) == 1
    return refused[0]


def refusal(path: Path, **policies: Any) -> DicomError:
    """Return the error that refuses the only series of a path."""
    refused: list[DicomError] = []
    with pytest.raises(DicomError) as caught:
        read_volumes(path, None, Policies(**policies), refused=refused.append)
    assert [error.reason for error in refused] == [caught.value.reason]
    return refused[0]


def codes(volume: Volume) -> set[str]:
    """Return the codes of a volume's findings."""
    return {finding.code.value for finding in volume.findings}


def check(
    paths: Iterable[Path], volume: Volume, *, tolerance_voxels: float = LAW_VOXELS, samples: int = 300
) -> None:
    """Check the law, the type, the order in memory, and which slice is said to lie where."""
    frames = named_frames(paths)
    check_law([frame for _, frame in frames], volume, samples, tolerance_voxels=tolerance_voxels)
    check_form(volume)
    check_places(frames, volume, tolerance_voxels)
    assert [s.place for s in volume.slices] == list(range(volume.array.shape[2]))


def check_form(volume: Volume) -> None:
    """Check the type and the order in memory."""
    assert volume.array.dtype == np.float32
    assert volume.array.flags.f_contiguous


def check_places(frames: Sequence[NamedFrame], volume: Volume, tolerance_voxels: float = LAW_VOXELS) -> None:
    """Check that each slice of a volume is one of the frames, all are there, and each lies at its place."""
    names = [(s.sop_instance_uid, s.frame) for s in volume.slices]
    places = np.array([s.place for s in volume.slices])
    assert (np.diff(places) > 0).all()
    assert sorted(names) == sorted(name for name, _ in frames)
    if len(set(names)) < len(names):
        return  # real files without SOPInstanceUID
    by_name = dict(frames)
    positions = np.array([by_name[name].world_mm(np.array(0), np.array(0)) for name in names])
    expected = np.column_stack([np.zeros((len(names), 2)), places])
    assert np.abs(volume.grid.index(positions) - expected).max() <= tolerance_voxels


def check_parts(volumes: Sequence[Volume], groups: Iterable[Iterable[Path]], **law: Any) -> None:
    """Check that there is one volume for each group of files, and the law for each."""
    left = list(volumes)
    for group in groups:
        paths = list(group)
        uids = {sop_instance_uid(path) for path in paths}
        own = [volume for volume in left if {s.sop_instance_uid for s in volume.slices} == uids]
        assert len(own) == 1, f"{len(own)} volumes of {len(paths)} files; others have " + ", ".join(
            str(len(volume.slices)) for volume in left
        )
        check(paths, own[0], **law)
        left.remove(own[0])
    assert not left


def check_interpolated(paths: Iterable[Path], volume: Volume, *, tolerance_voxels: float = LAW_VOXELS) -> None:
    """Check every value against linear interpolation between the two slices around it, by brute force."""
    frames = named_frames(paths)
    check_form(volume)
    check_places(frames, volume, tolerance_voxels)
    expected = interpolated([frame for _, frame in frames], volume)
    assert np.abs(volume.array - expected).max() <= 1e-5 * np.abs(expected).max()


def interpolated(frames: Sequence[Frame], volume: Volume) -> NDArray[np.float64]:
    """Return what each slice of a volume must be, from where it lies along the normal of the frames."""
    normal = np.cross(*frames[0].directions) * (-1, -1, 1)
    planes = np.array([frame.values().T for frame in frames])
    along = np.array([frame.position_mm * (-1, -1, 1) @ normal for frame in frames])
    order = np.argsort(along)
    corners = volume.grid.world(np.array([(0, 0, k) for k in range(volume.array.shape[2])])) @ normal
    weights = np.array([np.interp(corners, along[order], row) for row in np.eye(len(frames))])
    assert corners[0] >= along.min() - 1e-2
    assert corners[-1] <= along.max() + 1e-2
    return np.einsum("fk,fij->ijk", weights, planes[order])


def named_frames(paths: Iterable[Path]) -> list[NamedFrame]:
    """Return the frames of files, each with its SOPInstanceUID and number."""
    return [((sop_instance_uid(path), n), frame) for path in paths for n, frame in enumerate(frames_of(path))]


def sop_instance_uid(path: Path) -> str:
    """Return what a file calls itself, in its data set or else in its file meta information."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    meta = dataset.file_meta.get("MediaStorageSOPInstanceUID", "")
    return str(dataset.get("SOPInstanceUID") or meta)
