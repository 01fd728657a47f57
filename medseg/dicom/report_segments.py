"""The segments of a SEG that the groups of a report refer to, compared with those that they are measured on."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.label_names import object_name
from medseg.dicom.origin import Origin
from medseg.dicom.report_items import found_items
from medseg.dicom.structure import text_of_element
from medseg.labels import Label
from medseg.proof import proof_error

_TRACKING_UID = ("DCM", "112040")
_SEGMENT, _SOURCE = ("DCM", "121191"), ("DCM", "121232")
_REFERENCE = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID", "ReferencedSegmentNumber")


class Segments:
    """The segments of a SEG that a report refers to; none without a SEG.

    Args:
        origin: The images that the mask was drawn on.
        path: The SEG; None where the report has to refer to none.
    """

    def __init__(self, origin: Origin, path: Path | None) -> None:
        self._series = origin.series_uid
        self._object: Dataset | None = None if path is None else dcmread(path, stop_before_pixels=True)
        items = () if self._object is None else self._object.SegmentSequence
        self._items = {text_of_element(item, "SegmentLabel"): item for item in items}

    def check_evidence(self, instances: set[str], where: str) -> None:
        """Check that a report names the SEG as evidence.

        Raises:
            ProofError: It does not.
        """
        if self._object is not None and text_of_element(self._object, "SOPInstanceUID") not in instances:
            raise proof_error(where, "the segmentation as evidence", "others only")

    def check_group(self, group: Dataset, label: Label, where: str) -> None:
        """Check which segment a group refers to: that of its label, and none where there is none.

        Raises:
            ProofError: It is another one, or has another tracking UID.
        """
        found = [
            tuple(text_of_element(one, keyword) for keyword in _REFERENCE)
            for item in found_items(group, _SEGMENT)
            for one in item.ReferencedSOPSequence
        ]
        segment = self._items.get(object_name(label))
        if segment is None or self._object is None:
            if found:
                raise proof_error(where, "no reference to a segment", f"{len(found)}")
            return
        own = tuple(text_of_element(self._object, keyword) for keyword in ("SOPClassUID", "SOPInstanceUID"))
        number = text_of_element(segment, "SegmentNumber")
        if found != [(*own, number)]:
            named = " and ".join(f"segment {one[2]}" for one in found) or "none"
            other = " of another object" if any(one[:2] != own for one in found) else ""
            raise proof_error(where, f"a reference to segment {number} of its SEG", named + other)
        uids = [text_of_element(item, "UID") for item in found_items(group, _TRACKING_UID)]
        if not uids[:1] or uids != [text_of_element(segment, "TrackingUID")]:
            raise proof_error(where, "the tracking UID of its segment", "another one, or none")
        if any(text_of_element(item, "UID") != self._series for item in found_items(group, _SOURCE)):
            raise proof_error(where, "the series of its source", "another one")
