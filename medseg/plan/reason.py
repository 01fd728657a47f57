"""`Reason`: one planned value of a configuration, and why it is what it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reason:
    """One planned value.

    Attributes:
        what: Its key in the configuration, such as ``training.patch_size``.
        value: The value.
        why: One sentence, without a full stop.
    """

    what: str
    value: Any
    why: str


def as_tree(reasons: Iterable[Reason]) -> dict[str, Any]:
    """Return the planned values as nested mappings, as a configuration file has them."""
    tree: dict[str, Any] = {}
    for reason in reasons:
        *parents, key = reason.what.split(".")
        here = tree
        for parent in parents:
            here = here.setdefault(parent, {})
        here[key] = reason.value
    return tree
