"""What label values mean: the rules of a label set, colours, volumes."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medseg.labels import CodedConcept, Label, LabelMap, LabelSet, Laterality
from medseg.volume import Volume
from tests.affines import affine_of, rotation

NAMES = st.text("abcdefgh_", min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(names=st.dictionaries(st.integers(1, 2**32 - 1), NAMES, min_size=1, max_size=8), seed=st.randoms())
def test_a_set_is_in_ascending_order_whatever_the_order_it_is_written_in(names, seed):
    unique = {index: f"{name}{index}" for index, name in names.items()}
    items = list(unique.items())
    seed.shuffle(items)
    labels = LabelSet.from_names(dict(items))
    assert labels.indices == tuple(sorted(unique))
    assert {label.index: label.name for label in labels} == unique
    assert labels.largest == max(unique)
    assert len(labels) == len(unique)
    assert labels.channel_values.tolist() == [0, *sorted(unique)]
    assert labels.channel_values.dtype == np.min_scalar_type(max(unique))
    assert LabelSet.model_validate(labels.model_dump(mode="json")) == labels


@settings(max_examples=60, deadline=None)
@given(
    values=st.sets(st.integers(1, 70_000), min_size=2, max_size=6), ignored=st.booleans(), seed=st.integers(0, 99)
)
def test_class_indices_count_the_labels_and_come_back(values, ignored, seed):
    rng = np.random.default_rng(seed)
    *known, other = rng.permutation(sorted(values)).tolist()
    ignore_value = other if ignored else None
    labels = LabelSet.from_names({value: str(value) for value in known})
    array = rng.choice([0, *values] if ignored else [0, *known], (3, 4, 5))
    expected = [
        0 if v == 0 else len(known) + 1 if v == ignore_value else 1 + sorted(known).index(v) for v in array.flat
    ]
    classes = labels.class_indices(array, ignore_value)
    assert classes.ravel().tolist() == expected
    assert np.array_equal(labels.class_values(ignore_value)[classes], array)
    assert labels.ignore_index == len(known) + 1
    assert labels.unknown_values(array, ignore_value) == []
    assert set(labels.unknown_values(array)) <= {other}


def test_background_is_left_out():
    assert LabelSet.from_names({0: "background", 2: "liver"}).indices == (2,)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "at least one label"),
        ([{"index": 1, "name": "a"}, {"index": 1, "name": "b"}], "own index; used twice: 1"),
        ([{"index": 1, "name": "a"}, {"index": 2, "name": "a"}], "own name; used twice: a"),
        ([{"index": 0, "name": "a"}], "greater than or equal to 1"),
        ([{"index": -3, "name": "a"}], "greater than or equal to 1"),
        ([{"index": 2**32, "name": "a"}], "less than 4294967296"),
        ([{"index": 1.5, "name": "a"}], "valid integer"),
        ([{"index": 1, "name": ""}], "at least 1 character"),
        ([{"index": 1, "name": "a", "colour": "#ffffff"}], "colour"),
        ([{"index": 1, "name": "a", "color": "red"}], "pattern"),
        ([{"index": 1, "name": "a", "color": "#ffffff\n"}], "pattern"),
        ([{"index": 1, "name": "a", "laterality": "both"}], "'left' or 'right'"),
        ([{"index": 1, "name": "a", "code": {"value": "", "meaning": "x"}}], "at least 1 character"),
    ],
)
def test_what_is_no_label_set_is_refused(labels, message):
    with pytest.raises(ValidationError, match=message):
        LabelSet.model_validate(labels)


def test_only_background_is_no_label_set():
    with pytest.raises(ValidationError, match="at least one label"):
        LabelSet.from_names({0: "background"})


def test_a_set_cannot_be_changed():
    labels = LabelSet.from_names({1: "a"})
    with pytest.raises(ValidationError):
        labels.root = ()
    with pytest.raises(ValidationError):
        next(iter(labels)).name = "b"


def test_codes_and_sides_are_kept():
    kidney = Label(
        index=1,
        name="kidney_left",
        code=CodedConcept(value="64033007", meaning="Kidney"),
        laterality=Laterality.LEFT,
    )
    again = Label.model_validate(kidney.model_dump(mode="json"))
    assert again == kidney
    assert again.code.scheme == "SCT"
    assert again.laterality is Laterality.LEFT


def test_a_colour_is_read_and_every_label_without_one_gets_its_own():
    assert Label(index=1, name="a", color="#ff8000").rgb == (1.0, 128 / 255, 0.0)
    assert Label(index=1, name="a", color="#FF8000").rgb == (1.0, 128 / 255, 0.0)
    colours = [Label(index=n, name="a").rgb for n in range(1, 60)]
    apart = [max(abs(x - y) for x, y in zip(a, b, strict=True)) for n, a in enumerate(colours) for b in colours[:n]]
    assert min(apart) > 0.02
    assert all(0 <= part <= 1 for colour in colours for part in colour)
    hue = colorsys.rgb_to_hsv(*Label(index=3, name="a").rgb)[0]
    assert hue == pytest.approx(3 * 0.618033988749895 % 1)


@pytest.mark.parametrize(
    ("array", "unknown"),
    [
        (np.array([0, 1, 3], np.uint8), []),
        (np.array([0, 2, 4, 1], np.int16), [2, 4]),
        (np.array([-1, 255], np.int32), [-1, 255]),
        (np.array([1.0, 3.0], np.float64), []),
        (np.array([1.5, 3.0], np.float32), [1.5]),
        (np.zeros((2, 2, 2), bool), []),
    ],
)
def test_unknown_values(array, unknown):
    assert LabelSet.from_names({1: "a", 3: "b"}).unknown_values(array) == unknown


def test_nan_is_unknown():
    (value,) = LabelSet.from_names({1: "a"}).unknown_values(np.array([0, np.nan, 1, np.nan]))
    assert np.isnan(value)


def test_volume_of_a_label_is_its_voxels_times_their_size():
    array = np.zeros((20, 20, 20), np.uint8)
    array[:10] = 3
    array[0, 0, 0] = 1
    affine = affine_of(rotation((10, 20, 30)), (0.5, 2, 3))
    labels = LabelSet.from_names({1: "a", 2: "none", 3: "b"})
    map_ = LabelMap(Volume(array, affine), labels)
    a, none, b = labels
    assert map_.volume_ml(a) == pytest.approx(0.003)
    assert map_.volume_ml(none) == 0
    assert map_.volume_ml(b) == pytest.approx(3999 * 0.003)
    assert map_.grid is map_.volume.grid
    assert map_.affine is map_.volume.affine
    assert map_.array is array
