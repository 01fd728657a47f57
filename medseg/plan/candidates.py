"""Which sizes a training step can have, and the best of them that fits; pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from medseg.plan.ground import Ground


@dataclass(frozen=True)
class Candidate:
    """One possible size of a training step.

    Attributes:
        patch_size: One size an axis.
        batch_size: Patches a step, of all processes.
        parts: That the batch goes through the network in, one after the other.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    parts: int = 1

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sorts by the patch, then by the batch, then by the patches at once: the better the larger."""
        return math.prod(self.patch_size), self.batch_size, -self.parts


def best_candidate(place: Ground, fits: Callable[[Candidate], bool]) -> Candidate | None:
    """Return the candidate with the largest patch that fits, and then with the most patches a step.

    Where the patch or the number of patches is fixed, the batch is cut into parts before the patch becomes smaller.

    Args:
        place: What they stand on.
        fits: Whether a candidate fits into the memory.

    Returns:
        The candidate, or None where not even the smallest fits.

    Raises:
        UsageError: No patch is large enough for the network's fixed number of stages.
    """
    for patch in place.patches():
        sizes = _whole(place, patch)
        smallest = sizes[-1]
        if fits(smallest):
            return next(c for c in sizes if c == smallest or fits(c))
        cut = next((c for c in _cut(place, smallest) if fits(c)), None)
        if cut is not None:
            return cut
    return None


def smallest_candidate(place: Ground) -> Candidate:
    """Return the candidate that takes the least memory.

    Raises:
        UsageError: No patch is large enough for the network's fixed number of stages.
    """
    *_, patch = place.patches()
    smallest = _whole(place, patch)[-1]
    return [smallest, *_cut(place, smallest)][-1]


def _whole(place: Ground, patch: tuple[int, ...]) -> list[Candidate]:
    """Return the candidates of a patch that go through the network as a whole, or in the parts that are fixed."""
    return [Candidate(patch, batch, place.fixed.accumulate or 1) for batch in place.batches(patch)]


def _cut(place: Ground, whole: Candidate) -> Iterator[Candidate]:
    fixed = place.fixed
    if fixed.accumulate is None and (fixed.patch_size or fixed.batch_size):
        share = whole.batch_size // place.compute.processes
        parts = (n for n in range(2, share + 1) if share % n == 0)
        yield from (Candidate(whole.patch_size, whole.batch_size, n) for n in parts)
