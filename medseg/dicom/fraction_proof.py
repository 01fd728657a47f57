"""Fractional frames of a SEG that was written -> the probabilities that they were made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from medseg.dicom.segment_proof import Indices, PlacedFrame, add_pixels, on_slice
from medseg.dicom.slice_mask import SliceMask
from medseg.labels import LabelSet
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
) -> tuple[ProbableTally, Tally]:
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
    expected, found = ProbableTally(mask.labels), Tally(mask.labels)
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


def require_on_mask(mask: Tally, probable: ProbableTally, where: str) -> None:
    """Check that voxels of a probability of at least half lie on their own label: no other's, and not mirrored.

    They need not be all of it, as of many labels the likeliest one may have less than half; and they may be more,
    where the mask was cleaned up. So only two things are asked for: they lie on their own label more than on any
    other one, and more than on their own one mirrored along an axis; and half of them, or half of the label, is
    common to both. Labels that are nowhere that probable are left out.

    Args:
        mask: Voxels of the mask.
        probable: The voxels, with what the mask has there in `over` and `mirrored`.
        where: For messages.

    Raises:
        ProofError: They lie elsewhere.
    """
    names = ["background", *(label.name for label in mask.labels)]
    for number, name in enumerate(names[1:], start=1):
        count, own = int(probable.voxels[number]), int(probable.over[number, number])
        if not count or not mask.voxels[number]:
            continue
        at, text = f"{where}, label {name}", f"{own} of {count} voxels on it"
        others = probable.over[number].copy()
        others[[0, number]] = 0
        if others.max() > own:
            other = int(others.argmax())
            found = f"{text}, {int(others[other])} on {names[other]}"
            raise proof_error(at, "what is probable on its own label", found)
        if probable.mirrored[number].max() > own or 2 * own < min(count, int(mask.voxels[number])):
            found = f"{text}, {int(probable.mirrored[number].max())} on it mirrored"
            raise proof_error(at, f"what is probable where its {int(mask.voxels[number])} voxels are", found)


class ProbableTally(Tally):
    """Voxels of a probability of at least half.

    Attributes:
        mirrored: (labels, 3) how many lie on their own label mirrored along i, j, k; 0 is background.
    """

    def __init__(self, labels: LabelSet) -> None:
        super().__init__(labels)
        self.mirrored = np.zeros((len(labels) + 1, 3), dtype=np.int64)


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

    def finish(self, tally: ProbableTally) -> None:
        """Count what the probabilities say, and see that no slice is missing."""
        for number, place in enumerate(self._mask.places):
            plane = self._plane(number)
            if number not in self._slices and plane.max() > _MOST_OFF:
                raise proof_error(self._where, f"a frame on slice {number + 1}", "none")
            along, down = np.nonzero(2 * np.rint(plane) >= self._most)
            count = len(along)
            moment = np.array([along.sum(), down.sum(), place * count])
            tally.add(self._number, count, self._mask.moment_mm(moment, count))
            self._place(number, along, down, tally)

    def _place(self, number: int, along: Indices, down: Indices, tally: ProbableTally) -> None:
        """Count what the mask has at pixels (n,) of a slice, and whether it has the label mirrored there."""
        mask, (width, height) = self._mask, self._mask.shape
        here = mask.classes_at(number, along, down)
        tally.over[self._number] += np.bincount(here, minlength=len(tally.over))
        mirrored = (
            mask.classes_at(number, width - 1 - along, down),
            mask.classes_at(number, along, height - 1 - down),
            mask.classes_at(len(mask.places) - 1 - number, along, down),
        )
        tally.mirrored[self._number] += [int((classes == self._number).sum()) for classes in mirrored]

    def _plane(self, number: int) -> NDArray[np.float64]:
        """Return the probabilities (columns, rows) of a slice, in steps of the largest value."""
        plane = self._values[:, :, self._mask.numbers[number]]
        return np.asarray(plane, dtype=np.float64) * self._most
