"""What the folds of a cross-validated training share: one configuration, and the time that is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg.config import ExperimentConfig
from medseg.errors import ModelError, UsageError
from medseg.files import write_text
from medseg.training.checkpoint import CHECKPOINT_FILE, read_state
from medseg.training.folder import config_digest
from medseg.training.validate import SCORES_FILE, VALIDATION_FOLDER

FOLDS_FILE = "cross_validation.json"


class Folds(BaseModel):
    """What is kept of a cross-validation in its folder.

    Attributes:
        config_sha256: Of the configuration that all folds share.
        budget_s: Seconds for all of them, or None.
    """

    model_config = ConfigDict(extra="forbid")

    config_sha256: str
    budget_s: float | None = None


def open_folds(folder: Path, config: ExperimentConfig, budget_s: float | None, *, resume: bool) -> Folds:
    """Begin a cross-validation in a folder, or find the one to resume.

    Args:
        folder: Of all folds.
        config: What they share.
        budget_s: Seconds for all of them; a cross-validation that is resumed keeps its own where this is None.
        resume: Go on with what is in the folder.

    Raises:
        UsageError: The folder holds folds of an earlier run, a single run, or folds of another configuration.
        ModelError: What is kept is damaged.
        StorageError: The folder cannot be written to.
    """
    file, digest = folder / FOLDS_FILE, config_digest(config)
    if (folder / CHECKPOINT_FILE).is_file():
        raise _other(folder, "a folder without a run of one fold", "one")
    if file.is_file() and not resume:
        raise UsageError(
            folder,
            expected="a new run folder",
            found="an earlier cross-validation",
            remedy="pass --resume to go on with it, or choose another folder with -o",
        )
    if file.is_file():
        kept = _read(file)
        if kept.config_sha256 != digest:
            raise _other(folder, "the configuration that the folds were started with", "another one")
        return kept if budget_s is None else kept.model_copy(update={"budget_s": budget_s})
    folds = Folds(config_sha256=digest, budget_s=budget_s)
    write_text(file, folds.model_dump_json() + "\n")
    return folds


def fold_budget(folds: Folds, parts: Sequence[Path], part: Path) -> float | None:
    """Return the seconds that a fold may take: its own where it has begun, or an even share of what is left.

    Args:
        folds: The cross-validation.
        parts: Folders of all folds.
        part: That of the fold.
    """
    if folds.budget_s is None or (part / CHECKPOINT_FILE).is_file():
        return None  # a fold that is resumed keeps its own
    begun = [read_state(other / CHECKPOINT_FILE) for other in parts if (other / CHECKPOINT_FILE).is_file()]
    spent = sum(state.spent_s for state in begun)
    return max(1.0, (folds.budget_s - spent) / (len(parts) - len(begun)))


def is_finished(part: Path) -> bool:
    """Whether a fold was trained and validated to its end."""
    return (part / VALIDATION_FOLDER / SCORES_FILE).is_file()


def _read(file: Path) -> Folds:
    try:
        return Folds.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise ModelError(
            file, expected="what a cross-validation keeps", found="something else", remedy="start a new one"
        ) from error


def _other(folder: Path, expected: str, found: str) -> UsageError:
    return UsageError(folder, expected=expected, found=found, remedy="choose another folder with -o")
