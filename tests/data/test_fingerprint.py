"""Fingerprints against numpy on data whose statistics are known."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medseg.data.fingerprint import MAX_VOXELS_A_CASE, CaseMeasurement, Fingerprint, measure_case, summarize
from medseg.data.transforms import build_transforms, prepare
from medseg.errors import InputError, ManifestError
from medseg.volume import Volume
from tests.affines import affine_of, axis_aligned, rotation
from tests.data.test_transforms import preprocessing

SHAPE = (9, 8, 7)


def case(seed: int = 0, affine: np.ndarray | None = None, shape: tuple[int, ...] = SHAPE) -> tuple[Volume, Volume]:
    rng = np.random.default_rng(seed)
    affine = np.eye(4) if affine is None else affine
    return Volume(rng.normal(0, 100, shape), affine), Volume(rng.integers(0, 3, shape).astype(np.uint8), affine)


@pytest.mark.parametrize("orders", ["CC", "CF", "FC", "FF"])
def test_the_samples_are_the_labelled_voxels_whatever_the_memory_order(orders):
    image, label = case()
    image = Volume(np.asarray(image.array, order=orders[0]), image.affine)
    label = Volume(np.asarray(label.array, order=orders[1]), label.affine)
    (samples,) = measure_case([image], label).samples
    np.testing.assert_array_equal(np.sort(samples), np.sort(image.array[label.array > 0].astype(np.float32)))


def test_channels_are_sampled_at_the_same_voxels():
    image, label = case(shape=(40, 30, 20))
    twice = Volume(image.array * 2, image.affine)
    first, second = measure_case([image, twice], label).samples
    assert len(first) == MAX_VOXELS_A_CASE
    np.testing.assert_allclose(second, 2 * first, rtol=1e-6)


def test_a_large_foreground_is_thinned_out_by_the_seed_without_taking_a_voxel_twice():
    image, label = case(shape=(40, 30, 20))
    one, same, other = (measure_case([image], label, seed=seed).samples[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert len(np.unique(one)) == MAX_VOXELS_A_CASE
    assert set(one) <= set(image.array[label.array > 0].astype(np.float32))


def healthy(image: Volume) -> CaseMeasurement:
    """The measurement of images without any label."""
    return measure_case([image], Volume(np.zeros(image.array.shape, np.uint8), image.affine))


def test_a_case_without_foreground_has_a_sample_of_every_voxel_apart():
    image, label = case()
    measured = healthy(image)
    assert [len(samples) for samples in measured.samples] == [0]
    np.testing.assert_array_equal(np.sort(measured.everywhere[0]), np.sort(image.array.astype(np.float32).ravel()))
    assert [len(samples) for samples in measure_case([image], label).everywhere] == [0]
    large, _ = case(shape=(40, 30, 20))
    assert len(np.unique(healthy(large).everywhere[0])) == MAX_VOXELS_A_CASE


def test_healthy_cases_put_no_air_into_the_statistics_of_lesions():
    rng = np.random.default_rng(0)
    label = np.zeros(SHAPE, np.uint8)
    label[2:6, 2:6, 2:6] = 1
    lesion = np.where(label, rng.normal(60, 5, SHAPE), rng.normal(-1000, 5, SHAPE))
    sick = measure_case([Volume(lesion, np.eye(4))], Volume(label, np.eye(4)))
    air = [healthy(Volume(rng.normal(-1000, 5, SHAPE), np.eye(4))) for _ in range(5)]
    (seen,) = summarize([*air, sick]).foreground
    values = lesion[label > 0]
    assert seen.mean == pytest.approx(values.mean(), rel=1e-6)
    assert seen.std == pytest.approx(values.std(), rel=1e-5)
    assert seen.percentile_00_5 == pytest.approx(np.percentile(values, 0.5), rel=1e-6)
    assert summarize([*air, sick]).cases == 6


def test_without_any_foreground_the_statistics_are_those_of_all_voxels():
    images = [case(seed)[0] for seed in range(2)]
    (seen,) = summarize([healthy(image) for image in images]).foreground
    assert seen.mean == pytest.approx(np.mean([image.array for image in images]), abs=1e-4)


def test_a_channel_that_only_healthy_cases_have_is_that_of_their_voxels():
    image, label = case(0)
    other, _ = case(1)
    both = [
        measure_case([image, None], label),
        measure_case([image, other], Volume(label.array * 0, label.affine)),
    ]
    first, second = summarize(both).foreground
    assert first.mean == pytest.approx(image.array[label.array > 0].mean(), rel=1e-5)
    assert second.mean == pytest.approx(other.array.mean(), rel=1e-5)


def test_a_channel_that_no_case_has_is_refused():
    image, label = case()
    with pytest.raises(ManifestError, match="none of 2 has channel 1"):
        summarize([measure_case([image, None], label)] * 2)


@pytest.mark.parametrize("axes", axis_aligned(), ids=lambda a: "".join(nib.aff2axcodes(affine_of(a, (1, 1, 1)))))
def test_spacing_and_extent_are_along_right_anterior_superior_as_the_network_sees_them(axes):
    affine = affine_of(axes, (0.7, 1.1, 5.0))
    image, label = case(affine=affine)
    measured = measure_case([image], label)
    grid = prepare(build_transforms(preprocessing(), 1), [image]).grid
    np.testing.assert_allclose(measured.spacing_mm, grid.spacing_mm)
    np.testing.assert_allclose(measured.extent_mm, np.array(grid.shape) * grid.spacing_mm)


def test_an_oblique_case_keeps_its_own_spacing():
    image, label = case(affine=affine_of(rotation((20, 10, -15)), (0.7, 1.1, 5.0)))
    np.testing.assert_allclose(measure_case([image], label).spacing_mm, (0.7, 1.1, 5.0))


def test_the_summary_is_numpys_over_all_cases():
    affines = [affine_of(np.eye(3), spacing) for spacing in ((1, 2, 3), (1.5, 1, 5), (0.5, 4, 4))]
    cases = [case(seed, affine) for seed, affine in enumerate(affines)]
    fingerprint = summarize(
        [measure_case([image, Volume(-image.array, image.affine)], label) for image, label in cases]
    )
    pooled = np.concatenate([image.array[label.array > 0] for image, label in cases])
    assert fingerprint.cases == 3
    assert fingerprint.median_spacing_mm == (1, 2, 4)
    assert fingerprint.smallest_spacing_mm == (0.5, 1, 3)
    assert fingerprint.largest_spacing_mm == (1.5, 4, 5)
    assert fingerprint.smallest_extent_mm == (4.5, 8, 21)
    assert fingerprint.largest_extent_mm == (13.5, 32, 35)
    for sign, seen in zip((1, -1), fingerprint.foreground, strict=True):
        assert seen.mean == pytest.approx(sign * pooled.mean(), abs=1e-4)
        assert seen.std == pytest.approx(pooled.std(), rel=1e-6)
        assert seen.percentile_00_5 == pytest.approx(np.percentile(sign * pooled, 0.5), rel=1e-6)
        assert seen.percentile_99_5 == pytest.approx(np.percentile(sign * pooled, 99.5), rel=1e-6)
    assert Fingerprint.model_validate_json(fingerprint.model_dump_json()) == fingerprint


def test_large_values_keep_their_spread():
    image, label = case(shape=(40, 30, 20))
    shifted = Volume(image.array / 100 + 30_000, image.affine)
    (seen,) = summarize([measure_case([shifted], label)] * 20).foreground
    assert seen.std == pytest.approx(1, rel=0.03)


def test_cases_with_different_numbers_of_channels_are_refused():
    image, label = case()
    with pytest.raises(ValueError, match="zip"):
        summarize([measure_case([image], label), measure_case([image, image], label)])


# --- what a plan is made of ---


def boxed(box: tuple[slice, slice, slice], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    array = np.zeros(shape, np.int16)
    array[box] = np.random.default_rng(0).integers(1, 9, array[box].shape)
    return array


@pytest.mark.parametrize("axes", axis_aligned(), ids=lambda a: "".join(nib.aff2axcodes(affine_of(a, (1, 1, 1)))))
def test_shape_is_that_of_monais_foreground_crop_in_ras(axes):
    affine = affine_of(axes, (0.7, 1.1, 5.0))
    image = Volume(boxed((slice(1, 4), slice(2, 8), slice(3, 5))), affine)
    measured = measure_case([image], Volume(np.ones(SHAPE, np.uint8), affine))
    cropped = prepare(build_transforms(preprocessing(crop_above=0.0), 1), [image])
    assert measured.shape == cropped.grid.shape
    assert measured.kept_by_crop == pytest.approx(3 * 6 * 2 / np.prod(SHAPE))


def test_the_box_holds_every_channel_and_negative_values():
    first, second = boxed((slice(1, 2), slice(2, 3), slice(3, 4))), -boxed((slice(6, 7), slice(2, 4), slice(0, 1)))
    volumes = [Volume(first, np.eye(4)), Volume(second, np.eye(4))]
    measured = measure_case(volumes, Volume(np.ones(SHAPE, np.uint8), np.eye(4)))
    assert measured.shape == (6, 2, 4)


def test_nothing_is_cropped_from_a_ct():
    image, label = case()
    measured = measure_case([Volume(image.array - 1000, np.eye(4))], label)
    assert (measured.shape, measured.kept_by_crop) == (SHAPE, 1.0)


def test_the_summary_of_what_a_plan_is_made_of():
    spacings = [(1, 1, float(z)) for z in range(1, 12)]
    cases = []
    for n, spacing in enumerate(spacings):
        affine = affine_of(np.eye(3), spacing)
        label = np.zeros(SHAPE, np.uint8)
        label[0, 0, 0], label[1, 1, 1] = 2 + (n == 5) * 3, 2
        image = boxed((slice(0, 9), slice(0, 8), slice(0, 7 if n < 6 else 3)))
        cases.append(measure_case([Volume(image, affine)], Volume(label, affine)))
    fingerprint = summarize(cases)
    assert fingerprint.percentile_10_spacing_mm == (1, 1, 2)  # of 1 to 11, the second
    assert fingerprint.median_extent_mm == (9, 8, 42)
    assert fingerprint.median_shape == (9, 8, 7)
    assert fingerprint.median_cropped_extent_mm == (9, 8, 27)  # 7 slices of 1 to 6 mm, 3 of 7 to 11 mm
    assert fingerprint.kept_by_crop == 1.0
    assert fingerprint.label_values == (2, 5)
    assert summarize(cases[6:]).median_shape == (9, 8, 3)
    assert summarize(cases[6:]).kept_by_crop == pytest.approx(3 / 7)
    assert Fingerprint.model_validate_json(fingerprint.model_dump_json()) == fingerprint


def test_a_fingerprint_of_an_earlier_version_is_read():
    image, label = case()
    facts = summarize([measure_case([image], label)]).model_dump(mode="json")
    for name in ("percentile_10_spacing_mm", "median_extent_mm", "median_shape", "kept_by_crop", "label_values"):
        del facts[name]
    assert Fingerprint.model_validate(facts).label_values == ()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, "the value 0 in every voxel"),
        (-1024.5, "the value -1024.5"),
        (np.nan, "NaN"),
        (np.inf, "NaN or infinite"),
    ],
)
def test_an_image_without_contents_is_refused(value, found):
    image, label = case()
    array = np.full(SHAPE, value, np.float32)
    with pytest.raises(InputError, match=found):
        measure_case([image, Volume(array, np.eye(4))], label)
    if not np.isfinite(value):
        array[1:] = 0
        with pytest.raises(InputError, match=found):
            measure_case([Volume(array, np.eye(4))], label)
