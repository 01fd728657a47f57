"""Numbers in findings, for people."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_LISTED = 5


def figure(value: float) -> str:
    """Return three digits of a number; whole ones of a larger number, never an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def figures(values: Sequence[float]) -> str:
    """Return the first five of some numbers and how many more there are."""
    more = len(values) - _MOST_LISTED
    listed = ", ".join(figure(value) for value in values[:_MOST_LISTED])
    return f"{listed} and {more} more" if more > 0 else listed
