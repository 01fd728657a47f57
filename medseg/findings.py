"""Findings: what was odd about an input, whether it could be read all the same or had to be refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FindingCode(Enum):
    """Stable codes of the oddities that medseg reports; ``docs/dicom.md`` says what becomes of each."""

    # files
    NOT_DICOM = "not-dicom"
    NOT_AN_IMAGE = "not-an-image"
    UNREADABLE_FILE = "unreadable-file"
    OUTSIDE_REFERENCE = "outside-reference"
    MISSING_FILE = "missing-file"
    TOO_LARGE = "too-large"
    ENCRYPTED = "encrypted"
    DAMAGED_FILE = "damaged-file"
    NO_FILE_META = "no-file-meta"
    # what a series says of itself
    SERIES_UID_MISSING = "series-uid-missing"
    SOP_CLASS_MISSING = "sop-class-missing"
    SPLIT = "split"
    SEVERAL_ACQUISITIONS = "several-acquisitions"
    # kinds of images that are no volume
    LOCALIZER = "localizer"
    MOSAIC = "mosaic"
    COLOUR = "colour"
    SECONDARY_CAPTURE = "secondary-capture"
    MULTI_FRAME = "multi-frame"
    FOUR_DIMENSIONAL = "four-dimensional"
    # geometry
    NO_GEOMETRY = "no-geometry"
    BAD_ORIENTATION = "bad-orientation"
    NOT_STRAIGHT = "not-straight"
    GANTRY_TILT = "gantry-tilt"
    IRREGULAR = "irregular"
    MISSING_SLICE = "missing-slice"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    SINGLE_SLICE = "single-slice"
    # values
    NO_RESCALE = "no-rescale"
    LOOKUP_TABLE = "lookup-table"
    MONOCHROME1 = "monochrome1"
    NO_DECODER = "no-decoder"
    PIXEL_FORMAT = "pixel-format"
    # label objects (RTSTRUCT, SEG)
    NO_REFERENCE = "no-reference"
    SEVERAL_SERIES = "several-series"
    OTHER_FRAME_OF_REFERENCE = "other-frame-of-reference"
    OTHER_GRID = "other-grid"
    OFF_SLICE = "off-slice"
    BAD_CONTOUR = "bad-contour"
    OPEN_CONTOUR = "open-contour"
    CONTOUR_GAP = "contour-gap"
    CONTOUR_OVERLAP = "contour-overlap"
    BEYOND_IMAGE = "beyond-image"
    FRACTIONAL = "fractional"
    STRUCTURE_CONFLICT = "structure-conflict"
    STRUCTURE_MISSING = "structure-missing"
    LABEL_OVERLAP = "label-overlap"
    NO_PATIENT_ID = "no-patient-id"
    # NIfTI headers
    FORMS_DISAGREE = "forms-disagree"
    NO_ORIENTATION = "no-orientation"
    # how a model was run
    SMALLER_TILES = "smaller-tiles"
    NO_REGION = "no-region"
    STORED_ORIENTATION = "stored-orientation"
    # objects that are made of a mask
    MADE_FRAME_OF_REFERENCE = "made-frame-of-reference"
    INFERRED_SOP_CLASS = "inferred-sop-class"
    NO_CODE = "no-code"
    NOT_ON_SLICES = "not-on-slices"
    EMPTY_MASK = "empty-mask"
    # the quality of a mask: a recipe may hold a study back for each of these
    ORGAN_ABSENT = "organ-absent"
    TRUNCATED = "truncated"
    SEVERAL_COMPONENTS = "several-components"
    UNUSUAL_VOLUME = "unusual-volume"
    SIDES_SWAPPED = "sides-swapped"
    OUTSIDE_ENVELOPE = "outside-envelope"
    LOW_CONFIDENCE = "low-confidence"
    UNCHECKED = "unchecked"


@dataclass(frozen=True)
class Finding:
    """One oddity of one input.

    Attributes:
        code: The stable code.
        message: One sentence for a person; free of patient data.
        where: The file, slice or tag it was seen at.
    """

    code: FindingCode
    message: str
    where: str = ""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.code.value}: {self.message}{place}"
