"""A folder of nnU-Net's results -> a `ModelPackage` that predicts the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.data.importers import modality_of
from medseg.data.preprocessing import Preprocessing
from medseg.errors import ModelError
from medseg.files import require_new_folder, sha256_of
from medseg.label_files import load_scheme
from medseg.model import COARSE_FOLDER, ModelPackage
from medseg.nnunet.checkpoint import Checkpoint, read_checkpoint
from medseg.nnunet.facts import envelope_of, validation_of
from medseg.nnunet.names import has_batch_norm, network_of, weights_of
from medseg.nnunet.plans import Architecture, architecture_of, configuration_of, readable
from medseg.nnunet.preprocessing import axes_of_stored, preprocessing_of, turned, window_of
from medseg.nnunet.results import ALL, DATASET_FILE, Results, folds_of, open_results, sibling
from medseg.provenance import ImportedNetwork, Provenance
from medseg.regions import LabelScheme

SOFTWARE = "nnU-Net 2"


@dataclass(frozen=True)
class NnunetChoice:
    """What is taken of a folder of results.

    Attributes:
        configuration: Such as ``3d_fullres``, where the folder has several.
        folds: ``0`` and so on, or ``all``; every numbered one that is there if None.
        checkpoint: ``final`` or ``best``.
        name: Of the package; data set and configuration if None.
        orientation: Where the training files' i, j and k ran, such as LPS, for a model that takes axes as they are
            stored: images are turned likewise, however they are stored.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    checkpoint: str = "final"
    name: str | None = None
    orientation: str | None = None

    @property
    def file(self) -> str:
        """File name of the checkpoint."""
        return f"checkpoint_{self.checkpoint}.pth"


@dataclass(frozen=True)
class _Trained:
    """A configuration with the networks that were trained by it."""

    results: Results
    configuration: str
    previous: str | None  # the configuration of the first stage, of a cascade
    architecture: Architecture
    checkpoints: dict[str, Checkpoint]  # by fold

    @property
    def first(self) -> Checkpoint:
        return next(iter(self.checkpoints.values()))


def import_nnunet(path: Path, target: Path, choice: NnunetChoice | None = None) -> ModelPackage:
    """Write a package of the networks that nnU-Net trained; their logits are averaged, as nnU-Net does.

    A cascade takes along its first stage, whose folder must be beside its own.

    Args:
        path: ``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``, or the folder of the data set.
        target: Folder of the package, new or empty.
        choice: What is taken; by default all folds, of the only configuration.

    Returns:
        The package as it was written.

    Raises:
        UsageError: There are several models in the folder, the target holds something already, or the orientation
            is none.
        ManifestError: ``dataset.json`` has labels that cannot be used.
        ModelError: A file is missing or damaged, or the network is one that medseg does not have.
        StorageError: A file cannot be written.
    """
    choice = choice or NnunetChoice()
    require_new_folder(target)
    results = open_results(path, choice.configuration)
    with readable(results.folder):
        trained = _read(results, choice)
        package = _package(trained, choice)
    weights = {
        f"fold_{fold}": weights_of(trained.results.fold(fold), checkpoint.weights, package.network)
        for fold, checkpoint in trained.checkpoints.items()
    }
    if trained.previous is not None:
        first_stage = _first_stage(trained.results, trained.previous)
        import_nnunet(first_stage, target / COARSE_FOLDER, replace(choice, configuration=None, name=None))
    return package.save(target, weights)


def _read(results: Results, choice: NnunetChoice) -> _Trained:
    folds = folds_of(results, choice.folds, choice.file)
    checkpoints = {fold: read_checkpoint(results.fold(fold) / choice.file) for fold in folds}
    first = next(iter(checkpoints.values()))
    for fold, checkpoint in checkpoints.items():
        _require_same(results.fold(fold), checkpoint, choice.configuration or first.configuration, first)
    configuration = configuration_of(results.plans_file, results.plans, first.configuration)
    architecture = architecture_of(results.plans_file, configuration)
    if has_batch_norm(first.weights):
        architecture = architecture.model_copy(update={"norm": "batch"})
    return _Trained(results, first.configuration, configuration.get("previous_stage"), architecture, checkpoints)


def _require_same(where: Path, checkpoint: Checkpoint, configuration: str, first: Checkpoint) -> None:
    if (checkpoint.configuration, checkpoint.trainer) != (configuration, first.trainer):
        raise ModelError(
            where,
            expected=f"a network of {configuration} and {first.trainer}, as the other folds have",
            found=f"one of {checkpoint.configuration} and {checkpoint.trainer}",
            remedy="leave the fold out with --folds, or correct --configuration",
        )


def _first_stage(results: Results, configuration: str) -> Path:
    folder = sibling(results, configuration)
    if not folder.is_dir():
        raise ModelError(
            folder,
            expected=f"the first stage of the cascade, {configuration}, beside the second",
            found="no such folder",
            remedy="copy it there from nnUNet_results, or import 3d_fullres, which needs no first stage",
        )
    return folder


def _package(trained: _Trained, choice: NnunetChoice) -> ModelPackage:
    results = trained.results
    scheme = load_scheme(results.folder / DATASET_FILE)
    modalities = _modalities(results)
    preprocessing = _preprocessing(trained, scheme, choice)
    channels = preprocessing.network_channels(len(modalities))
    envelope = envelope_of(results)
    if choice.orientation is not None:
        envelope = envelope.along([axes_of_stored(choice.orientation).index(axis) for axis in range(3)])
    facts = {"modalities": modalities, "is_stored_order": choice.orientation is None}
    return ModelPackage(
        name=choice.name or f"{results.plans.get('dataset_name', 'nnunet')}_{trained.configuration}",
        modalities=modalities,
        network=network_of(trained.architecture, in_channels=channels, num_classes=scheme.outputs),
        labels=scheme.labels,
        regions=scheme.regions,
        ignore_value=scheme.ignore_value,
        preprocessing=preprocessing,
        inference=window_of(results.plans, trained.configuration, trained.first.mirror_axes),
        envelope=envelope.model_copy(update=facts),
        provenance=_provenance(trained, scheme),
    )


def _modalities(results: Results) -> tuple[str, ...]:
    """Return the modality of each channel, guessed from its name; ``OT`` where it says nothing."""
    names: Any = results.dataset.get("channel_names") or results.dataset.get("modality")
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        raise ModelError(
            results.folder / DATASET_FILE,
            expected='channel_names, such as {"0": "CT"}',
            found=repr(names),
            remedy="copy nnU-Net's folder of results again",
        )
    return tuple(modality_of(str(names[key])).value for key in sorted(names, key=int))


def _preprocessing(trained: _Trained, scheme: LabelScheme, choice: NnunetChoice) -> Preprocessing:
    results = trained.results
    own = preprocessing_of(results.plans, trained.configuration, results.dataset)
    if choice.orientation is not None:
        own = turned(own, choice.orientation)
    if trained.previous is None:
        return own
    return own.model_copy(update={"coarse_labels": scheme.labels.indices})


def _provenance(trained: _Trained, scheme: LabelScheme) -> Provenance:
    results, folds = trained.results, tuple(trained.checkpoints)
    dice, validated = validation_of(results, folds, scheme)
    cases = int(results.dataset.get("numTraining", 0))
    return Provenance(
        medseg_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=str(results.plans.get("dataset_name", "")),
        config_sha256=sha256_of(results.plans_file),
        data_sha256="",  # nnU-Net does not say which files it was trained on
        folds=tuple(int(fold) for fold in folds if fold != ALL),
        training_cases=cases if ALL in folds else max(0, cases - validated),
        validation_dice=dice,
        imported=_imported(trained),
    )


def _imported(trained: _Trained) -> tuple[ImportedNetwork, ...]:
    return tuple(
        ImportedNetwork(
            software=SOFTWARE,
            trainer=checkpoint.trainer,
            plans=str(trained.results.plans.get("plans_name", "")),
            configuration=checkpoint.configuration,
            fold=fold,
            epoch=checkpoint.epoch,
            checkpoint_sha256=checkpoint.sha256,
        )
        for fold, checkpoint in trained.checkpoints.items()
    )
