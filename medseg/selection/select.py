"""Runs -> the configuration or the ensemble that is best in cross-validation, as one package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from medseg import __version__
from medseg.config import load_config
from medseg.data.manifest import Dataset, load_manifest
from medseg.device import pick_device
from medseg.ensemble import merge_packages
from medseg.errors import UsageError
from medseg.files import make_folder, write_text
from medseg.model import MODEL_FILE
from medseg.selection.candidates import (
    Candidate,
    cross_validate,
    ensembles,
    largest_effects,
    validation_cases,
)
from medseg.selection.ranking import NotAveraged, Selection, best_of, standings
from medseg.selection.runs import FinishedRun, read_runs, require_comparable
from medseg.training.folder import CONFIG_FILE

SELECTION_FILE = "selection.json"

Progress = Callable[[str, int, int], None]


def select(
    folders: Sequence[Path],
    output: Path,
    *,
    manifest: str | None = None,
    data_root: Path | None = None,
    ensemble: bool = True,
    device: str = "auto",
    progress: Progress | None = None,
) -> Selection:
    """Compare finished runs on their validation cases and write the best, or the best pair of them, as a package.

    The highest mean Dice over cases and labels wins; of equal ones a run before an ensemble, then the first given.
    The largest connected component of a label is kept where that raises its mean Dice over the validation cases.

    Args:
        folders: Run folders, of one fold or with a folder for each.
        output: Folder of the package; `SELECTION_FILE` with all numbers lies in it too.
        manifest: Of the data; that of the first run by default.
        data_root: Folder of the data; that of the first run or of the manifest by default.
        ensemble: Whether pairs of runs that share their preprocessing are tried, too.
        device: Where ensembles are computed.
        progress: Called with (what is done, cases done, cases in all).

    Returns:
        Every number of the comparison.

    Raises:
        UsageError: A run is not finished, or was not validated on the cases of the others; the output holds
            something else than a package.
        ManifestError: The manifest is not that of the runs.
        ModelError: A package is damaged, or the folds of a run do not share their preprocessing.
        InputError: A case cannot be read.
        StorageError: The output cannot be written.
    """
    target, report = pick_device(device), progress or (lambda _what, _done, _total: None)
    runs = read_runs(folders)
    require_comparable(runs)
    _check_output(output, runs)
    dataset = _dataset_of(runs[0], manifest, data_root)
    patients = {name: case.patient for name, case in validation_cases(runs[0], dataset).items()}
    candidates, not_averaged = _candidates(runs, dataset, target, ensemble, report)
    best = best_of(candidates)
    selection = Selection(
        medseg_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=dataset.name,
        folds=tuple(fold.number for fold in runs[0].folds),
        cases=len(patients),
        patients=len(set(patients.values())),
        tolerance_mm=runs[0].evaluation.tolerance_mm,
        candidates=standings(candidates, best, patients),
        not_averaged=not_averaged,
        chosen=candidates[best].name,
    )
    return _write(candidates[best], selection, dataset, output, report)


def _candidates(
    runs: Sequence[FinishedRun], dataset: Dataset, device: torch.device, ensemble: bool, report: Progress
) -> tuple[list[Candidate], tuple[NotAveraged, ...]]:
    """Return the runs, then the pairs of them that can be averaged; and the pairs that cannot."""
    candidates = [Candidate((run,), run.evaluation) for run in runs]
    not_averaged = []
    for pair, reason in ensembles(runs) if ensemble else ():
        name = "+".join(run.name for run in pair)
        if reason is not None:
            not_averaged.append(NotAveraged(name=name, reason=reason))
            continue
        advance = partial(report, f"predicting {name}")
        candidates.append(cross_validate(pair, dataset, device=device, advance=advance))
    return candidates, tuple(not_averaged)


def _write(chosen: Candidate, selection: Selection, dataset: Dataset, output: Path, report: Progress) -> Selection:
    """Decide on the largest components, write the package and all numbers."""
    effects = largest_effects(chosen, dataset, partial(report, "largest components"))
    package = chosen.runs[0].folds[0].package
    postprocessing = package.postprocessing.keeping_largest(effect.label for effect in effects if effect.helps)
    dice = {label.name: label.dice for label in chosen.evaluation.summary}
    if not package.regions:
        dice |= {effect.label: effect.dice_after for effect in effects if effect.helps}
    selection = selection.model_copy(
        update={"largest_component": effects, "keep_largest": postprocessing.keep_largest}
    )
    merge_packages(
        chosen.models,
        output,
        name=chosen.name if len(chosen.runs) > 1 else None,
        validation_dice=dice,
        postprocessing=postprocessing,
    )
    write_text(output / SELECTION_FILE, selection.model_dump_json(indent=1) + "\n")
    return selection


def _dataset_of(run: FinishedRun, manifest: str | None, data_root: Path | None) -> Dataset:
    if manifest is not None:
        return load_manifest(manifest, data_root)
    data = load_config(str(run.folds[0].folder / CONFIG_FILE)).data
    return load_manifest(data.manifest, data_root or data.root)


def _check_output(output: Path, runs: Sequence[FinishedRun]) -> None:
    """Refuse, before anything is computed, an output that cannot be written, is no package or is a fold's own."""
    is_fold = output.resolve() in {fold.model.resolve() for run in runs for fold in run.folds}
    is_package = (output / MODEL_FILE).is_file()
    is_something = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if is_fold or (is_something and not is_package):
        raise UsageError(
            output,
            expected="a new folder, or a package to replace",
            found="the model of a fold" if is_fold else "something else",
            remedy="name another folder",
        )
    make_folder(output)
