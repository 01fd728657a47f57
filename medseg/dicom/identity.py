"""Deterministic UIDs and times: the same study, series, model and output make the same object, byte for byte."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime

from medseg.dicom.origin import Origin
from medseg.maker import Maker

_NAMESPACE = uuid.UUID("6c6fa9ee-5d1b-5f43-9d5c-2b1d3f7e6a10")  # of these UIDs; made once, of no meaning
NO_DATE, NO_TIME = "19000101", "000000"
"""What stands in attributes of type 1 where the source has no valid date or time."""

_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d|60)?)?", re.ASCII)  # PS3.5 6.2, without the fraction


@dataclass(frozen=True)
class Identity:
    """The UIDs of one output of one study.

    They are derived from the source's study, series and slices, the mask, the model, its settings and the name of
    the output, as UUIDs of names (PS3.5 B.2; RFC 9562, version 5): a second run makes the same ones, whatever the
    files are called and in whatever order they come; another model makes others.

    Attributes:
        origin: The images that the mask was drawn on.
        maker: What drew it.
        output: Name of the output, such as ``seg``.
    """

    origin: Origin
    maker: Maker
    output: str

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID of the output."""
        return self._uid("series")

    def instance_uid(self, number: int = 1) -> str:
        """SOPInstanceUID of the output's object of a number, from 1."""
        return self._uid("instance", str(number))

    def tracking_uid(self, label_name: str) -> str:
        """TrackingUniqueIdentifier of a label: the same in every output of one mask (PS3.3 C.8.20.2)."""
        return uid_of(*self._source, *self._made_by, "tracking", label_name)

    def other_uid(self, *what: str) -> str:
        """Another UID of this output, such as that of its dimension organization."""
        return self._uid("other", *what)

    @property
    def made_frame_of_reference_uid(self) -> str:
        """FrameOfReferenceUID for a source that has none: the same in all objects that are ever made of it."""
        return uid_of(*self._source, "frame of reference")

    @property
    def date(self) -> str:
        """Date of the source, as an object made again must be the same; "" if it has none; see `moment_of`."""
        return moment_of(self.origin)[0]

    @property
    def time(self) -> str:
        """Time beside `date`; "" where there is none."""
        return moment_of(self.origin)[1]

    @property
    def _source(self) -> tuple[str, str, str]:
        return self.origin.study_uid, self.origin.series_uid, self.origin.frames_sha256

    @property
    def _made_by(self) -> tuple[str, ...]:
        maker = self.maker
        return maker.software_version, maker.model_sha256, maker.settings_sha256, maker.mask_sha256

    def _uid(self, *what: str) -> str:
        return uid_of(*self._source, *self._made_by, self.output, *what)


def uid_of(*parts: str) -> str:
    """Return the UID of texts: always the same for the same ones (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(parts)).int}"


def moment_of(origin: Origin) -> tuple[str, str]:
    """Return the first valid date (PS3.5 DA) of content, acquisition, series and study, and the time beside it.

    Both are empty where there is no date; a time that is not valid is empty.
    """
    dataset = origin.datasets[0]
    for what in ("Content", "Acquisition", "Series", "Study"):
        date, time = (str(dataset.get(f"{what}{part}") or "").strip() for part in ("Date", "Time"))
        if _is_date(date):
            time = time.partition(".")[0]
            return date, time if _TIME.fullmatch(time) else ""
    return "", ""


def _is_date(text: str) -> bool:
    if len(text) != len(NO_DATE) or not (text.isascii() and text.isdecimal()):
        return False
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True
