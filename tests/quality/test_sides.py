"""Left and right: pairs of names, and masks that were mirrored on their way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.spatial.transform import Rotation

from medseg.findings import FindingCode
from medseg.labels import CodedConcept, Label, LabelMap, LabelSet, Laterality
from medseg.phantom.labels import TORSO_LABELS
from medseg.phantom.torso import draw_torso
from medseg.quality import QualitySettings, quality_findings
from medseg.quality.shapes import shapes_of
from medseg.quality.sides import side_findings, side_pairs
from medseg.volume import Volume
from tests.affines import SPACINGS_MM, affine_of, axis_aligned, tilted

LEFT_OF = QualitySettings().left_of


def named(*names: str) -> LabelSet:
    return LabelSet.from_names(dict(enumerate(names, start=1)))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("kidney_left", "kidney_right"),
        ("left_lung", "right_lung"),
        ("Left Kidney", "RightKidney"),
        ("lung_upper_lobe_left", "lung_upper_lobe_right"),
        ("rib_left_7", "rib_right_7"),
        ("Kidney-L", "Kidney-R"),
        ("L_hippocampus", "R_hippocampus"),
        ("LKidney", "RKidney"),
        ("kidneyL", "kidneyR"),
        ("kidney_lt", "kidney_rt"),
        ("kidney_l_cortex", "kidney_r_cortex"),
        ("rib_l_7", "rib_r_7"),
    ],
)
def test_names_that_differ_in_their_side_alone_are_a_pair(left, right):
    assert side_pairs(named(right, "liver", left, "rib_left_8")) == [(left, right)]


@pytest.mark.parametrize(
    "names",
    [
        ("kidney_left", "lung_right"),
        ("rib_left_7", "rib_right_8"),
        ("liver", "bright_spot"),
        ("left_right", "right_left"),
        ("vertebrae_L3", "vertebrae_R3"),
        ("L1", "R1"),
        ("vertebra_L_3", "vertebra_R_3"),
        ("left", "right_lung"),
    ],
)
def test_other_names_are_none(names):
    assert side_pairs(named(*names)) == []


def test_a_laterality_and_a_code_of_their_own_make_a_pair():
    code = CodedConcept(value="64033007", meaning="Kidney")
    one = Label(index=1, name="A", code=code, laterality=Laterality.RIGHT)
    two = Label(index=2, name="B", code=code, laterality=Laterality.LEFT)
    third = Label(index=3, name="C", code=code, laterality=Laterality.LEFT)
    assert side_pairs([one, two]) == [("B", "A")]
    assert side_pairs([one, two, third]) == []


def test_a_laterality_goes_before_what_a_name_says():
    one = Label(index=1, name="kidney_left", laterality=Laterality.RIGHT)
    two = Label(index=2, name="kidney_right", laterality=Laterality.LEFT)
    assert side_pairs([one, two]) == [("kidney_right", "kidney_left")]


@pytest.fixture(scope="module")
def torso() -> LabelMap:
    return draw_torso(3, spacing_mm=(6.0, 6.0, 6.0))[1]


def swapped(labels: LabelMap) -> list[str]:
    found = side_findings(shapes_of(labels), LEFT_OF)
    return [finding.message.split(" lies ")[0] for finding in found]


def stored_as(labels: LabelMap, axes: np.ndarray) -> LabelMap:
    """The same voxels at the same places of the patient, stored along other axes."""
    order = np.abs(axes).argmax(axis=0)  # the old axis that each new one is
    array = labels.array.transpose(order)
    affine = labels.affine[:, [*order, 3]].copy()
    for new, old in enumerate(order):
        if axes[old, new] < 0:
            array = np.flip(array, new)
            affine[:3, 3] += affine[:3, new] * (array.shape[new] - 1)
            affine[:3, new] *= -1
    return LabelMap(Volume(np.asfortranarray(array), affine), labels.labels)


@pytest.mark.parametrize("axes", axis_aligned(), ids=range(48))
def test_a_mask_that_lies_right_is_right_however_it_is_stored(torso, axes):
    assert swapped(stored_as(torso, axes)) == []


@pytest.mark.parametrize("axes", axis_aligned()[::5], ids=range(10))
def test_a_mirrored_mask_is_found_however_it_is_stored(torso, axes):
    across = int(np.argmax(np.abs(torso.affine[0, :3])))
    mirrored = LabelMap(Volume(np.asfortranarray(np.flip(torso.array, across)), torso.affine), torso.labels)
    assert swapped(stored_as(mirrored, axes)) == ["lung_left", "kidney_left", "spleen"]


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mask_that_is_turned_over_another_axis_has_its_sides_right(torso, axis):
    flipped = LabelMap(Volume(np.asfortranarray(np.flip(torso.array, axis)), torso.affine), torso.labels)
    assert swapped(flipped) == []


def test_an_affine_whose_first_row_has_the_wrong_sign_is_found(torso):
    wrong = torso.affine * np.array([[-1], [1], [1], [1]])
    assert "kidney_left" in swapped(LabelMap(Volume(torso.array, wrong), torso.labels))


def test_two_labels_of_one_organ_that_are_swapped_are_found_alone(torso):
    array = torso.array.copy(order="F")
    array[torso.array == 5], array[torso.array == 6] = 6, 5
    wrong = LabelMap(Volume(array, torso.affine), torso.labels)
    found = quality_findings(wrong, (Volume(np.zeros(array.shape, np.float32, order="F"), torso.affine),))
    kept = [finding for finding in found if finding.code is FindingCode.SIDES_SWAPPED]
    assert [finding.message.split(" lies ")[0] for finding in kept] == ["kidney_left"]
    assert "mm further to the patient's right than kidney_right" in kept[0].message


def test_an_image_that_was_mirrored_before_it_was_segmented_is_found_by_liver_and_spleen(torso):
    """The model names sides by where they lie: the pairs are right, and the liver is on the left."""
    across = int(np.argmax(np.abs(torso.affine[0, :3])))
    array = np.flip(torso.array, across)
    other_side = np.array([0, 2, 1, 3, 4, 6, 5, 7, 8], np.uint8)
    drawn = LabelMap(Volume(np.asfortranarray(other_side[array]), torso.affine), TORSO_LABELS)
    assert swapped(drawn) == ["spleen"]


@settings(max_examples=25, deadline=None)
@given(SPACINGS_MM)
def test_oblique_and_sheared_volumes_are_judged_in_the_patient(spacing):
    """Two voxels, one to the left of the other by the affine's own numbers."""
    labels = named("kidney_right", "kidney_left")
    turned = affine_of(np.asarray(Rotation.from_euler("zyx", (40, 25, 15), degrees=True).as_matrix()), spacing)
    for affine in (turned, turned * np.array([[-1], [1], [1], [1]]), tilted(25, spacing) @ turned):
        for first, second in (((0, 0, 0), (3, 0, 0)), ((0, 4, 0), (0, 0, 0)), ((0, 0, 0), (2, 1, 3))):
            array = np.zeros((5, 5, 5), np.uint8, order="F")
            array[first], array[second] = 1, 2
            right, left = (affine[0, :3] @ place for place in (first, second))
            found = swapped(LabelMap(Volume(array, affine), labels))
            assert found == (["kidney_left"] if left > right else [])


def test_an_organ_that_is_there_on_one_side_only_is_not_judged():
    labels = named("kidney_right", "kidney_left")
    array = np.zeros((5, 5, 5), np.uint8, order="F")
    array[4, 2, 2] = 2  # far to the right
    assert swapped(LabelMap(Volume(array, np.eye(4)), labels)) == []


def test_labels_that_a_recipe_orders_are_compared():
    labels = named("Heart", "Liver")
    array = np.zeros((5, 5, 5), np.uint8, order="F")
    array[4, 2, 2], array[0, 2, 2] = 1, 2
    shapes = shapes_of(LabelMap(Volume(array, np.eye(4)), labels))
    assert len(list(side_findings(shapes, {"heart": "liver"}))) == 1
    assert list(side_findings(shapes, {"liver": "heart"})) == []
    assert list(side_findings(shapes, {"liver": "stomach"})) == []
