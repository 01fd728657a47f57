"""What the largest component does to the Dice, with voxels that nobody judged; computed by hand."""

import numpy as np
import pytest

from medseg.labels import LabelSet
from medseg.regions import LabelScheme, Region
from medseg.selection.scoring import LargestTally

LABELS = LabelSet.from_names({1: "edema", 2: "core"})


def line(*values):
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def test_voxels_that_nobody_judged_count_for_neither_answer():
    tally = LargestTally(LabelScheme(LABELS, (), 9))
    # the island of label 1 lies where nobody judged; that of label 2 where it was judged wrong
    tally.add(line(1, 1, 0, 1, 0, 2, 2, 0, 2), line(1, 1, 0, 9, 9, 2, 2, 0, 0))
    edema, core = tally.effects()
    assert (edema.dice_before, edema.dice_after, edema.helps) == (1.0, 1.0, False)
    assert (core.dice_before, core.dice_after, core.helps) == (pytest.approx(0.8), 1.0, True)


def test_a_label_is_judged_by_its_mean_over_the_cases():
    tally = LargestTally(LabelScheme(LABELS))
    tally.add(line(1, 1, 0, 1), line(1, 1, 0, 0))  # 0.8 -> 1
    tally.add(line(1, 1, 0, 1), line(1, 1, 0, 1))  # 1 -> 0.8
    tally.add(line(2, 2, 0, 2), line(0, 0, 0, 0))  # invented: 0 either way
    edema, core = tally.effects()
    assert (edema.dice_before, edema.dice_after) == (pytest.approx(0.9), pytest.approx(0.9))
    assert not edema.helps
    assert (core.dice_before, core.dice_after) == (0, 0)
    tally.add(line(1, 1, 0, 1), line(1, 1, 0, 0))
    assert tally.effects()[0].helps


def test_of_regions_a_label_is_judged_by_those_that_hold_it():
    regions = (Region(name="whole", labels=(1, 2), paint=1), Region(name="core", labels=(2,), paint=2))
    tally = LargestTally(LabelScheme(LABELS, regions))
    # without its island, the core is right, and the whole lacks a voxel that it had by chance
    tally.add(line(1, 2, 2, 1, 2), line(1, 2, 2, 1, 1))
    edema, core = tally.effects()
    assert core.dice_before == pytest.approx((1 + 2 * 2 / (3 + 2)) / 2)
    assert core.dice_after == pytest.approx((2 * 4 / (4 + 5) + 1) / 2)
    # the edema is in two parts, of which the first stays: of the whole only
    assert edema.dice_before == 1
    assert edema.dice_after == pytest.approx(2 * 4 / (4 + 5))
    assert (edema.helps, core.helps) == (False, True)
