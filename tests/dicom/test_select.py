"""Rules choose series: each says what it asked for and what it saw; which one is preferred depends on no order."""

import dataclasses
import itertools
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medseg.dicom.frame import Frame, Header
from medseg.dicom.select import Choice, SeriesRules, first_failed, prefer
from medseg.dicom.series import Series
from medseg.dicom.source import FileSource
from medseg.dicom.tags import IDENTIFYING, tag_of

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)


def choose(asked, candidates):
    """Decide about every candidate, in their order: whether it fits, and whether it is preferred in its study."""
    failed = [first_failed(asked, series) for series in candidates]
    fitting = [series for series, failure in zip(candidates, failed, strict=True) if failure is None]
    preferred = iter(prefer(asked, fitting))
    return [
        next(preferred) if failure is None else Choice(series, False, *failure)
        for series, failure in zip(candidates, failed, strict=True)
    ]


NOTHING = {"str": "", "int": 1, "bool": False, "tuple[str, ...]": ()}


def make_header(**values):
    """A header that says nothing but these values."""
    nothing = {field.name: NOTHING.get(str(field.type)) for field in dataclasses.fields(Header)}
    return Header(**(nothing | {"source": FileSource(Path("none")), "image_type": ()} | values))


def make_series(
    count=3, *, suffix="", step=(0, 0, 2), orientation=AXIAL, pixel_spacing=(1, 1), positions=None, uneven=None,
    modality="CT", sop_class=CT, study="study", series="series", **tags,
):  # fmt: skip
    """A series of `count` slices; `tags` are by keyword, and `uneven` are those of its last slice."""

    def numbers(values):
        return {tag_of(keyword): value for keyword, value in values.items()}

    if positions is None:
        positions = [tuple(float(k * part) for part in step) for k in range(count)]
    frames = []
    for k, position in enumerate(positions):
        own = numbers(tags | ((uneven or {}) if k == len(positions) - 1 else {}))
        header = make_header(
            modality=modality, sop_class_uid=sop_class, study_uid=study, series_uid=series, tags=own
        )
        frames.append(Frame(header, 0, position, orientation, pixel_spacing, (1.0, 0.0), own))
    return Series(tuple(frames), suffix)


def rotated(degrees):
    """An axial orientation turned about the patient's x axis."""
    angle = math.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, math.cos(angle), math.sin(angle))


def rules(**fields):
    return SeriesRules.model_validate(fields)


# rules; what fits; what does not; the rule's text; what it saw; (what lacks the value, what it saw then)
CASES = [
    ({"modality": "ct"}, {}, {"modality": "MR"}, "modality in CT", "MR", ({"modality": ""}, "no value")),
    ({"modality": ["CT", "MR"]}, {"modality": "MR"}, {"modality": "PT"}, "modality in CT, MR", "PT", None),
    ({"sop_class": "ct image storage"}, {}, {"sop_class": ENHANCED_CT}, "sop_class in CT Image Storage",
     "Enhanced CT Image Storage", ({"sop_class": ""}, "no value")),
    ({"sop_class": [ENHANCED_CT, "1.2.3"]}, {"sop_class": "1.2.3"}, {"sop_class": "1.2.4"},
     "sop_class in Enhanced CT Image Storage, 1.2.3", "1.2.4", None),
    ({"body_part": ["Chest", "abdomen"]}, {"BodyPartExamined": "chest"}, {"BodyPartExamined": "CHESTABDOMEN"},
     "body_part in CHEST, ABDOMEN", "CHESTABDOMEN", ({}, "no value")),
    ({"description": r"^t1|bravo\b"}, {"SeriesDescription": "Ax BRAVO"}, {"SeriesDescription": "Ax T1"},
     r"description matches ^t1|bravo\b", "Ax T1", ({}, "no value")),
    ({"protocol": "liver"}, {"ProtocolName": "5.2 Liver"}, {"ProtocolName": "Head"}, "protocol matches liver",
     "Head", ({}, "no value")),
    ({"kernel": "^B[1-4]"}, {"ConvolutionKernel": "B30f\\2"}, {"ConvolutionKernel": "B70f\\2"},
     "kernel matches ^B[1-4]", "B70f, 2", ({}, "no value")),
    ({"image_type": {"include": ["original", "PRIMARY"]}}, {"ImageType": "ORIGINAL\\PRIMARY\\AXIAL"},
     {"ImageType": "ORIGINAL\\SECONDARY"}, "image_type with ORIGINAL, PRIMARY", "ORIGINAL, SECONDARY",
     ({}, "no value")),
    ({"image_type": {"include": "ORIGINAL", "exclude": ["LOCALIZER"]}}, {"ImageType": "original\\PRIMARY"},
     {"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER"}, "image_type with ORIGINAL, without LOCALIZER",
     "ORIGINAL, PRIMARY, LOCALIZER", None),
    ({"slices": {"min": 3, "max": 5}}, {"count": 3}, {"count": 2}, "slices >= 3 and <= 5", "2", None),
    ({"slices": {"max": 5}}, {"count": 5}, {"count": 6}, "slices <= 5", "6", None),
    ({"slice_thickness_mm": {"max": 3}}, {"SliceThickness": "3.000"}, {"SliceThickness": "5.000000"},
     "slice_thickness_mm <= 3", "5", ({}, "no value")),
    ({"slice_thickness_mm": {"max": 3}}, {"SliceThickness": "0.6"}, {"SliceThickness": "3.0001"},
     "slice_thickness_mm <= 3", "3.0001", ({"SliceThickness": "0"}, "no value")),
    ({"slice_spacing_mm": {"min": 1, "max": 2.5}}, {"step": (0, 0, 2.5)}, {"step": (0, 0, -2.6)},
     "slice_spacing_mm >= 1 and <= 2.5", "2.6", ({"count": 1}, "no value")),
    ({"pixel_spacing_mm": {"max": 0.9}}, {"pixel_spacing": (0.5, 0.9)}, {"pixel_spacing": (0.5, 0.91)},
     "pixel_spacing_mm <= 0.9", "0.5, 0.91", ({"pixel_spacing": None}, "no value")),
    ({"orientation": "axial"}, {"orientation": rotated(19.9)}, {"orientation": rotated(20.5)}, "orientation axial",
     "20.5 degrees off", ({"orientation": None}, "no value")),
    ({"orientation": "coronal"}, {"orientation": CORONAL}, {"orientation": SAGITTAL}, "orientation coronal",
     "90 degrees off", ({"orientation": (1, 0, 0, 1, 0, 0)}, "no value")),
    ({"orientation": "sagittal", "orientation_tolerance_deg": 0}, {"orientation": SAGITTAL},
     {"orientation": AXIAL}, "orientation sagittal", "90 degrees off", None),
    ({"orientation": "axial", "orientation_tolerance_deg": 30}, {"orientation": rotated(-30)},
     {"orientation": rotated(150 - 0.5)}, "orientation axial", "30.5 degrees off", None),
    ({"contrast": True}, {"ContrastBolusAgent": "APPLIED"}, {"ContrastBolusAgent": "None"}, "contrast true",
     "no agent", ({}, "no agent")),
    ({"contrast": False}, {"ContrastBolusAgent": "NO"}, {"ContrastBolusAgent": "Ultravist\\370"}, "contrast false",
     "Ultravist, 370", None),
    ({"tags": {"KVP": ">= 100"}}, {"KVP": "100.0"}, {"KVP": "99"}, "KVP >= 100", "99", ({}, "no value")),
    ({"tags": {"kvp": ">100"}}, {"KVP": "120"}, {"KVP": "100"}, "kvp > 100", "100", ({"KVP": ""}, "no value")),
    ({"tags": {"0018,0081": "<30"}}, {"EchoTime": "2.46"}, {"EchoTime": "30"}, "0018,0081 < 30", "30",
     ({}, "no value")),
    ({"tags": {"EchoTime": "<= 4.92"}}, {"EchoTime": "4.92000008"}, {"EchoTime": "4.93"}, "EchoTime <= 4.92",
     "4.93", ({"EchoTime": "short"}, "short")),
    ({"tags": {"EchoTime": "< 4.92"}}, {"EchoTime": "4.91"}, {"EchoTime": "4.92000008"}, "EchoTime < 4.92",
     "4.92000008", None),
    ({"tags": {"StudyDate": ">= 20200102"}}, {"StudyDate": "20200102"}, {"StudyDate": "20200101"},
     "StudyDate >= 20200102", "20200101", ({}, "no value")),
    ({"tags": {"Manufacturer": "== Siemens"}}, {"Manufacturer": "SIEMENS"}, {"Manufacturer": "GE"},
     "Manufacturer == Siemens", "GE", ({}, "no value")),
    ({"tags": {"EchoNumbers": "!= 2"}}, {"EchoNumbers": "1\\3"}, {"EchoNumbers": "1\\2.0"}, "EchoNumbers != 2",
     "1, 2.0", ({}, "no value")),
    ({"tags": {"Manufacturer": "!= GE"}}, {"Manufacturer": "Philips"}, {"Manufacturer": "ge"}, "Manufacturer != GE",
     "ge", ({}, "no value")),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "good", "bad", "rule", "seen", "missing"), CASES)
def test_a_rule(fields, good, bad, rule, seen, missing):
    assert first_failed(rules(**fields), make_series(**good)) is None
    assert first_failed(rules(**fields), make_series(**bad)) == (rule, seen)
    if missing:
        assert first_failed(rules(**fields), make_series(**missing[0])) == (rule, missing[1])


def test_every_rule_is_among_the_cases():
    fields = set(SeriesRules.model_fields) - {"prefer"}
    assert {name for case in CASES for name in case[0]} == fields


def test_no_rules_take_everything():
    odd = make_series(1, orientation=None, positions=[None], pixel_spacing=None, modality="", sop_class="")
    assert first_failed(SeriesRules(), odd) is None
    assert [decision.taken for decision in choose(SeriesRules(), [odd, make_series(), odd])] == [True] * 3


@pytest.mark.parametrize(
    ("fields", "given", "seen"),
    [
        ({"description": ".*"}, {}, "no value"),
        ({"tags": {"EchoNumbers": "!= 2"}}, {"EchoNumbers": "1\\"}, "1, "),
        ({"tags": {"EchoNumbers": "> 0"}}, {"EchoNumbers": "\\1"}, ", 1"),
    ],
)
def test_a_missing_value_never_fits(fields, given, seen):
    assert first_failed(rules(**fields), make_series(**given))[1] == seen


def test_one_slice_without_an_orientation_is_one_too_many():
    whole = make_series(3)
    part = Series((*whole.frames, dataclasses.replace(whole.frames[0], orientation=None)))
    for fields in ({"orientation": "axial"}, {"slice_spacing_mm": {"max": 9}}):
        assert first_failed(rules(**fields), whole) is None
        assert first_failed(rules(**fields), part)[1] == "no value"


def test_no_image_type_holds_nothing_that_is_excluded():
    assert first_failed(rules(image_type={"exclude": "LOCALIZER"}), make_series()) is None


@pytest.mark.parametrize(
    ("fields", "usual", "last", "seen"),
    [
        ({"tags": {"KVP": ">= 100"}}, {"KVP": "120"}, {"KVP": "80"}, "80"),
        ({"tags": {"KVP": ">= 100"}}, {"KVP": "120"}, {"KVP": ""}, "no value"),
        ({"slice_thickness_mm": {"max": 3}}, {"SliceThickness": "1"}, {"SliceThickness": "4"}, "4"),
        ({"description": "thin"}, {"SeriesDescription": "thin"}, {"SeriesDescription": "thick"}, "thick"),
        ({"image_type": {"exclude": "MIP"}}, {"ImageType": "A"}, {"ImageType": "A\\MIP"}, "A, MIP"),
        ({"contrast": False}, {}, {"ContrastBolusAgent": "Gd"}, "Gd"),
    ],
)
def test_a_rule_holds_for_every_slice(fields, usual, last, seen):
    assert first_failed(rules(**fields), make_series(**usual)) is None
    assert first_failed(rules(**fields), make_series(**usual, uneven=last))[1] == seen


def test_the_distance_between_slices_is_along_their_normal_and_the_median():
    gap = [(0.0, 0.0, z) for z in (7.0, 0.0, 1.0, 2.0, 3.0, 3.0)]  # any order, a gap, two at one place
    tilted = [(0.0, 5.0 * k, 1.0 * k) for k in range(4)]
    rounded = [(0.0, 0.0, round(k * 1.0000002, 7)) for k in range(4)]
    for positions in (gap, tilted, rounded):
        assert first_failed(rules(slice_spacing_mm={"min": 1, "max": 1}), make_series(positions=positions)) is None
    sides = make_series(orientation=SAGITTAL, step=(-4, 0, 9))
    assert first_failed(rules(slice_spacing_mm={"max": 3}), sides) == ("slice_spacing_mm <= 3", "4")
    nowhere = make_series(positions=[(0.0, 0.0, 0.0), None])
    assert first_failed(rules(slice_spacing_mm={"max": 9}), nowhere) == ("slice_spacing_mm <= 9", "no value")


def test_the_first_rule_that_fails_is_told_and_all_must_hold():
    both = rules(slices={"min": 10}, modality="MR", tags={"KVP": "< 1", "EchoTime": "> 1"})
    assert first_failed(both, make_series(3)) == ("modality in MR", "CT")
    assert first_failed(both, make_series(3, modality="MR")) == ("slices >= 10", "3")
    assert first_failed(both, make_series(10, modality="MR", KVP="0.5")) == ("EchoTime > 1", "no value")


def test_only_so_much_of_a_text_is_searched_and_shown_and_it_is_printable():
    late = make_series(SeriesDescription="a" * 64 + "thin")
    assert first_failed(rules(description="thin"), late) == ("description matches thin", "a" * 64)
    escape = make_series(SeriesDescription="\x1b[2Jred\n")
    assert first_failed(rules(description="thin"), escape)[1] == "?[2Jred?"


def test_values_of_free_text_and_private_tags_are_not_shown():
    asked = rules(tags={"0019,100C": "< 5", "StationName": "== CT1", "ScanningSequence": "== SE"})
    secret = {0x0019100C: "7", tag_of("StationName"): "CT1", tag_of("ScanningSequence"): "SE"}
    for tag, value, seen in (
        (0x0019100C, "Doe^Jane", "another value"),
        (tag_of("StationName"), "DOE", "another value"),
        (tag_of("ScanningSequence"), "GR", "GR"),
        (tag_of("StationName"), "", "no value"),
    ):
        values = secret | {0x0019100C: "4"} | {tag: value}
        frame = Frame(make_header(tags=values), 0, None, None, None, None, values)
        assert first_failed(asked, Series((frame,)))[1] == seen


def test_extra_tags_are_those_that_are_not_always_read():
    assert rules(tags={"KVP": "> 1"}).extra_tags == frozenset()
    asked = rules(tags={"KVP": "> 1", "FlipAngle": "> 1", "0019,100c": "> 1", "Rows": "== 512"})
    assert asked.extra_tags == {tag_of("FlipAngle"), 0x0019100C, tag_of("Rows")}
    assert rules(prefer="latest").extra_tags == {tag_of("AcquisitionDateTime")}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modality": "MRI"}, "DICOM calls this modality MR"),
        ({"modality": []}, "at least 1 item"),
        ({"modality": [" "]}, "at least 1 character"),
        ({"modality": [1]}, "valid string"),
        ({"sop_class": "CT Image Storag"}, "did you mean 'CT Image Storage'"),
        ({"description": "(thin"}, "missing ), unterminated subpattern at position 0"),
        ({"description": "a{99999999999}"}, "repetition number is too large"),
        ({"description": ""}, "at least 1 character"),
        ({"description": "a" * 201}, "at most 200 characters"),
        ({"kernel": "(a+)+$"}, "a repeated group can take forever"),
        ({"kernel": "(a|a)*$"}, "a repeated group can take forever"),
        ({"protocol": "a*a*a+a{2}a*b"}, "more than 4 repeats"),
        ({"image_type": {}}, "include, exclude or both"),
        ({"image_type": {"include": "AXIAL", "exclude": ["axial", "MIP"]}}, "AXIAL cannot be both"),
        ({"slices": {}}, "min, max or both"),
        ({"slices": {"min": 5, "max": 4}}, "min 5 must not be above max 4"),
        ({"slices": {"min": -1}}, "greater than or equal to 0"),
        ({"slices": {"max": math.inf}}, "finite"),
        ({"orientation": "oblique"}, "axial"),
        ({"orientation_tolerance_deg": 91}, "less than or equal to 90"),
        ({"prefer": "thickest"}, "most_slices"),
        ({"tags": {"KVPP": "> 3"}}, "there is no such DICOM attribute (did you mean 'KVP'?)"),
        ({"tags": {"ecotime": "> 3"}}, "did you mean 'EchoTime'?"),
        ({"tags": {"0018,FFFF": "> 3"}}, "no standard attribute"),
        ({"tags": {"PixelData": "> 3"}}, "no standard attribute with a number or a short text"),
        ({"tags": {"ReferencedSeriesSequence": "== 3"}}, "no standard attribute"),
        ({"tags": {"KVP": "120"}}, "expected one of < <= > >= == != and a value, such as '>= 100'"),
        ({"tags": {"KVP": "=> 120"}}, "expected one of"),
        ({"tags": {"KVP": ">="}}, "expected one of"),
        ({"tags": {"KVP": 120}}, "valid string"),
        ({"tags": {"KVP": "> high"}}, "expected a number after >, found 'high'"),
        ({"tags": {"KVP": "> nan"}}, "expected a number"),
        ({"tags": {"Manufacturer": "> 3"}}, "holds no numbers (it is LO); compare it by == or !="),
        ({"tags": {"PatientAge": "> 3"}}, "holds no numbers (it is AS)"),
        ({"sliced": 3}, "Extra inputs"),
    ],
)
def test_rules_that_cannot_be(fields, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        rules(**fields)


@pytest.mark.parametrize("tag", sorted(IDENTIFYING | {tag_of("PhysiciansOfRecord")}))
def test_tags_that_identify_a_patient_are_refused(tag):
    with pytest.raises(ValidationError, match="can identify a patient"):
        rules(tags={f"{tag >> 16:04X},{tag & 0xFFFF:04x}": "== 3"})


@pytest.mark.parametrize("pattern", [r"[(a+)+]", r"\)+x", r"(thin|1\.?0 ?mm)", r"[]a)]*", "(?!.*post).*t1.*(ax)?"])
def test_regexes_that_only_look_like_slow_ones(pattern):
    assert rules(description=pattern).description == pattern


def test_the_slowest_regex_allowed_comes_to_an_end():
    assert first_failed(rules(description="a*a*a*a*b"), make_series(SeriesDescription="a" * 5000)) is not None


def test_a_dump_is_valid_again():
    asked = rules(modality="CT", sop_class=CT, tags={"kvp": ">=3"}, image_type={"include": "A"}, prefer="latest")
    assert SeriesRules.model_validate(asked.model_dump()) == asked
    assert SeriesRules.model_validate_json(asked.model_dump_json()) == asked


# prefer


def decided(asked, *series):
    return [(d.taken, d.rule, d.seen) for d in prefer(asked, series)]


def test_most_slices_win():
    few, many = make_series(24, series="few"), make_series(120, series="many")
    seen = f"24 slices; 120 in {many.name}"
    assert decided(rules(prefer="most_slices"), few, many) == [(False, "prefer most_slices", seen), (True, "", "")]


def test_the_thinnest_wins_by_thickness_else_by_distance():
    thick = make_series(series="1", SliceThickness="5")
    thin = make_series(series="2", SliceThickness="1.0", uneven={"SliceThickness": "1.5"})
    spaced = make_series(series="3", step=(0, 0, 2))
    unknown = make_series(1, series="4")
    result = decided(rules(prefer="thinnest"), thick, thin, spaced, unknown)
    told = ["5 mm; 1.5 mm in ", "", "2 mm; 1.5 mm in ", "unknown, but known of "]
    assert [seen for _, _, seen in result] == [text and text + thin.name for text in told]
    assert [taken for taken, _, _ in result] == [False, True, False, False]


@pytest.mark.parametrize(
    ("early", "late", "seconds"),
    [
        ({"AcquisitionDate": "20200229", "AcquisitionTime": "235959.5"},
         {"AcquisitionDate": "20200301", "AcquisitionTime": "000001"}, "1.5"),
        ({"AcquisitionDate": "20200229", "AcquisitionTime": "1015"},
         {"AcquisitionDate": "2020.02.29", "AcquisitionTime": "10:16:00"}, "60"),
        ({"SeriesDate": "20200229", "SeriesTime": "10"},
         {"AcquisitionDate": "20200229", "AcquisitionTime": "11"}, "3600"),
        ({"AcquisitionDate": "20200101", "AcquisitionTime": "2360", "StudyDate": "20200101", "ContentTime": "10"},
         {"StudyDate": "20200101", "AcquisitionTime": "100001"}, "1"),
        ({"AcquisitionDateTime": "20200101101530.250000+0100"}, {"AcquisitionTime": "20200101101531.25"}, "1"),
    ],
)  # fmt: skip
def test_the_latest_wins(early, late, seconds):
    late_series = make_series(series="late", **late)
    result = decided(rules(prefer="latest"), make_series(series="early", **early), late_series)
    assert result == [(False, "prefer latest", f"{seconds} s before {late_series.name}"), (True, "", "")]


def test_what_all_series_of_a_study_tell_counts():
    series = {"SeriesDate": "20200119"}
    changed = {
        "AcquisitionDate": "19970117",
        "AcquisitionTime": "115444",
    }  # to hide the patient; in one series only
    late = make_series(series="late", **changed, **series, SeriesTime="115444")
    early = make_series(series="early", **series, SeriesTime="114557")
    assert decided(rules(prefer="latest"), late, early)[1][2] == f"527 s before {late.name}"


def test_a_series_without_a_date_loses_and_its_first_slice_counts():
    undated = make_series(series="a", AcquisitionTime="2359")
    day = {"AcquisitionDate": "20200101"}
    early = make_series(series="b", **day, AcquisitionTime="1000", uneven={"AcquisitionTime": "2300"})
    late = make_series(series="c", **day, AcquisitionTime="1100")
    result = decided(rules(prefer="latest"), undated, early, late)
    assert [seen for _, _, seen in result] == [
        f"unknown, but known of {late.name}",
        f"3600 s before {late.name}",
        "",
    ]


def test_ties_go_to_the_next_criterion_and_last_to_the_name():
    asked = rules(prefer=["most_slices", "thinnest"])
    thick = make_series(9, series="thick", SliceThickness="5")
    twins = sorted((make_series(9, series=uid, SliceThickness="1") for uid in ("x", "y")), key=lambda s: s.name)
    fewer = make_series(8, series="fewer", SliceThickness="0.5")
    first, second, third, fourth = decided(asked, thick, twins[1], twins[0], fewer)
    assert first == (False, "prefer thinnest", f"5 mm; 1 mm in {twins[0].name}")
    assert second == (False, "prefer most_slices, thinnest", f"the same as {twins[0].name}, which is first by name")
    assert third == (True, "", "")
    assert fourth == (False, "prefer most_slices", f"8 slices; 9 in {twins[0].name}")


def test_each_study_has_its_own_best_and_no_study_at_all_is_no_study():
    asked = rules(prefer="most_slices")
    studies = [make_series(n, study=uid, series=f"{uid}{n}") for uid in ("a", "b") for n in (3, 5)]
    assert [taken for taken, _, _ in decided(asked, *studies)] == [False, True, False, True]
    strangers = [make_series(n, study="", series=f"{n}") for n in (3, 5)]
    assert [taken for taken, _, _ in decided(asked, *strangers)] == [True, True]
    parts = [make_series(n, study="", series="1", suffix=f"-{n}") for n in (3, 5)]
    assert [taken for taken, _, _ in decided(asked, *parts)] == [False, True]


def test_without_prefer_all_that_fit_are_taken():
    assert decided(SeriesRules(), make_series(1), make_series(9)) == [(True, "", "")] * 2


def test_choose_prefers_among_those_that_fit_and_keeps_the_order():
    asked = rules(slices={"max": 100}, prefer="most_slices")
    series = [make_series(n, series=str(n)) for n in (24, 120, 60)]
    decisions = choose(asked, series)
    assert [d.series for d in decisions] == series
    assert [d.rule for d in decisions] == ["prefer most_slices", "slices <= 100", ""]
    assert [d.taken for d in decisions] == [False, False, True]


candidates = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.integers(1, 3), st.sampled_from(["", "1", "2"]), st.sampled_from(["", "1015"])
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(candidates, st.permutations(["most_slices", "thinnest", "latest"]), st.integers(1, 3))
def test_the_winner_does_not_depend_on_order(kinds, criteria, count):
    asked = rules(prefer=criteria[:count])
    series = [
        make_series(
            n, study=study, series=f"{k}", SliceThickness=thick, AcquisitionDate="20200101", AcquisitionTime=at
        )
        for k, (study, n, thick, at) in enumerate(kinds)
    ]
    results = set()
    for order in itertools.islice(itertools.permutations(series), 24):
        decisions = choose(asked, order)
        assert [d.series for d in decisions] == list(order)
        results.add(frozenset((d.series.name, d.taken, d.rule, d.seen) for d in decisions))
    assert len(results) == 1
    taken = [name for name, is_taken, _, _ in next(iter(results)) if is_taken]
    assert len(taken) == len({study for study, *_ in kinds})
