"""Model packages on disk: which one a name stands for, and the hash of what is in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from medseg.errors import ModelError
from medseg.files import sha256_of
from medseg.model import COARSE_FOLDER, MODEL_FILE, find_package

MODELS_VARIABLE = "MEDSEG_MODELS"
"""Environment variable: folders of models, separated as in PATH."""

MODELS_FOLDER = Path("models")


def find_model(name: str, beside: Path | None = None) -> Path:
    """Return the folder of the package that a path or a name stands for.

    A relative one is looked for in `beside`, in the folders of $MEDSEG_MODELS, in ``./models`` and in the current
    folder, and the first one that is there is taken.

    Args:
        name: Of a package, or of a run folder that holds one.
        beside: Folder of the file that the name stands in.

    Raises:
        ModelError: It is nowhere.
    """
    wanted = Path(name).expanduser()
    listed = os.environ.get(MODELS_VARIABLE, "").split(os.pathsep)
    places = [*([beside] if beside else []), *(Path(place) for place in listed if place), MODELS_FOLDER, Path()]
    candidates = [wanted] if wanted.is_absolute() else list(dict.fromkeys(place / wanted for place in places))
    for candidate in candidates:
        with suppress(ModelError):
            return find_package(candidate)
    hint = (
        "" if wanted.is_absolute() or listed != [""] else f", or set {MODELS_VARIABLE} to the folder of your models"
    )
    raise ModelError(
        name,
        expected="the folder of a model package",
        found=f"none at {', '.join(map(str, candidates))}",
        remedy=f"correct the path, train the model{hint}",
    )


def require_sha256(folder: Path, sha256: str | None) -> str:
    """Return the hash of a package, which has to be the one that is asked for.

    Args:
        folder: The package.
        sha256: What it has to be; anything if None.

    Raises:
        ModelError: It is another one, or the package cannot be read.
    """
    found = model_hash(folder)
    if sha256 is not None and found != sha256:
        raise ModelError(
            folder,
            expected=f"the package with SHA-256 {sha256}",
            found=found,
            remedy="put that package there; or, where this one is wanted, write its hash into the recipe",
        )
    return found


def model_hash(model: Path) -> str:
    """Return the SHA-256 of a package: of model.json, which names those of the weights, and the first stage's.

    Raises:
        ModelError: It is missing or cannot be read.
    """
    folder = find_package(model)
    files: Sequence[Path] = [folder / MODEL_FILE, folder / COARSE_FOLDER / MODEL_FILE]
    try:
        parts = [sha256_of(file) for file in files if file.is_file()]
    except OSError as error:
        raise ModelError(
            folder,
            expected="a model that can be read",
            found=error.strerror or type(error).__name__,
            remedy="check its permissions",
        ) from error
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
