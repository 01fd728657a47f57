"""SEGs of masks: the voxels in patient millimetres, the images that frames refer to, and what segments say."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.origin import Origin, read_origin
from medseg.dicom.policy import Policies
from medseg.dicom.scan import scan_pile
from medseg.dicom.stack import stack_series
from medseg.labels import LabelMap
from medseg.volume import Volume
from tests.dicom.builder import OBLIQUE, SAGITTAL, SeriesSpec, gantry_tilt, variants, write_series
from tests.dicom.builder_extras import edit
from tests.dicom.enhanced_builder import ALL, write_enhanced
from tests.dicom.labelled import drawn_in
from tests.dicom.proving import origin_in
from tests.dicom.segs import (
    KINDS,
    LABELS,
    PRESENT,
    frames_of,
    make,
    noise,
    pixels_mm,
    points_of,
    same_points,
    source_frames,
)

SPEC = SeriesSpec("segmented", shape=(13, 11, 6))  # a frame of bits does not end on a byte
MR = replace(SPEC, modality="MR")


def classic(spec: SeriesSpec) -> Callable[[Path], object]:
    return lambda folder: write_series(folder, spec)


def enhanced(spec: SeriesSpec, **more: Any) -> Callable[[Path], object]:
    return lambda folder: write_enhanced(folder, spec, **more)


SOURCES = {
    "ct": classic(SPEC),
    "oblique mr": classic(replace(MR, orientation=OBLIQUE)),
    "sagittal mr": classic(replace(MR, orientation=SAGITTAL)),
    "tilted ct": classic(replace(SPEC, **gantry_tilt(20))),
    "enhanced mr": enhanced(replace(MR, orientation=OBLIQUE)),
    "enhanced ct, all groups per frame": enhanced(SPEC, per_frame=ALL),
}


def source(folder: Path, name: str) -> Origin:
    SOURCES[name](folder)
    return origin_in(folder)


# --- where things lie ---


def expected_points(origin: Origin, labels: LabelMap, index: int, frames: dict[Any, Any]) -> np.ndarray:
    """The voxels of a label in LPS mm, by what the files of the source say of the image of each slice."""
    points = []
    for k, frame in enumerate(origin.frames):
        number = frame.number + 1 if frame.header.frame_count > 1 else 0
        inside = (labels.array[:, :, k] == index).T
        points.append(pixels_mm(*frames[frame.header.sop_instance_uid, number], np.argwhere(inside)))
    return np.concatenate(points)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
@pytest.mark.parametrize("name", SOURCES)
def test_voxels_lie_where_the_mask_has_them(tmp_path: Path, name: str, kind: tuple[str, str]) -> None:
    origin = source(tmp_path / "source", name)
    labels = noise(origin)
    made = make(origin, labels, tmp_path, type=kind[0], compression=kind[1])
    frames = source_frames(tmp_path / "source")
    assert [label.name for label in made.made.segments] == list(PRESENT)
    for number, label in enumerate(made.made.segments, 1):
        found = points_of(made.dataset, number)
        assert len(found)
        assert same_points(found, expected_points(origin, labels, label.index, frames))
    # and by the volume's own affine (RAS)
    voxels = np.argwhere(labels.array == 2)
    ras = voxels @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    assert same_points(points_of(made.dataset, 1), ras * [-1, -1, 1], tolerance_mm=0.01)


@pytest.mark.parametrize("name", SOURCES)
def test_frames_refer_to_the_image_at_their_place(tmp_path: Path, name: str) -> None:
    made = make(source(tmp_path / "source", name), noise(origin_in(tmp_path / "source")), tmp_path)
    images = source_frames(tmp_path / "source")
    files = {uid for uid, _ in images}
    classes = {
        dcmread(file).SOPInstanceUID: dcmread(file).SOPClassUID for file in (tmp_path / "source").rglob("*.dcm")
    }
    for _, group, _, _ in frames_of(made.dataset):
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        key = item.ReferencedSOPInstanceUID, int(item.get("ReferencedFrameNumber", 0))
        position = [float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient]
        assert np.allclose(position, images[key][0], atol=1e-9)
        assert item.ReferencedSOPClassUID == classes[key[0]]
    (series,) = made.dataset.ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == files
    assert len(series.ReferencedInstanceSequence) == len(files)


def test_frames_of_one_of_several_volumes_in_a_file_refer_to_these(tmp_path: Path) -> None:
    """Two echoes at the same places: only the frame numbers tell them apart."""
    write_enhanced(tmp_path / "source", *variants(MR, EffectiveEchoTime=[5.0, 10.0]))
    dataset = dcmread(next((tmp_path / "source").rglob("*.dcm")))
    for series in scan_pile(tmp_path / "source").series:
        origin = read_origin(stack_series(series, Policies()))
        made = make(origin, noise(origin), tmp_path)
        numbers = {
            int(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
            for _, group, _, _ in frames_of(made.dataset)
        }
        echoes = {
            dataset.PerFrameFunctionalGroupsSequence[number - 1].MREchoSequence[0].EffectiveEchoTime
            for number in numbers
        }
        assert (len(numbers), len(echoes)) == (5, 1)


def test_a_series_of_one_slice(tmp_path: Path) -> None:
    write_series(tmp_path / "source", replace(SPEC, shape=(13, 11, 1)))
    origin = origin_in(tmp_path / "source")
    made = make(origin, noise(origin), tmp_path)
    assert made.dataset.NumberOfFrames == 3
    assert same_points(
        points_of(made.dataset, 2),
        expected_points(origin, made.labels, 3, source_frames(tmp_path / "source")),
    )


def test_slices_whose_orientations_differ_by_rounding_keep_their_own(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "source", SPEC)
    edit(paths[3], ImageOrientationPatient=[1, 0, 0.0001, 0, 1, 0])
    origin = origin_in(tmp_path / "source")
    labels = noise(origin)
    made = make(origin, labels, tmp_path)
    assert "PlaneOrientationSequence" not in made.dataset.SharedFunctionalGroupsSequence[0]
    expected = expected_points(origin, labels, 3, source_frames(tmp_path / "source"))
    assert same_points(points_of(made.dataset, 2), expected)


def test_slices_that_the_series_lacks_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path / "source", replace(SPEC, missing={3}))
    origin = origin_in(tmp_path / "source", missing_slice="fill")
    assert origin.grid.shape == (13, 11, 6)
    labels = noise(origin)
    for kind in ("BINARY", "FRACTIONAL"):
        made = make(origin, labels, tmp_path, type=kind)
        assert [finding.code.value for finding in made.made.findings] == ["not-on-slices"]
        kept = labels.array[:, :, [0, 1, 2, 4, 5]]
        lower = LabelMap(Volume(np.asfortranarray(kept), labels.affine), LABELS)
        expected = expected_points(origin, lower, 2, source_frames(tmp_path / "source"))
        assert same_points(points_of(made.dataset, 1), expected)


# --- other readers ---


@pytest.mark.parametrize("name", ["oblique mr", "tilted ct"])
def test_highdicom_reads_the_masks_image_by_image(tmp_path: Path, name: str) -> None:
    origin = source(tmp_path / "source", name)
    labels = noise(origin)
    made = make(origin, labels, tmp_path)
    read = highdicom.seg.segread(made.path)
    uids = [frame.header.sop_instance_uid for frame in origin.frames]
    pixels = read.get_pixels_by_source_instance(
        uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    for number, label in enumerate(made.made.segments):  # (slices, rows, columns, segments)
        assert np.array_equal(pixels[..., number], (labels.array == label.index).transpose(2, 1, 0))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_medseg_reads_what_it_writes(tmp_path: Path, kind: str) -> None:
    spec = replace(SPEC, orientation=OBLIQUE)
    write_series(tmp_path / "source", spec)
    origin = origin_in(tmp_path / "source")
    made = make(origin, noise(origin), tmp_path, type=kind)
    masks, _ = drawn_in(tmp_path, spec)
    assert masks.keys() == set(PRESENT)
    for label in made.made.segments:
        assert np.array_equal(masks[label.name], made.labels.array == label.index)


@pytest.mark.tools
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
@pytest.mark.parametrize("name", SOURCES)
def test_the_validator_finds_no_error(tmp_path: Path, name: str, kind: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("not installed: dciodvfy; .ci/run installs dicom3tools")
    made = make(source(tmp_path / "source", name), noise(origin_in(tmp_path / "source")), tmp_path, type=kind)
    answer = subprocess.run(["dciodvfy", made.path], capture_output=True, text=True, check=False)
    lines = (answer.stdout + answer.stderr).splitlines()
    assert lines[0] == "Segmentation"
    assert [line for line in lines if line.startswith("Error")] == []


# --- real series ---


@pytest.mark.data
@pytest.mark.parametrize("path", ["tilt_philips", "tilt_ge"])
def test_a_real_tilted_ct(data_root: Path, tmp_path: Path, path: str) -> None:
    """The slices of the second one are uneven: the mask's nearest ones are taken."""
    origin = origin_in(data_root / "dicom" / path, irregular="resample")
    array = np.zeros(origin.grid.shape, np.uint16, order="F")
    array[::7, ::5, ::9], array[3::11, 2::9, 1::8], array[5, 6, -1] = 2, 3, 700
    labels = LabelMap(Volume(array, origin.grid.affine), LABELS)
    made = make(origin, labels, tmp_path)
    images = {dataset.SOPInstanceUID: dataset for dataset in origin.datasets}
    for number, group, _, plane in frames_of(made.dataset):
        image = images[group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert list(group.PlanePositionSequence[0].ImagePositionPatient) == list(image.ImagePositionPatient)
        k = int(np.rint(np.linalg.solve(origin.grid.affine, [*_ras(image), 1.0])[2]))
        assert np.array_equal(plane, (array[:, :, k] == made.made.segments[number - 1].index).T)


def _ras(image: Dataset) -> list[float]:
    """Where the first pixel of an image lies."""
    x, y, z = (float(value) for value in image.ImagePositionPatient)
    return [-x, -y, z]
