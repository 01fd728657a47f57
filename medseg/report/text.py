"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "–"


def figure(value: object, decimals: int = 3) -> str:
    """Return a number with so many decimals; a dash where it is missing or NaN, ∞ where it is infinite."""
    if not isinstance(value, int | float) or math.isnan(value):
        return NOTHING
    return f"{value:.{decimals}f}" if math.isfinite(value) else "∞"


def thousands(value: object) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{value:,.0f}" if isinstance(value, int | float) else NOTHING


def duration(seconds: object) -> str:
    """Return a time such as ``4.2 s``, ``3 min 20 s`` or ``1 h 5 min``."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def plain(value: Any) -> str:
    """Return a value of a JSON file on one line, without quotes and brackets that say nothing."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        return ", ".join(f"({plain(item)})" if nested else plain(item) for item in value) or NOTHING
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) or NOTHING
    return str(value)
