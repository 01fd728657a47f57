"""Which channel of a study is measured and shown, and in which unit: alike in every output."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from medseg.findings import Finding, FindingCode
from medseg.labels import LabelMap, LabelSet
from medseg.maker import Maker
from medseg.outputs.case import DrawnCase
from medseg.outputs.making import Making
from medseg.outputs.release import release
from medseg.recipe import Recipe
from medseg.report.slices import grey_window
from medseg.volume import Volume
from tests.builders import tiny_package

SHAPE = (9, 8, 7)
RECIPE = Recipe.model_validate({"name": "r", "model": "m", "outputs": {"tables": {}, "report": {}}})
OUTPUTS = ("measurements.csv", "measurements.json", "report.html")


def volume(value: float, modality: str | None = None) -> Volume:
    return Volume(np.full(SHAPE, value, np.float32, order="F"), np.eye(4), modality)


def drawn(images: tuple[Volume | None, ...], *modalities: str, **facts) -> DrawnCase:
    array = np.zeros(SHAPE, np.uint8, order="F")
    array[2:5, 2:5, 2:5] = 1
    labels = LabelMap(Volume(array, np.eye(4)), LabelSet.from_names({1: "liver"}))
    envelope = tiny_package().envelope.model_copy(update={"modalities": modalities})
    maker = Maker("tiny", "ab" * 32, "cd" * 32)
    return DrawnCase("x", images, labels, maker, envelopes=((envelope, ("liver",)),), **facts)


def texts(case: DrawnCase, folder) -> list[str]:
    files = {place.split("/")[-1]: path for path, place in release(case, RECIPE, folder).files}
    return [files[name].read_text() for name in OUTPUTS]


@pytest.mark.parametrize(
    ("image", "modality", "findings", "unit"),
    [
        (None, "CT", (), "HU"),  # NIfTI says nothing, the model does
        (None, "MR", (), ""),
        (None, "OT", (), ""),
        ("MR", "CT", (), ""),
        ("CT", "OT", (), "HU"),
        ("CT", "CT", (Finding(FindingCode.NO_RESCALE, "stored"),), ""),
    ],
)
def test_the_unit_is_one_in_all_outputs(tmp_path, image, modality, findings, unit):
    table, listed, page = texts(drawn((volume(50, image),), modality, findings=findings), tmp_path)
    (row,) = csv.DictReader(table.splitlines())
    assert (row["mean"], row["unit"]) == ("50.0", unit)
    assert json.loads(listed)["measurements"][0]["unit"] == unit
    assert ("mean, HU</th>" in page) == (unit == "HU")
    assert f"<dd>{image or ('unknown' if modality == 'OT' else modality)}</dd>" in page


def test_a_ct_from_nifti_is_drawn_with_the_window_of_soft_tissue():
    assert grey_window(drawn((volume(50),), "CT").image) == (-160, 240)
    assert drawn((volume(50),), "MR").image.modality == "MR"
    assert drawn((volume(50),)).image.modality is None


def test_the_first_channel_is_measured_and_named(tmp_path):
    table, listed, page = texts(drawn((volume(3, "MR"), volume(9)), "MR", "PT"), tmp_path)
    (row,) = csv.DictReader(table.splitlines())
    assert (row["mean"], row["channel"], json.loads(listed)["channel"]) == ("3.0", "0 (MR)", "0 (MR)")
    assert "mean of channel 0 (MR)</th>" in page
    assert "<dd>MR, PT</dd>" in page


def test_no_other_channel_stands_in_for_the_first_one(tmp_path):
    case = drawn((None, volume(9)), "CT", "PT")
    table, listed, _ = texts(case, tmp_path)
    (row,) = csv.DictReader(table.splitlines())
    assert (row["mean"], row["unit"], row["channel"]) == ("", "", "0 (CT)")
    assert json.loads(listed)["measurements"][0]["mean"] is None
    assert (case.image.modality, case.measured) == ("PT", None)
    assert Making(case, RECIPE, tmp_path).measurements[0].mean is None
