"""The flags of masks that are odd in one way each, of a model that learnt from phantoms."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.data.fingerprint import Fingerprint, measure_case, summarize
from medseg.labels import LabelMap, LabelSet
from medseg.quality import FLAGS, QualitySettings, quality_findings, unchecked
from medseg.volume import Volume
from tests.builders import tiny_package

LABELS = LabelSet.from_names({1: "liver", 4: "lesion", 6: "aorta"})
NAMES = {label.index: label.name for label in LABELS}
AFFINE = np.diag([4.0, 4.0, 5.0, 1.0])
VOXEL_ML = 0.08


def mask(seed: int = 0) -> np.ndarray:
    """A box of a liver; lesions in two of three cases, in pieces; a vessel through the whole volume."""
    rng = np.random.default_rng(seed)
    array = np.zeros((24, 22, 20), np.uint8, order="F")
    array[2 : 11 + rng.integers(3), 5:15, 4:14] = 1  # 900 to 1100 voxels, 72 to 88 ml
    if seed % 3:
        array[3:6, 6:9, 5:8], array[3:6, 6:9, 10:13] = 4, 4
    array[15:18, 10:13, :] = 6
    return array


def drawn(array: np.ndarray) -> LabelMap:
    return LabelMap(Volume(array, AFFINE), LABELS)


def image_of(array: np.ndarray, seed: int = 0) -> Volume:
    noise = np.random.default_rng(seed).normal(0, 30, array.shape)
    return Volume(np.asfortranarray((40.0 * (array > 0) + noise).astype(np.float32)), AFFINE, modality="CT")


@pytest.fixture(scope="module")
def envelope() -> Fingerprint:
    arrays = [mask(seed) for seed in range(21)]
    cases = [measure_case([image_of(array, seed)], Volume(array, AFFINE)) for seed, array in enumerate(arrays)]
    return summarize(cases, names=NAMES, modalities=("CT",))


def flags(array: np.ndarray, envelope: Fingerprint, confidence=None, **settings) -> list[str]:
    return [
        f"{finding.code.value}: {finding.message}"
        for finding in quality_findings(
            drawn(array),
            (image_of(array, 77),),
            ((envelope, tuple(NAMES.values())),),
            confidence,
            settings=QualitySettings.model_validate(settings),
        )
    ]


@pytest.mark.parametrize("seed", range(30, 36))
def test_masks_like_those_of_training_have_no_flags(envelope, seed):
    assert flags(mask(seed), envelope, {"liver": 0.8}) == []


def test_an_organ_of_nearly_every_case_is_expected(envelope):
    array = mask()
    array[array == 1] = 0
    assert flags(array, envelope) == ["organ-absent: expected and not drawn: liver"]
    assert flags(array, envelope, expected=["aorta"]) == []
    assert flags(array, envelope, expected=["lesion", "liver", "aorta"]) == [
        "organ-absent: expected and not drawn: lesion, liver"
    ]
    assert flags(mask(), envelope, expected_share=0.6) == ["organ-absent: expected and not drawn: lesion"]


def test_an_empty_mask_lacks_all_that_is_expected(envelope):
    assert flags(np.zeros_like(mask(), order="F"), envelope) == [
        "organ-absent: expected and not drawn: liver, aorta"
    ]


def test_a_cut_organ_is_flagged_where_training_masks_were_whole(envelope):
    array = np.zeros_like(mask(), order="F")
    array[:, :, :-4] = mask()[:, :, 4:]
    array[15:18, 10:13, :] = 6
    cut = int(np.count_nonzero(array[:, :, 0] == 1))
    assert flags(array, envelope) == [
        f"truncated: liver touches the border of the volume at its foot ({cut} voxels)"
    ]
    assert flags(array, envelope, least_border_voxels=cut + 1) == []
    assert len(flags(array, envelope, usual_border_share=0)) == 0
    assert envelope.labels["aorta"].share_at_border == 1


def test_a_second_component_is_flagged_where_training_masks_were_of_one(envelope):
    array = mask()
    array[18:22, 2:6, 4:9] = 1  # 80 voxels
    (found,) = flags(array, envelope)
    first = np.count_nonzero(mask() == 1)
    share = 80 / (80 + first)
    assert found == (
        f"several-components: liver has 2 components: beside one of {first * VOXEL_ML:.3g} ml 6.4 ml "
        f"({share:.0%} of it; in training usually at most 0%)"
    )
    assert flags(array, envelope, components={"liver": 2}) == []
    assert flags(array, envelope, component_share=0.2) == []
    assert flags(array, envelope, component_ml=6.41) == []


def test_specks_do_not_count_and_many_components_are_not_all_listed(envelope):
    array = mask()
    array[20, 1, 1] = 1
    assert flags(array, envelope, component_ml=0.081) == []
    array[20, 1:20:2, 1:16:2] = 1
    (found,) = flags(array, envelope, components={"liver": 1}, component_ml=0.0)
    assert "liver has 81 components: beside one of" in found
    assert "ml 0.08, 0.08, 0.08, 0.08, 0.08 and 75 more ml (at most 1 expected)" in found


def test_lesions_may_be_in_pieces_as_in_training(envelope):
    array = mask()
    array[3:6, 6:9, 5:8], array[8:10, 11:14, 5:8] = 4, 4
    assert flags(array, envelope) == []
    assert len(flags(array, envelope, components={"lesion": 1})) == 1


def test_a_volume_outside_of_training_is_flagged(envelope):
    array = mask()
    array[1:14, 1:19, 1:19] = np.where(array[1:14, 1:19, 1:19] == 0, 1, array[1:14, 1:19, 1:19])
    (found,) = flags(array, envelope)
    least, most = envelope.labels["liver"].smallest_ml, envelope.labels["liver"].largest_ml
    ml = np.count_nonzero(array == 1) * VOXEL_ML
    assert found == f"unusual-volume: liver measures {ml:.0f} ml; in training {least:.3g} to {most:.3g} ml"
    assert flags(array, envelope, volume_tolerance=5) == []
    small = mask()
    small[4:, :, :][small[4:, :, :] == 1] = 0
    assert [found.split(" measures")[0] for found in flags(small, envelope)] == ["unusual-volume: liver"]


def test_a_recipe_may_say_which_volumes_are_usual(envelope):
    array = mask()
    ml = np.count_nonzero(array == 1) * VOXEL_ML
    assert flags(array, envelope, volume_ml={"liver": {"min": ml - 1, "max": ml + 1}}) == []
    (found,) = flags(array, envelope, volume_ml={"liver": {"min": ml + 1}})
    assert found.endswith(f"expected {ml + 1:.3g} ml or more")
    assert len(flags(array, envelope, volume_ml={"liver": {"max": ml - 1}})) == 1


def test_a_boundary_that_the_network_was_not_sure_of_is_flagged(envelope):
    found = flags(mask(), envelope, {"liver": 0.55, "aorta": 0.6, "lesion": 0.1})
    assert found == ["low-confidence: liver has a mean probability of 0.55 at its boundary, below 0.6"]
    assert flags(mask(), envelope, {"liver": 0.55}, least_confidence=0.5) == []


def test_flags_that_nobody_asked_for_are_not_there(envelope):
    array = np.zeros_like(mask(), order="F")
    assert flags(array, envelope, mark=["truncated"]) == []
    assert flags(array, envelope, mark=["truncated"], hold=["organ-absent"]) != []


def test_models_are_asked_for_their_own_labels_only(envelope):
    array = np.zeros_like(mask(), order="F")
    found = quality_findings(drawn(array), (image_of(array),), ((envelope, ("aorta",)), (envelope, ("lesion",))))
    assert [finding.message for finding in found] == ["expected and not drawn: aorta"]


def test_what_a_package_does_not_tell_is_not_flagged_but_listed(envelope):
    old = envelope.model_copy(update={"labels": {}})
    array = mask()
    array[18:22, 2:6, 4:9] = 1
    assert flags(np.zeros_like(array, order="F"), old) == []
    assert flags(array, old) == []
    known = ((old, tuple(NAMES.values())),)
    names = "liver, lesion, aorta"
    assert unchecked(drawn(array), (image_of(array),), known) == (
        f"organ-absent: {names}",
        f"truncated: {names}",
        f"several-components: {names}",
        f"unusual-volume: {names}",
        "low-confidence: not measured",
    )
    asked = QualitySettings(
        expected=("liver",),
        may_touch_border=("aorta",),
        components={"liver": 1},
        volume_ml={"liver": {"min": 1}},
    )
    assert unchecked(drawn(array), (image_of(array),), known, {"liver": 0.9}, settings=asked) == (
        "truncated: liver, lesion",
        "several-components: lesion, aorta",
        "unusual-volume: lesion, aorta",
    )
    assert "outside-envelope: the images" in unchecked(drawn(array), (image_of(array),))


def test_the_tiny_package_knows_nothing_of_labels():
    array = mask()
    told = unchecked(drawn(array), (image_of(array),), ((tiny_package().envelope, tuple(NAMES.values())),))
    assert [line.split(":")[0] for line in told] == [flag for flag in FLAGS if flag != "sides-swapped"]


def learnt(*arrays: np.ndarray) -> Fingerprint:
    cases = [measure_case([image_of(array, seed)], Volume(array, AFFINE)) for seed, array in enumerate(arrays)]
    return summarize(cases, names=NAMES, modalities=("CT",))


def test_a_sliver_at_the_border_of_one_case_makes_no_small_organ_usual():
    sliver = np.zeros_like(mask(), order="F")
    sliver[5:7, 5:7, -1] = 1
    sliver[15:18, 10:13, :] = 6
    envelope = learnt(*(mask(seed) for seed in range(20)), sliver)
    small = mask()
    small[4:, :, :][small[4:, :, :] == 1] = 0
    assert [found.split(" measures")[0] for found in flags(small, envelope)] == ["unusual-volume: liver"]
    assert [found.split(" touches")[0] for found in flags(sliver, envelope)] == ["truncated: liver"]
    assert flags(mask(40), envelope) == []


def test_one_odd_case_makes_no_second_component_usual():
    odd = mask()
    odd[18:22, 2:10, 2:18] = 1
    two = mask()
    two[18:22, 2:6, 4:9] = 1
    (found,) = flags(two, learnt(*(mask(seed) for seed in range(30)), odd))
    assert found.startswith("several-components: liver has 2 components")
    assert flags(two, learnt(*(mask(seed) for seed in range(4)), odd)) == []


def test_labels_that_may_touch_the_border_are_not_truncated(envelope):
    array = np.zeros_like(mask(), order="F")
    array[:, :, :-4] = mask()[:, :, 4:]
    array[15:18, 10:13, :] = 6
    assert len(flags(array, envelope)) == 1
    assert flags(array, envelope, may_touch_border=["liver"]) == []


def test_a_single_slice_touches_no_border_through_it():
    plane = mask()[:, :, 6:7]
    envelope = learnt(plane)
    assert envelope.labels["aorta"].share_at_border == 0
    assert flags(plane, envelope) == []
