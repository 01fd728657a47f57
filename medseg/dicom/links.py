"""Which series each structure of a label object was drawn on, or why none of the pile can be meant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from medseg.dicom.annotations import Annotation
from medseg.dicom.refusal import refusal
from medseg.dicom.series import Series
from medseg.dicom.structure import Structure
from medseg.errors import DicomError
from medseg.findings import FindingCode

_REMEDY = "put the series and its label objects into one folder, complete"


@dataclass(frozen=True)
class Link:
    """A structure and its series.

    Attributes:
        annotation: Whose structure it is.
        structure: Which.
        series: Index of the series that it was drawn on, or, where there is an `error`, of one that it names.
        error: Why it cannot be drawn on it.
    """

    annotation: Annotation = field(repr=False)
    structure: Structure
    series: int | None
    error: DicomError | None = None


def link_structures(
    annotations: Sequence[Annotation], series: Sequence[Series], left: Mapping[int, str] | None = None
) -> list[Link]:
    """Find the series of every structure.

    The images that a structure names decide; else those that its object lists; else the series that the object
    names; else the one series of its study in its frame of reference. A structure is linked to one series or none.

    Args:
        annotations: Label objects.
        series: All image series of the pile.
        left: Index of a series -> the rule that leaves it out.

    Returns:
        One link a structure, in order.
    """
    pile = _Pile(series, left or {})
    return [pile.link(annotation, structure) for annotation in annotations for structure in annotation.structures]


class _Pile:
    """The series of a pile, by what label objects name them by."""

    def __init__(self, series: Sequence[Series], left: Mapping[int, str]) -> None:
        self._series, self._left = series, left
        self._of_image: defaultdict[str, set[int]] = defaultdict(set)
        for number, one in enumerate(series):
            for frame in one.frames:
                if frame.header.sop_instance_uid:
                    self._of_image[frame.header.sop_instance_uid].add(number)

    def link(self, annotation: Annotation, structure: Structure) -> Link:
        where = f"label object {annotation.name}, structure {structure.shown}"
        images = structure.images or annotation.images
        holders = self._holders(annotation, structure, images)
        missing = sum(uid not in self._of_image for uid in images)
        if missing or not holders:
            found = f"{missing} of {len(images)} that are not there" if images else "no series that it names"
            expected = "the images that it was drawn on"
            return self._refused(annotation, structure, holders, (FindingCode.NO_REFERENCE, expected, found))
        fitting = [number for number in holders if number not in self._left]
        if not fitting:
            found = f"series {self._series[holders[0]].name}, left by {self._left[holders[0]]}"
            expected = "a series that the rules take"
            return self._refused(annotation, structure, holders, (FindingCode.NO_REFERENCE, expected, found))
        same = [number for number in fitting if self._is_same_frame(structure, number, bool(images))]
        if not same:
            return self._refused(annotation, structure, fitting, _other_frame(structure))
        if len(same) > 1:
            found = f"{len(same)}: {', '.join(self._series[number].name for number in same)}"
            remedy = "choose one by the rules of a recipe"
            error = refusal(where, FindingCode.SEVERAL_SERIES, "one series", found, remedy)
            return Link(annotation, structure, same[0], error)
        return Link(annotation, structure, same[0])

    def _holders(self, annotation: Annotation, structure: Structure, images: Collection[str]) -> list[int]:
        if images:
            return sorted({number for uid in images for number in self._of_image.get(uid, ())})
        if annotation.series:
            return [k for k, one in enumerate(self._series) if one.header.series_uid in annotation.series]
        return [
            k
            for k, one in enumerate(self._series)
            if one.header.study_uid == annotation.study_uid
            and structure.frame_of_reference_uid
            and one.header.frame_of_reference_uid == structure.frame_of_reference_uid
        ]

    def _is_same_frame(self, structure: Structure, number: int, has_images: bool) -> bool:
        """Whether coordinates count from the same point; where one names none, images named in person will do."""
        own, other = structure.frame_of_reference_uid, self._series[number].header.frame_of_reference_uid
        return own == other if own and other else has_images

    def _refused(
        self,
        annotation: Annotation,
        structure: Structure,
        holders: Sequence[int],
        reason: tuple[FindingCode, str, str],
    ) -> Link:
        where = f"label object {annotation.name}, structure {structure.shown}"
        error = refusal(where, *reason, _REMEDY)
        return Link(annotation, structure, holders[0] if holders else None, error)


def _other_frame(structure: Structure) -> tuple[FindingCode, str, str]:
    found = "another one" if structure.frame_of_reference_uid else "none, and no images"
    return FindingCode.OTHER_FRAME_OF_REFERENCE, "the FrameOfReferenceUID of the series", found
