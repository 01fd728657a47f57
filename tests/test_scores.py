"""Dice of regions and ignored voxels against sets of voxels counted one by one."""

import itertools

import numpy as np
import pytest

from medseg.labels import LabelSet
from medseg.regions import LabelScheme, Region
from medseg.scores import dice_by_name

LABELS = LabelSet.from_names({1: "a", 2: "b", 4: "c"})
REGIONS = (Region(name="all", labels=(1, 2, 4), paint=1), Region(name="core", labels=(2, 4), paint=2))


def counted(prediction, reference, values, ignore_value):
    """Dice as 2 |P and R| / (|P| + |R|), over sets of places."""
    places = [p for p in itertools.product(*map(range, reference.shape)) if reference[p] != ignore_value]
    p = {place for place in places if prediction[place] in values}
    r = {place for place in places if reference[place] in values}
    return 2 * len(p & r) / (len(p) + len(r)) if p or r else np.nan


@pytest.mark.parametrize("ignore_value", [None, 7])
@pytest.mark.parametrize("regions", [(), REGIONS])
def test_dice_of_labels_and_of_regions(regions, ignore_value):
    rng = np.random.default_rng(0)
    prediction = rng.choice([0, 1, 2, 4], (4, 5, 6)).astype(np.uint8)
    reference = rng.choice([0, 1, 2] + [7] * (ignore_value is not None), (4, 5, 6)).astype(np.uint8)
    prediction[reference == 2] = 2  # 4 is missed everywhere, 2 hit
    found = dice_by_name(prediction, reference, LabelScheme(LABELS, regions, ignore_value))
    wanted = {r.name: r.labels for r in regions} or {"a": (1,), "b": (2,), "c": (4,)}
    expected = {name: counted(prediction, reference, values, ignore_value) for name, values in wanted.items()}
    assert found == pytest.approx(expected, nan_ok=True)


def test_what_is_in_neither_map_has_no_dice():
    empty = np.zeros((2, 2, 2), np.uint8)
    ignored = np.full((2, 2, 2), 7, np.uint8)
    assert np.isnan(dice_by_name(empty, empty, LabelScheme(LABELS, REGIONS))["core"])
    assert np.isnan(dice_by_name(empty + 2, ignored, LabelScheme(LABELS, (), 7))["b"])
