"""dciodvfy, dcentvfy and dsrdump on objects made from every kind of source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tools.objects import KINDS
from tests.tools.programs import dcentvfy, dciodvfy, dsrdump
from tests.tools.sources import SYNTHETIC, Case

pytestmark = pytest.mark.tools

LABEL_MAP = "seg_labelmap"
LABEL_MAP_ERRORS = [
    "Error - Information Object Not found",
    "Error - SegmentNumber not monotonically increasing from one by one - have SegmentSequence item number 1 "
    "(from one) with SegmentNumber of 0",
]
"""What a validator of 2022 says of a label map, which came with Supplement 243: it knows neither the SOP class nor
that the background is segment 0."""

SR_QUIRK = re.compile(
    r"Warning - Different information entities for attribute - Element=<AccessionNumber> "
    r"IE <(?:Series> versus <Study|Study> versus <Series)> for file <\S+> versus <\S+>"
)
"""dcentvfy takes the AccessionNumber of a report for its series'; it is the study's (PS3.3 C.7.2.1)."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_objects_are_valid(objects: dict[str, Path], kind: str) -> None:
    errors, others = dciodvfy(objects[kind])
    assert sorted(errors) == (LABEL_MAP_ERRORS if kind == LABEL_MAP else [])
    assert others or kind == LABEL_MAP  # the name of the object that it took the file for


def test_the_synthetic_sources_are_valid(case: Case) -> None:
    if case.name not in SYNTHETIC:
        pytest.skip("a scanner's files are what they are")
    assert [error for path in case.files for error in dciodvfy(path)[0]] == []


def test_patient_study_and_series_are_consistent(case: Case, objects: dict[str, Path]) -> None:
    made = [path for kind, path in objects.items() if kind not in (LABEL_MAP, "sr")]
    assert dcentvfy([*case.files, *made]) == ""


def test_the_report_is_consistent_with_them(case: Case, objects: dict[str, Path]) -> None:
    lines = dcentvfy([*case.files, objects["seg"], objects["sr"]]).splitlines()
    assert [line for line in lines if not SR_QUIRK.fullmatch(line)] == []
    assert all(str(objects["sr"]) in line for line in lines)


def test_dsrdump_reads_the_report(case: Case, objects: dict[str, Path]) -> None:
    text = dsrdump(objects["sr"])
    assert text.startswith("Comprehensive 3D SR Document")
    for flag in ("PRELIMINARY", "UNVERIFIED"):
        assert f": {flag}\n" in text
    groups = text.split('"Measurement Group"')[1:]
    assert len(groups) == len(case.present)
    for index, group in zip(case.present, groups, strict=True):
        (label,) = [label for label in case.labels.labels if label.index == index]
        assert f'"Tracking Identifier")="{label.name}"' in group
        (volume_ml,) = re.findall(r'"Volume"\)="(\S+)" \(ml,UCUM', group)
        inside = case.labels.array == index
        assert float(volume_ml) == pytest.approx(int(inside.sum()) * case.labels.grid.voxel_volume_ml, rel=1e-4)
        if case.image.modality == "CT":
            mean_hu, deviation_hu = re.findall(r'"Attenuation Coefficient"\)="(\S+)" \(\[hnsf\'U\],UCUM', group)
            values = case.image.array[inside].astype(float)
            assert float(mean_hu) == pytest.approx(values.mean(), abs=0.01)
            assert float(deviation_hu) == pytest.approx(values.std(), abs=0.01)
