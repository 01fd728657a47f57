"""What is measured of labels, against scipy and loops over the cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medseg.data.fingerprint import Fingerprint, measure_case, summarize
from medseg.data.label_statistics import component_sizes, measure_labels, pool_labels, summarize_labels
from medseg.data.measure import measure_cases
from medseg.training.setup import measured
from medseg.volume import Volume
from tests.affines import tilted
from tests.builders import Silent, tiny_config, tiny_dataset

EVERY_NEIGHBOUR = np.ones((3, 3, 3), int)


def blobs(seed: int, dtype=np.uint8, order: str = "F") -> np.ndarray:
    """Blobs of labels 1, 2 and 7 in background, some at the border."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.uniform_filter(rng.normal(size=(4, 11, 13, 9)), (0, 3, 3, 3))
    return np.array([0, 1, 2, 7])[smooth.argmax(axis=0)].astype(dtype, order=order)


def by_scipy(array: np.ndarray) -> dict[int, list[int]]:
    found = {}
    for value in np.unique(array[array > 0]).tolist():
        parts, count = ndimage.label(array == value, EVERY_NEIGHBOUR)
        found[value] = sorted(np.bincount(parts.ravel())[1:].tolist())
        assert len(found[value]) == count
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_labels_are_those_of_scipy(dtype, order):
    array = np.zeros((14, 15, 12), dtype, order=order)
    array[2:13, 1:14, 3:12] = blobs(4)
    affine = tilted(20, (0.7, 0.8, 3.0))
    expected = by_scipy(array)
    found = measure_labels(Volume(array, affine))
    voxel_ml = 0.7 * 0.8 * 3.0 * np.cos(np.deg2rad(20)) / 1000
    assert [label.value for label in found] == list(expected) == [1, 2, 7]
    for label in found:
        sizes = expected[label.value]
        assert label.volume_ml == pytest.approx(sum(sizes) * voxel_ml)
        assert label.share_apart == pytest.approx(1 - max(sizes) / sum(sizes))
        assert label.is_at_border == (label.value in array[:, :, -1])
    assert any(len(sizes) > 1 for sizes in expected.values())


@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_components_are_counted_in_chunks(chunk, monkeypatch):
    monkeypatch.setattr("medseg.data.label_statistics._CHUNK", chunk)
    array = blobs(1)
    value_of, sizes = component_sizes(array)
    for value, expected in by_scipy(array).items():
        assert sorted(sizes[value_of == value].tolist()) == expected


@pytest.mark.parametrize(("axis", "end"), [(axis, end) for axis in range(3) for end in (0, -1)])
def test_a_voxel_on_any_face_touches_the_border(axis, end):
    array = np.zeros((5, 6, 7), np.uint8)
    array[2, 2, 2] = 1
    place = [2, 3, 3]
    place[axis] = end
    array[tuple(place)] = 2
    inner, outer = measure_labels(Volume(array, np.eye(4)))
    assert not inner.is_at_border
    assert outer.is_at_border


def test_what_is_ignored_and_what_is_below_0_is_no_label():
    array = blobs(2, np.int16)
    array[0] = -1
    assert [label.value for label in measure_labels(Volume(array, np.eye(4)), 7)] == [1, 2]
    assert [label.value for label in measure_labels(Volume(array, np.eye(4)))] == [1, 2, 7]
    assert measure_labels(Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4))) == ()


def test_statistics_are_of_the_cases_that_have_a_label():
    rng = np.random.default_rng(0)
    cases = []
    for number in range(20):
        array = np.zeros((30, 20, 10), np.uint8)
        array[1 : 2 + number, 5:7, 5] = 1
        if number < 5:
            array[3, 10:15, 0 if number < 2 else 2] = 2
            array[9, 10 : 10 + number, 5] = 2
        image = rng.normal(size=array.shape).astype(np.float32)
        cases.append(
            measure_case([Volume(image, np.diag([10, 10, 10, 1]))], Volume(array, np.diag([10, 10, 10, 1])))
        )
    found = summarize(cases, names={1: "bar", 2: "rest", 3: "nowhere"}, modalities=("MR",))
    assert set(found.labels) == {"bar", "rest"}
    bar, rest = found.labels["bar"], found.labels["rest"]
    volumes = [2 * (1 + n) for n in range(20)]
    assert (bar.share_of_cases, bar.share_at_border) == (1, 0)
    assert (bar.smallest_ml, bar.largest_ml) == (pytest.approx(2), pytest.approx(40))
    assert bar.percentile_05_ml == pytest.approx(np.percentile(volumes, 5))
    assert bar.median_ml == pytest.approx(np.median(volumes))
    assert bar.percentile_95_ml == pytest.approx(np.percentile(volumes, 95))
    assert (rest.share_of_cases, rest.share_at_border) == (0.25, 0.4)
    assert rest.largest_share_apart == pytest.approx(4 / 9)
    shares = [0, 1 / 6, 2 / 7, 3 / 8, 4 / 9]
    assert rest.usual_share_apart == rest.percentile_95_share_apart == pytest.approx(np.percentile(shares, 95))
    assert (rest.smallest_ml, rest.smallest_whole_ml) == (pytest.approx(5), pytest.approx(7))
    assert bar.smallest_whole_ml == bar.smallest_ml
    assert found.modalities == ("MR",)
    assert Fingerprint.model_validate_json(found.model_dump_json()) == found


def test_an_older_package_has_no_statistics():
    image, label = (
        Volume(np.arange(60.0).reshape(3, 4, 5), np.eye(4)),
        Volume(np.ones((3, 4, 5), np.uint8), np.eye(4)),
    )
    facts = summarize([measure_case([image], label)]).model_dump(mode="json")
    for name in ("labels", "modalities", "is_stored_order"):
        del facts[name]
    old = Fingerprint.model_validate(facts)
    assert (old.labels, old.modalities, old.is_stored_order) == ({}, (), False)


def test_labels_are_renamed_with_their_statistics():
    image, label = (
        Volume(np.arange(60.0).reshape(3, 4, 5), np.eye(4)),
        Volume(np.ones((3, 4, 5), np.uint8), np.eye(4)),
    )
    found = summarize([measure_case([image], label)], names={1: "old"})
    assert found.renamed({"old": "new", "other": "none"}).labels == {"new": found.labels["old"]}


def test_what_is_kept_on_disk_has_them_too(tmp_path):
    cases = tiny_dataset(tmp_path / "data", cases=3).cases
    names = {1: "ball", 3: "box"}
    first = summarize(measure_cases(cases, tmp_path / "kept"), names=names)
    assert summarize(measure_cases(cases, tmp_path / "kept"), names=names) == first
    assert first.labels["box"].median_ml == pytest.approx(5**3 * 1.5 * 1.5 * 2.0 / 1000)
    assert first.labels["ball"].share_of_cases == 1


def test_training_keeps_them_by_name(tmp_path):
    dataset = tiny_dataset(tmp_path / "data", cases=6)
    envelope = measured(tiny_config(), dataset, tmp_path / "run", Silent())
    assert (list(envelope.labels), envelope.modalities) == (["ball", "box"], ("MR",))
    assert envelope.labels["box"].largest_ml == pytest.approx(5**3 * 1.5 * 1.5 * 2.0 / 1000)


def test_pooled_statistics_are_the_outermost_of_those_that_tell():
    def one(ml: float, share: float):
        labels = measure_labels(Volume(np.pad(np.ones((1, 1, 1), np.uint8), 1), np.diag([10, 10, ml * 10, 1])))
        return summarize_labels([labels] + [()] * round(1 / share - 1), {1: "a"})

    pooled = pool_labels([one(2, 1.0), {}, one(5, 0.5)])["a"]
    assert (pooled.smallest_ml, pooled.largest_ml) == (pytest.approx(2), pytest.approx(5))
    assert (pooled.percentile_05_ml, pooled.percentile_95_ml) == (pytest.approx(2), pytest.approx(5))
    assert (pooled.median_ml, pooled.share_of_cases) == (pytest.approx(3.5), 0.75)
    assert pooled.smallest_whole_ml == pytest.approx(2)
    assert pooled.usual_share_apart == 0
    assert pool_labels([{}, {}]) == {}
    older = one(5, 0.5)["a"].model_copy(update={"percentile_95_share_apart": None, "largest_share_apart": 0.25})
    assert pool_labels([one(2, 1.0), {"a": older}])["a"].usual_share_apart == 0.25
