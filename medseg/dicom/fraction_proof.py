"""Fractional frames of a SEG that was written -> the probabilities that they were made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from medseg.dicom.segment_proof import PlacedFrame, add_pixels, on_slice
from medseg.dicom.slice_mask import SliceMask
from medseg.proof import Tally, proof_error

ProbabilityReader = Callable[[str], NDArray[np.float16]]
"""Name of a label -> its probability (i, j, k) on the volume's grid."""

_MOST_OFF = 1.0  # of the largest value: a fraction may be rounded up or down


def tally_fractions(
    frames: Iterable[PlacedFrame],
    classes: Mapping[int, int],
    mask: SliceMask,
    read: tuple[ProbabilityReader, int],
    where: str,
) -> tuple[Tally, Tally]:
    """Compare every pixel with its probability, and count what is at least half.

    The voxels of one label are in memory at a time.

    Args:
        frames: Segment by segment.
        classes: SegmentNumber -> class index.
        mask: Whose slices.
        read: Where probabilities come from, and MaximumFractionalValue.
        where: For messages.

    Returns:
        What the probabilities say, and what the object says.

    Raises:
        ProofError: A pixel is not its probability, or a slice that has some lacks its frame.
    """
    expected, found = Tally(mask.labels), Tally(mask.labels)
    left = dict(classes)
    for segment, own in groupby(frames, key=lambda placed: placed.frame.segment):
        number = left.pop(segment)
        channel = _Channel(read, mask, number, where)
        for placed in own:
            channel.compare(placed, found)
        channel.finish(expected)
    for number in left.values():  # nowhere any probability
        _Channel(read, mask, number, where).finish(expected)
    return expected, found


class _Channel:
    """The probabilities of one label."""

    def __init__(self, read: tuple[ProbabilityReader, int], mask: SliceMask, number: int, where: str) -> None:
        name = tuple(mask.labels)[number - 1].name
        self._values, self._most = read[0](name), read[1]
        self._mask, self._number = mask, number
        self._where = f"{where}, label {name}"
        self._slices: set[int] = set()

    def compare(self, placed: PlacedFrame, found: Tally) -> None:
        """Compare one frame, and count it."""
        rows, columns = (part.ravel() for part in np.indices(placed.values.shape))
        along, down = on_slice(placed.matrix, columns, rows)
        width, height = self._mask.shape
        inside = (along >= 0) & (along < width) & (down >= 0) & (down < height)
        values = placed.values.ravel().astype(np.int64)
        if values[~inside].any():
            raise proof_error(self._where, "frames within the series", f"frame {placed.frame.number + 1} beyond it")
        expected = np.zeros(len(values))
        expected[inside] = self._plane(placed.number)[along[inside], down[inside]]
        off = float(np.abs(values - expected).max())
        if off > _MOST_OFF:
            found_text = f"one that is {off:.4g} off on slice {placed.number + 1}"
            raise proof_error(self._where, f"its probabilities in {self._most} steps, to {_MOST_OFF:g}", found_text)
        self._slices.add(placed.number)
        on = 2 * values >= self._most
        here = np.full(int(on.sum()), 0, dtype=np.intp)
        here[2 * np.rint(expected[on]) >= self._most] = self._number
        if here.size:
            add_pixels(found, self._number, (columns[on], rows[on]), placed.frame, here)

    def finish(self, tally: Tally) -> None:
        """Count what the probabilities say, and see that no slice is missing."""
        for number, place in enumerate(self._mask.places):
            plane = self._plane(number)
            if number not in self._slices and plane.max() > _MOST_OFF:
                raise proof_error(self._where, f"a frame on slice {number + 1}", "none")
            along, down = np.nonzero(2 * np.rint(plane) >= self._most)
            count = len(along)
            moment = np.array([along.sum(), down.sum(), place * count])
            tally.add(self._number, count, self._mask.moment_mm(moment, count))

    def _plane(self, number: int) -> NDArray[np.float64]:
        """Return the probabilities (columns, rows) of a slice, in steps of the largest value."""
        plane = self._values[:, :, self._mask.numbers[number]]
        return np.asarray(plane, dtype=np.float64) * self._most
