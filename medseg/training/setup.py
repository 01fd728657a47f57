"""Sets a training run up: folder, measurements, store, network; what can fail fails before the data is read."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from medseg import __version__
from medseg.config import ExperimentConfig
from medseg.data.channels import require_channels
from medseg.data.fingerprint import Fingerprint, summarize
from medseg.data.loader import PatchLoader
from medseg.data.manifest import Case, Dataset
from medseg.data.measure import measure_cases
from medseg.data.sampler import PatchSampler
from medseg.data.store import StoredCase, build_store
from medseg.device import pick_device, pick_precision, place
from medseg.environment import write_environment
from medseg.errors import ManifestError, UsageError, listed
from medseg.model import ModelPackage
from medseg.networks.stages import Stages
from medseg.provenance import Provenance
from medseg.regions import LabelScheme
from medseg.training.cascade import keep_first_stage, second_stage
from medseg.training.checkpoint import TrainState
from medseg.training.finetune import initialise, parameter_groups
from medseg.training.folder import check_data, data_digest, open_folder
from medseg.training.run import MODEL_FOLDER, Data, Frame, Observer, Run
from medseg.training.schedule import Pace, make_optimizer, mean_weights
from medseg.training.world import World, current, local_device

STORE_FOLDER = "store"
_MEASURED_FOLDER = "measured"  # inside the store
_WORKERS = {"cpu": 1, "cuda": 4}
_log = logging.getLogger(__name__)


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
    """Open the run folder, measure and preprocess the data, build the network; see `medseg.train.train`.

    Where several processes train together, the first one opens, measures and stores; the others find it done.
    """
    world = current()
    target = pick_device(local_device(device))
    pace = Pace(config.training.epochs * config.training.steps_per_epoch, budget_s)
    config, dataset = second_stage(config, dataset)
    cases = dataset.fold(config.data.fold)
    _require_parts(config, world)
    config.check_channels(len(dataset.channels))
    require_channels(cases[0], dataset.cases, flags=config.preprocessing.channel_flags)
    _rehearse(config, len(dataset.channels), dataset.scheme)
    if not world.is_first:
        world.wait()
    state = open_folder(folder, config, resume=resume, follows=not world.is_first)
    held_out_too = data_digest(cases[1], dataset.scheme, coarse=dataset.cases)
    check_data(folder, state, (data_digest(cases[0], dataset.scheme), held_out_too), resume=resume)
    start = time.monotonic()
    fingerprint = measured(config, dataset, folder, observer)
    between = time.monotonic()
    package = _draft_package(config, dataset, fingerprint, state)
    learnt, held_out = (_stored(config, side, package, folder, observer) for side in cases)
    _require_volumes(config, (*learnt, *held_out))
    for what, seconds in (("measuring_s", between - start), ("storing_s", time.monotonic() - between)):
        state.times[what] = state.times.get(what, 0.0) + seconds
    if world.is_first:
        write_environment(folder)
        keep_first_stage(config, folder / MODEL_FOLDER)
        world.wait()
    data = Data(
        _loader(config, package.network.slices, learnt, target, world), list(zip(cases[1], held_out, strict=True))
    )
    run = _assemble(config, Frame(folder, target, world, pace, observer), package, data, state, fresh=not resume)
    run.state.parts = max(run.state.parts, config.training.accumulate)
    if resume:
        run.load()
    run.begin()
    return run


def measured(config: ExperimentConfig, dataset: Dataset, folder: Path, observer: Observer) -> Fingerprint:
    """Measure the training cases of the configuration's fold; what was measured before is read from the store.

    Raises:
        ManifestError: The data set lacks the fold, or no training case has one of its labels.
        InputError: A case cannot be read, or its image is constant.
    """
    training, _ = dataset.fold(config.data.fold)
    modalities = [channel.modality.value for channel in dataset.channels]
    return measure_side(training, dataset.scheme, store_folder(config, folder), observer, modalities=modalities)


def measure_side(
    cases: Sequence[Case],
    scheme: LabelScheme,
    store: Path,
    observer: Observer,
    *,
    modalities: Sequence[str] = (),
) -> Fingerprint:
    """Measure training cases and check that each label or region occurs in one of them; see `measured`."""
    measurements = measure_cases(
        cases,
        store / _MEASURED_FOLDER,
        lambda done, total: observer.preparing("measuring", done, total),
        ignore_value=scheme.ignore_value,
    )
    fingerprint = summarize(measurements, names=scheme.names_as_drawn, modalities=modalities)
    found = set(fingerprint.label_values)
    absent = [name for name, values in scheme.targets.items() if found.isdisjoint(values)]
    if absent:
        raise ManifestError(
            "labels",
            expected="each of them in at least one training case",
            found=f"none of {len(cases)} cases has {listed(absent)}",
            remedy="take the label out of the manifest, or choose another fold",
        )
    return fingerprint


def store_folder(config: ExperimentConfig, folder: Path) -> Path:
    """Return where the preprocessed cases of a run are kept."""
    return config.data.store or folder / STORE_FOLDER


def _stored(
    config: ExperimentConfig, cases: Sequence[Case], package: ModelPackage, folder: Path, observer: Observer
) -> list[StoredCase]:
    return build_store(
        store_folder(config, folder),
        cases,
        package.preprocessing,
        package.labels,
        lambda done, total: observer.preparing("preprocessing", done, total),
        dtype=config.training.store_dtype,
        ignore_value=package.ignore_value,
    )


def _require_parts(config: ExperimentConfig, world: World) -> None:
    """Refuse a batch that processes and parts cannot share evenly."""
    share, parts = len(world.share(config.training.batch_size)), config.training.accumulate
    if share % parts:
        raise UsageError(
            "training.accumulate",
            expected=f"a divisor of {share}, the patches of one process",
            found=str(parts),
            remedy="correct it, training.batch_size or the number of processes",
        )


def _require_volumes(config: ExperimentConfig, cases: Sequence[StoredCase]) -> None:
    """Refuse a 3-D network for cases that are one voxel thick."""
    flat = [case.id for case in cases if min(case.shape) == 1]
    if config.spatial_dims == 3 and flat:
        raise UsageError(
            "training.patch_size",
            expected="two sizes: a 2-D network for single slices",
            found=f"three, and {listed(flat)} one voxel thick",
            remedy="choose a 2-D network, or leave these cases out",
        )


def _rehearse(config: ExperimentConfig, channels: int, scheme: LabelScheme) -> None:
    """Fail before the data is read on what else would fail after it: pretrained weights, weights of classes."""
    if config.weights() is not None:
        config.network_spec(channels, scheme.outputs, spacing_mm=config.spacing_mm).build(config.weights())
    size = config.training.patch_size
    loss = config.build_loss(config.spacing_mm, scheme=scheme)
    logits, image = (torch.zeros(1, count, *size) for count in (scheme.outputs, channels))
    loss(logits, torch.zeros(1, *size, dtype=torch.int64), image)


def _draft_package(
    config: ExperimentConfig, dataset: Dataset, fingerprint: Fingerprint, state: TrainState
) -> ModelPackage:
    """Return the package as far as it is known before training."""
    preprocessing = config.preprocessing.completed(fingerprint)
    return ModelPackage(
        name=config.name,
        modalities=tuple(channel.modality.value for channel in dataset.channels),
        network=config.network_spec(
            len(dataset.channels), dataset.scheme.outputs, spacing_mm=preprocessing.spacing_of(fingerprint)
        ),
        labels=dataset.labels,
        regions=dataset.scheme.regions,
        ignore_value=dataset.scheme.ignore_value,
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
            folds=(config.data.fold,),
            training_cases=fingerprint.cases,
            validation_dice={},
        ),
    )


def _assemble(
    config: ExperimentConfig, frame: Frame, package: ModelPackage, data: Data, state: TrainState, *, fresh: bool
) -> Run:
    """Build the network and what trains it."""
    training, device, world = config.training, frame.device, frame.world
    torch.manual_seed(training.seed)
    network = _network(config, package, frame, fresh=fresh)
    optimizer = _optimizer(config, network)  # freezes what is frozen, before the network is wrapped
    fp16 = pick_precision(training.precision, device) == "fp16"
    return Run(
        config=config,
        frame=frame,
        data=data,
        package=package,
        network=network,
        trained=world.parallel(_compiled(network, training.compile, device), device),
        mean_weights=mean_weights(network, training.ema_decay) if training.ema_decay else None,
        loss=config.build_loss(
            package.preprocessing.spacing_of(package.envelope), _output_strides(network), scheme=package.scheme
        ),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=fp16),
        state=state,
    )


def _network(config: ExperimentConfig, package: ModelPackage, frame: Frame, *, fresh: bool) -> nn.Module:
    device, world = frame.device, frame.world
    network = package.network.build(config.weights() if fresh else None)
    if fresh and config.init_from is not None:
        _log.info("init_from: %s", initialise(network, package, config.init_from))
    network = world.with_shared_statistics(network, device)
    return place(network, device, config.spatial_dims, channels_last=config.training.channels_last)


def _compiled(network: nn.Module, wanted: str, device: torch.device) -> nn.Module:
    """Return the network through torch.compile; what it cannot compile runs as it is, with a warning of torch's."""
    if wanted == "off" or (wanted == "auto" and device.type != "cuda"):
        return network
    torch._dynamo.config.suppress_errors = True
    compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
    return compiled


def _output_strides(network: nn.Module) -> Sequence[Sequence[int]]:
    stages = getattr(network, "stages", None)
    return stages.output_strides if isinstance(stages, Stages) else ()


def _optimizer(config: ExperimentConfig, network: nn.Module) -> torch.optim.Optimizer:
    chosen, init = config.training.optimizer, config.init_from
    return make_optimizer(
        network,
        chosen.name,
        chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        momentum=chosen.momentum,
        groups=None if init is None else parameter_groups(network, chosen.learning_rate, init),
    )


def _loader(
    config: ExperimentConfig, slices: int, cases: Sequence[StoredCase], device: torch.device, world: World
) -> PatchLoader:
    training = config.training
    i, j, k = (*training.patch_size, 1)[:3]
    return PatchLoader(
        PatchSampler(cases, (i, j, k), training.foreground_share, training.seed, slices, training.channel_dropout),
        training.augmentation,
        training.batch_size,
        training.steps_per_epoch,
        device,
        workers=_WORKERS[device.type],
        share=world.share(training.batch_size),
        channel_flags=config.preprocessing.channel_flags,
        coarse_labels=config.preprocessing.coarse_labels,
    )
