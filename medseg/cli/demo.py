"""``medseg demo``."""

from __future__ import annotations


def demo() -> None:
    """Placeholder while the parts are built."""
