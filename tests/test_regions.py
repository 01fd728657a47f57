"""Regions made of labels: what they are painted with, and what is learnt and measured."""

from __future__ import annotations

from medseg.labels import LabelSet
from medseg.regions import LabelScheme, Region, complete_regions, region_problems

PARTS = LabelSet.from_names({1: "oedema", 2: "necrosis", 4: "enhancing"})
NESTED = (
    Region(name="whole", labels=(1, 2, 4)),
    Region(name="core", labels=(2, 4)),
    Region(name="enhancing", labels=(4,)),
)


def test_nested_regions_are_painted_with_their_rest():
    assert list(region_problems(NESTED, PARTS)) == []
    complete = complete_regions(NESTED)
    assert [region.paint for region in complete] == [1, 2, 4]
    scheme = LabelScheme(PARTS, complete, 9)
    assert scheme.drawn_values.tolist() == [0, 1, 2, 4]
    assert scheme.members == ((1, 2, 3), (2, 3), (3,))
    assert scheme.names == {1: "whole", 2: "core", 4: "enhancing"}
    assert (scheme.outputs, scheme.ignore_index) == (3, 4)


def test_labels_that_are_drawn_as_references_have_them():
    assert LabelScheme(PARTS, complete_regions(NESTED)).names_as_drawn == LabelScheme(PARTS).names_as_drawn
    assert LabelScheme(PARTS).names_as_drawn == {1: "oedema", 2: "necrosis", 4: "enhancing"}
    without_core = (NESTED[0].model_copy(update={"paint": 1}), NESTED[2])
    assert LabelScheme(PARTS, complete_regions(without_core)).names_as_drawn == {4: "enhancing"}
    only_core = (NESTED[1].model_copy(update={"paint": 4}),)
    assert LabelScheme(PARTS, complete_regions(only_core)).names_as_drawn == {}


def test_without_regions_the_labels_are_learnt():
    scheme = LabelScheme(PARTS)
    assert scheme.drawn_values.tolist() == [0, 1, 2, 4]
    assert scheme.names == {1: "oedema", 2: "necrosis", 4: "enhancing"}
    assert scheme.targets == {"oedema": (1,), "necrosis": (2,), "enhancing": (4,)}
    assert (scheme.outputs, scheme.members, scheme.ignore_index) == (4, (), None)


def test_what_is_painted_last_wins_and_what_is_set_stays():
    """KiTS: kidney, then masses, then tumour; cysts are the rest of the masses."""
    labels = LabelSet.from_names({1: "kidney", 2: "tumour", 3: "cyst"})
    regions = (
        Region(name="all", labels=(1, 2, 3)),
        Region(name="masses", labels=(2, 3), paint=3),
        Region(name="tumour", labels=(2,)),
    )
    assert list(region_problems(regions, labels)) == []
    assert LabelScheme(labels, complete_regions(regions)).drawn_values.tolist() == [0, 1, 3, 2]
