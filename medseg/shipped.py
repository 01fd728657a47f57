"""Finds the YAML files that come with medseg, in a wheel or in a checkout."""

from __future__ import annotations

import difflib
from enum import Enum
from pathlib import Path

from medseg.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent


class Shelf(Enum):
    """The folders of YAML files that come with medseg."""

    CONFIGS = "configs"
    MANIFESTS = "data_manifests"
    PIPELINES = "pipelines"


def shelf_folder(shelf: Shelf) -> Path:
    """Return the folder of a shelf: inside the package for a wheel, at the root for a checkout."""
    installed = _PACKAGE / "_shipped" / shelf.value
    return installed if installed.is_dir() else _PACKAGE.parent / shelf.value


def shipped_names(shelf: Shelf) -> list[str]:
    """Return the names (file names without ``.yaml``) on a shelf, sorted."""
    return sorted(path.stem for path in shelf_folder(shelf).glob("*.yaml"))


def find_yaml(name_or_path: str, shelf: Shelf) -> Path:
    """Return the file that a path, or the name of a shipped file, stands for.

    Args:
        name_or_path: ``hippocampus``, ``hippocampus.yaml`` or a path to a file.
        shelf: Where shipped names are looked up. A file at the given path comes first.

    Raises:
        UsageError: Neither such a file nor such a name exists.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shelf_folder(shelf) / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.parent in (Path(), Path(shelf.value)) and shipped.is_file():
        return shipped
    names = shipped_names(shelf)
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped ones: {', '.join(names)}"
    raise UsageError(
        name_or_path,
        expected=f"a YAML file, or a name of {shelf.value}/",
        found="no such file or name",
        remedy=f"check the path; {hint}",
    )
