"""A training run: its folder, its data, its network and where it stands; what `train` works on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from medseg import __version__
from medseg.config import ExperimentConfig
from medseg.data.fingerprint import Fingerprint, measure_case, summarize
from medseg.data.loader import PatchLoader
from medseg.data.manifest import Case, Dataset
from medseg.data.sampler import PatchSampler
from medseg.data.store import StoredCase, build_store, read_case
from medseg.device import pick_device, pick_precision, place
from medseg.errors import TrainingError
from medseg.model import ModelPackage, Provenance
from medseg.networks.stages import Stages
from medseg.training.checkpoint import CHECKPOINT_FILE, TrainState, load_tensors, save_checkpoint
from medseg.training.folder import check_data, data_digest, open_folder
from medseg.training.schedule import Pace, make_optimizer

MODEL_FOLDER = "model"
_STORE_FOLDER = "store"
_WORKERS = {"cpu": 1, "cuda": 4}


class Observer(Protocol):
    """What wants to know how training goes, such as a progress bar."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """`done` of `total` cases are measured, preprocessed or validated."""

    def stepped(self, fraction: float, epoch: int, loss: float) -> None:
        """A share of the training is done; `loss` is the mean of the epoch so far."""

    def validated(self, epoch: int, dice: Mapping[str, float], is_best: bool) -> None:
        """Whole validation volumes were segmented; Dice by label name."""


@dataclass
class Run:
    """Everything that the parts of a run share."""

    config: ExperimentConfig
    folder: Path
    device: torch.device
    pace: Pace
    package: ModelPackage
    network: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: PatchLoader
    validation: Sequence[tuple[Case, StoredCase]]
    state: TrainState
    observer: Observer
    losses: list[Tensor] = field(default_factory=list)  # of the steps since the last look

    def sum_losses(self) -> None:
        """Add the losses of the last steps to the epoch's sum; waits for the device.

        Raises:
            TrainingError: The sum is not finite.
        """
        if self.losses:
            self.state.loss_sum += float(torch.stack(self.losses).double().sum())
            self.losses.clear()
        if not math.isfinite(self.state.loss_sum):
            raise TrainingError(
                f"step {self.state.step}",
                expected="a finite loss",
                found=str(self.state.loss_sum),
                remedy="lower training.optimizer.learning_rate, or use precision: fp32",
            )


def set_up(
    config: ExperimentConfig,
    dataset: Dataset,
    folder: Path,
    observer: Observer,
    *,
    device: str,
    budget_s: float | None,
    resume: bool,
) -> Run:
    """Open the run folder, measure and preprocess the data, build the network; see `medseg.train.train`."""
    target = pick_device(device)
    pace = Pace(config.training.epochs * config.training.steps_per_epoch, budget_s)
    training, validation = dataset.fold(config.data.fold)
    config.check_channels(len(dataset.channels))
    _rehearse(config, len(dataset.channels), len(dataset.labels) + 1)
    state = open_folder(folder, config, resume=resume)
    digests = data_digest(training, dataset.labels), data_digest(validation, dataset.labels)
    check_data(folder, state, digests, resume=resume)
    package = _draft_package(config, dataset, _measure(training, observer), state)
    learnt, held_out = (
        build_store(
            folder / _STORE_FOLDER,
            cases,
            package.preprocessing,
            dataset.labels,
            lambda done, total: observer.preparing("preprocessing", done, total),
        )
        for cases in (training, validation)
    )
    torch.manual_seed(config.training.seed)
    network = place(package.network.build(None if resume else config.weights()), target, config.spatial_dims)
    fp16 = pick_precision(config.training.precision, target) == "fp16"
    run = Run(
        config=config,
        folder=folder,
        device=target,
        pace=pace,
        package=package,
        network=network,
        loss=config.build_loss(package.preprocessing.spacing_of(package.envelope), _output_strides(network)),
        optimizer=_optimizer(config, network),
        scaler=torch.amp.GradScaler(target.type, enabled=fp16),
        loader=_loader(config, package.network.slices, learnt, target),
        validation=list(zip(validation, held_out, strict=True)),
        state=state,
        observer=observer,
    )
    if resume:
        _load(run)
    _begin(run)
    return run


def save_state(run: Run) -> None:
    """Write the checkpoint that the run can be resumed from.

    Raises:
        StorageError: The disk is full.
        TrainingError: The loss is not finite.
    """
    run.sum_losses()
    run.state.spent_s, run.state.setup_s = run.pace.elapsed_s, run.pace.setup_s
    run.state.reserve_s, run.state.budget_s = run.pace.reserve_s, run.pace.budget_s
    run.state.scaler = run.scaler.state_dict()
    save_checkpoint(run.folder / CHECKPOINT_FILE, run.network, run.optimizer, run.state)


def _load(run: Run) -> None:
    """Read the tensors of the checkpoint that the run's state comes from."""
    load_tensors(run.folder / CHECKPOINT_FILE, run.network, run.optimizer)
    if run.state.scaler:
        run.scaler.load_state_dict(run.state.scaler)


def _begin(run: Run) -> None:
    """Let the clock count what comes now as training; a resumed run keeps its budget unless another is given."""
    if run.pace.budget_s is None:
        run.pace.budget_s = run.state.budget_s
    run.pace.begin(spent_s=run.state.spent_s, setup_s=run.state.setup_s, reserve_s=run.state.reserve_s)


def _measure(cases: Sequence[Case], observer: Observer) -> Fingerprint:
    measurements = []
    for number, case in enumerate(cases):
        images, label = read_case(case)
        measurements.append(measure_case(images, label))
        observer.preparing("measuring", number + 1, len(cases))
    return summarize(measurements)


def _draft_package(
    config: ExperimentConfig, dataset: Dataset, fingerprint: Fingerprint, state: TrainState
) -> ModelPackage:
    """Return the package as far as it is known before training."""
    preprocessing = config.preprocessing.completed(fingerprint)
    return ModelPackage(
        name=config.name,
        modalities=tuple(channel.modality.value for channel in dataset.channels),
        network=config.network_spec(
            len(dataset.channels), len(dataset.labels) + 1, spacing_mm=preprocessing.spacing_of(fingerprint)
        ),
        labels=dataset.labels,
        preprocessing=preprocessing,
        inference=config.window(),
        postprocessing=config.postprocessing,
        envelope=fingerprint,
        provenance=Provenance(
            medseg_version=__version__,
            created="",
            dataset=dataset.name,
            config_sha256=state.config_sha256,
            data_sha256=state.data_sha256[0],
            fold=config.data.fold,
            training_cases=fingerprint.cases,
            validation_dice={},
        ),
    )


def _rehearse(config: ExperimentConfig, channels: int, classes: int) -> None:
    """Fail before the data is read on what else would fail after it: pretrained weights, weights of classes."""
    if config.weights() is not None:
        config.network_spec(channels, classes, spacing_mm=config.spacing_mm).build(config.weights())
    size = config.training.patch_size
    loss = config.build_loss(config.spacing_mm)
    loss(torch.zeros(1, classes, *size), torch.zeros(1, *size, dtype=torch.int64), torch.zeros(1, channels, *size))


def _output_strides(network: nn.Module) -> Sequence[Sequence[int]]:
    stages = getattr(network, "stages", None)
    return stages.output_strides if isinstance(stages, Stages) else ()


def _optimizer(config: ExperimentConfig, network: nn.Module) -> torch.optim.Optimizer:
    chosen = config.training.optimizer
    return make_optimizer(
        network,
        chosen.name,
        chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        momentum=chosen.momentum,
    )


def _loader(
    config: ExperimentConfig, slices: int, cases: Sequence[StoredCase], device: torch.device
) -> PatchLoader:
    training = config.training
    i, j, k = (*training.patch_size, 1)[:3]
    return PatchLoader(
        PatchSampler(cases, (i, j, k), training.foreground_share, training.seed, slices),
        training.augmentation,
        training.batch_size,
        training.steps_per_epoch,
        device,
        workers=_WORKERS[device.type],
    )
