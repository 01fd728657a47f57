"""Largest components: against scipy's labelling, ties, neighbours over corners; and where they are applied."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage

from medseg.components import keep_largest
from medseg.data.transforms import build_transforms, prepare
from medseg.device import pick_device
from medseg.model import ModelPackage, load_networks
from medseg.postprocess import Postprocessing
from medseg.segmenter import Segmenter
from tests.builders import LABELS, save_tiny_model, tiny_case


def largest_by_scipy(array, value):
    """Every component is measured one by one; the first of the largest in i-fastest order stays."""
    components, count = ndimage.label(array == value, structure=np.ones((3, 3, 3)))
    order = list(dict.fromkeys(number for number in components.ravel(order="F") if number))
    out = array.copy()
    if order:
        kept = max(order, key=lambda number: (components == number).sum())  # max takes the first of equal ones
        out[(components > 0) & (components != kept)] = 0
    assert len(order) == count
    return out


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    share=st.sampled_from([0.03, 0.1, 0.2, 0.5]),
    order=st.sampled_from("CF"),
)
@settings(max_examples=150, deadline=None)
def test_equals_scipy_voxel_by_voxel(seed, shape, share, order):
    rng = np.random.default_rng(seed)
    array = rng.choice([0, 1, 3], shape, p=[1 - 2 * share, share, share])
    array = np.asarray(array.astype(np.uint8), order=order)
    before = array.copy()
    cleaned = keep_largest(array, 3)
    np.testing.assert_array_equal(cleaned, largest_by_scipy(before, 3))
    np.testing.assert_array_equal(array, before)
    assert cleaned.dtype == np.uint8


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 9, 1), (3, 3, 1), (5, 3, 3), (7, 7, 7)])
def test_as_many_components_as_a_box_can_hold(shape):
    array = np.zeros(shape, np.uint8)
    array[::2, ::2, ::2] = 3
    expected = np.zeros(shape, np.uint8)
    expected[0, 0, 0] = 3
    np.testing.assert_array_equal(keep_largest(array, 3), expected)


def test_corners_connect_and_two_voxels_apart_do_not():
    array = np.zeros((6, 6, 6), np.uint8)
    array[0, 0, 0] = array[1, 1, 1] = array[2, 2, 2] = 1
    array[5, 5, 5] = array[5, 5, 4] = 1
    cleaned = keep_largest(array, 1)
    assert cleaned.sum() == 3
    assert cleaned[1, 1, 1] == 1
    assert cleaned[5, 5, 5] == 0


def test_nothing_to_remove_is_the_array_itself():
    array = np.zeros((4, 4, 4), np.uint16)
    assert keep_largest(array, 1) is array
    array[1:3, 1, 1] = 7
    assert keep_largest(array, 7) is array
    assert Postprocessing().clean(array, LABELS) is array


def test_only_the_labels_named_are_cleaned():
    array = np.zeros((9, 3, 3), np.uint8)
    array[0:2, 0, 0] = array[8, 0, 0] = 1
    array[0:2, 2, 2] = array[8, 2, 2] = 3
    cleaned = Postprocessing(keep_largest=("box",)).clean(array, LABELS)
    assert [(cleaned == value).sum() for value in (1, 3)] == [3, 2]
    both = Postprocessing(keep_largest=("box",)).keeping_largest(["ball", "box"])
    assert both.keep_largest == ("box", "ball")
    assert [(both.clean(array, LABELS) == value).sum() for value in (1, 3)] == [2, 2]


def test_a_package_knows_its_labels(tmp_path):
    package = save_tiny_model(tmp_path)
    changed = package.model_dump() | {"postprocessing": {"keep_largest": ["ball", "bal"]}}
    with pytest.raises(ValidationError, match=r"keep_largest: no label is named bal \["):
        ModelPackage.model_validate(changed)


def test_a_segmenter_cleans_what_it_returns_and_not_what_training_validates(tmp_path):
    package = save_tiny_model(tmp_path)
    networks, image = load_networks(tmp_path, package), tiny_case(3)[0]
    plain = Segmenter(package, networks, pick_device("cpu"))
    raw = plain.segment(image).array
    parts = {label: ndimage.label(raw == label.index, np.ones((3, 3, 3)))[1] for label in LABELS}
    label = max(parts, key=parts.get)
    name, value = label.name, label.index
    assert parts[label] > 1
    cleaning = package.model_copy(update={"postprocessing": Postprocessing(keep_largest=(name,))})
    segmenter = Segmenter(cleaning, networks, pick_device("cpu"))
    np.testing.assert_array_equal(segmenter.segment(image).array, largest_by_scipy(raw, value))
    prepared = prepare(build_transforms(package.preprocessing, 1), [image])
    np.testing.assert_array_equal(segmenter.segment_prepared(prepared, image.grid), raw)
