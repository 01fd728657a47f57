"""Left and right: which labels are the two sides of one organ, and whether they lie where they should."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from medseg.findings import Finding, FindingCode
from medseg.labels import Label, Laterality
from medseg.quality.shapes import LabelShape
from medseg.sides import split_side, words_of

Name = tuple[str, ...]


def side_pairs(labels: Iterable[Label]) -> list[tuple[str, str]]:
    """Find the labels that are the left and the right side of one organ.

    They have the same name but for its side, as ``kidney_left`` and ``kidney_right`` or ``Left Lung`` and
    ``RightLung``; or a laterality each and a code that no third label has.

    Args:
        labels: Those of a mask.

    Returns:
        (name of the left one, name of the right one).
    """
    given = list(labels)
    by_name = _paired((_split(label), label) for label in given)
    paired = {label for pair in by_name for label in pair}
    coded = [label for label in given if label.code and label.laterality and label.name not in paired]
    return by_name + _paired(
        (((label.code.scheme, label.code.value), label.laterality), label) for label in coded if label.code
    )


def side_findings(shapes: Mapping[str, LabelShape], left_of: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a finding for each two labels that lie the wrong way round.

    Centroids are compared in the patient's frame, so that it does not matter how the voxels are stored. Where only
    one side of an organ is there, it is not compared with the middle of the body: nothing in a mask tells where
    that is in an image that shows a part of it.

    Args:
        shapes: By name.
        left_of: {name: another one that it lies further left than}, beside the pairs of sides.
    """
    named = {words_of(name): name for name in shapes}
    others = [(named.get(words_of(a)), named.get(words_of(b))) for a, b in left_of.items()]
    known = [(left, right) for left, right in others if left and right]
    for left, right in (*side_pairs(shape.label for shape in shapes.values()), *known):
        excess = shapes[left].centroid_mm[0] - shapes[right].centroid_mm[0]  # x grows towards the right
        if excess > 0:
            message = f"{left} lies {excess:.0f} mm further to the patient's right than {right}"
            yield Finding(FindingCode.SIDES_SWAPPED, message)


def _paired(keyed: Iterable[tuple[tuple[Name, Laterality | None], Label]]) -> list[tuple[str, str]]:
    sides: dict[Name, dict[Laterality, list[str]]] = {}
    for (name, side), label in keyed:
        if side is not None:
            sides.setdefault(name, {}).setdefault(side, []).append(label.name)
    both = [(found.get(Laterality.LEFT, []), found.get(Laterality.RIGHT, [])) for found in sides.values()]
    return [(left[0], right[0]) for left, right in both if len(left) == len(right) == 1]


def _split(label: Label) -> tuple[Name, Laterality | None]:
    """Return a label's name without its side, and its side: its laterality, or what its name says."""
    words, side = split_side(label.name)
    return words, label.laterality or side
