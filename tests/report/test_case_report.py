"""The page of a study: every fact is on it, nothing is loaded, what looks like markup is text."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np

from medseg.findings import Finding, FindingCode
from medseg.labels import LabelMap, LabelSet
from medseg.measurements import measure
from medseg.proof import LabelProof, Proof
from medseg.report.case import CasePage, case_page
from medseg.report.overview import NOTICE, Picture
from medseg.volume import Volume


class Tables(HTMLParser):
    """Rows of cells, as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag in ("td", "th") or (self.inside and tag in ("span", "strong"))

    def handle_endtag(self, tag) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def measurements(modality: str | None = "CT"):
    array = np.zeros((6, 6, 3), dtype=np.uint8)
    array[1:4, 1, 1], array[5, 5, 2] = 1, 2
    image = np.where(array == 1, 40.0, -7.25)
    affine = np.diag([2.0, 2.0, 10.0, 1.0])
    labels = LabelMap(Volume(array, affine), LabelSet.from_names({1: "liver", 2: "<script>x</script>"}))
    return measure(labels, None if modality is None else Volume(image, affine), "HU" if modality == "CT" else "")


PICTURE = Picture("overview", np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8))
TRUNCATED = Finding(FindingCode.TRUNCATED, "liver touches the border: <b>12</b> voxels")
PAGE = CasePage(
    "case_12ab",
    measurements(),
    absent=("spleen",),
    pictures=(PICTURE,),
    flags=(TRUNCATED, Finding(FindingCode.UNUSUAL_VOLUME, "liver: 9 ml")),
    held=("unusual-volume",),
    unchecked=("spleen: nobody knows",),
    findings=(Finding(FindingCode.GANTRY_TILT, "tilted by 12 degrees"),),
    proofs=(
        Proof(
            "rtstruct.dcm",
            "RTSTRUCT",
            (LabelProof("a", 10, 10, 0.0, 1.0), LabelProof("b", 9, 8, 0.02, 0.99998)),
            1.0,
        ),
        Proof("sr.dcm", "SR", (), 0.1),
    ),
    facts=(("modality", "CT"),),
    provenance=(("model sha256", "ab" * 32),),
)


def test_every_fact_is_on_the_page() -> None:
    text = case_page(PAGE)
    rows = Tables(text).rows
    assert ["liver", "0.12", "40.0", "0.0", "6.0", "3"] in rows
    assert ["<script>x</script>", "0.04", "-7.2", "0.0", "2.0", "1"] in rows
    assert ["truncated", TRUNCATED.message] in rows
    assert ["unusual-volume (held)", "liver: 9 ml"] in rows
    assert ["gantry-tilt", "tilted by 12 degrees"] in rows
    assert ["rtstruct.dcm", "RTSTRUCT", "2", "b", "0.9999", "0.020", "8 of 9"] in rows
    assert ["sr.dcm", "SR", "–", "–", "–", "–", "–"] in rows
    assert ["model sha256", "ab" * 32] in rows
    for words in ("case_12ab", "Absent: spleen", "spleen: nobody knows", "Held back", "mean, HU", "modality"):
        assert words in text
    assert text.lower().count(NOTICE) >= 3


def test_the_page_loads_nothing_and_holds_its_pictures() -> None:
    text = case_page(PAGE)
    (source,) = re.findall(r'src="([^"]*)"', text)
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == PICTURE.png
    assert not re.search(r"href=|https?://|url\(", text)
    assert "default-src 'none'; img-src data:" in text


def test_what_looks_like_markup_is_text() -> None:
    text = case_page(PAGE)
    assert "<b>12</b>" not in text
    assert text.count("<script>") == 1


def test_the_same_facts_make_the_same_page() -> None:
    assert case_page(PAGE) == case_page(PAGE)


def test_values_without_a_unit_and_without_an_image() -> None:
    assert "mean</th>" in case_page(CasePage("x", measurements("MR")))
    assert "mean of channel 0 (MR)</th>" in case_page(CasePage("x", measurements("MR"), channel="0 (MR)"))
    head = Tables(case_page(CasePage("x", measurements(None)))).rows[0]
    assert head == ["label", "volume, ml", "longest axial diameter, mm", "voxels"]


def test_a_study_in_which_nothing_was_drawn_has_a_page() -> None:
    text = case_page(CasePage("x", ()))
    assert "Nothing was drawn" in text
    assert "Held back" not in text
    assert "<h2>Proof" not in text
