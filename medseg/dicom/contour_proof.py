"""Contours of an RTSTRUCT that was written -> its voxels in the mask, by the points' own millimetres.

A contour is cut by the lines through the centres of the voxels' rows and of their columns. A centre is inside
between an odd and an even crossing, whichever contours of the label these belong to: a hole as a contour of its own
and one that is joined by a line there and back come out alike. The crossings themselves give the centre of mass, to
a fraction of a voxel: contours that lie half a pixel off hold the same centres, or almost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.dicom.geometry import Vectors
from medseg.dicom.label_names import object_name
from medseg.dicom.rtstruct_read import CLOSED
from medseg.dicom.slice_mask import MOST_OFF_VOXELS, SliceMask
from medseg.dicom.source_images import SourceImages
from medseg.dicom.structure import text_of_element, whole_number
from medseg.labels import LabelSet
from medseg.proof import Tally, match_labels, proof_error

_LEAST_POINTS = 3
_LONGEST_NUMBER = 16  # VR DS


@dataclass(frozen=True)
class Runs:
    """Parts of lines that lie inside contours.

    Attributes:
        slices: (n,) on which slice each lies.
        lines: (n,) row of the line, or column.
        starts: (n,) where it begins, in pixels.
        stops: (n,) where it ends.
    """

    slices: NDArray[np.intp]
    lines: NDArray[np.intp]
    starts: Vectors
    stops: Vectors


def region_classes(dataset: Dataset, labels: LabelSet, where: str) -> dict[int, int]:
    """Return ROINumber -> class index of the label.

    Raises:
        ProofError: A region is no label, or two are the same one.
    """
    items = [
        (whole_number(item, "ROINumber"), text_of_element(item, "ROIName"))
        for item in dataset.StructureSetROISequence
    ]
    return match_labels(items, [object_name(label) for label in labels], where)


def tally_contours(
    dataset: Dataset, classes: Mapping[int, int], mask: SliceMask, images: SourceImages, where: str
) -> Tally:
    """Count the voxels inside the contours of every region; memory holds those of one.

    Raises:
        ProofError: A contour is malformed, lies on no slice, or names another image than that slice.
        Exception: What else pydicom raises; see `medseg.dicom.quiet.PYDICOM_ERRORS`.
    """
    tally = Tally(mask.labels)
    for item in dataset.ROIContourSequence:
        number = whole_number(item, "ReferencedROINumber")
        if number not in classes:
            raise proof_error(where, "contours of regions that are listed", f"those of region {number}")
        own = classes[number]
        at = f"{where}, label {tuple(mask.labels)[own - 1].name}"
        edges, heights = _edges(_contours(item, mask, images, at))
        if edges.size:
            _count(edges, heights, own, mask, tally)
    return tally


def _contours(item: Dataset, mask: SliceMask, images: SourceImages, where: str) -> Iterator[tuple[int, Vectors]]:
    """Yield the slice of each contour and its points (n, 3) in voxels of the mask."""
    for count, contour in enumerate(item.get("ContourSequence") or (), start=1):
        at = f"{where}, contour {count}"
        if text_of_element(contour, "ContourGeometricType") not in CLOSED:
            raise proof_error(at, "a closed one", "another type")
        points = mask.voxels_of(_points(contour, at))
        middle = float(points[:, 2].mean())
        number = mask.slice_at(middle)
        if number is None or np.abs(points[:, 2] - mask.places[number]).max() > MOST_OFF_VOXELS:
            found = f"one from {points[:, 2].min():.4g} to {points[:, 2].max():.4g} along the stack"
            raise proof_error(at, f"a place on one of the {len(mask.places)} slices, from 0", found)
        images.check_image(contour.get("ContourImageSequence") or (), number, at)
        yield number, points


def _points(contour: Dataset, where: str) -> Vectors:
    """Return the points (n, 3) in LPS+ mm, from the text of the file: pydicom takes ten times as long."""
    element = contour.get_item("ContourData")
    value = element.value if element is not None else None
    texts = (
        value.decode("ascii").strip(" \0").split("\\") if isinstance(value, bytes) else list(map(str, value or ()))
    )
    declared = whole_number(contour, "NumberOfContourPoints")
    if len(texts) != 3 * declared or declared < _LEAST_POINTS:
        found = f"{len(texts)} for {declared} points"
        raise proof_error(where, f"three numbers a point and {_LEAST_POINTS} points at least", found)
    if max(map(len, texts)) > _LONGEST_NUMBER:
        raise proof_error(where, f"numbers of at most {_LONGEST_NUMBER} characters", "longer ones")
    points = np.array(list(map(float, texts))).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise proof_error(where, "finite numbers", "others")
    return points


def _edges(contours: Iterator[tuple[int, Vectors]]) -> tuple[Vectors, dict[int, float]]:
    """Return the sides (n, 5) of contours: slice, column and row of start and stop; and each slice's height."""
    sides, heights = [], defaultdict(list)
    for number, points in contours:
        start = points[:, :2]
        slices = np.full((len(start), 1), number, dtype=np.float64)
        sides.append(np.hstack([slices, start, np.roll(start, -1, axis=0)]))
        heights[number].append(float(points[:, 2].mean()))
    means = {number: float(np.mean(values)) for number, values in heights.items()}
    return (np.concatenate(sides) if sides else np.zeros((0, 5))), means


def _count(edges: Vectors, heights: Mapping[int, float], own: int, mask: SliceMask, tally: Tally) -> None:
    """Add what lies inside the sides of one label to a tally."""
    across = runs_of(edges)
    down = runs_of(edges[:, [0, 2, 1, 4, 3]])
    widths, lengths = across.stops - across.starts, down.stops - down.starts
    height = np.zeros(len(mask.places))
    height[list(heights)] = list(heights.values())
    mass = float(widths.sum())
    rows = _moment(down) / max(float(lengths.sum()), np.finfo(float).tiny) * mass
    moment = np.array([_moment(across), rows, float((widths * height[across.slices]).sum())])
    slices, lines, columns = inside_of(across)
    tally.add(own, len(columns), mask.moment_mm(moment, mass), mass)
    order = np.flatnonzero(np.diff(slices)) + 1
    for part in np.split(np.arange(len(slices)), order):
        if part.size:
            here = mask.classes_at(int(slices[part[0]]), columns[part], lines[part])
            tally.over[own] += np.bincount(here, minlength=len(tally.over))


def _moment(runs: Runs) -> float:
    return float(((runs.stops**2 - runs.starts**2) / 2).sum())


def runs_of(edges: Vectors) -> Runs:
    """Return the parts of the lines through whole rows that lie inside closed polygons, by the even-odd rule.

    A corner on a line counts with the side above it: each polygon crosses each line an even number of times.

    Args:
        edges: (n, 5) sides: slice, column and row of the start, column and row of the stop.
    """
    upward = edges[:, 2] < edges[:, 4]
    low = np.where(upward[:, None], edges[:, 1:3], edges[:, 3:5])
    high = np.where(upward[:, None], edges[:, 3:5], edges[:, 1:3])
    first, last = (np.ceil(part).astype(np.intp) for part in (low[:, 1], high[:, 1]))
    counts = last - first
    edge = np.repeat(np.arange(len(edges)), counts)
    lines = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (lines - low[edge, 1]) / (high[edge, 1] - low[edge, 1])
    columns = low[edge, 0] + share * (high[edge, 0] - low[edge, 0])
    slices = edges[edge, 0].astype(np.intp)
    order = np.lexsort((columns, lines, slices))
    starts, stops = order[::2], order[1::2]
    return Runs(slices[starts], lines[starts], columns[starts], columns[stops])


def inside_of(runs: Runs) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return slice, line and place on the line (m,) of the centres in runs: from the start on, before the stop."""
    first, last = (np.ceil(part).astype(np.intp) for part in (runs.starts, runs.stops))
    counts = last - first
    run = np.repeat(np.arange(len(counts)), counts)
    places = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
    return runs.slices[run], runs.lines[run], places
