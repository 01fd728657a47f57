"""The frames of one SeriesInstanceUID -> groups that may each be one volume.

Frames of different kinds, sizes or directions never share a volume. Beyond that a series is split only where it
has to be: where slices lie at the same place, in rows that interleave, or in even rows of several acquisitions.
Then the attribute that tells them apart best splits it (acquisition, temporal position, echo, b-value, image type,
...), and the next one its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medseg.dicom.frame import Frame
from medseg.dicom.geometry import (
    Spacing,
    Vectors,
    fit_stack,
    orientation_problem,
    same_places,
    slice_normal,
)
from medseg.dicom.grouping import alike
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import numbers_of

_SPLITTING = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "EchoNumbers",
    "EchoTime",
    "InversionTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "ImageType",
    "ComplexImageComponent",
    "ConvolutionKernel",
    "StackID",
    "TriggerTime",
    "AcquisitionTime",
    "ContentTime",
)
_MOST_TIMES = 20  # volumes at the same place, before a series counts as four-dimensional
_LEAST_DIRECTIONS = 6  # that a diffusion tensor needs
_ACQUISITION = _SPLITTING[0]
_FEW = 4  # parts that slices at different places may be split into
_LEAST_ROW = 3  # slices of an acquisition that is a volume of its own
_SAME_STEP = 0.05


@dataclass(frozen=True)
class Part:
    """Frames that may be one volume.

    Attributes:
        frames: In no particular order.
        label: What tells them from the other parts of the series, such as ``EchoTime 4.92``.
        is_four_dimensional: They are many volumes at one place, left together.
    """

    frames: tuple[Frame, ...]
    label: str = ""
    is_four_dimensional: bool = False


def split_series(frames: Sequence[Frame]) -> list[Part]:
    """Split the frames of a series into what may be volumes; fMRI, tensors and long time series stay together."""
    return [part for group in alike(frames) for part in _parts(tuple(group))]


def split_times(part: Part) -> list[Part]:
    """Split a four-dimensional part into its volumes."""
    return _split(part.frames, part.label)


def _parts(frames: tuple[Frame, ...]) -> list[Part]:
    if _is_four_dimensional(frames):
        return [Part(frames, is_four_dimensional=True)]
    return _split(frames, "")


def _along(frames: Sequence[Frame]) -> Vectors | None:
    """Return the positions along the normal in mm, or None where there are none."""
    if any(frame.position_mm is None or frame.orientation is None for frame in frames):
        return None
    orientation = np.array(frames[0].orientation)
    if orientation_problem(orientation[None]):
        return None
    along: Vectors = np.array([frame.position_mm for frame in frames]) @ slice_normal(orientation)
    return along


def _split(frames: tuple[Frame, ...], label: str) -> list[Part]:
    singles = _without_copies(frames)
    row = _row(singles)
    if row is None or (row.repeats == 0 and row.is_even):
        return [Part(frames, label)]
    best: tuple[int, str, dict[str, list[Frame]]] | None = None
    for keyword in _SPLITTING:
        groups = _by_value(frames, keyword)
        left = _repeats_left(row, keyword, list(groups.values()))
        if left is not None and (best is None or left < best[0]):
            best = left, keyword, groups
    if best is None:
        return [Part(frames, label)]
    _, keyword, groups = best
    names = {value: ", ".join(filter(None, [label, f"{keyword} {value or 'none'}"])) for value in groups}
    return [part for value, group in groups.items() for part in _split(tuple(group), names[value])]


def _by_value(frames: Sequence[Frame], keyword: str) -> dict[str, list[Frame]]:
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.tags.get(DESCRIBING[keyword], ""), []).append(frame)
    return dict(sorted(groups.items(), key=lambda item: (numbers_of(item[0]) or (), item[0])))


@dataclass(frozen=True)
class _Row:
    """Slices along their normal.

    Attributes:
        low: The first one's place in mm.
        high: The last one's.
        step: The usual distance; 0 for a single slice.
        places: How many different places there are.
        most: Slices at the place that has most.
        repeats: Slices at places of other ones.
        is_even: One slice at each place would be an even, straight row.
    """

    low: float
    high: float
    step: float
    places: int
    most: int
    repeats: int
    is_even: bool


def _row(frames: Sequence[Frame]) -> _Row | None:
    """Measure slices; None where they have no valid geometry."""
    along = _along(frames)
    if along is None:
        return None
    places = same_places(along)
    firsts = [frames[int(place[0])] for place in places]
    heights = np.array([along[place[0]] for place in places])
    return _Row(
        low=float(heights[0]),
        high=float(heights[-1]),
        step=float(np.median(np.diff(heights))) if len(heights) > 1 else 0.0,
        places=len(places),
        most=max(len(place) for place in places),
        repeats=len(frames) - len(places),
        is_even=_is_even(firsts),
    )


def _repeats_left(whole: _Row, keyword: str, groups: list[list[Frame]]) -> int | None:
    """Return how many slices still lie at places of others after a split, or None where it makes nothing better."""
    if not 1 < len(groups) <= max(2 * whole.most, _FEW):
        return None
    rows = [_row(_without_copies(group)) for group in groups]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return None
    if whole.repeats == 0:
        are_rows = all(row.is_even and row.places > 1 for row in known)
        is_apart = keyword == _ACQUISITION and _are_apart(known)
        return 0 if are_rows and (is_apart or _interleave(known)) else None
    left = sum(row.repeats for row in known)
    keep_step = all(row.places == 1 or abs(row.step - whole.step) < _SAME_STEP * whole.step for row in known)
    is_many = whole.repeats >= whole.places / 2
    return left if left < whole.repeats and len(groups) <= 2 * whole.most and (is_many or keep_step) else None


def _are_apart(rows: list[_Row]) -> bool:
    """Whether no row goes on where another one ends: a scanner may take one volume in many acquisitions."""
    ordered = sorted(rows, key=lambda row: row.low)
    gaps = [
        (second.low - first.high, step) for first, second in pairwise(ordered) for step in (first.step, second.step)
    ]
    return min(row.places for row in rows) >= _LEAST_ROW and all(
        abs(gap - step) > _SAME_STEP * step for gap, step in gaps
    )


def _interleave(rows: list[_Row]) -> bool:
    ranges = sorted((row.low, row.high) for row in rows)
    return any(second[0] < first[1] for first, second in pairwise(ranges))


def _is_even(frames: Sequence[Frame]) -> bool:
    """Whether sorted slices are an even row; one slice is, and so are slices without a pixel spacing."""
    if len(frames) < 2 or any(frame.pixel_spacing_mm is None for frame in frames):
        return True
    positions = np.array([frame.position_mm for frame in frames])
    fit = fit_stack(positions, np.array(frames[0].orientation), np.array(frames[0].pixel_spacing_mm))
    return fit.spacing is Spacing.EVEN and fit.is_straight


def _without_copies(frames: Sequence[Frame]) -> list[Frame]:
    """Leave out frames that name the same instance as an earlier one."""
    seen: dict[object, Frame] = {}
    for number, frame in enumerate(frames):
        uid = frame.header.sop_instance_uid
        seen.setdefault((uid, frame.number) if uid else number, frame)
    return list(seen.values())


def _is_four_dimensional(frames: Sequence[Frame]) -> bool:
    singles = _without_copies(frames)
    along = _along(singles)
    if along is None:
        return False
    most = max(len(place) for place in same_places(along))
    if most == 1:
        return False
    directions = {frame.tags.get(DESCRIBING["DiffusionGradientOrientation"], "") for frame in singles} - {""}
    is_functional = any("FMRI" in frame.header.image_type for frame in singles)
    return is_functional or len(directions) >= _LEAST_DIRECTIONS or most > _MOST_TIMES
