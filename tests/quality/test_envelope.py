"""Images that are, and are not, like those of training."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.data.fingerprint import Fingerprint, measure_case, summarize
from medseg.labels import LabelMap, LabelSet
from medseg.quality import QualitySettings, unchecked
from medseg.quality.envelope import envelope_findings
from medseg.volume import Volume
from tests.affines import affine_of, axis_aligned, tilted

LABELS = LabelSet.from_names({1: "liver", 2: "spleen"})
SHAPE = (20, 24, 12)
SPACING = (1.0, 1.5, 4.0)


def study(
    *,
    level: float = 60.0,
    spacing=SPACING,
    shape=SHAPE,
    modality: str | None = "CT",
    affine: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[Volume, LabelMap]:
    affine = np.diag([*spacing, 1.0]) if affine is None else affine
    array = np.full(shape, -1000, np.float32, order="F")
    labels = np.zeros(shape, np.uint8, order="F")
    labels[3:8, 3:9, 2:6], labels[10:12, 4:8, 2:6] = 1, 2
    array[labels > 0] = level + np.random.default_rng(seed).normal(0, 20, np.count_nonzero(labels))
    return Volume(array, affine, modality=modality), LabelMap(Volume(labels, affine), LABELS)


def training(modality: str = "CT", **changes) -> Fingerprint:
    cases = [study(seed=seed, level=50 + 2 * seed, modality=modality) for seed in range(10)]
    measured = [measure_case([image], label.volume) for image, label in cases]
    return summarize(measured, names={1: "liver", 2: "spleen"}, modalities=(modality,)).model_copy(update=changes)


def flagged(envelope: Fingerprint, image: Volume, labels: LabelMap, **settings) -> list[str]:
    found = envelope_findings(labels, (image,), envelope, ("liver", "spleen"), QualitySettings(**settings))
    return [finding.message for finding in found if finding.code.value == "outside-envelope"]


def test_an_image_like_those_of_training_is_not_flagged():
    assert flagged(training(), *study(seed=99)) == []


@pytest.mark.parametrize("axes", axis_aligned()[::7], ids=range(7))
def test_axes_are_compared_in_the_patient_however_they_are_stored(axes):
    """The same voxels along R, A and S: their sizes are those of training, whichever array axis they are on."""
    order = np.abs(axes).argmax(axis=0)
    affine = affine_of(axes, np.array(SPACING)[order])
    image, labels = study()
    turned = Volume(image.array.transpose(order), affine, modality="CT")
    mask = LabelMap(Volume(np.asfortranarray(labels.array.transpose(order)), affine), LABELS)
    assert flagged(training(), turned, mask) == []


def test_slices_of_another_direction_are_flagged_by_axis():
    """Sagittal slices of a model that saw axial ones."""
    image, labels = study(spacing=(4.0, 1.5, 1.0))
    found = flagged(training(), image, labels, extent_tolerance=100)
    assert found == [
        "voxels measure 4 mm from left to right; in training 1 to 1 mm",
        "voxels measure 1 mm from foot to head; in training 4 to 4 mm",
    ]


@pytest.mark.parametrize(("size", "expected"), [(5.9, 0), (6.1, 1), (2.7, 0), (2.6, 1)])
def test_a_spacing_may_be_half_as_large_again(size, expected):
    image, labels = study(spacing=(1, 1.5, size))
    assert len(flagged(training(), image, labels, extent_tolerance=100)) == expected


@pytest.mark.parametrize(("slices", "expected"), [(8, 0), (7, 1), (18, 0), (19, 1)])
def test_a_field_of_view_may_be_half_as_large_again(slices, expected):
    image, labels = study(shape=(20, 24, slices))
    found = flagged(training(), image, labels)
    assert len(found) == expected
    assert all("the field of view measures" in message and "from foot to head" in message for message in found)


def test_an_image_in_other_units_is_flagged():
    """Stored values of a scanner that adds 1024, of which nobody took them away."""
    image, labels = study()
    raw = Volume(image.array + 1024, image.affine, modality="CT")
    (found,) = flagged(training(), raw, labels)
    mean = 1024 + image.array[labels.array > 0].mean()
    assert found.startswith(f"channel 0 has a mean of {mean:.0f} where labels were drawn; in training 59 with")


def test_only_voxels_of_the_models_own_labels_count():
    image, labels = study()
    array = image.array.copy(order="F")
    array[labels.array == 2] = 900
    other = Volume(array, image.affine, modality="CT")
    assert len(flagged(training(), other, labels)) == 1
    assert list(envelope_findings(labels, (other,), training(), ("liver",), QualitySettings())) == []
    assert list(envelope_findings(labels, (other,), training(), ("heart",), QualitySettings())) == []


def test_values_of_an_mr_image_have_no_unit():
    image, labels = study(modality="MR")
    louder = Volume(image.array * 100, image.affine, modality="MR")
    assert flagged(training("MR"), louder, labels) == []
    assert unchecked(labels, (louder,), ((training("MR"), ("liver", "spleen")),), {"liver": 1.0}) == (
        "outside-envelope: intensities",
    )


def test_another_modality_is_flagged():
    image, labels = study(modality="MR")
    assert flagged(training(), image, labels) == ["channel 0 is a MR image; in training CT"]
    assert flagged(training(modalities=("OT",)), image, labels) == []


def test_what_an_older_package_does_not_tell_is_not_flagged():
    old = training(modalities=(), labels={}, median_extent_mm=(0, 0, 0))
    image, labels = study(shape=(20, 24, 60), modality=None)
    assert flagged(old, image, labels) == []
    (told,) = unchecked(
        labels,
        (image,),
        ((old, ("liver", "spleen")),),
        {"liver": 1.0},
        settings=QualitySettings(mark=("outside-envelope",)),
    )
    assert told == "outside-envelope: modality, field of view, intensities"


def test_an_envelope_of_files_as_they_are_stored_is_compared_with_the_array():
    image, labels = study(affine=affine_of(np.eye(3)[:, [2, 1, 0]], SPACING))  # the first axis runs up
    assert flagged(training(), image, labels, extent_tolerance=100) != []
    assert flagged(training(is_stored_order=True), image, labels) == []
    (found,) = flagged(training(is_stored_order=True), *study(spacing=(1, 1.5, 9)), extent_tolerance=100)
    assert found == "voxels measure 9 mm along the third axis; in training 4 to 4 mm"


def test_a_tilted_series_has_the_spacing_of_its_slices():
    assert flagged(training(), *study(affine=tilted(25, SPACING))) == []


def test_a_channel_that_is_missing_is_not_compared():
    image, labels = study()
    two = training(modalities=("CT", "CT"))
    two = two.model_copy(update={"foreground": two.foreground * 2})
    bad = Volume(image.array + 3000, image.affine, modality="CT")
    found = list(envelope_findings(labels, (None, bad), two, ("liver", "spleen"), QualitySettings()))
    assert [finding.message[:9] for finding in found] == ["channel 1"]
