"""What a hash of a configuration is made from: settings that came later count only where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

# (name or kind of what it belongs to, or "" for any; key; the value that means "as before")
_CAME_LATER: tuple[tuple[str, str, object], ...] = (
    ("", "orientation", "RAS"),
    ("", "axes", [0, 1, 2]),
    ("", "crop_nonzero", False),
    ("", "spline", None),
    ("zscore", "filled", False),
    ("unet", "encoder_units", 2),
    ("unet", "decoder_units", 2),
)


def digest_facts(model: BaseModel, exclude: Any = None) -> Any:
    """Return a configuration's values for a hash, so that a new version still knows what an older one hashed.

    Args:
        model: The configuration.
        exclude: Keys to leave out, as pydantic takes them.
    """
    return _before(model.model_dump(mode="json", exclude=exclude))


def _before(value: Any) -> Any:
    if isinstance(value, Mapping):
        owner = value.get("name", value.get("kind"))
        later = [(key, default) for of, key, default in _CAME_LATER if of in ("", owner)]
        return {key: _before(own) for key, own in value.items() if (key, own) not in later}
    return [_before(one) for one in value] if isinstance(value, list) else value
