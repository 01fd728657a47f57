"""Many millimetres -> the text of a decimal string (VR DS, PS3.5 6.2), thirty times as fast as one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.dicom.geometry import Vectors

DECIMALS = 3
"""Digits after the point: nothing is off by more than half a micrometre."""

MOST_MM = 10.0**10
"""Larger values would not fit the 16 characters of a decimal string."""

_POINT, _MINUS, _ZERO, _BACKSLASH = b".-0\\"


def decimal_texts(values_mm: Vectors, counts: Sequence[int]) -> list[bytes]:
    r"""Return numbers as text: three decimals as ``%.3f`` writes them, a backslash between each two.

    What rounds to zero has no sign. Each text has an even number of bytes, by a space at its end.

    Args:
        values_mm: Any shape, read in order.
        counts: How many of them make a text, 1 or more each; together all.

    Raises:
        ValueError: A value is `MOST_MM` or more, or not finite.
    """
    flat = np.ravel(values_mm)
    if not (np.abs(flat) < MOST_MM).all():
        raise ValueError(f"a coordinate of {MOST_MM:g} mm or more, or not finite")
    letters, is_kept = _letters(np.rint(flat * 10**DECIMALS).astype(np.int64))
    text = letters[is_kept].tobytes()
    stops = np.cumsum(is_kept.sum(axis=1))[np.cumsum(counts) - 1].tolist()
    starts = [0, *stops[:-1]]
    texts = [text[start : stop - 1] for start, stop in zip(starts, stops, strict=True)]
    return [one + b" " * (len(one) % 2) for one in texts]


def _letters(whole: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return sign, digits, point, digits and a backslash (n, width) of thousandths, and which of them stay."""
    left = np.abs(whole)
    digits = max(DECIMALS + 1, len(str(int(left.max(initial=0)))))
    width = digits + 3
    point = width - 2 - DECIMALS
    letters = np.empty((len(whole), width), dtype=np.uint8)
    is_kept = np.ones(letters.shape, dtype=bool)
    letters[:, 0], letters[:, point], letters[:, -1] = _MINUS, _POINT, _BACKSLASH
    is_kept[:, 0] = whole < 0
    for number, place in enumerate([*range(width - 2, point, -1), *range(point - 1, 0, -1)]):
        if number > DECIMALS:
            is_kept[:, place] = left > 0  # no zeros in front of the others
        rest = left // 10
        letters[:, place] = left - 10 * rest + _ZERO
        left = rest
    return letters, is_kept
