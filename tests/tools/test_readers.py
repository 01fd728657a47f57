"""Readers that nobody here wrote find the same voxels: highdicom, dcmqi, rt-utils."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tools.readers import dcmqi_measurements, dcmqi_segments, on_grid, rt_utils_structures
from tests.tools.sources import SHEARED, SYNTHETIC, Case

pytestmark = pytest.mark.tools

SEGS = ["seg", "seg_fractional", "seg_fractional_rle", "seg_labelmap"]


@pytest.mark.parametrize("kind", SEGS)
def test_highdicom_finds_the_voxels_on_their_images(case: Case, objects: dict[str, Path], kind: str) -> None:
    seg = highdicom.seg.segread(objects[kind])
    frames, how = case.origin.frames, {"assert_missing_frames_are_empty": True}
    if len(case.files) == 1:
        numbers = [frame.number + 1 for frame in frames]
        pixels = seg.get_pixels_by_source_frame(frames[0].header.sop_instance_uid, numbers, **how)
    else:
        pixels = seg.get_pixels_by_source_instance([frame.header.sop_instance_uid for frame in frames], **how)
    check(case, {name: (pixels[..., n] > 0.5).T for n, name in enumerate(segment_names(seg))})


@pytest.mark.parametrize("kind", SEGS)
def test_highdicom_finds_the_voxels_in_patient_millimetres(case: Case, objects: dict[str, Path], kind: str) -> None:
    if case.name in SHEARED:
        pytest.skip("highdicom makes no volume of tilted slices")
    seg = highdicom.seg.segread(objects[kind])
    volume = seg.get_volume()
    for position, name in enumerate(segment_names(seg)):
        voxels = np.argwhere(volume.array[..., position] > 0.5)
        lps = voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        assert np.array_equal(on_grid(lps * (-1, -1, 1), case.labels.grid), mask(case, name))


@pytest.mark.parametrize("kind", ["seg", "seg_fractional"])
def test_dcmqi_finds_the_same_voxels(case: Case, objects: dict[str, Path], kind: str, tmp_path: Path) -> None:
    if case.name in SHEARED:
        pytest.skip("dcmqi makes images with axes at right angles")
    found = dcmqi_segments(objects[kind], tmp_path / "dcmqi", case.labels.grid)
    check(case, found)


@pytest.mark.parametrize("kind", ["rtstruct", "rtstruct_keyhole"])
def test_rt_utils_finds_the_same_voxels(case: Case, objects: dict[str, Path], kind: str, tmp_path: Path) -> None:
    if len(case.files) == 1:
        pytest.skip("rt-utils reads no multi-frame series")
    if case.name not in SYNTHETIC:
        pytest.skip("rt-utils is shown pictures so fine that those of a large series take gigabytes")
    found = rt_utils_structures(objects[kind], case, tmp_path / "rt_utils")
    check(case, found)


def test_dcmqi_reads_the_report(case: Case, objects: dict[str, Path], tmp_path: Path) -> None:
    report = dcmqi_measurements(objects["sr"], tmp_path)
    groups = {group["TrackingIdentifier"]: group for group in report["Measurements"]}
    assert len(report["Measurements"]) == len(groups) == len(case.present)
    for number, name in enumerate(segment_names(highdicom.seg.segread(objects["seg"])), start=1):
        assert groups[name]["ReferencedSegment"] == number
        assert groups[name]["SourceSeriesForImageSegmentation"] == case.origin.series_uid
        values = {item["quantity"]["CodeMeaning"]: item for item in groups[name]["measurementItems"]}
        volume_ml = int(mask(case, name).sum()) * case.labels.grid.voxel_volume_ml
        assert float(values["Volume"]["value"]) == pytest.approx(volume_ml, rel=1e-4)
        assert values["Volume"]["units"]["CodeValue"] == "ml"


def segment_names(seg: Any) -> list[str]:
    """Return the labels of the segments in their order, which is that of the last axis of what is read."""
    return [str(seg.get_segment_description(number).SegmentLabel) for number in seg.segment_numbers]


def mask(case: Case, name: str) -> NDArray[np.bool_]:
    """Return the mask of a label, straight from the array."""
    (index,) = [label.index for label in case.labels.labels if label.name == name]
    return np.asarray(case.labels.array == index)


def check(case: Case, found: dict[str, NDArray[np.bool_]]) -> None:
    """Compare masks with those of the labels that are present."""
    present = [label.name for label in case.labels.labels if label.index in case.present]
    assert sorted(found) == sorted(present)
    for name in present:
        assert np.array_equal(found[name], mask(case, name)), name
