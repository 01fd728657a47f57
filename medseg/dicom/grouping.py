"""The frames of one SeriesInstanceUID -> groups of one kind, size and direction: no volume mixes these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.dicom.frame import Frame, Header
from medseg.dicom.geometry import MOST_CLUSTERS, clusters
from medseg.dicom.pixels import pixel_problem
from medseg.dicom.values import distinct


def alike(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group frames by what no volume may mix.

    A missing UID is that of the others, where they have only one. Frames whose file is damaged, or that have no
    orientation or pixel spacing, go with the largest group: they may be slices of it that are lost.
    """
    classes = distinct(frame.header.sop_class_uid for frame in frames)
    references = distinct(frame.header.frame_of_reference_uid for frame in frames)
    groups: dict[object, list[Frame]] = {}
    lost: list[Frame] = []
    for frame in frames:
        header = frame.header
        if pixel_problem(header):
            lost.append(frame)
            continue
        own = header.sop_class_uid if len(classes) > 1 else ""
        place = header.frame_of_reference_uid if len(references) > 1 else ""
        groups.setdefault((own, place, _kind(header)), []).append(frame)
    whole = [part for group in groups.values() for part in _same_plane(group)]
    if lost and whole:
        max(whole, key=len).extend(lost)
    return whole or [lost]


def _kind(header: Header) -> object:
    return (
        header.modality,
        (header.rows, header.columns),
        (header.samples_per_pixel, header.photometric),
        "LOCALIZER" in header.image_type,
        header.is_mosaic,
        header.has_functional_groups,
    )


def _same_plane(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group frames by orientation and pixel spacing."""
    placed = [frame for frame in frames if frame.orientation and frame.pixel_spacing_mm]
    if not placed:
        return [list(frames)]
    directions = np.array([frame.orientation for frame in placed])
    spacings = np.array([frame.pixel_spacing_mm for frame in placed])
    numbers = clusters(np.hstack([directions, np.log(spacings)]))
    if numbers.max() == MOST_CLUSTERS:
        return [list(frames)]  # it is refused for that
    groups: dict[int, list[Frame]] = {}
    for number, frame in zip(numbers, placed, strict=True):
        groups.setdefault(int(number), []).append(frame)
    known = {id(frame) for frame in placed}
    max(groups.values(), key=len).extend(frame for frame in frames if id(frame) not in known)
    return list(groups.values())
