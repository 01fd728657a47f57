"""Names of labels in objects: those of the labels, but for what a VR LO may not hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from medseg.dicom.identity import Identity
from medseg.dicom.label_names import object_name, object_names
from medseg.dicom.output_options import RtstructOptions, SegOptions, SrOptions
from medseg.dicom.rtstruct import make_structure_set
from medseg.dicom.seg import make_segmentation
from medseg.dicom.sr import make_measurement_report
from medseg.labels import Label, LabelSet
from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.proving import origin_in
from tests.dicom.test_sr import MAKER, mask, measured

HARD = ["x" * 70, "x" * 70 + "y", "a\\b", "two\nlines", "two lines", "two_lines", " spaced", "\n", "a/b", "肝臓"]


def test_names_fit_and_stay_different() -> None:
    names = object_names(Label(index=index, name=name) for index, name in enumerate(HARD, 1))
    assert list(names) == list(range(1, len(HARD) + 1))
    assert len(set(names.values())) == len(HARD)
    for name in names.values():
        assert 0 < len(name) <= 64
        assert name.isprintable()
        assert "\\" not in name
        assert name == name.strip()


def test_a_name_that_fits_stays() -> None:
    for name in ("two lines", "two_lines", "a/b", "肝臓", "x" * 64):
        assert object_name(Label(index=1, name=name)) == name


def test_a_name_depends_on_no_other_label() -> None:
    assert object_names([Label(index=3, name=HARD[1])])[3] == object_name(Label(index=1, name=HARD[1]))


@pytest.mark.parametrize("names", [("x" * 70, "x" * 70 + "y", "a\\b"), ("two\nlines", "two_lines", " a")])
def test_all_objects_call_a_label_alike(tmp_path: Path, names: tuple[str, str, str]) -> None:
    write_series(tmp_path, SeriesSpec("hard", shape=(20, 18, 5), bits_stored=12))
    origin = origin_in(tmp_path)
    labels = LabelSet(tuple(Label(index=index, name=name) for index, name in zip((2, 3, 7), names, strict=True)))
    drawn, expected = mask(origin, labels), list(object_names(labels).values())
    seg = make_segmentation(origin, drawn, Identity(origin, MAKER, "seg"), SegOptions()).dataset
    assert [item.SegmentLabel for item in seg.SegmentSequence] == expected
    assert [item.TrackingID for item in seg.SegmentSequence] == expected
    identity = Identity(origin, MAKER, "rtstruct")
    rtstruct = make_structure_set(origin, drawn, identity, RtstructOptions()).dataset
    assert [item.ROIName for item in rtstruct.StructureSetROISequence] == expected
    identity = Identity(origin, MAKER, "sr")
    sr = make_measurement_report(origin, measured(origin, drawn), identity, SrOptions(), seg).dataset
    assert tracking_names(sr) == expected


def tracking_names(dataset: Dataset) -> list[str]:
    found = []
    for item in dataset.get("ContentSequence", ()):
        if item.ConceptNameCodeSequence[0].CodeValue == "112039":
            found.append(item.TextValue)
        found += tracking_names(item)
    return found
