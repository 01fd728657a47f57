"""Left and right in names, lateralities and codes of labels."""

from __future__ import annotations

import pytest

from medseg.labels import CodedConcept, Label, Laterality
from medseg.sides import side_problem, sides_in, split_side

LEFT, RIGHT = Laterality.LEFT, Laterality.RIGHT


@pytest.mark.parametrize(
    ("name", "words", "side"),
    [
        ("kidney_left", ("kidney",), LEFT),
        ("RightKidney", ("kidney",), RIGHT),
        ("Kidney R", ("kidney",), RIGHT),
        ("RKidney", ("kidney",), RIGHT),
        ("L_Kidney", ("kidney",), LEFT),
        ("lt kidney", ("kidney",), LEFT),
        ("kidney-RT", ("kidney",), RIGHT),
        ("kidney_l_cortex", ("kidney", "cortex"), LEFT),
        ("rib_r_3", ("rib", "3"), RIGHT),
        ("vertebra_L_3", ("vertebra", "l", "3"), None),
        ("L 3", ("l", "3"), None),
        ("vertebrae_L3", ("vertebrae", "l3"), None),
        ("LVEF", ("lvef",), None),
        ("LV wall", ("lv", "wall"), None),
        ("l_r_shunt", ("l", "r", "shunt"), None),
        ("left", ("left",), None),
        ("left_right_shunt", ("left", "right", "shunt"), None),
        ("copyright", ("copyright",), None),
    ],
)
def test_the_side_of_a_name(name: str, words: tuple[str, ...], side: Laterality | None) -> None:
    assert split_side(name) == (words, side)


def test_sides_are_whole_words() -> None:
    assert sides_in("Upright; left lung") == {LEFT}
    assert sides_in("Left and right lungs") == {LEFT, RIGHT}


def label(name: str, side: Laterality | None = None, meaning: str = "") -> Label:
    code = CodedConcept(value="1", meaning=meaning) if meaning else None
    return Label(index=1, name=name, laterality=side, code=code)


@pytest.mark.parametrize(
    ("one", "problem"),
    [
        (label("kidney_left"), None),
        (label("kidney_left", LEFT, "Left kidney"), None),
        (label("kidney", LEFT, "Kidney"), None),
        (label("lungs_left", LEFT, "Left and right lungs"), None),
        (label("kidney_left", RIGHT), "its name says left, its laterality says right"),
        (label("kidney_left", meaning="Right kidney"), "its name says left, its code says right"),
        (label("kidney", LEFT, "Right kidney"), "its laterality says left, its code says right"),
        (label("kidney_r", LEFT), "its name says right, its laterality says left"),
    ],
)
def test_sides_that_contradict_one_another(one: Label, problem: str | None) -> None:
    assert side_problem(one) == problem
