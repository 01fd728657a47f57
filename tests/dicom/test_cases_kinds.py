"""Images that are no volumes, multi-frame files, where piles lie, and single slices for a model."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid

import medseg
from medseg.errors import DicomError, InputError
from medseg.reading import read_volumes
from medseg.volume import Volume
from tests.builders import save_tiny_model
from tests.dicom.builder import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    SeriesSpec,
    gantry_tilt,
    planted_values,
    variants,
    write_merged,
    write_series,
)
from tests.dicom.builder_extras import (
    LOCALIZER,
    RGB,
    SECONDARY_CAPTURE,
    edit,
    write_fileset,
    write_mosaic,
    write_non_images,
    zip_folder,
)
from tests.dicom.cases import check, check_interpolated, check_parts, codes, read, read_one, reason, refusal
from tests.dicom.enhanced_builder import ALL, write_enhanced

SCOUT = {**LOCALIZER, "image_type": ("ORIGINAL", "PRIMARY", "SCOUT")}
ONE_LOCALIZER = {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER"), "shape": (40, 36, 3)}
NO_VOLUMES: dict[str, tuple[dict[str, Any], str]] = {
    "RGB": (RGB, "colour"),
    "RGB MR": ({**RGB, "modality": "MR"}, "colour"),
    "palette": ({"attributes": {"PhotometricInterpretation": "PALETTE COLOR"}, "is_signed": False}, "colour"),
    "secondary capture": (SECONDARY_CAPTURE, "secondary-capture"),
    "secondary capture of a CT": (
        {**SECONDARY_CAPTURE, "modality": "CT", "has_geometry": True},
        "secondary-capture",
    ),
    "localizer": (ONE_LOCALIZER, "localizer"),
    "localizer, one image": ({**ONE_LOCALIZER, "shape": (40, 36, 1)}, "localizer"),
    "scout": ({**SCOUT, "attributes": {}}, "localizer"),
    "mosaic by image type": ({"modality": "MR", "image_type": ("ORIGINAL", "PRIMARY", "M", "MOSAIC")}, "mosaic"),
}


@pytest.mark.parametrize("what", NO_VOLUMES)
@pytest.mark.parametrize("beside", [False, True])
def test_images_that_are_no_volume_are_refused_by_name(tmp_path: Path, what: str, beside: bool) -> None:
    changes, expected = NO_VOLUMES[what]
    write_series(tmp_path / "odd", **changes)
    error = refusal(tmp_path)
    assert error.reason == expected
    good = write_series(tmp_path / ("odd" if beside else "good"), name="good")
    volumes, refused = read(tmp_path)
    assert refused == [expected]
    check_parts(volumes, [good])


def test_a_mosaic_is_refused_by_its_private_tag_alone(tmp_path: Path) -> None:
    path = write_mosaic(tmp_path)
    assert reason(tmp_path) == "mosaic"
    edit(path, ImageType=["ORIGINAL", "PRIMARY", "M", "ND"])
    assert reason(tmp_path) == "mosaic"


@pytest.mark.parametrize("changes", [LOCALIZER, SCOUT])
def test_localizers_in_three_planes_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_series(tmp_path, **changes)
    volumes, refused = read(tmp_path)
    assert not volumes
    assert refused == ["localizer"] * 3


def test_a_localizer_within_a_series_is_left_out(tmp_path: Path) -> None:
    """As GE and Philips send them: the scout is the first image of the series."""
    own = ("ORIGINAL", "PRIMARY", "AXIAL"), ("ORIGINAL", "PRIMARY", "LOCALIZER")
    specs = variants(SeriesSpec(), image_type=own, orientation=[AXIAL, CORONAL], shape=[(40, 36, 6), (40, 36, 1)])
    good, _ = write_merged(tmp_path, *specs)
    volumes, refused = read(tmp_path)
    assert refused == ["localizer"]
    check_parts(volumes, [good])


def test_colour_and_multi_frame_files_of_a_capture_are_refused(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "cine", shape=(8, 8, 2)):
        edit(path, lambda d: setattr(d, "PixelData", d.PixelData * 3), NumberOfFrames=3)
    assert reason(tmp_path / "cine") == "multi-frame"
    sop_class = uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    write_series(tmp_path / "capture", **{**SECONDARY_CAPTURE, "sop_class": sop_class})
    assert reason(tmp_path / "capture") == "secondary-capture"
    write_enhanced(tmp_path / "colour", **RGB)
    assert reason(tmp_path / "colour") == "colour"


def test_reports_are_skipped_and_nothing_else_is_an_error(tmp_path: Path) -> None:
    write_non_images(tmp_path)
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(DicomError, match="no image series"):
        read_volumes(tmp_path)
    paths = write_series(tmp_path)
    check(paths, read_one(tmp_path))


# Multi-frame files

MULTI_FRAME: dict[str, dict[str, Any]] = {
    "CT": {},
    "MR": {"modality": "MR"},
    "PET": {"modality": "PT", "slopes": lambda k: 0.5 + k},
    "coronal": {"orientation": CORONAL},
    "sagittal MR": {"orientation": SAGITTAL, "modality": "MR"},
    "oblique": {"orientation": OBLIQUE},
    "two frames": {"shape": (40, 36, 2)},
    "many frames": {"shape": (9, 8, 70)},
    "tilted": gantry_tilt(20),
    "tilted back": gantry_tilt(-18.5),
    "legacy": {"sop_class": uid.LegacyConvertedEnhancedCTImageStorage},
    "an attribute that every frame has": {"attributes": {"StackID": lambda k: "1"}},
    "jitter": {"jitter_mm": 0.008},
}


@pytest.mark.parametrize("what", MULTI_FRAME)
@pytest.mark.parametrize("per_frame", [(), ALL, ["PixelMeasuresSequence"]])
def test_multi_frame_files(tmp_path: Path, what: str, per_frame: Any) -> None:
    spec = SeriesSpec(**MULTI_FRAME[what])
    path = write_enhanced(tmp_path, spec, per_frame=per_frame)
    volume = read_one(tmp_path)
    check([path], volume)
    assert np.allclose(volume.array, planted_values(spec), rtol=1e-6)
    assert codes(volume) == ({"gantry-tilt"} if "tilted" in what else set())


def test_a_volume_in_several_multi_frame_files(tmp_path: Path) -> None:
    spec = SeriesSpec(shape=(17, 16, 12))
    halves = [replace(spec, missing=set(range(start, 12, 2)), attributes={}) for start in (0, 1)]
    paths = [
        write_enhanced(tmp_path, replace(half, name=f"half {n}", series="one"), name=f"{n}.dcm")
        for n, half in enumerate(halves)
    ]
    check(paths, read_one(tmp_path))


@pytest.mark.parametrize("kind", ["axial", "tilted"])
def test_frames_that_are_uneven_or_missing(tmp_path: Path, kind: str) -> None:
    changes = gantry_tilt(20) if kind == "tilted" else {}
    path = write_enhanced(tmp_path / "uneven", **changes, distances_mm=(0, 1, 2.2, 3, 5, 6))
    assert reason(tmp_path / "uneven") == "irregular"
    check_interpolated([path], read_one(tmp_path / "uneven", irregular="resample"))
    path = write_enhanced(tmp_path / "missing", **changes, missing=[2])
    assert reason(tmp_path / "missing") == "missing-slice"
    check_interpolated([path], read_one(tmp_path / "missing", missing_slice="fill"))


def test_the_same_multi_frame_file_twice(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path)
    (tmp_path / "copy.dcm").write_bytes(path.read_bytes())
    volume = read_one(tmp_path)
    check([path], volume)
    assert codes(volume) == {"duplicate"}


def test_a_group_of_a_frame_goes_before_the_shared_one(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path, slopes=lambda k: 1.0 + k, per_frame=ALL)

    def add(dataset: pydicom.Dataset) -> None:
        groups = copy.deepcopy(dataset.PerFrameFunctionalGroupsSequence[0])
        groups.PixelMeasuresSequence[0].PixelSpacing = ["3", "4"]
        groups.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        dataset.SharedFunctionalGroupsSequence = [groups]

    edit(path, add)
    check([path], read_one(tmp_path))


# Where piles lie


def same(volumes: list[Volume], others: list[Volume]) -> None:
    assert len(volumes) == len(others)
    by_name = {volume.source: volume for volume in others}
    for volume in volumes:
        other = by_name[volume.source]
        assert np.array_equal(volume.array, other.array)
        assert np.array_equal(volume.affine, other.affine)
        assert volume.slices == other.slices
        assert volume.findings == other.findings
        assert other.array.flags.f_contiguous


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    folder = tmp_path / "pile"
    write_series(folder / "a" / "b", name="ct", suffix="")
    write_series(folder / "a", name="tilted", **gantry_tilt(20), transfer_syntax="RLE", suffix="")
    write_merged(folder, *variants(SeriesSpec(name="mr", modality="MR"), EchoTime=["2", "5"], suffix=["", ""]))
    write_enhanced(folder / "c", SeriesSpec(name="enhanced"))
    write_non_images(folder)
    return folder


def test_a_zip_holds_the_same_volumes_as_its_folder(pile: Path, tmp_path: Path) -> None:
    volumes, refused = read(pile)
    assert len(volumes) == 5
    assert not refused
    same(volumes, read(zip_folder(pile, tmp_path / "pile.zip"))[0])
    same(volumes, read(zip_folder(pile, tmp_path / "another name"))[0])


def test_a_dicomdir_names_the_same_volumes_as_its_folder(pile: Path, tmp_path: Path) -> None:
    dicomdir = write_fileset(pile, tmp_path / "set")
    same(read(pile)[0], read(dicomdir)[0])
    same(read(pile)[0], read(tmp_path / "set")[0])


def test_a_single_file_is_a_path(pile: Path, tmp_path: Path) -> None:
    path = pile / "c" / "enhanced.dcm"
    check([path], read_one(path))
    (slice_path,) = write_series(tmp_path / "one", shape=(40, 36, 1))
    check([slice_path], read_one(slice_path))


# Single slices and models


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["classic", "enhanced", "drop"])
def test_a_single_slice_is_for_a_model_of_slices(tmp_path: Path, dims: int, kind: str) -> None:
    save_tiny_model(tmp_path / "model", dims=dims)
    spec = SeriesSpec(modality="MR", shape=(40, 36, 1))
    (write_enhanced if kind == "enhanced" else write_series)(tmp_path / "in", spec)
    volume = read_one(tmp_path / "in")
    segmenter = medseg.load_model(tmp_path / "model", "cpu")
    if dims == 3:
        with pytest.raises(InputError, match="a single slice"):
            segmenter.segment(volume)
        return
    labels = segmenter.segment(volume)
    assert labels.array.shape == (40, 36, 1)
    assert np.array_equal(labels.volume.affine, volume.affine)
