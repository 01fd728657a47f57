"""Whether a folder can take the run that is asked for; looked at before anything is measured or written there."""

from __future__ import annotations

from pathlib import Path

from medseg.errors import UsageError
from medseg.training.checkpoint import CHECKPOINT_FILE
from medseg.training.folder import earlier_run
from medseg.training.folds import FOLDS_FILE

_ONE, _ALL = "a run of one fold", "a run of all folds"


def require_place(folder: Path, *, all_folds: bool, resume: bool) -> None:
    """Refuse a folder that holds an earlier run, or one of another kind than that to resume.

    Raises:
        UsageError: It does.
    """
    one, several = _has_one(folder), _has_folds(folder)
    if (one and all_folds) or (several and not all_folds):
        raise UsageError(
            folder,
            expected=_ALL if all_folds else _ONE,
            found=_ONE if all_folds else _ALL,
            remedy="choose another folder with -o, or the --fold that the run was started with",
        )
    if (one or several) and not resume:
        raise earlier_run(folder)


def has_run(folder: Path) -> bool:
    """Whether a run, of one fold or of all, was begun in a folder."""
    return _has_one(folder) or _has_folds(folder)


def _has_one(folder: Path) -> bool:
    return (folder / CHECKPOINT_FILE).is_file()


def _has_folds(folder: Path) -> bool:
    return (folder / FOLDS_FILE).is_file() or any(folder.glob(f"fold_*/{CHECKPOINT_FILE}"))
