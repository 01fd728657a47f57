"""One series that is several volumes, one volume that looks like several, and slices that are there twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medseg.volume import Volume
from tests.dicom.builder import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SeriesSpec,
    gantry_tilt,
    planted_values,
    positions_mm,
    variants,
    write_merged,
    write_series,
)
from tests.dicom.builder_extras import diffusion_series, duplicate, edit, time_series
from tests.dicom.builder_parts import decimals
from tests.dicom.cases import check, check_parts, codes, read, read_one, reason
from tests.dicom.enhanced_builder import write_enhanced
from tests.dicom.law import check_law, frames_of

MR = SeriesSpec(modality="MR", shape=(21, 19, 6))
CT = SeriesSpec(shape=(21, 19, 6))
TILTED = SeriesSpec(shape=(21, 19, 6), **gantry_tilt(-20))

DIFFERENCES: dict[str, list[SeriesSpec]] = {
    "acquisitions": variants(CT, AcquisitionNumber=[1, 2]),
    "acquisitions of many slices": variants(replace(CT, shape=(9, 8, 30)), AcquisitionNumber=[3, 2]),
    "acquisitions of a tilted CT": variants(TILTED, AcquisitionNumber=[1, 2]),
    "one without a number": variants(CT, AcquisitionNumber=[None, 2]),
    "phases": variants(MR, TemporalPositionIdentifier=[1, 2, 3, 4, 5]),
    "phases 10 and 9": variants(MR, TemporalPositionIdentifier=[10, 9]),
    "echo numbers": variants(MR, EchoNumbers=[1, 2]),
    "echo times": variants(replace(MR, orientation=OBLIQUE), EchoTime=["4.92", "2.46"]),
    "b-values": variants(MR, DiffusionBValue=[0.0, 500.0, 1000.0]),
    "inversion times": variants(MR, InversionTime=["100", "2000"]),
    "image types": variants(
        replace(MR, orientation=CORONAL), image_type=[("ORIGINAL", "PRIMARY", "M"), ("ORIGINAL", "PRIMARY", "P")]
    ),
    "water and fat": variants(MR, image_type=[("DERIVED", "PRIMARY", t) for t in ("W", "F", "IP", "OP")]),
    "trigger times": variants(MR, TriggerTime=["0", "40.5", "81"]),
    "acquisition times": variants(CT, AcquisitionTime=["101112", "101145.25"]),
    "two slices each": variants(replace(CT, shape=(21, 19, 2)), AcquisitionNumber=[1, 2]),
    "one slice each": variants(replace(CT, shape=(21, 19, 1)), AcquisitionNumber=[1, 2]),
    "matrix": variants(CT, shape=[(21, 19, 6), (20, 19, 6), (19, 21, 5)]),
    "pixel spacing": variants(CT, spacing_mm=[(0.8, 1.1, 2.5), (0.8, 0.8, 2.5)]),
    "orientation": variants(CT, orientation=[AXIAL, CORONAL, OBLIQUE]),
    "frame of reference": variants(CT, FrameOfReferenceUID=["1.2.3", "1.2.4"]),
    "another length": variants(CT, shape=[(21, 19, 6), (21, 19, 9)], AcquisitionNumber=[1, 2]),
    "other slopes": variants(CT, slopes=[1.0, 0.5], intercepts=[-1024.0, 7.0], AcquisitionNumber=[1, 2]),
    "interleaved rows": variants(CT, origin_mm=[(0, 0, 0), (0, 0, 0.7)], AcquisitionNumber=[1, 2]),
    "interleaved rows of another distance": variants(
        CT, origin_mm=[(0, 0, 0), (0, 0, 3)], spacing_mm=[(0.8, 1.1, 2.5), (0.8, 1.1, 4)], AcquisitionNumber=[1, 2]
    ),
    "rows with one place in common": variants(CT, origin_mm=[(0, 0, 0), (0, 0, 12.5)], AcquisitionNumber=[1, 2]),
    "2 echoes of 2 phases": variants(MR, EchoTime=["2", "5", "2", "5"], TemporalPositionIdentifier=[1, 1, 2, 2]),
    "3 echoes of 2 b-values": variants(MR, EchoNumbers=[1, 2, 3] * 2, DiffusionBValue=[0.0] * 3 + [800.0] * 3),
    "magnitude and phase of 2 echoes": variants(
        MR, image_type=[("ORIGINAL", "PRIMARY", t) for t in "MPMP"], EchoTime=["2", "2", "5", "5"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENCES)
def test_several_volumes_in_one_series_are_told_apart(tmp_path: Path, what: str) -> None:
    groups = write_merged(tmp_path, *DIFFERENCES[what])
    volumes, refused = read(tmp_path)
    assert not refused
    check_parts(volumes, groups)
    assert all("split" in codes(volume) for volume in volumes)
    assert len({volume.source for volume in volumes}) == len(groups)


@pytest.mark.parametrize("tag", [(0x19, "SIEMENS MR HEADER", 0x0C, "IS"), (0x43, "GEMS_PARM_01", 0x39, "IS")])
def test_b_values_in_private_tags_tell_volumes_apart(tmp_path: Path, tag: tuple[int, str, int, str]) -> None:
    group, creator, element, vr = tag
    groups = write_merged(tmp_path, *variants(MR, EchoNumbers=[1, 1, 1]))
    for b_value, paths in zip((0, 50, 1000), groups, strict=True):
        value = [1_000_000_000 + b_value, 8, 0, 0] if creator.startswith("GEMS") else b_value

        def add(dataset: Any, value: Any = value) -> None:
            dataset.private_block(group, creator, create=True).add_new(element, vr, value)

        for path in paths:
            edit(path, add)
    volumes, refused = read(tmp_path)
    assert not refused
    check_parts(volumes, groups)


def split_enhanced(path: Path, volumes: list[Volume], specs: list[SeriesSpec]) -> None:
    """Check the volumes of one multi-frame file: the law, the frame numbers and the planted values."""
    frames = frames_of(path)
    used = []
    for volume in volumes:
        numbers = [s.frame for s in volume.slices]
        check_law([frames[number] for number in numbers], volume)
        places = [volume.grid.index(frames[n].world_mm(np.array(0), np.array(0)))[2] for n in numbers]
        assert np.allclose(places, range(len(numbers)), atol=0.01)
        used += numbers
    assert sorted(used) == list(range(len(frames)))
    left = [planted_values(spec) for spec in specs]
    for volume in volumes:
        own = [n for n, values in enumerate(left) if np.allclose(values, volume.array, rtol=1e-6, atol=1e-3)]
        assert len(own) == 1
        del left[own[0]]
    assert not left


ENHANCED: dict[str, list[SeriesSpec]] = {
    "echo times": variants(MR, EffectiveEchoTime=[5.0, 10.0]),
    "phases": variants(replace(MR, orientation=OBLIQUE), TemporalPositionIndex=[1, 2, 3]),
    "b-values": variants(MR, DiffusionBValue=[0.0, 1000.0]),
    "acquisitions": variants(CT, FrameAcquisitionNumber=[1, 2]),
    "frame types": variants(
        MR, image_type=[("ORIGINAL", "PRIMARY", "T1", "M"), ("ORIGINAL", "PRIMARY", "T1", "PHASE MAP")]
    ),
    "trigger delays": variants(MR, NominalCardiacTriggerDelayTime=[0.0, 100.0]),
    "magnitude and phase": variants(MR, ComplexImageComponent=["MAGNITUDE", "PHASE"]),
    "orientations": variants(CT, orientation=[AXIAL, CORONAL]),
    "kernels": variants(CT, ConvolutionKernel=["B30", "B70"]),
    "echoes of phases": variants(MR, EffectiveEchoTime=[5.0, 10.0] * 2, TemporalPositionIndex=[1, 1, 2, 2]),
    "a tilted CT": variants(TILTED, FrameAcquisitionNumber=[1, 2]),
}


@pytest.mark.parametrize("what", ENHANCED)
def test_several_volumes_in_one_multi_frame_file_are_told_apart(tmp_path: Path, what: str) -> None:
    path = write_enhanced(tmp_path, *ENHANCED[what])
    volumes, refused = read(tmp_path)
    assert not refused
    split_enhanced(path, volumes, ENHANCED[what])
    assert all("split" in codes(volume) for volume in volumes)


ONE_VOLUME: dict[str, dict[str, Any]] = {
    "acquisition numbers": {"AcquisitionNumber": lambda k: k + 1},
    "acquisition times": {"AcquisitionTime": lambda k: f"1011{10 + k}"},
    "numbers and times": {"AcquisitionNumber": lambda k: 9 - k, "AcquisitionTime": lambda k: f"1011{10 + k}"},
    "odd and even acquisitions": {"AcquisitionNumber": lambda k: 1 + k % 2},
    "two halves": {"AcquisitionNumber": lambda k: 1 + k // 3},
    "echo times that are rounded": {"EchoTime": lambda k: ("2.46", "2.4600001")[k % 2]},
    "image types": {"ImageType": lambda k: ["ORIGINAL", "PRIMARY", "AXIAL", *(["NORM"] if k % 2 else [])]},
    "trigger times": {"TriggerTime": lambda k: str(20 * k)},
}


@pytest.mark.parametrize("what", ONE_VOLUME)
@pytest.mark.parametrize("kind", ["axial", "tilted"])
def test_slices_in_one_regular_row_are_one_volume(tmp_path: Path, what: str, kind: str) -> None:
    spec = SeriesSpec(**(gantry_tilt(20) if kind == "tilted" else {}), modality="MR")
    paths = write_series(tmp_path, spec, attributes=ONE_VOLUME[what])
    volume = read_one(tmp_path)
    check(paths, volume)
    several = {"several-acquisitions"} if "AcquisitionNumber" in ONE_VOLUME[what] else set()
    assert codes(volume) == several | ({"gantry-tilt"} if kind == "tilted" else set())


def test_two_series_with_one_uid_in_two_studies_are_two(tmp_path: Path) -> None:
    first = write_series(tmp_path / "a", CT)
    second = write_series(tmp_path / "b", replace(CT, name="other", series=CT.name, study="another"))
    volumes, refused = read(tmp_path)
    assert not refused
    check_parts(volumes, [first, second])


# Slices that are there twice


@pytest.mark.parametrize("new_uid", [False, True])
@pytest.mark.parametrize("which", [[0], [1, 5], range(6)])
@pytest.mark.parametrize("kind", ["axial", "oblique", "tilted"])
def test_the_same_pixels_twice_are_left_out(tmp_path: Path, which: list[int], kind: str, new_uid: bool) -> None:
    changes = {"axial": {}, "oblique": {"orientation": OBLIQUE}, "tilted": gantry_tilt(20)}[kind]
    paths = write_series(tmp_path, CT, **changes)
    for k in which:
        duplicate(paths[k], new_uid=new_uid)
    volume = read_one(tmp_path)
    assert "duplicate" in codes(volume)
    check_law(paths, volume)
    known = {str(pydicom.dcmread(path).SOPInstanceUID) for path in tmp_path.iterdir()}
    assert {s.sop_instance_uid for s in volume.slices} <= known
    assert len(volume.slices) == 6
    assert reason(tmp_path, duplicate="refuse") == "duplicate"


def test_a_study_that_was_exported_twice_is_read_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", CT)
    write_series(tmp_path / "b", CT)
    volume = read_one(tmp_path)
    check(paths, volume)
    assert codes(volume) == {"duplicate"}


@pytest.mark.parametrize("syntax", ["RLE", "JPEG-LS", "big endian", "deflated", "implicit"])
def test_the_same_pixels_in_another_encoding_are_left_out(tmp_path: Path, syntax: str) -> None:
    paths = write_series(tmp_path / "a", CT)
    write_series(tmp_path / "b", CT, transfer_syntax=syntax)
    volume = read_one(tmp_path)
    check(paths, volume)
    assert codes(volume) == {"duplicate"}


@pytest.mark.parametrize("which", [[0], [3], range(6)])
@pytest.mark.parametrize("kind", ["axial", "tilted"])
def test_other_pixels_at_the_same_place_are_refused(tmp_path: Path, which: list[int], kind: str) -> None:
    paths = write_series(tmp_path, CT, **(gantry_tilt(20) if kind == "tilted" else {}))
    for k in which:
        duplicate(paths[k], other_pixels=True)
    for choice in ("drop", "refuse"):
        assert reason(tmp_path, duplicate=choice) == "conflict"


def test_one_instance_with_other_pixels_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, CT)
    copy = duplicate(paths[2], other_pixels=True)
    edit(copy, SOPInstanceUID=str(pydicom.dcmread(paths[2]).SOPInstanceUID))
    assert reason(tmp_path) == "conflict"


@pytest.mark.parametrize("change", [{"RescaleSlope": "2"}, {"RescaleIntercept": "0"}])
def test_the_same_stored_values_that_mean_something_else_are_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    paths = write_series(tmp_path, CT)
    edit(duplicate(paths[2], new_uid=True), **change)
    assert reason(tmp_path) == "conflict"


def test_two_volumes_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    write_merged(tmp_path, *variants(CT, name=["a", "b"]))
    assert reason(tmp_path) == "conflict"


@pytest.mark.parametrize("aside_mm", [(0, 0.05, 0), (3, 0, 0)])
def test_copies_that_lie_beside_the_slice_are_never_dropped(tmp_path: Path, aside_mm: tuple[float, ...]) -> None:
    """The same pixels at the same height, but elsewhere in the plane: no duplicate."""
    paths = write_series(tmp_path, CT)
    copy = duplicate(paths[2], new_uid=True)
    edit(copy, ImagePositionPatient=decimals(positions_mm(CT)[2] + aside_mm))
    volumes, refused = read(tmp_path)
    assert not volumes
    assert refused


# Four-dimensional series

FOUR_D: dict[str, list[SeriesSpec]] = {
    "fMRI": time_series(4, replace(MR, image_type=("ORIGINAL", "PRIMARY", "FMRI", "NONE"))),
    "long time series": time_series(25, replace(MR, shape=(9, 8, 3))),
    "tensor": diffusion_series([0, *[1000] * 6], MR),
    "tensor of two shells": diffusion_series([0, *[700] * 6, *[2000] * 6], replace(MR, shape=(9, 8, 3))),
}


@pytest.mark.parametrize("what", FOUR_D)
def test_four_dimensional_series_are_refused_or_split(tmp_path: Path, what: str) -> None:
    groups = write_merged(tmp_path, *FOUR_D[what])
    assert reason(tmp_path) == "four-dimensional"
    volumes, refused = read(tmp_path, four_dimensional="split")
    assert not refused
    check_parts(volumes, groups)


ENHANCED_4D: dict[str, list[SeriesSpec]] = {
    "fMRI": variants(replace(MR, shape=(9, 8, 3)), TemporalPositionIndex=range(1, 26)),
    "tensor": diffusion_series([0, *[1000] * 6], replace(MR, shape=(9, 8, 3))),
}


@pytest.mark.parametrize("what", ENHANCED_4D)
def test_four_dimensional_multi_frame_files_are_refused_or_split(tmp_path: Path, what: str) -> None:
    path = write_enhanced(tmp_path, *ENHANCED_4D[what])
    assert reason(tmp_path) == "four-dimensional"
    volumes, refused = read(tmp_path, four_dimensional="split")
    assert not refused
    split_enhanced(path, volumes, ENHANCED_4D[what])
