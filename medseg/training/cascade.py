"""A cascade: a network for coarse images sees the whole of them; a second one sees what it drew, and details.

The second stage learns from label maps that were predicted by networks which had not seen the case: those of the
validation cases of every fold. From maps of networks that had, it would learn to copy them.

Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z: nnU-Net's ``3d_cascade_fullres``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg.config import ExperimentConfig
from medseg.data.manifest import Case, Dataset
from medseg.ensemble import merge_packages
from medseg.errors import ManifestError, listed
from medseg.model import COARSE_FOLDER, MODEL_FILE, load_package
from medseg.training.run import MODEL_FOLDER
from medseg.training.validate import SCORES_FILE, VALIDATION_FOLDER


def second_stage(config: ExperimentConfig, dataset: Dataset) -> tuple[ExperimentConfig, Dataset]:
    """Return what a second stage is trained by and on; both as they are where `data.coarse` names no first stage.

    Raises:
        ManifestError: As `with_coarse`; or the first stage has other channels.
        ModelError: The package of the first stage cannot be read.
    """
    run = config.data.coarse
    if run is None:
        return config, dataset
    dataset = with_coarse(dataset, run)
    wanted = tuple(channel.modality.value for channel in dataset.channels)
    found = load_package(run).modalities
    if found != wanted:
        raise ManifestError(
            run,
            expected=f"a first stage for the channels {', '.join(wanted)}",
            found=", ".join(found),
            remedy="train both stages on the same manifest",
        )
    return with_coarse_labels(config), dataset


def with_coarse_labels(config: ExperimentConfig) -> ExperimentConfig:
    """Return a configuration that says which labels the first stage draws, where `data.coarse` names one.

    Raises:
        ModelError: The package of the first stage cannot be read.
    """
    if config.data.coarse is None:
        return config
    drawn = tuple(int(value) for value in load_package(config.data.coarse).scheme.drawn_values[1:])
    preprocessing = config.preprocessing.model_copy(update={"coarse_labels": drawn})
    return config.model_copy(update={"preprocessing": preprocessing})


def with_coarse(dataset: Dataset, run: Path) -> Dataset:
    """Return a data set whose labelled cases have the label map that a finished cross-validation predicted of them.

    Args:
        dataset: That of the first stage, or a part of it.
        run: Folder of ``medseg train --fold all``; a case's map is ``fold_*/validation/CASE.nii.gz``.

    Raises:
        ManifestError: The run is no finished cross-validation, or did not predict every labelled case.
    """
    folds = _finished_folds(run)
    cases = tuple(replace(case, coarse=_map_of(case, folds)) for case in dataset.cases)
    lacking = [case.id for case in cases if case.label is not None and case.coarse is None]
    if lacking:
        raise ManifestError(
            run,
            expected=f"a label map of every labelled case of {dataset.name}",
            found=f"none of {len(lacking)} of them: {listed(lacking)}",
            remedy="train the first stage on the same manifest, with every labelled case in a fold",
        )
    return replace(dataset, cases=cases)


def keep_first_stage(config: ExperimentConfig, model: Path) -> None:
    """Put the package of the first stage, where there is one, into the folder of the second one's package.

    Raises:
        ModelError: The package of the first stage is damaged.
        StorageError: A file cannot be written.
    """
    if config.data.coarse is not None:
        merge_packages([config.data.coarse], model / COARSE_FOLDER)


def _finished_folds(run: Path) -> list[Path]:
    folds = sorted(folder for folder in run.glob("fold_*") if folder.is_dir())
    unfinished = [folder.name for folder in folds if not (folder / VALIDATION_FOLDER / SCORES_FILE).is_file()]
    found = "no folds" if not folds else f"{listed(unfinished)} without {VALIDATION_FOLDER}/{SCORES_FILE}"
    if not folds or unfinished or not (run / MODEL_FOLDER / MODEL_FILE).is_file():
        raise ManifestError(
            run,
            expected="a finished run of all folds",
            found=found if unfinished or not folds else f"no {MODEL_FOLDER}/{MODEL_FILE}",
            remedy="train the first stage with --fold all; --resume goes on with it",
        )
    return folds


def _map_of(case: Case, folds: Sequence[Path]) -> Path | None:
    """Return the label map of a labelled case from the fold that it validated."""
    if case.label is None:
        return None
    places = (fold / VALIDATION_FOLDER / f"{case.id}.nii.gz" for fold in folds)
    return next((place for place in places if place.is_file()), None)
