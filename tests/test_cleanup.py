"""Cleaning up a mask: every step against scipy on the whole array; the order of steps; no label is overgrown."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage

from medseg.cleanup import Cleanup
from medseg.labels import LabelSet
from medseg.volume import Grid

LABELS = LabelSet.from_names({1: "liver", 2: "spleen", 5: "kidney"})
SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 2.5), (3.0, 1.5, 1.0)]

arrays = st.builds(
    lambda seed, shape, share, order: np.asarray(
        np.random.default_rng(seed)
        .choice([0, 1, 2, 5], shape, p=[1 - 2.2 * share, 2 * share, 0.1 * share, 0.1 * share])
        .astype(np.uint8),
        order=order,
    ),
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    share=st.sampled_from([0.03, 0.15, 0.3, 0.4]),
    order=st.sampled_from("CF"),
)


def grid_of(array, spacing=(1.0, 1.0, 1.0)):
    return Grid(array.shape, np.diag([*spacing, 1.0]))


def cleaned(array, spacing=(1.0, 1.0, 1.0), **asked):
    before = array.copy()
    out = Cleanup(**asked).clean(array, LABELS, grid_of(array, spacing))
    np.testing.assert_array_equal(array, before)
    assert out.dtype == array.dtype
    return out


def ball(radius_mm, spacing):
    """Offsets no further than the radius, as a mask of odd sizes."""
    half = [int(radius_mm / step + 1e-6) for step in spacing]
    index = np.stack(np.meshgrid(*[np.arange(-h, h + 1) for h in half], indexing="ij"), axis=-1)
    return ((index * np.array(spacing)) ** 2).sum(-1) <= radius_mm**2 * (1 + 1e-6)


@given(array=arrays, ml=st.sampled_from([0.001, 0.002, 0.005, 0.02]), spacing=st.sampled_from(SPACINGS))
@settings(max_examples=60, deadline=None)
def test_small_components_as_scipy_labels_them(array, ml, spacing):
    expected = array.copy()
    components, count = ndimage.label(array == 1, structure=np.ones((3, 3, 3)))
    for number in range(1, count + 1):
        if (components == number).sum() * np.prod(spacing) / 1000 < ml - 1e-9:
            expected[components == number] = 0
    np.testing.assert_array_equal(cleaned(array, spacing, minimum_ml={"liver": ml}), expected)


@given(array=arrays, radius=st.sampled_from([0.5, 1.0, 1.4, 2.5, 3.1]), spacing=st.sampled_from(SPACINGS))
@settings(max_examples=80, deadline=None)
def test_closing_as_scipy_does_by_a_ball_and_into_background_only(array, radius, spacing):
    element = ball(radius, spacing)
    padded = np.pad(array == 1, [(n, n) for n in element.shape])
    closed = ndimage.binary_closing(padded, structure=element)
    closed = closed[tuple(slice(n, n + size) for n, size in zip(element.shape, array.shape, strict=True))]
    expected = np.where(closed & (array == 0), 1, array)
    np.testing.assert_array_equal(cleaned(array, spacing, closing_mm={"liver": radius}), expected)


@given(array=arrays)
@settings(max_examples=60, deadline=None)
def test_holes_as_scipy_fills_them_and_into_background_only(array):
    expected = np.where(ndimage.binary_fill_holes(array == 1) & (array == 0), 1, array)
    np.testing.assert_array_equal(cleaned(array, fill_holes=["liver"]), expected)


@given(array=arrays)
@settings(max_examples=60, deadline=None)
def test_the_largest_component_as_scipy_measures_it(array):
    components, count = ndimage.label(array == 1, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    out = cleaned(array, keep_largest=["liver"])
    kept = out == 1
    assert kept.sum() == (sizes.max() if count else 0)
    assert len(np.unique(components[kept])) == min(count, 1)
    np.testing.assert_array_equal(out[array != 1], array[array != 1])


def test_a_voxel_at_the_border_is_no_hole():
    """fill_voids 2.1 fills one of these; a volume two slices thick has no inside."""
    array = np.array(
        [[[0, 1, 1, 0, 1, 0, 1], [1, 1, 1, 1, 0, 1, 1]], [[1, 0, 1, 0, 0, 1, 2], [1, 1, 1, 1, 1, 1, 0]]], np.uint8
    )
    np.testing.assert_array_equal(cleaned(array, fill_holes=["liver"]), array)


def test_holes_of_each_kind_are_filled():
    array = np.zeros((7, 7, 7), np.uint8)
    array[1:6, 1:6, 1:6] = 1
    array[2:4, 2:4, 2:4] = 0
    array[3, 3, 3] = 2
    array[4, 4, 5:] = 0  # a canal that leads out
    out = cleaned(array, fill_holes=["liver"])
    assert out[3, 3, 3] == 2
    assert out[2, 2, 2] == 1
    assert out[4, 4, 5] == 0


def test_specks_go_then_gaps_close_then_the_largest_stays_then_holes_are_filled():
    array = np.zeros((30, 9, 9), np.uint8)
    array[2:9, 1:8, 1:8] = 1  # 343 voxels
    array[10:16, 1:8, 1:8] = 1  # 294, over a gap of one
    array[17, 4, 4] = 1  # a speck that closing would bridge to
    array[22:27, 1:8, 1:8] = 1  # apart
    array[4:6, 3:5, 3:5] = 0  # a hole
    out = cleaned(
        array,
        minimum_ml={"liver": 0.01},
        closing_mm={"liver": 1},
        keep_largest=["liver"],
        fill_holes=["liver"],
    )
    expected = np.zeros_like(array)
    expected[2:16, 1:8, 1:8] = 1
    expected[9, [1, 7], :] = expected[9, :, [1, 7]] = 0  # the rim of the gap: there a ball fits in
    np.testing.assert_array_equal(out, expected)


def test_the_label_of_the_lower_value_takes_a_gap_between_two():
    array = np.full((9, 7, 7), 2, np.uint8)
    array[:, 3], array[:, 3, 3] = 5, 0  # spleen on two sides of a canal, kidney on the two others
    both = cleaned(array, closing_mm={"kidney": 1.5, "spleen": 1.5})
    one = cleaned(array, closing_mm={"kidney": 1.5})
    assert set(both[2:7, 3, 3]) == {2}
    assert set(one[2:7, 3, 3]) == {5}
    for out in (both, one):
        np.testing.assert_array_equal(out[array != 0], array[array != 0])


def test_nothing_asked_is_the_array_itself_and_absent_labels_do_no_harm():
    array = np.zeros((3, 3, 3), np.uint8)
    grid = grid_of(array)
    assert Cleanup().clean(array, LABELS, grid) is array
    assert Cleanup(keep_largest=["heart"]).clean(array, LABELS, grid) is array
    every = Cleanup(minimum_ml={"liver": 1}, closing_mm={"liver": 1}, keep_largest=["liver"], fill_holes=["liver"])
    assert not every.clean(array, LABELS, grid).any()


@pytest.mark.parametrize(
    "wrong", [{"closing_mm": {"liver": 0}}, {"minimum_ml": {"liver": -1}}, {"closing_mm": {"liver": 51}}, {"x": 1}]
)
def test_settings_that_mean_nothing(wrong):
    with pytest.raises(ValidationError):
        Cleanup(**wrong)


def test_labels_are_named_with_their_keys():
    asked = Cleanup(minimum_ml={"liver": 1}, closing_mm={"b": 1}, keep_largest=["c"], fill_holes=["d", "e"])
    assert list(asked.named()) == [
        (("minimum_ml", "liver"), "liver"), (("closing_mm", "b"), "b"), (("keep_largest", 0), "c"),
        (("fill_holes", 0), "d"), (("fill_holes", 1), "e"),
    ]  # fmt: skip
