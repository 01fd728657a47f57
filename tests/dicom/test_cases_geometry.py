"""Where voxels lie: order, distances, gantry tilt, uneven and missing slices, jitter, missing geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.data.preprocessing import Preprocessing
from medseg.data.transforms import build_transforms, prepare
from medseg.volume import Volume
from tests.dicom.builder import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    SeriesSpec,
    gantry_tilt,
    positions_mm,
    variants,
    write_series,
)
from tests.dicom.builder_extras import edit, shorten_pixels
from tests.dicom.builder_parts import decimals
from tests.dicom.cases import check, check_interpolated, codes, read, read_one, reason, refusal
from tests.dicom.enhanced_builder import write_enhanced
from tests.dicom.law import centroid_mm, draw_markers

PLANES = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL, "oblique": OBLIQUE}
ROOMY = {"shape": (44, 40, 24)}
MARKERS = np.array([(12.6, 11.3, 7.7), (30.1, 28.2, 16.2)])
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def marker_places(spec: SeriesSpec) -> np.ndarray:
    """Where MARKERS, pixels and millimetres / spacing along the normal, lie in the patient (RAS)."""
    x, y = np.array(spec.orientation).reshape(2, 3)
    lean = np.cross(x, y) + spec.shear_mm_per_mm[0] * x + spec.shear_mm_per_mm[1] * y
    axes = np.stack([x * spec.spacing_mm[0], y * spec.spacing_mm[1], lean * spec.spacing_mm[2]])
    return (np.array(spec.origin_mm) + MARKERS @ axes) * LPS_TO_RAS


def check_markers(spec: SeriesSpec, volume: Volume) -> None:
    for centre in marker_places(spec):
        assert np.linalg.norm(centroid_mm(volume, centre) - centre) < 0.1


def as_the_network_sees_it(volume: Volume, spacing_mm: tuple[float, float, float] = (1.5, 1.5, 2.0)) -> Volume:
    rules = Preprocessing(
        spacing_mm=spacing_mm, intensity=({"kind": "ct", "clip_hu": (-1e4, 1e4), "mean_hu": 0, "std_hu": 1},)
    )
    prepared = prepare(build_transforms(rules, 1), [volume])
    assert not prepared.grid.is_sheared
    assert np.allclose(prepared.grid.spacing_mm, spacing_mm)
    return Volume(prepared.image[0].numpy(), prepared.grid.affine)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("modality", "shape"), [("CT", (40, 36, 2)), ("MR", (17, 23, 6)), ("PT", (9, 8, 50))])
def test_slices_are_sorted_by_position(
    tmp_path: Path, plane: str, shape: tuple[int, int, int], modality: str
) -> None:
    paths = write_series(tmp_path, modality=modality, shape=shape, orientation=PLANES[plane])
    volume = read_one(tmp_path)
    check(paths, volume)
    assert volume.modality == modality
    assert not volume.findings


LIES: dict[str, dict[str, Any]] = {
    "numbers that fall": {"instance_numbers": range(6, 0, -1)},
    "numbers all the same": {"instance_numbers": [1] * 6},
    "no numbers": {"attributes": {"InstanceNumber": None}},
    "a thickness": {"attributes": {"SliceThickness": "7"}},
    "thicknesses": {"attributes": {"SliceThickness": lambda k: str(1 + k)}},
    "no thickness": {"attributes": {"SliceThickness": None}},
    "a spacing": {"attributes": {"SpacingBetweenSlices": "9"}},
    "a negative spacing": {"attributes": {"SpacingBetweenSlices": "-2.5"}},
    "a tilt": {"attributes": {"GantryDetectorTilt": "20"}},
    "locations": {"attributes": {"SliceLocation": lambda k: str((7 * k) % 6)}},
    "another patient position": {"attributes": {"PatientPosition": "FFP"}},
    "times that fall": {
        "attributes": {"AcquisitionTime": lambda k: f"1011{50 - k}", "ContentTime": lambda k: f"1012{50 - k}"}
    },
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("plane", ["axial", "oblique"])
def test_only_positions_and_orientation_place_slices(tmp_path: Path, lie: str, plane: str) -> None:
    paths = write_series(tmp_path, orientation=PLANES[plane], **LIES[lie])
    volume = read_one(tmp_path)
    check(paths, volume)
    assert not volume.findings


TILTS = {
    "20": gantry_tilt(20),
    "-20": gantry_tilt(-20),
    "18.5": gantry_tilt(18.5, table_step_mm=5),
    "-7.25": gantry_tilt(-7.25, table_step_mm=1),
    "0.5": gantry_tilt(0.5),
    "30, the tag lies": {**gantry_tilt(30), "attributes": {"GantryDetectorTilt": -12}},
    "-30, no tag": {**gantry_tilt(-30), "attributes": {}},
    "coronal": {"orientation": CORONAL, "shear_mm_per_mm": (0.0, 0.3)},
    "oblique, both ways": {"orientation": OBLIQUE, "shear_mm_per_mm": (-0.2, 0.25)},
}


@pytest.mark.parametrize("slices", [2, 15])
@pytest.mark.parametrize("tilt", TILTS)
def test_tilted_slices_make_a_sheared_volume(tmp_path: Path, tilt: str, slices: int) -> None:
    paths = write_series(tmp_path, shape=(21, 19, slices), **TILTS[tilt])
    volume = read_one(tmp_path)
    check(paths, volume)
    assert volume.grid.is_sheared
    assert codes(volume) == {"gantry-tilt"}
    assert reason(tmp_path, gantry_tilt="refuse") == "gantry-tilt"


@pytest.mark.parametrize("tilt", ["20", "-20", "30, the tag lies", "coronal", "oblique, both ways"])
def test_the_network_sees_tilted_slices_on_a_grid_with_right_angles(tmp_path: Path, tilt: str) -> None:
    spec = SeriesSpec(**ROOMY, **{**TILTS[tilt], "spacing_mm": (1.2, 1.6, 2.5)})
    draw_markers(write_series(tmp_path, spec), marker_places(spec))
    check_markers(spec, as_the_network_sees_it(read_one(tmp_path)))


UNEVEN: dict[str, tuple[float, ...]] = {
    "two distances": (0, 1, 2, 3, 4, 6.5, 9, 11.5, 14),
    "one short": (0, 2, 4, 6, 8, 9, 11, 13, 15, 17),
    "the first short": (0, 1.1, 3.1, 5.1, 7.1, 9.1, 11.1, 13.1),
    "the last one long": (0, 2, 4, 6, 8, 10.7),
    "growing": (0, 2, 4.2, 6.6, 9.2, 12, 15),
    "three": (0, 2, 5.1),
    "a hair too far": (0, 2, 4, 6, 8.1, 10.1, 12.1, 14.1),
}


@pytest.mark.parametrize("distances", UNEVEN)
@pytest.mark.parametrize("kind", ["axial", "oblique", "tilted"])
def test_uneven_distances_are_refused_or_resampled(tmp_path: Path, distances: str, kind: str) -> None:
    changes = gantry_tilt(-18.5) if kind == "tilted" else {"orientation": PLANES[kind]}
    own = UNEVEN[distances]
    paths = write_series(tmp_path, **changes, distances_mm=own, shape=(23, 19, len(own)))
    assert reason(tmp_path) == "irregular"
    volume = read_one(tmp_path, irregular="resample")
    assert codes(volume) == {"irregular"} | ({"gantry-tilt"} if kind == "tilted" else set())
    check_interpolated(paths, volume)
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    length = (volume.array.shape[2] - 1) * abs(volume.affine[:3, 2] @ normal) / np.linalg.norm(normal)
    assert length == pytest.approx(own[-1], abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_random_distances_are_resampled(tmp_path: Path, seed: int) -> None:
    gaps = np.random.default_rng(seed).uniform(0.7, 1.5, 5 + seed)
    distances = (0.0, *np.cumsum(gaps))
    paths = write_series(tmp_path, distances_mm=distances, shape=(9, 8, len(distances)))
    assert reason(tmp_path) == "irregular"
    check_interpolated(paths, read_one(tmp_path, irregular="resample"))


@pytest.mark.parametrize("kind", ["axial", "oblique", "tilted"])
@pytest.mark.parametrize("distances", ["random", "one short"])
def test_markers_stay_in_their_places_where_distances_are_uneven(tmp_path: Path, kind: str, distances: str) -> None:
    gaps = {
        "random": np.random.default_rng(3).uniform(1.5, 3.4, 23),
        "one short": np.where(np.arange(23) == 9, 1.25, 2.55),
    }[distances]
    changes = gantry_tilt(18.5) if kind == "tilted" else {"orientation": PLANES[kind]}
    spec = SeriesSpec(**ROOMY, **{**changes, "spacing_mm": (1.2, 1.6, 2.5)}, distances_mm=(0.0, *np.cumsum(gaps)))
    draw_markers(write_series(tmp_path, spec), marker_places(spec))
    volume = read_one(tmp_path, irregular="resample")
    check_markers(spec, volume)
    check_markers(spec, as_the_network_sees_it(volume))


MISSING = {
    "one": (20, [7]),
    "two at once": (20, [4, 5]),
    "here and there": (20, [2, 9, 15]),
    "the second": (6, [1]),
    "the last but one": (6, [4]),
    "one of four": (4, [2]),
    "a third": (30, list(range(10, 20))),
}


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("kind", ["axial", "oblique", "tilted"])
def test_missing_slices_are_named_or_filled(tmp_path: Path, missing: str, kind: str) -> None:
    changes = gantry_tilt(20) if kind == "tilted" else {"orientation": PLANES[kind]}
    count, which = MISSING[missing]
    paths = write_series(tmp_path, **changes, shape=(13, 11, count), missing=which)
    error = refusal(tmp_path)
    assert error.reason == "missing-slice"
    assert f"{len(which)} of {count} slices missing" in error.found
    for k in which[:6]:
        assert f"{k + 1} (" in error.found
    assert reason(tmp_path, irregular="resample") == "missing-slice"
    volume = read_one(tmp_path, missing_slice="fill")
    assert volume.array.shape[2] == count
    assert codes(volume) == {"missing-slice"} | ({"gantry-tilt"} if kind == "tilted" else set())
    assert [s.place for s in volume.slices] == [k for k in range(count) if k not in which]
    check_interpolated(paths, volume)


@pytest.mark.parametrize("kind", ["axial", "coronal", "tilted"])
def test_markers_stay_in_their_places_where_slices_are_filled_in(tmp_path: Path, kind: str) -> None:
    changes = gantry_tilt(-18.5) if kind == "tilted" else {"orientation": PLANES[kind]}
    spec = SeriesSpec(**ROOMY, **{**changes, "spacing_mm": (1.2, 1.6, 2.5)}, missing=[1, 12, 22])
    draw_markers(write_series(tmp_path, spec), marker_places(spec))
    volume = read_one(tmp_path, missing_slice="fill")
    check_markers(spec, volume)
    check_markers(spec, as_the_network_sees_it(volume))


def test_a_damaged_slice_that_is_dropped_is_a_missing_one(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    shorten_pixels(paths[3])
    assert reason(tmp_path) == "damaged-file"
    assert reason(tmp_path, damaged_file="drop") == "missing-slice"
    volume = read_one(tmp_path, damaged_file="drop", missing_slice="fill")
    assert codes(volume) == {"damaged-file", "missing-slice"}
    check_interpolated(paths[:3] + paths[4:], volume)


def shaken(spec: SeriesSpec, errors: np.ndarray) -> SeriesSpec:
    """Move the slices by fractions (n, 3) of the spacing along rows, columns and the line of the slices."""
    x, y = np.array(spec.orientation).reshape(2, 3)
    lean = np.cross(x, y) + spec.shear_mm_per_mm[0] * x + spec.shear_mm_per_mm[1] * y
    axes = np.stack([x, y, lean]) * np.array(spec.spacing_mm)[:, None]
    positions = positions_mm(spec) + errors @ axes
    (moved,) = variants(spec, ImagePositionPatient=[lambda k: decimals(positions[k])])
    return moved


@pytest.mark.parametrize("kind", ["axial", "oblique", "tilted"])
@pytest.mark.parametrize("seed", range(6))
def test_jitter_of_one_per_cent_is_accepted(tmp_path: Path, kind: str, seed: int) -> None:
    changes = gantry_tilt(20) if kind == "tilted" else {"orientation": PLANES[kind]}
    random = np.random.default_rng(seed)
    spec = SeriesSpec(**changes, shape=(12, 10, int(random.integers(3, 25))))
    errors = random.uniform(-0.01, 0.01, (spec.shape[2], 3))
    errors = np.sign(errors) * 0.01 if seed % 3 == 0 else errors
    paths = write_series(tmp_path, shaken(spec, errors))
    volume = read_one(tmp_path)
    assert codes(volume) == ({"gantry-tilt"} if kind == "tilted" else set())
    check(paths, volume)


@pytest.mark.parametrize("count", [3, 4, 9])
@pytest.mark.parametrize("where", ["first", "second", "last", "both ends", "every other"])
@pytest.mark.parametrize("sign", [1, -1])
def test_jitter_of_exactly_one_per_cent_is_accepted_anywhere(
    tmp_path: Path, where: str, count: int, sign: int
) -> None:
    which = {"first": [0], "second": [1], "last": [-1], "both ends": [0, -1], "every other": slice(0, None, 2)}[
        where
    ]
    errors = np.full((count, 3), -0.01 * sign)
    errors[which] *= -1
    paths = write_series(tmp_path, shaken(SeriesSpec(shape=(12, 10, count)), errors))
    check(paths, read_one(tmp_path))


@pytest.mark.parametrize(("axis", "expected"), [(0, "not-straight"), (1, "not-straight"), (2, "irregular")])
@pytest.mark.parametrize("slice_index", [0, 4, 11])
def test_a_slice_three_per_cent_off_is_refused(tmp_path: Path, axis: int, slice_index: int, expected: str) -> None:
    errors = np.zeros((12, 3))
    errors[slice_index, axis] = 0.03
    write_series(tmp_path, shaken(SeriesSpec(shape=(12, 10, 12)), errors))
    assert reason(tmp_path) == expected


@pytest.mark.parametrize(("axis", "expected"), [(0, "not-straight"), (1, "not-straight"), (2, "irregular")])
def test_jitter_of_a_little_more_than_one_per_cent_is_refused(tmp_path: Path, axis: int, expected: str) -> None:
    errors = np.zeros((12, 3))
    errors[:, axis] = np.resize((0.0105, -0.0105), 12)
    write_series(tmp_path, shaken(SeriesSpec(shape=(12, 10, 12)), errors))
    assert reason(tmp_path) == expected


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_read_keeps_the_law(tmp_path: Path, seed: int) -> None:
    """Jitter, turned planes and other pixel sizes together: each may be small enough, their sum too large."""
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 12))
    spec = SeriesSpec(shape=(200, 180, count), shear_mm_per_mm=((0.0, 0.0), (0.0, 0.4), (-0.3, 0.2))[seed % 3])
    spec = shaken(spec, random.uniform(-1, 1, (count, 3)) * 2 ** random.uniform(-9, -6.5, 3))
    angles = random.uniform(-1, 1, count) * 2 ** random.uniform(-17, -14)
    sizes = 1 + random.uniform(-1, 1, count) * 2 ** random.uniform(-18, -14)

    def directions(k: int) -> list[str]:
        c, s = np.cos(angles[k]), np.sin(angles[k])
        return decimals((c, s, 0, -s, c, 0))

    def spacing(k: int) -> list[str]:
        return decimals((1.1 * sizes[k], 0.8 * sizes[k]))

    changes = {"ImageOrientationPatient": directions, "PixelSpacing": spacing}
    paths = write_series(tmp_path, spec, attributes={**spec.attributes, **changes})
    volumes, refused = read(tmp_path)
    assert set(refused) <= {"not-straight", "irregular"}
    assert len(volumes) + len(refused) == 1
    for volume in volumes:
        check(paths, volume, samples=20)


@pytest.mark.parametrize("keyword", ["ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"])
@pytest.mark.parametrize("which", [range(6), [0], [3], [5], range(5)])
def test_slices_without_a_place_are_refused(tmp_path: Path, keyword: str, which: list[int]) -> None:
    paths = write_series(tmp_path)
    for k in which:
        edit(paths[k], **{keyword: None})
    assert reason(tmp_path) == "no-geometry"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1.1, 0]}, "bad-orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}, "bad-orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "bad-orientation"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "bad-orientation"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "no-geometry"),
        ({"ImagePositionPatient": [1, 2]}, "no-geometry"),
        ({"PixelSpacing": [0, 0]}, "no-geometry"),
        ({"PixelSpacing": [1, -1]}, "no-geometry"),
        ({"PixelSpacing": [1]}, "no-geometry"),
    ],
)
def test_geometry_that_is_not_valid_is_refused(tmp_path: Path, values: dict[str, Any], expected: str) -> None:
    write_series(tmp_path / "a", attributes=values)
    assert reason(tmp_path / "a") == expected


@pytest.mark.parametrize("keyword", ["PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"])
def test_frames_without_a_place_are_refused(tmp_path: Path, keyword: str) -> None:
    path = write_enhanced(tmp_path, per_frame=[keyword])
    edit(path, lambda dataset: delattr(dataset.PerFrameFunctionalGroupsSequence[2], keyword))
    assert reason(tmp_path) == "no-geometry"


@pytest.mark.parametrize("plane", PLANES)
def test_a_single_slice_is_a_volume_as_thick_as_it_says(tmp_path: Path, plane: str) -> None:
    paths = write_series(tmp_path, shape=(40, 36, 1), orientation=PLANES[plane])
    volume = read_one(tmp_path)
    check(paths, volume)
    assert codes(volume) == {"single-slice"}
    assert volume.spacing_mm == pytest.approx((0.8, 1.1, 2.5))
    assert np.linalg.det(volume.affine[:3, :3]) == pytest.approx(0.8 * 1.1 * 2.5)
