"""What the headers of a series say, as texts that rules are compared with; "" stands for a missing value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np

from medseg.dicom.frame import Frame
from medseg.dicom.geometry import Vectors, orientation_problem, same_places, slice_normal
from medseg.dicom.series import Series
from medseg.dicom.tags import DESCRIBING, tag_of
from medseg.dicom.values import numbers_of

ACQUISITION_DATE_TIME = tag_of("AcquisitionDateTime")
"""Not among the tags that are always read; `beginnings` looks at it where it was."""

_MOMENT = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)(\d\d)(?::?(\d\d)(?::?(\d\d)(\.\d+)?)?)?(?:[+-]\d{4})?", re.ASCII)
_DATES_AND_TIMES = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "AcquisitionTime"),
    ("StudyDate", "SeriesTime"),
    ("StudyDate", "ContentTime"),
)


def texts(series: Series, keyword: str) -> list[str]:
    """Return the different values of one of the tags that are always read."""
    return values(series, DESCRIBING[keyword])


def values(series: Series, tag: int) -> list[str]:
    """Return the different values of a tag, "" for slices that have none."""
    return list(dict.fromkeys(frame.tags.get(tag, "") for frame in series.frames))


def thicknesses_mm(series: Series) -> list[str]:
    """Return the different values of SliceThickness; one that is not above 0 counts as missing."""
    numbers = [numbers_of(text, 1) or (0.0,) for text in texts(series, "SliceThickness")]
    return [_tidy(number) if number[0] > 0 else "" for number in numbers]


def pixel_spacings_mm(series: Series) -> list[str]:
    """Return the different pairs of PixelSpacing."""
    return list(dict.fromkeys(_tidy(frame.pixel_spacing_mm or ()) for frame in series.frames))


def spacing_mm(series: Series) -> str:
    """Return the median distance between slices along their normal, to a micrometre; "" for a single slice."""
    positions = [frame.position_mm for frame in series.frames]
    directions = normals(series)
    if not directions or None in positions:
        return ""
    along = np.array(positions) @ directions[0]
    places = [float(along[place].mean()) for place in same_places(along)]
    return _tidy([round(float(np.median(np.diff(places))), 3)]) if len(places) > 1 else ""


def normals(series: Series) -> list[Vectors]:
    """Return the different normals (3,) of the slices; none where an orientation is missing or not valid."""
    orientations = dict.fromkeys(frame.orientation or () for frame in series.frames)
    if () in orientations or orientation_problem(np.array(list(orientations))):
        return []
    return [slice_normal(np.array(orientation)) for orientation in orientations]


def beginnings(rivals: Sequence[Series]) -> list[float | None]:
    """Return when the first slice of each series was acquired, in seconds of the calendar; None where none says.

    All are told by the first kind of date and time that all of them have: kinds may disagree, above all where dates
    were changed to hide the patient. Where there is no such kind, each is told by the first that it has.
    """
    told = [_told(series) for series in rivals]
    shared = next((kind for kind in zip(*told, strict=True) if None not in kind), None)
    return list(shared) if shared else [next((time for time in own if time is not None), None) for own in told]


def _tidy(numbers: Iterable[float]) -> str:
    return "\\".join(f"{number:.9g}" for number in numbers)


def _told(series: Series) -> list[float | None]:
    """The earliest moment of a series by each kind of date and time."""
    kinds = zip(*(map(_seconds, _moments(frame)) for frame in series.frames), strict=True)
    return [min((moment for moment in kind if moment is not None), default=None) for kind in kinds]


def _moments(frame: Frame) -> list[str]:
    """The moment of a frame by each kind of date and time, the acquisition's first; "" where it is not told so."""

    def text(keyword: str) -> str:
        return frame.tags.get(DESCRIBING[keyword], "")

    pairs = [text(date) + text(time) if text(date) and text(time) else "" for date, time in _DATES_AND_TIMES]
    of_functional_group = text("AcquisitionTime")  # with its date, in frames of multi-frame files
    whole = (frame.tags.get(ACQUISITION_DATE_TIME, ""), of_functional_group, pairs[0])
    return [next(filter(_MOMENT.fullmatch, whole), ""), *pairs[1:]]


def _seconds(text: str) -> float | None:
    """Read a DT, or a DA with a TM behind it, in the form of PS3.5 6.2 or of ACR-NEMA; None where it is none."""
    parts = _MOMENT.fullmatch(text)
    if parts is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in parts.groups()[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    return round((moment - datetime.min).total_seconds() + float(f"0{parts[7] or ''}"), 3)
