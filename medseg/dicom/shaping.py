"""Contours with fewer points, or smoother ones; never such that cross."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from medseg.dicom.contours import Mask
from medseg.dicom.geometry import Vectors
from medseg.dicom.tracing import Indices, Traced, bridges, join, signed_area, trace, turns

_LEAST_CORNERS = 3
_SHARES = (1.0, 0.5, 0.25, 0.125)  # of what was asked for, that are tried until no contours cross
_MOST_SIGMA = 0.5  # of the radius of a circle as long as the contour
_MOST_TOLERANCE = 0.5  # of the area inside over the length: a quarter of how thick a region is
_SAMPLES_A_SIGMA = 8


def outlines(
    mask: Mask,
    spacing_mm: tuple[float, float],
    *,
    is_keyhole: bool = False,
    smooth_mm: float = 0.0,
    decimate_mm: float = 0.0,
) -> list[Vectors]:
    """Return the contours around the pixels of a mask.

    Args:
        mask: (rows, columns).
        spacing_mm: Between columns, between rows.
        is_keyhole: Whether holes are joined to the contours around them, and are none of their own.
        smooth_mm: See `smooth`; 0 for none.
        decimate_mm: See `thin`; 0 leaves out only what lies within straight runs, exactly.

    Returns:
        (n, 2) each, n of 3 or more: column and row, in pixels from the centre of the first one.
    """
    traced = trace(mask)
    if not (is_keyhole or smooth_mm or decimate_mm):
        return traced.straightened().contours
    contours = traced.contours
    links = bridges(contours) if is_keyhole else []
    fixed: dict[int, list[int]] = defaultdict(list)
    for link in links:
        fixed[link.hole].append(link.start)
        fixed[link.parent].append(link.stop)
    kept = _turning(traced, fixed)
    if smooth_mm or decimate_mm:
        in_mm = [points * spacing_mm for points in contours]
        in_mm = _smoothed(in_mm, smooth_mm)
        if smooth_mm:
            contours = [points / spacing_mm for points in in_mm]
            kept = [np.arange(len(points)) for points in contours]
        kept = _thinned(in_mm, kept, decimate_mm, fixed)
    places = [
        replace(
            link,
            start=int(np.searchsorted(kept[link.hole], link.start)),
            stop=int(np.searchsorted(kept[link.parent], link.stop)),
        )
        for link in links
    ]
    return join([points[chosen] for points, chosen in zip(contours, kept, strict=True)], places)


def _turning(traced: Traced, fixed: Mapping[int, Sequence[int]]) -> list[Indices]:
    """Return the points of each contour at which it turns, and those that are to stay."""
    is_kept = turns(traced.points, traced.offsets)
    for k, points in fixed.items():
        is_kept[traced.offsets[k] + np.array(points)] = True
    return [np.flatnonzero(is_kept[start:stop]) for start, stop in pairwise(traced.offsets.tolist())]


def _smoothed(contours_mm: list[Vectors], sigma_mm: float) -> list[Vectors]:
    """Smooth the contours of a region, by half as much and so on where some would cross."""
    for share in _SHARES if sigma_mm else ():
        smoothed = [smooth(points, share * sigma_mm) for points in contours_mm]
        if not crosses(smoothed):
            return smoothed
    return contours_mm


def _thinned(
    contours_mm: list[Vectors], kept: list[Indices], tolerance_mm: float, fixed: Mapping[int, Sequence[int]]
) -> list[Indices]:
    """Return which points of the contours of a region stay, more of them where some would cross."""
    for share in _SHARES if tolerance_mm else ():
        thinned = [thin(points, share * tolerance_mm, fixed.get(k, ())) for k, points in enumerate(contours_mm)]
        if not crosses([points[chosen] for points, chosen in zip(contours_mm, thinned, strict=True)]):
            return thinned
    return kept


def smooth(points_mm: Vectors, sigma_mm: float) -> Vectors:
    """Move the points of a contour as a Gaussian along it does that makes up for the shrinkage of its own.

    The curve is filtered with 2 g - g ** 2, where g is the Gaussian: a circle of radius r keeps
    1 - (1 - exp(-(sigma / r) ** 2 / 2)) ** 2 of it. Sigma is at most half the radius of a circle as long as the
    contour, so this is 0.986 or more.

    Args:
        points_mm: (n, 2), closed.
        sigma_mm: Along the contour; 0 leaves it as it is.

    Returns:
        The same number of points, each where the smoothed curve is as far along.
    """
    steps = _steps(points_mm)
    length = float(steps.sum())
    sigma = min(sigma_mm, _MOST_SIGMA * length / (2 * np.pi))
    if sigma <= 0:
        return points_mm
    count = max(2 * len(points_mm), int(np.ceil(_SAMPLES_A_SIGMA * length / sigma)))
    along = np.append(0.0, np.cumsum(steps))
    places = np.arange(count) * (length / count)
    closed = np.concatenate([points_mm, points_mm[:1]])
    curve = np.interp(places, along, closed[:, 0]) + 1j * np.interp(places, along, closed[:, 1])
    gauss = np.exp(-2 * (np.pi * sigma * np.fft.fftfreq(count, length / count)) ** 2)
    smoothed = np.fft.ifft(np.fft.fft(curve) * gauss * (2 - gauss))
    parts = [np.interp(along[:-1], places, part, period=length) for part in (smoothed.real, smoothed.imag)]
    return np.stack(parts, axis=1)


def thin(points_mm: Vectors, tolerance_mm: float, fixed: Sequence[int] = ()) -> Indices:
    """Return which points of a contour stay, so that none that goes is further from the line than a tolerance.

    By Douglas and Peucker (1973), from the point that is furthest from the middle and the one furthest from that.
    The tolerance is at most half the area inside over the length of the contour, which is a quarter of the
    thickness of what is long and thin; three points or more stay.

    Args:
        points_mm: (n, 2), closed.
        tolerance_mm: Above 0.
        fixed: Points that stay.
    """
    tolerance = min(tolerance_mm, _MOST_TOLERANCE * abs(signed_area(points_mm)) / float(_steps(points_mm).sum()))
    first = int(np.linalg.norm(points_mm - points_mm.mean(axis=0), axis=1).argmax())
    second = int(np.linalg.norm(points_mm - points_mm[first], axis=1).argmax())
    kept = sorted({first, second, *fixed})
    size = len(points_mm)
    runs = list(zip(kept, [*kept[1:], kept[0] + size], strict=True))
    found = set(kept)
    while runs:
        start, stop = runs.pop()
        off = _off_line(points_mm, np.arange(start, stop + 1) % size)
        worst = int(off.argmax())
        if off[worst] > tolerance:
            found.add((start + worst) % size)
            runs += [(start, start + worst), (start + worst, stop)]
    if len(found) < _LEAST_CORNERS:
        found.add(int(_off_line(points_mm, np.array([first, *range(size), second])).argmax()) - 1)
    return np.array(sorted(found), dtype=np.intp)


def crosses(contours: Sequence[Vectors]) -> bool:
    """Whether a side of closed contours (n, 2) crosses another side, of its own or of another contour."""
    starts = np.concatenate(contours)
    stops = np.concatenate([np.roll(points, -1, axis=0) for points in contours])
    order = np.argsort(np.minimum(starts[:, 0], stops[:, 0]), kind="stable")
    starts, stops = starts[order], stops[order]
    low, high = np.minimum(starts, stops), np.maximum(starts, stops)
    last = np.searchsorted(low[:, 0], high[:, 0], side="right")  # sides that begin before this one ends
    count = np.maximum(last - np.arange(len(starts)) - 1, 0)
    one = np.repeat(np.arange(len(starts)), count)
    other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count)
    near = (low[one, 1] <= high[other, 1]) & (low[other, 1] <= high[one, 1])
    one, other = one[near], other[near]
    apart = _side(starts[one], stops[one], starts[other]) * _side(starts[one], stops[one], stops[other]) < 0
    apart &= _side(starts[other], stops[other], starts[one]) * _side(starts[other], stops[other], stops[one]) < 0
    return bool(apart.any())


def _steps(points: Vectors) -> Vectors:
    """Return the lengths of the sides of a contour."""
    lengths: Vectors = np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1)
    return lengths


def _side(start: Vectors, stop: Vectors, point: Vectors) -> Vectors:
    """Return on which side of lines points lie, all (n, 2): twice the area of the triangles."""
    along, to = stop - start, point - start
    area: Vectors = along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0]
    return area


def _off_line(points: Vectors, run: Indices) -> Vectors:
    """Return how far the points of a run are from the line between its ends, the ends included."""
    chosen = points[run]
    start, line = chosen[0], chosen[-1] - chosen[0]
    squared = max(float(line @ line), np.finfo(float).tiny)
    share = np.clip((chosen - start) @ line / squared, 0, 1)
    off: Vectors = np.linalg.norm(chosen - start - share[:, None] * line, axis=1)
    return off
