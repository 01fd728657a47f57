"""`FinishedRun`: what a finished training left: its folds, their packages and the scores of their cases.

A run folder of one fold holds ``model/`` and ``validation/``, with ``scores.csv`` and a label map of each case;
that of a cross-validation holds such a folder ``fold_N`` for each fold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medseg.ensemble import require_averageable
from medseg.errors import UsageError, listed
from medseg.evaluation import Evaluation, pooled, read_evaluation
from medseg.model import MODEL_FILE, ModelPackage, load_package
from medseg.regions import LabelScheme

MODEL_FOLDER = "model"
VALIDATION_FOLDER = "validation"
SCORES_FILE = "scores.csv"
_FOLD = re.compile(r"fold_(\d+)")


@dataclass(frozen=True)
class FoldRun:
    """One fold of a finished run.

    Attributes:
        number: Of the fold.
        folder: That holds ``model/`` and ``validation/``.
        package: The fold's model.
        evaluation: Of the fold's validation cases.
    """

    number: int
    folder: Path
    package: ModelPackage
    evaluation: Evaluation

    @property
    def model(self) -> Path:
        """Folder of the package."""
        return self.folder / MODEL_FOLDER

    @property
    def cases(self) -> tuple[str, ...]:
        """Ids of the validation cases, sorted."""
        return tuple(sorted(self.evaluation.cases))

    def prediction(self, case: str) -> Path:
        """Return the label map of a validation case."""
        return self.folder / VALIDATION_FOLDER / f"{case}.nii.gz"


@dataclass(frozen=True)
class FinishedRun:
    """A run of one fold or several.

    Attributes:
        name: Short name for tables.
        folder: As the user gave it.
        folds: In ascending order.
    """

    name: str
    folder: Path
    folds: tuple[FoldRun, ...]

    @cached_property
    def evaluation(self) -> Evaluation:
        """The scores of all validation cases."""
        return pooled([fold.evaluation for fold in self.folds])

    @property
    def is_cross_validation(self) -> bool:
        """Whether the folder holds a folder for each fold."""
        return self.folds[0].folder != self.folder

    @property
    def scheme(self) -> LabelScheme:
        """What was learnt and measured."""
        return self.folds[0].package.scheme


def read_runs(folders: Sequence[Path]) -> tuple[FinishedRun, ...]:
    """Read the folders of finished runs.

    Raises:
        UsageError: No folder is given or one twice; a run is not finished or a validation case of it failed, each
            such run named.
        ModelError: A package is damaged, or the folds of a run do not share their preprocessing.
    """
    places = [folder.resolve() for folder in folders]
    if not places or len(set(places)) < len(places):
        raise UsageError(
            "runs",
            expected="the folders of different runs",
            found="one of them twice" if places else "none",
            remedy="name each once" if places else "name at least one",
        )
    problems = [problem for folder in folders for problem in _unfinished(folder)]
    if problems:
        raise UsageError(
            "runs",
            expected="finished runs with a model and a validation of each fold",
            found="; ".join(problems),
            remedy="let `medseg train` finish them (--resume), or leave them out",
        )
    return tuple(_read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True))


def require_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs that were not validated on the same cases, or learnt from other data than the first.

    Raises:
        UsageError: Names the run and what differs.
    """
    for run in runs[1:]:
        if found := _unlike(runs[0], run):
            raise UsageError(
                run.folder,
                expected=f"a run on the same data and folds as {runs[0].folder}",
                found=found,
                remedy="train both on the same manifest and folds, or leave one out",
            )


def _unfinished(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield f"{folder}: no such folder"
        return
    for place in _fold_folders(folder):
        missing = [
            name
            for name in (f"{MODEL_FOLDER}/{MODEL_FILE}", f"{VALIDATION_FOLDER}/{SCORES_FILE}")
            if not (place / name).is_file()
        ]
        if missing:
            yield f"{place}: no {' and no '.join(missing)}"


def _fold_folders(folder: Path) -> list[Path]:
    """Return the folders of a run's folds; the run's own where it has no other."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _FOLD.fullmatch(path.name))]
    return [path for _, path in sorted(found)] or [folder]


def _names(folders: Sequence[Path]) -> list[str]:
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _read_run(folder: Path, name: str) -> FinishedRun:
    folds = tuple(_read_fold(place) for place in _fold_folders(folder))
    for fold in folds[1:]:
        require_averageable(folds[0].package, fold.package, fold.model)
    return FinishedRun(name, folder, tuple(sorted(folds, key=lambda fold: fold.number)))


def _read_fold(folder: Path) -> FoldRun:
    package = load_package(folder / MODEL_FOLDER)
    evaluation = read_evaluation(folder / VALIDATION_FOLDER / SCORES_FILE)
    match = _FOLD.fullmatch(folder.name)
    number = int(match[1]) if match else package.provenance.folds[0]
    fold = FoldRun(number, folder, package, evaluation)
    measured = {row.label: row.name for row in evaluation.rows}
    if measured and measured != package.scheme.names:
        raise UsageError(
            folder / VALIDATION_FOLDER / SCORES_FILE,
            expected=f"scores of {listed(list(package.scheme.targets))}, which the model draws",
            found=f"scores of {listed(list(measured.values()))}",
            remedy="validate the fold again, or leave the run out",
        )
    lost = [case for case in fold.cases if not fold.prediction(case).is_file()]
    failed = [failure.case for failure in evaluation.failures]
    if lost or failed or not fold.cases:
        raise UsageError(
            folder / VALIDATION_FOLDER,
            expected="scores and a label map of each validation case",
            found=f"none of {listed([*failed, *lost])}" if lost or failed else "no case",
            remedy="validate the fold again, or leave the run out",
        )
    return fold


def _unlike(first: FinishedRun, other: FinishedRun) -> str | None:
    """Return the first thing that makes two runs not comparable."""
    numbers, others = ([fold.number for fold in run.folds] for run in (first, other))
    if numbers != others:
        return f"folds {listed([str(n) for n in others])} instead of {listed([str(n) for n in numbers])}"
    for fold, same in zip(first.folds, other.folds, strict=True):
        if apart := sorted(set(fold.cases) ^ set(same.cases)):
            return f"validation cases of fold {fold.number} that only one of them has: {listed(apart)}"
        if fold.package.provenance.data_sha256 != same.package.provenance.data_sha256:
            return f"other training data in fold {fold.number}: the checksums of cases, files or labels differ"
    if first.scheme != other.scheme:
        return f"other labels: {listed(list(other.scheme.targets))}"
    tolerance, its = first.evaluation.tolerance_mm, other.evaluation.tolerance_mm
    return None if tolerance == its else f"a surface Dice at {its:g} mm instead of {tolerance:g} mm"
