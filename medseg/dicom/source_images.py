"""`SourceImages`: what an object must say of the patient, the study and the images that it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset

from medseg.dicom.origin import Origin
from medseg.dicom.structure import text_of_element
from medseg.proof import proof_error

Image = tuple[str, int | None]
"""SOPInstanceUID, and number of the frame from 1 where the instance has several."""

Kind = tuple[str, str]
"""SOPClassUID and Modality."""

_SAME = "of its source"
_OF_SOURCE = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


class SourceImages:
    """What an object must say of the images that it was made from.

    Args:
        origin: The images.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._images = [
            (frame.header.sop_instance_uid, origin.frame_number(number))
            for number, frame in enumerate(origin.frames)
        ]
        self._numbers = {image: number for number, image in enumerate(self._images)}
        self._uids = frozenset(uid for uid, _ in self._images)

    def check_object(self, dataset: Dataset, kind: Kind, where: str) -> None:
        """Check what an object is and whose.

        Args:
            dataset: The object.
            kind: What it has to be.
            where: For messages.

        Raises:
            ProofError: It is of another kind, of another study or patient than its source, or has UIDs of images.
        """
        for keyword, value in (("SOPClassUID", kind[0]), ("Modality", kind[1])):
            if text_of_element(dataset, keyword) != value:
                raise proof_error(where, f"the {keyword} {value}", text_of_element(dataset, keyword) or "none")
        instance, series = (text_of_element(dataset, f"{what}InstanceUID") for what in ("SOP", "Series"))
        if not instance or instance in self._uids:
            raise proof_error(where, "a SOPInstanceUID of its own", "that of an image" if instance else "none")
        if not series or series == self._origin.series_uid:
            raise proof_error(where, "a SeriesInstanceUID of its own", "that of its source" if series else "none")
        if text_of_element(dataset, "StudyInstanceUID") != self._origin.study_uid:
            raise proof_error(where, f"the StudyInstanceUID {_SAME}", "another one")
        source = self._origin.datasets[0]
        for keyword in _OF_SOURCE:
            if text_of_element(dataset, keyword) != text_of_element(source, keyword):
                raise proof_error(where, f"the {keyword} {_SAME}", "another one")

    def check_frame_of_reference(self, found: Iterable[str], where: str) -> None:
        """Check what coordinates count in; where the source has none, one that was made up must be the only one.

        Args:
            found: FrameOfReferenceUIDs that the object names.
            where: For the message.

        Raises:
            ProofError: They are not those of the source.
        """
        names = set(found)
        own = self._origin.frame_of_reference_uid
        if len(names) != 1 or "" in names:
            raise proof_error(where, "one FrameOfReferenceUID", f"{len(names - {''})}")
        if own and names != {own}:
            raise proof_error(where, f"the FrameOfReferenceUID {_SAME}", "another one")

    def check_series(self, series: Iterable[str], images: Iterable[str], where: str) -> None:
        """Check which series and images an object as a whole refers to.

        Raises:
            ProofError: It names another series, or an image that is not of the source.
        """
        if set(series) != {self._origin.series_uid}:
            raise proof_error(
                where, f"a reference to the series {_SAME}", f"{len(set(series))} series, not it alone"
            )
        strange = set(images) - self._uids
        if strange:
            raise proof_error(where, f"references to images {_SAME}", f"{len(strange)} to others")

    def check_evidence(self, studies: Iterable[str], instances: Iterable[str], where: str) -> None:
        """Check what a report names as its evidence: all images of the source, and nothing of another study.

        Raises:
            ProofError: It does not.
        """
        if set(studies) != {self._origin.study_uid}:
            raise proof_error(where, f"evidence of the study {_SAME}", "others, or none")
        missing = self._uids - set(instances)
        if missing:
            raise proof_error(where, f"every image {_SAME} as evidence", f"{len(missing)} missing")

    def check_image(self, items: Sequence[Dataset], number: int, where: str) -> None:
        """Check that the images that something was drawn on are the one slice that it lies on.

        Args:
            items: Of a sequence that names images.
            number: Of the slice, from 0.
            where: For the message.

        Raises:
            ProofError: They are not.
        """
        found = {(text_of_element(item, "ReferencedSOPInstanceUID"), _frame_number(item)) for item in items}
        if found == {self._images[number]}:
            return
        slices = sorted(self._numbers[image] + 1 for image in found if image in self._numbers)
        named = (
            f"one to slice {', '.join(map(str, slices))}" if slices else f"{len(found)} to no slice of the source"
        )
        raise proof_error(where, f"a reference to slice {number + 1}, on which it lies", named)


def _frame_number(item: Dataset) -> int | None:
    value = item.get("ReferencedFrameNumber")
    if value is None:
        return None
    return int(value) if isinstance(value, str | int | float) else 0  # several frames are none of them
