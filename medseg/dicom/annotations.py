"""The label objects of a pile, RTSTRUCT and SEG, and their structures as masks on a series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from medseg.dicom import rtstruct_read, segmentation
from medseg.dicom.dataset import load_dataset
from medseg.dicom.elements import DamagedError, NotDicomError, read_elements
from medseg.dicom.planes import Planes
from medseg.dicom.quiet import PYDICOM_ERRORS, quiet_pydicom
from medseg.dicom.refusal import refusal
from medseg.dicom.segment_pixels import SegmentPixels
from medseg.dicom.source import Source, find_sources
from medseg.dicom.structure import Drawing, Kind, Structure, text_of_element
from medseg.dicom.tags import IMAGE, MEDIA_STORAGE_SOP_CLASS_UID, PATIENT, tag_of
from medseg.dicom.values import identities, short_hash, text_of, uid_name
from medseg.findings import Finding, FindingCode

MAX_OBJECT_BYTES = 1 << 32
"""No more of a label object is read, or inflated."""

_LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # pydicom 3.0 has no name for it
_KINDS = {
    str(RTStructureSetStorage): Kind.RTSTRUCT,
    str(SegmentationStorage): Kind.SEG,
    _LABEL_MAP_STORAGE: Kind.SEG,
}
_SOP_CLASS = IMAGE["SOPClassUID"]
_SEGMENTATION = [
    *PATIENT,
    *(IMAGE[f"{kind}FunctionalGroupsSequence"] for kind in ("Shared", "PerFrame")),
    *map(tag_of, ("SpecificCharacterSet", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")),
    *map(tag_of, ("SegmentationType", "NumberOfFrames", "SegmentSequence", "ReferencedSeriesSequence")),
]
"""What is read of a SEG to describe it: nothing from the pixels on."""

Progress = Callable[[int, int], None]
Draw = Callable[[Structure, Planes], Drawing]


@dataclass(frozen=True)
class Annotation:
    """One label object.

    Attributes:
        kind: What it is.
        sop_instance_uid: Its own UID; an identifier, kept out of `repr`, as the next ones.
        study_uid: StudyInstanceUID.
        series: SeriesInstanceUIDs of the images that it refers to.
        images: SOPInstanceUIDs of these, as far as they are listed for the object as a whole.
        structures: What it outlines.
        source: The file.
        transfer_syntax_uid: How the file is encoded.
    """

    kind: Kind
    sop_instance_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    series: frozenset[str] = field(repr=False)
    images: frozenset[str] = field(repr=False)
    structures: tuple[Structure, ...]
    source: Source = field(repr=False)
    transfer_syntax_uid: str = field(repr=False)

    @property
    def name(self) -> str:
        """A short hash of its UID, safe to show."""
        return short_hash(self.sop_instance_uid)

    @property
    def study_name(self) -> str:
        """A short hash of its StudyInstanceUID, safe to show."""
        return short_hash(self.study_uid)


def is_annotation(sop_class_uid: str) -> bool:
    """Whether a SOP class is one of the label objects that are read."""
    return sop_class_uid in _KINDS


def find_annotations(path: Path, progress: Progress | None = None) -> tuple[list[Annotation], list[Finding]]:
    """Find the label objects of a pile; pixels are not read.

    Args:
        path: A folder with its subfolders, a zip, a DICOMDIR or a file.
        progress: Called with (files done, files).

    Returns:
        The objects, each once, and what was left out.

    Raises:
        DicomError: There is no such path, or the zip or DICOMDIR is damaged.
    """
    sources = find_sources(path).sources
    found: dict[tuple[str, int], Annotation] = {}
    counts: Counter[FindingCode] = Counter()
    with quiet_pydicom():
        for number, source in enumerate(sources, start=1):
            try:
                annotation = _read(source)
            except PYDICOM_ERRORS:
                annotation = FindingCode.DAMAGED_FILE
            if isinstance(annotation, FindingCode):
                counts[annotation] += 1
            elif annotation:
                key = annotation.sop_instance_uid, source.size
                counts[FindingCode.DUPLICATE] += key in found
                found.setdefault(key, annotation)
            if progress:
                progress(number, len(sources))
    return list(found.values()), list(_findings(counts))


def open_annotation(annotation: Annotation) -> Draw:
    """Read a label object again, with contours or pixels, to draw its structures.

    Returns:
        A function of a structure and the planes of the series that it was drawn on. It raises `DicomError` where
        the structure does not lie on the series, or cannot be read.

    Raises:
        DicomError: The object cannot be read again.
    """
    where = f"label object {annotation.name}"
    try:
        with quiet_pydicom():
            dataset = _load(annotation.source, annotation.transfer_syntax_uid)
            drawer = _drawer(annotation.kind, dataset)
    except PYDICOM_ERRORS as error:
        raise _unreadable(where, error) from None

    def draw(structure: Structure, planes: Planes) -> Drawing:
        try:
            with quiet_pydicom():
                return drawer(structure, planes)
        except PYDICOM_ERRORS as error:
            raise _unreadable(where, error) from None

    return draw


def _drawer(kind: Kind, dataset: Dataset) -> Draw:
    if kind is Kind.RTSTRUCT:
        return lambda structure, planes: rtstruct_read.draw_region(dataset, structure, planes)
    frames, pixels = segmentation.list_frames(dataset), SegmentPixels(dataset)
    return lambda structure, planes: segmentation.draw_segment(frames, pixels, structure, planes)


def _read(source: Source) -> Annotation | FindingCode | None:
    """Read a file if it is a label object; None for an image and for what the scan counts.

    Raises:
        Exception: It is one that is damaged; see `PYDICOM_ERRORS`.
    """
    try:
        with source.open() as stream:
            elements = read_elements(stream, frozenset({_SOP_CLASS, MEDIA_STORAGE_SOP_CLASS_UID}))
    except (NotDicomError, DamagedError, OSError):
        return None  # the scan counts these
    values = (elements.values.get(tag, b"") for tag in (_SOP_CLASS, MEDIA_STORAGE_SOP_CLASS_UID))
    sop_class = next((uid for value in values if (uid := text_of(value, "UI"))), "")
    kind = _KINDS.get(sop_class)
    if kind is None:
        is_other = uid_name(sop_class) and "Image Storage" not in uid_name(sop_class)
        return FindingCode.NOT_AN_IMAGE if is_other else None
    dataset = _load(source, elements.transfer_syntax_uid, _SEGMENTATION if kind is Kind.SEG else None)
    hidden = identities(tuple(str(dataset.get(tag).value or "") for tag in PATIENT if tag in dataset))
    is_rtstruct = kind is Kind.RTSTRUCT
    module = rtstruct_read if is_rtstruct else segmentation
    list_structures = rtstruct_read.list_regions if is_rtstruct else segmentation.list_segments
    series, images = module.referenced_series(dataset)
    return Annotation(
        kind,
        text_of_element(dataset, "SOPInstanceUID"),
        text_of_element(dataset, "StudyInstanceUID"),
        series,
        images,
        tuple(list_structures(dataset, hidden)),
        source,
        elements.transfer_syntax_uid,
    )


def _load(source: Source, transfer_syntax_uid: str, tags: list[int] | None = None) -> Dataset:
    with source.open() as stream:
        return load_dataset(stream, transfer_syntax_uid, most_bytes=MAX_OBJECT_BYTES, tags=tags)


def _unreadable(where: str, error: Exception) -> Exception:
    found = f"one that cannot be read ({type(error).__name__})"
    return refusal(where, FindingCode.DAMAGED_FILE, "a whole label object", found, "copy or export it again")


def _findings(counts: Counter[FindingCode]) -> Iterator[Finding]:
    texts = {
        FindingCode.DAMAGED_FILE: "label object(s) that cannot be read: left out",
        FindingCode.DUPLICATE: "label object(s) that are there twice: read once",
        FindingCode.NOT_AN_IMAGE: "file(s) left out: neither an image nor a label object that is read",
    }
    for code, text in texts.items():
        if counts[code]:
            yield Finding(code, f"{counts[code]} {text}")
