"""Labels as coded concepts: what PS3.16 and SNOMED CT call them, and nothing where they have no name."""

from __future__ import annotations

import highdicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medseg.dicom.synonyms import AMBIGUOUS, LESIONS, RIBS, SYNONYMS
from medseg.dicom.terminology import (
    LEFT,
    PRIVATE_SCHEME,
    RIGHT,
    CodedLabel,
    add_private_scheme,
    code_item,
    label_code,
    uncoded,
)
from medseg.errors import InputError
from medseg.labels import CodedConcept, Label, Laterality


def coded(name: str, **values: object) -> CodedLabel:
    return label_code(Label(index=1, name=name, **values))


SCT = codes.SCT
BY_NAME = {
    "kidney_left": (SCT.Kidney, LEFT),
    "Left Kidney": (SCT.Kidney, LEFT),
    "LeftKidney": (SCT.Kidney, LEFT),
    "Kidney_R": (SCT.Kidney, RIGHT),
    "left_lung": (SCT.Lung, LEFT),
    "lung_upper_lobe_left": (SCT.UpperLobeOfLung, LEFT),
    "lung_middle_lobe_right": (SCT.MiddleLobeOfRightLung, None),
    "vertebrae_L3": (SCT.L3Vertebra, None),
    "T12 vertebra": (SCT.T12Vertebra, None),
    "urinary_bladder": (SCT.Bladder, None),
    "small_bowel": (SCT.SmallIntestine, None),
    "heart_atrium_left": (SCT.LeftAtrium, None),
    "left_ventricle": (SCT.LeftVentricle, None),
    "atrial_appendage_left": (SCT.LeftAuricularAppendage, None),
    "autochthon_right": (SCT.ErectorSpinaeMuscle, RIGHT),
    "clavicula_left": (SCT.Clavicle, LEFT),
    "LIVER": (SCT.Liver, None),
    "inferior_vena_cava": (SCT.InferiorVenaCava, None),
    "pulmonary_vein": (SCT.PulmonaryVein, None),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_names_have_the_codes_of_the_standard(name: str) -> None:
    code, side = BY_NAME[name]
    found = coded(name)
    assert (found.type.value, found.type.scheme) == (code.value, code.scheme_designator)
    assert (found.side, found.is_private) == (side, False)
    assert found.category.value == SCT.AnatomicalStructure.value


def test_every_name_of_the_context_group_of_anatomy_is_found() -> None:
    """CID 7192: each name gives a code that has it there (two names stand there with two codes each)."""
    group = list(codes.cid7192.concepts.values())
    meanings = {meaning.casefold() for meaning in (code.meaning for code in group)}
    assert len(group) > 700
    for code in group:
        if code.meaning.casefold() in AMBIGUOUS:
            continue
        same = {other.value for other in group if other.meaning.casefold() == code.meaning.casefold()}
        assert coded(code.meaning).type.value in same, code.meaning
    assert len(meanings) >= len(group) - 5


@pytest.mark.parametrize(
    "name", ["anterior", "kidneyish", "left_right", "gluteus_maximus_left", "organ 7", "肝臓", "_"]
)
def test_nothing_is_guessed(name: str) -> None:
    found = coded(name)
    assert found.is_private
    assert found.type.scheme == PRIVATE_SCHEME
    assert len(found.type.value) <= 16
    assert found.type.value.isascii()


def test_private_codes_differ_by_name_and_not_by_side() -> None:
    names = (
        "gluteus_maximus_left",
        "gluteus_maximus_right",
        "a very long name of something",
        "a very long name else",
    )
    left, right, long, other = (coded(name) for name in names)
    assert left.type == right.type
    assert (left.side, right.side) == (LEFT, RIGHT)
    assert long.type.value != other.type.value


@pytest.mark.parametrize("word", LESIONS)
def test_lesions_are_no_anatomy_and_lie_in_an_organ(word: str) -> None:
    found = coded(f"kidney_{word}_left")
    assert found.category.value == "49755003"
    assert found.type.value in {code.value for code in codes.cid7194.concepts.values()}
    assert found.region is not None
    assert (found.region.value, found.side) == (SCT.Kidney.value, LEFT)
    assert coded(word).region is None


def test_tissue_is_of_another_category() -> None:
    assert coded("muscle").category.value == SCT.Tissue.value


def test_what_a_label_says_itself_goes_first() -> None:
    spleen = CodedConcept(value="78961009", meaning="Spleen")
    lesion = CodedConcept(value="49755003", meaning="Morphologically Abnormal Structure")
    found = coded("liver", code=spleen, category=lesion, region=spleen, laterality=Laterality.RIGHT)
    assert found == CodedLabel(lesion, spleen, RIGHT, spleen)
    assert coded("kidney_left", code=spleen).side == LEFT
    left_lobe = CodedConcept(value="1", meaning="Left lobe of liver")
    assert coded("lobe_left", code=left_lobe).side is None  # the code says it


@pytest.mark.parametrize(
    "said",
    [
        {"laterality": Laterality.RIGHT},
        {"code": CodedConcept(value="9846003", meaning="Right kidney")},
    ],
)
def test_contradictory_sides_are_refused(said: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"label kidney_left: expected one side, found its name says left"):
        coded("kidney_left", **said)


def test_an_amount_of_tissue_is_no_lesion() -> None:
    for name in ("fat_mass", "muscle_mass", "bone_mass", "lean_mass", "soft tissue mass"):
        assert coded(name).is_private, name
        assert coded(name).category.value == SCT.AnatomicalStructure.value
    for name, organ in (("liver_mass", SCT.Liver), ("kidney_mass_left", SCT.Kidney)):
        found = coded(name)
        assert found.type.value == SCT.Mass.value
        assert found.region is not None
        assert found.region.value == organ.value
    assert coded("bone_tumor").category.value == coded("mass").category.value == "49755003"


@pytest.mark.parametrize("name", ["non_tumor", "enhancing_tumor", "non_enhancing_tumor", "peri_lesion"])
def test_words_that_name_no_organ_may_say_that_it_is_no_lesion(name: str) -> None:
    assert coded(name).is_private


@pytest.mark.parametrize("name", sorted(AMBIGUOUS))
def test_names_of_several_things_have_no_code(name: str) -> None:
    assert coded(name).is_private
    assert coded(f"{name}_tumor").is_private
    assert [finding.code.value for finding in uncoded([Label(index=1, name=name)], "here")] == ["no-code"]


@pytest.mark.parametrize("name", ["RKidney", "R_kidney", "rt kidney", "kidney-RT", "Right_Kidney", "kidneyR"])
def test_sides_are_found_however_they_are_written(name: str) -> None:
    assert (coded(name).type.value, coded(name).side) == (SCT.Kidney.value, RIGHT)


@pytest.mark.parametrize("number", RIBS)
def test_each_rib_has_a_code_of_its_own(number: int) -> None:
    found = coded(f"rib_left_{number}")
    assert (found.type.value, found.side) == (RIBS[number][1], LEFT)
    assert len({value for _, value in RIBS.values()}) == 12
    assert _has_check_digit(found.type.value)


def test_the_tables_name_what_is_there() -> None:
    for name in SYNONYMS:
        assert not coded(name).is_private, name


def test_codes_that_are_unknown_are_said() -> None:
    labels = [Label(index=1, name="liver"), Label(index=2, name="thing")]
    (finding,) = uncoded(labels, "here")
    assert (finding.code.value, finding.where) == ("no-code", "here")
    assert "thing" in finding.message
    assert "liver" not in finding.message
    assert uncoded(labels[:1], "here") == []


def test_items_are_valid_code_sequences() -> None:
    item = code_item(CodedConcept(value="1" * 20, meaning="m" * 80, scheme="99X"))
    assert isinstance(item, highdicom.sr.CodedConcept)
    assert (item.LongCodeValue, item.CodeMeaning) == ("1" * 20, "m" * 64)


def test_the_private_scheme_is_explained_where_it_is_used() -> None:
    dataset = Dataset()
    add_private_scheme(dataset, [coded("liver")])
    assert "CodingSchemeIdentificationSequence" not in dataset
    add_private_scheme(dataset, [coded("liver"), coded("thing")])
    assert dataset.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == PRIVATE_SCHEME


def _has_check_digit(value: str) -> bool:
    """The last digit of a SNOMED CT identifier is Verhoeff's (SNOMED CT Release File Specifications, 5.5)."""
    times = [[_turned(i, j) for j in range(10)] for i in range(10)]
    first = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    turned, total = list(range(10)), 0
    for digit in reversed(value):
        total = times[total][turned[int(digit)]]
        turned = [turned[first[place]] for place in range(10)]
    return total == 0


def _turned(i: int, j: int) -> int:
    """The product of two symmetries of a pentagon: 0 to 4 turn it, 5 to 9 turn it over."""
    turn = (i + j) % 5 if i < 5 else (i - j) % 5
    return turn + 5 * ((i < 5) != (j < 5))
