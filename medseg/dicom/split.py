"""The frames of one SeriesInstanceUID -> groups that may each be one volume.

Frames of different kinds, sizes or directions never share a volume. Beyond that a series is split only where it has
to be: where slices lie at the same place, or in rows that interleave. Then the first attribute that tells them
apart splits it (acquisition, temporal position, echo, b-value, image type, ...), and the next one its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medseg.dicom.geometry import (
    Spacing,
    Vectors,
    clusters,
    fit_stack,
    orientation_problem,
    same_places,
    slice_normal,
)
from medseg.dicom.header import Frame, Header
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import distinct, numbers_of

_SPLITTING = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "EchoNumbers",
    "EchoTime",
    "InversionTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "ImageType",
    "TriggerTime",
    "AcquisitionTime",
    "ContentTime",
)
_MOST_TIMES = 20  # volumes at the same place, before a series counts as four-dimensional
_LEAST_DIRECTIONS = 6  # that a diffusion tensor needs
_SPACING_TOLERANCE = 1e-3


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
    return [part for group in _alike(frames) for part in _parts(group)]


def split_times(part: Part) -> list[Part]:
    """Split a four-dimensional part into its volumes."""
    return _split(part.frames, part.label)


def _parts(frames: tuple[Frame, ...]) -> list[Part]:
    if _is_four_dimensional(frames):
        return [Part(frames, is_four_dimensional=True)]
    return _split(frames, "")


def _alike(frames: Sequence[Frame]) -> Iterator[tuple[Frame, ...]]:
    """Group frames by what no volume may mix; a missing UID is that of the others, where they have only one."""
    classes = distinct(frame.header.sop_class_uid for frame in frames)
    references = distinct(frame.header.frame_of_reference_uid for frame in frames)
    groups: dict[object, list[Frame]] = {}
    for frame in frames:
        header = frame.header
        own = header.sop_class_uid if len(classes) > 1 else ""
        place = header.frame_of_reference_uid if len(references) > 1 else ""
        groups.setdefault((own, place, _kind(header)), []).append(frame)
    for group in groups.values():
        yield from _same_plane(group)


def _kind(header: Header) -> object:
    return (
        header.modality,
        (header.rows, header.columns),
        (header.samples_per_pixel, header.photometric),
        "LOCALIZER" in header.image_type,
        header.is_mosaic,
        header.has_functional_groups,
    )


def _same_plane(frames: Sequence[Frame]) -> Iterator[tuple[Frame, ...]]:
    """Group frames by orientation and pixel spacing; those that have none go with the largest group."""
    placed = [
        frame
        for frame in frames
        if frame.orientation and frame.pixel_spacing_mm and min(frame.pixel_spacing_mm) > 0
    ]
    if not placed:
        yield tuple(frames)
        return
    directions = np.array([frame.orientation for frame in placed])
    spacings = np.array([frame.pixel_spacing_mm for frame in placed])
    numbers = clusters(np.hstack([directions, np.log(spacings)]))
    groups = [[placed[k] for k in np.flatnonzero(numbers == number)] for number in range(numbers.max() + 1)]
    known = {id(frame) for frame in placed}
    max(groups, key=len).extend(frame for frame in frames if id(frame) not in known)
    yield from (tuple(group) for group in groups)


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
    along = _along(singles)
    if along is None or len(singles) < 2:
        return [Part(frames, label)]
    places = same_places(along)
    most = max(len(place) for place in places)
    if most == 1 and _is_even(singles):
        return [Part(frames, label)]
    for keyword in _SPLITTING:
        groups = _by_value(frames, keyword)
        if 1 < len(groups) <= 2 * most and _is_better(list(groups.values()), len(singles) - len(places), most):
            return [
                part
                for value, group in groups.items()
                for part in _split(tuple(group), ", ".join(filter(None, [label, f"{keyword} {value or 'none'}"])))
            ]
    return [Part(frames, label)]


def _by_value(frames: Sequence[Frame], keyword: str) -> dict[str, list[Frame]]:
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.tags.get(DESCRIBING[keyword], ""), []).append(frame)
    return dict(sorted(groups.items(), key=lambda item: (numbers_of(item[0]) or (), item[0])))


def _is_better(groups: list[list[Frame]], repeats: int, most: int) -> bool:
    """Whether fewer slices lie at the same place after a split, or rows that interleave are even by themselves."""
    left = 0
    for group in groups:
        singles = _without_copies(group)
        along = _along(singles)
        if along is None:
            return False
        left += len(singles) - len(same_places(along))
        if most == 1 and not (len(singles) > 1 and _is_even(singles)):
            return False
    return left < repeats if most > 1 else _interleave(groups)


def _interleave(groups: list[list[Frame]]) -> bool:
    ranges = []
    for group in groups:
        along = _along(group)
        if along is None:
            return False
        ranges.append((float(along.min()), float(along.max())))
    ranges.sort()
    return any(second[0] < first[1] for first, second in pairwise(ranges))


def _is_even(frames: Sequence[Frame]) -> bool:
    if any(frame.pixel_spacing_mm is None or min(frame.pixel_spacing_mm) <= 0 for frame in frames):
        return True  # nothing to decide here: it is refused for that
    along = _along(frames)
    if along is None:
        return True
    positions = np.array([frames[k].position_mm for k in np.argsort(along)])
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
