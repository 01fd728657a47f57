"""Preprocessing against MONAI, closed forms, and markers whose place in the patient is known."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import NormalizeIntensity
from pydantic import ValidationError

from medseg.data.fingerprint import Fingerprint, IntensityStatistics
from medseg.data.preprocessing import CTIntensity, Preprocessing
from medseg.data.spacing import spaced_grid
from medseg.data.transforms import Prepared, build_transforms, prepare
from medseg.errors import GridError, InputError
from medseg.volume import Grid, Volume
from tests.affines import affine_of, axis_aligned, right_angled, rotation, tilted

AS_IT_IS = {"kind": "ct", "clip_hu": (-1e6, 1e6), "mean_hu": 0.0, "std_hu": 1.0}
SHAPE = (7, 6, 5)


def preprocessing(*rules: dict, **fields) -> Preprocessing:
    return Preprocessing.model_validate({"intensity": rules or (AS_IT_IS,)} | fields)


def run(images: Volume | list[Volume], *rules: dict, label: Volume | None = None, **fields) -> Prepared:
    images = [images] if isinstance(images, Volume) else images
    return prepare(build_transforms(preprocessing(*rules, **fields), len(images)), images, label)


def noise(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(40, 300, shape).astype(np.float32)


def world_of(array: np.ndarray, grid: Grid) -> np.ndarray:
    """World position of the largest voxel."""
    return grid.world(np.unravel_index(int(np.argmax(array)), array.shape))


# --- intensities ---


@pytest.mark.parametrize("nonzero", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_zscore_is_monais(nonzero, order):
    array = np.asarray(noise(), order=order)
    array[:3] = 0
    got = run(Volume(array, np.eye(4)), {"kind": "zscore", "nonzero": nonzero}).image
    expected = NormalizeIntensity(nonzero=nonzero)(torch.from_numpy(array.copy())[None])
    torch.testing.assert_close(got, expected.as_tensor(), atol=1e-6, rtol=1e-6)
    changed = got[got != 0] if nonzero else got
    assert changed.double().mean().abs() < 1e-6
    assert changed.double().std(correction=0) == pytest.approx(1, abs=1e-6)
    assert (got[0, :3] == 0).all() == nonzero


@pytest.mark.parametrize("value", [0.0, 7.0, -1024.0, 0.1, 1e8, 16_777_217.0])
@pytest.mark.parametrize("nonzero", [False, True])
def test_a_constant_image_becomes_zero_and_never_nan(value, nonzero):
    constant = Volume(np.full(SHAPE, value, np.float32), np.eye(4))
    got = run(constant, {"kind": "zscore", "nonzero": nonzero}).image
    assert torch.equal(got, torch.zeros(1, *SHAPE))


def test_one_voxel_that_is_not_zero():
    array = np.zeros(SHAPE, np.float32)
    array[1, 2, 3] = 5
    got = run(Volume(array, np.eye(4)), {"kind": "zscore", "nonzero": True}).image
    assert torch.equal(got, torch.zeros(1, *SHAPE))


@pytest.mark.parametrize("kind", ["i2", "u1", "f4", "f8", ">i2"])
def test_ct_is_clipped_then_normalised(kind):
    array = np.random.default_rng(0).integers(0, 255, SHAPE).astype(kind)
    rule = {"kind": "ct", "clip_hu": (50, 180), "mean_hu": 80.0, "std_hu": 25.0}
    got = run(Volume(array, np.eye(4)), rule).image
    expected = (np.clip(array.astype(np.float64), 50, 180) - 80) / 25
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-5)
    assert got.min() == pytest.approx((50 - 80) / 25)
    assert got.max() == pytest.approx((180 - 80) / 25)


def test_every_channel_by_its_own_rule_and_in_its_own_place():
    volumes = [Volume(noise(seed=n) + 1000 * n, np.eye(4)) for n in range(3)]
    ct = {"kind": "ct", "clip_hu": (900, 1100), "mean_hu": 1000, "std_hu": 10}
    got = run(volumes, AS_IT_IS, ct, {"kind": "zscore"}).image
    assert got.shape == (3, *SHAPE)
    np.testing.assert_allclose(got[0], volumes[0].array, atol=1e-3)
    np.testing.assert_allclose(got[1], (volumes[1].array.clip(900, 1100) - 1000) / 10, atol=1e-4)
    np.testing.assert_allclose(
        got[2], (volumes[2].array - volumes[2].array.mean()) / volumes[2].array.std(), atol=1e-4
    )


def test_one_rule_serves_all_channels_each_with_its_own_mean():
    got = run([Volume(noise(seed=n) * 10**n + 1000 * n, np.eye(4)) for n in range(2)], {"kind": "zscore"}).image
    torch.testing.assert_close(got.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(got.std((1, 2, 3), correction=0), torch.ones(2), atol=1e-5, rtol=0)


def test_the_volumes_given_are_not_changed():
    array, label = noise(), np.ones(SHAPE, np.int16)
    before = array.copy()
    run(Volume(array, np.eye(4)), {"kind": "zscore"}, label=Volume(label, np.eye(4)))
    np.testing.assert_array_equal(array, before)
    assert (label == 1).all()


def test_arrays_with_steps_and_read_only_ones_are_taken():
    array = noise((14, 12, 10))[::-2, ::2, ::-2]
    array.setflags(write=False)
    np.testing.assert_allclose(run(Volume(array, np.eye(4))).image[0], array, atol=1e-3)


# --- grids ---


@pytest.mark.parametrize("axes", axis_aligned(), ids=lambda a: "".join(nib.aff2axcodes(affine_of(a, (1, 1, 1)))))
def test_all_48_orientations_become_ras_and_no_voxel_moves(axes):
    affine = affine_of(axes, (0.9, 1.4, 3.0), (-30, 40, 50))
    array = noise()
    label = np.arange(array.size).reshape(SHAPE).astype(np.int16)
    got = run(Volume(array, affine), label=Volume(label, affine))
    assert got.grid.orientation == "RAS"
    assert sorted(got.grid.spacing_mm) == pytest.approx(sorted((0.9, 1.4, 3.0)))
    index = np.indices(SHAPE).reshape(3, -1).T
    moved = got.grid.index(Grid(SHAPE, affine).world(index))
    np.testing.assert_allclose(moved, np.rint(moved), atol=1e-9)
    i, j, k = np.rint(moved).astype(int).T
    np.testing.assert_allclose(got.image[0].numpy()[i, j, k], array.ravel(), atol=1e-3)
    np.testing.assert_array_equal(got.label.numpy()[i, j, k], label.ravel())


@settings(max_examples=40, deadline=None)
@given(affine=right_angled(), marker=st.tuples(*[st.integers(0, n - 1) for n in SHAPE]))
def test_a_marker_stays_where_it_is_in_an_oblique_volume(affine, marker):
    array = np.zeros(SHAPE, np.int16)
    array[marker] = 100
    got = run(Volume(array, affine), label=Volume(array, affine), crop_above=50)
    assert got.image.shape == (1, 1, 1, 1)
    assert got.image.item() == got.label.item() == 100
    np.testing.assert_allclose(got.grid.world((0, 0, 0)), Grid(SHAPE, affine).world(marker), atol=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axes", [np.eye(3), axis_aligned()[13], rotation((20, 30, -15))])
def test_the_crop_is_the_box_of_what_is_above(axes, order):
    affine = affine_of(axes, (1, 2, 3), (5, 6, 7))
    array = np.full((12, 11, 10), -500.0, dtype=np.float32)  # the threshold itself is not above it
    array[2:9, 3:7, 4:8] = -499
    array[5, 5, 5] = 300
    array = np.asarray(array, order=order)
    label = np.asarray(np.random.default_rng(0).integers(0, 3, array.shape).astype(np.uint8), order=order)
    volume = Volume(array, affine)
    got = run(volume, label=Volume(label, affine), crop_above=-500)
    assert sorted(got.image.shape[1:]) == sorted((7, 4, 4))
    assert got.grid.shape == tuple(got.image.shape[1:]) == tuple(got.label.shape)
    assert got.image.min() == -499
    np.testing.assert_allclose(world_of(got.image[0].numpy(), got.grid), volume.grid.world((5, 5, 5)), atol=1e-6)
    np.testing.assert_array_equal(np.bincount(got.label.numpy().ravel()), np.bincount(label[2:9, 3:7, 4:8].ravel()))


def test_the_crop_keeps_what_any_channel_has_above():
    one, two = (np.zeros(SHAPE, np.float32) for _ in range(2))
    one[1, 1, 1], two[4, 5, 3] = 1, 2
    got = run([Volume(one, np.eye(4)), Volume(two, np.eye(4))], crop_above=0)
    assert got.image.shape == (2, 4, 5, 3)
    assert got.image[0, 0, 0, 0] == 1
    assert got.image[1, 3, 4, 2] == 2
    np.testing.assert_array_equal(got.grid.affine[:3, 3], (1, 1, 1))


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_an_image_with_nothing_above_the_threshold_is_kept_whole(value):
    volume = Volume(np.full(SHAPE, value, np.float32), affine_of(np.eye(3), (1, 2, 3), (4, 5, 6)))
    got = run(volume, crop_above=0, label=Volume(np.ones(SHAPE, np.uint8), volume.affine))
    assert got.grid.difference(volume.grid, tolerance_mm=1e-9) is None
    assert got.label.shape == SHAPE


@settings(max_examples=40, deadline=None)
@given(
    axes=st.sampled_from(axis_aligned()),
    spacing=st.tuples(*[st.floats(0.5, 4)] * 3),
    new=st.tuples(*[st.one_of(st.just("keep"), st.floats(0.5, 4))] * 3),
)
def test_spacing_is_along_right_anterior_superior_and_a_ramp_stays_in_place(axes, spacing, new):
    affine = affine_of(axes, spacing, (10, -20, 30))
    shape = (9, 8, 7)
    weights = np.array([0.3, -0.7, 1.1])
    ramp = Grid(shape, affine).world(np.moveaxis(np.indices(shape), 0, -1)) @ weights
    got = run(Volume(ramp.astype(np.float32), affine), spacing_mm=new)
    in_ras = np.abs(axes @ np.diag(spacing)).sum(axis=1)
    wanted = [old if s == "keep" else s for s, old in zip(new, in_ras, strict=True)]
    np.testing.assert_allclose(got.grid.spacing_mm, wanted, rtol=1e-9)
    inside = tuple(slice(0, max(n - 1, 1)) for n in got.grid.shape)  # the last voxel may lie beyond the image
    expected = got.grid.world(np.moveaxis(np.indices(got.grid.shape), 0, -1)) @ weights
    np.testing.assert_allclose(got.image[0].numpy()[inside], expected[inside], atol=1e-3)


@pytest.mark.parametrize("held_as", ["u1", "i2", "u2", "i4", "f4", ">u2"])
@pytest.mark.parametrize("affine", [np.diag([0.8, 0.8, 2.5, 1]), tilted(20, (0.8, 0.8, 2.5))])
def test_labels_take_no_new_value(held_as, affine):
    allowed = [0, 3, 7, 200] + ([40_000] if np.dtype(held_as).itemsize > 1 and held_as != "i2" else [])
    label = np.random.default_rng(0).choice(allowed, (15, 14, 9)).astype(held_as)
    image = Volume(noise(label.shape), affine)
    got = run(image, label=Volume(label, affine), spacing_mm=(1.1, 0.7, 1.3)).label
    assert not got.is_floating_point()
    assert set(got.unique().tolist()) == set(allowed)


# --- shear ---


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 2.0), ("keep", 1.2, "keep")])
@pytest.mark.parametrize("degrees", [-18, 5, 25])
@pytest.mark.parametrize("axes", [np.eye(3), np.diag([-1.0, -1, 1]), rotation((10, 5, 0))])
def test_a_sheared_volume_is_made_right_angled_with_its_marker_in_place(axes, degrees, spacing):
    """A smooth blob in millimetres: where its peak and its centre of mass lie is known; labels by brute force."""
    affine = tilted(degrees, (1.0, 0.9, 2.5))
    affine[:3] = axes @ affine[:3]
    shape = (28, 30, 14)
    grid = Grid(shape, affine)
    centre = grid.world((13.3, 14.6, 6.8))
    distance = np.linalg.norm(grid.world(np.moveaxis(np.indices(shape), 0, -1)) - centre, axis=-1)
    image = 1000 * np.exp(-((distance / 4) ** 2))
    label = (distance < 6).astype(np.uint8)
    got = run(Volume(image.astype(np.float32), affine), label=Volume(label, affine), spacing_mm=spacing)
    assert grid.is_sheared
    assert not got.grid.is_sheared
    positions = got.grid.world(np.moveaxis(np.indices(got.grid.shape), 0, -1))
    blob = got.image[0].numpy()
    mass = (positions * blob[..., None]).sum((0, 1, 2)) / blob.sum()
    np.testing.assert_allclose(mass, centre, atol=0.1)
    half_a_voxel = np.linalg.norm(got.grid.spacing_mm) / 2
    assert np.linalg.norm(world_of(blob, got.grid) - centre) <= half_a_voxel
    source = grid.index(positions)
    clear = (
        (np.abs(source % 1 - 0.5) > 1e-3).all(-1) & (source > 0).all(-1) & (source < np.array(shape) - 1).all(-1)
    )
    i, j, k = np.rint(source[clear]).astype(int).T
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(got.label.numpy()[clear], label[i, j, k])


@settings(max_examples=40, deadline=None)
@given(degrees=st.floats(-30, 30), spacing=st.tuples(*[st.floats(0.6, 3)] * 3), turn=st.floats(-20, 20))
def test_the_right_angled_grid_holds_every_corner_of_the_sheared_one(degrees, spacing, turn):
    affine = tilted(degrees, (0.8, 1.1, 3.0), (5, 6, 7))
    affine[:3] = rotation((turn, 0, 0)) @ affine[:3]
    source = Grid((9, 8, 7), affine)
    target = spaced_grid(source, spacing)
    np.testing.assert_allclose(target.spacing_mm, spacing)
    assert not target.is_sheared
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in source.shape], indexing="ij")).reshape(3, -1).T
    inside = target.index(source.world(corners))
    assert (inside > -0.501).all()
    assert (inside < np.array(target.shape) - 0.499).all()


# --- refusals ---


def test_volumes_on_different_grids_are_refused():
    image = Volume(noise(), np.eye(4), source="t1")
    moved = Volume(noise(), affine_of(np.eye(3), (1, 1, 1), (0, 0, 0.01)), source="t2")
    longer = Volume(noise((7, 6, 6)), np.eye(4), source="t2")
    near = Volume(noise(), affine_of(np.eye(3), (1, 1, 1), (0, 0, 0.0005)))
    for other, found in ((moved, "0.01 mm"), (longer, "7x6x6")):
        with pytest.raises(GridError, match="t2: expected the grid of t1") as caught:
            run([image, other])
        assert found in caught.value.found
        with pytest.raises(GridError):
            run(image, label=other)
    assert run([image, near], label=near).image.shape == (2, *SHAPE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 1])
def test_values_that_are_no_numbers_are_refused(value, channel):
    volumes = [Volume(noise(), np.eye(4), source=f"t{n}") for n in range(2)]
    volumes[channel].array[3, 2, 1] = value
    with pytest.raises(InputError, match=f"t{channel}: expected finite values"):
        run(volumes)


@pytest.mark.parametrize("value", [1e300, -1e39])
def test_values_that_32_bits_do_not_hold_are_refused(value):
    array = noise().astype(np.float64)
    assert run(Volume(array, np.eye(4))).image.isfinite().all()
    array[3, 2, 1] = value
    with pytest.raises(InputError, match="expected finite values that 32 bits hold, found values from"):
        run(Volume(array, np.eye(4)))


def test_a_rule_that_is_not_complete_is_refused():
    with pytest.raises(Exception, match="Preprocessing|NormalizeChannelsd") as caught:
        run(Volume(noise(), np.eye(4)), {"kind": "ct"})
    errors = (caught.value, caught.value.__cause__)
    assert any(isinstance(error, ValueError) and "not complete" in str(error) for error in errors)


def test_rules_that_do_not_fit_the_channels_are_refused():
    with pytest.raises(ValueError, match="2 intensity rules for 3 channels"):
        build_transforms(preprocessing(AS_IT_IS, AS_IT_IS), 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"intensity": ()},
        {"intensity": ({"kind": "ct", "clip_hu": (5, 5)},)},
        {"intensity": ({"kind": "ct", "clip_hu": (5, -5)},)},
        {"intensity": ({"kind": "ct", "std_hu": 0},)},
        {"intensity": ({"kind": "mr"},)},
        {"intensity": ({"kind": "zscore", "clip_hu": (0, 1)},)},
        {"spacing_mm": (1, 1)},
        {"spacing_mm": (1, 1, 0)},
        {"spacing_mm": (1, 1, "same")},
        {"crop": 0},
    ],
)
def test_a_description_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        preprocessing(**fields)


# --- completing what was left open ---


def fingerprint(*channels: tuple[float, float, float, float]) -> Fingerprint:
    three = (1.0, 1.0, 1.0)
    return Fingerprint(
        cases=1,
        median_spacing_mm=(0.8, 0.9, 2.5),
        smallest_spacing_mm=three,
        largest_spacing_mm=three,
        smallest_extent_mm=three,
        largest_extent_mm=three,
        foreground=tuple(
            IntensityStatistics(mean=m, std=s, percentile_00_5=low, percentile_99_5=high)
            for m, s, low, high in channels
        ),
    )


MEASURED = (50.0, 20.0, -10.0, 110.0)


def test_completed_fills_what_is_unset():
    done = preprocessing({"kind": "ct"}).completed(fingerprint(MEASURED))
    assert done.spacing_mm == (0.8, 0.9, 2.5)
    assert done.intensity == (CTIntensity(kind="ct", clip_hu=(-10, 110), mean_hu=50, std_hu=20),)
    assert done.completed(fingerprint((1, 2, 3, 4))) == done


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"clip_hu": (-5, 5)}, {"clip_hu": (-5, 5), "mean_hu": 50, "std_hu": 20}),
        ({"mean_hu": 0}, {"clip_hu": (-10, 110), "mean_hu": 0, "std_hu": 20}),
        ({"std_hu": 3}, {"clip_hu": (-10, 110), "mean_hu": 50, "std_hu": 3}),
    ],
)
def test_completed_changes_nothing_that_is_set(given_, expected):
    done = preprocessing({"kind": "ct"} | given_, spacing_mm=("keep", 1, 2), crop_above=0.0)
    done = done.completed(fingerprint(MEASURED))
    assert done.intensity == (CTIntensity(kind="ct", **expected),)
    assert done.spacing_mm == ("keep", 1, 2)
    assert done.crop_above == 0


def test_completed_measures_each_channel_for_itself():
    other = (1.0, 2.0, 3.0, 4.0)
    done = preprocessing({"kind": "ct"}).completed(fingerprint(MEASURED, other))
    assert [rule.mean_hu for rule in done.intensity] == [50, 1]
    done = preprocessing({"kind": "zscore", "nonzero": True}, {"kind": "ct"}).completed(
        fingerprint(MEASURED, other)
    )
    assert done.intensity[0].nonzero
    assert done.intensity[1].clip_hu == (3, 4)
    with pytest.raises(ValueError, match="2 intensity rules for 1 channels"):
        preprocessing(AS_IT_IS, AS_IT_IS).completed(fingerprint(MEASURED))


@pytest.mark.parametrize("value", [0.0, -1000.0, 3071.0])
def test_a_constant_foreground_still_makes_a_window(value):
    done = preprocessing({"kind": "ct"}).completed(fingerprint((value, 0.0, value, value)))
    low, high = done.intensity[0].clip_hu
    assert low <= value < high
    got = prepare(build_transforms(done, 1), [Volume(np.full(SHAPE, value, np.float32), np.eye(4))]).image
    assert torch.equal(got, torch.zeros_like(got))
