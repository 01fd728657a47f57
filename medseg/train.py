"""Training: set up, fit, validate, save. The run folder ends up holding a model package.

::

    RUN/
      config.yaml             the configuration, complete
      store/                  the preprocessed cases
      metrics.jsonl           one line an epoch; the same numbers in tensorboard/
      checkpoint.safetensors  where training stands, for --resume
      model/                  the package of the best validation so far
      validation/             its label maps of the validation cases, and their figures in scores.csv
      environment.json        versions and hardware

A cross-validated run has such a folder for each fold, one store, and the package of all folds in ``model/``.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from medseg.config import ExperimentConfig
from medseg.data.manifest import Dataset
from medseg.ensemble import merge_packages
from medseg.errors import TrainingError
from medseg.evaluation import pooled, read_evaluation
from medseg.model import load_package
from medseg.training.checkpoint import CHECKPOINT_FILE
from medseg.training.folds import fold_budget, is_finished, open_folds
from medseg.training.interrupt import StopTraining, stop_request
from medseg.training.run import MODEL_FOLDER, Nobody, Observer, Run
from medseg.training.runlog import NoRecords, Records, RunLog
from medseg.training.setup import measure_side, set_up, store_folder
from medseg.training.step import take_step
from medseg.training.tracking import Tracking, open_trackers
from medseg.training.validate import SCORES_FILE, VALIDATION_FOLDER, mean_dice, validate, validate_best
from medseg.training.world import current, joined

_INSTANT_S = 1e-9
_LOOK_EVERY = 10  # steps between looks at the loss, which wait for the device
_OVERDUE = 0.5  # share of the time after which the first validation does not wait for the epoch's end


@dataclass(frozen=True)
class TrainResult:
    """What became of a run.

    Attributes:
        model: The model package.
        dice: Mean Dice over the validation cases on their own grids, by label name; empty if interrupted.
        stopped_by: The signal that asked the training to stop; it can be resumed. None where it is complete.
    """

    model: Path
    dice: dict[str, float]
    stopped_by: signal.Signals | None = None

    @property
    def interrupted(self) -> bool:
        """Whether training was asked to stop."""
        return self.stopped_by is not None

    @property
    def mean_dice(self) -> float:
        """Mean over the labels."""
        return mean_dice(self.dice)


def train(
    config: ExperimentConfig,
    dataset: Dataset,
    folder: Path,
    observer: Observer,
    *,
    device: str = "auto",
    budget_s: float | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train a network and leave its package in a run folder.

    Args:
        config: The experiment.
        dataset: Its data; `config.data.fold` says which cases validate.
        folder: Of the run; new, or that of the run to resume.
        observer: Is told how it goes.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        budget_s: Seconds for all of it; the learning rate falls to zero in that time, whatever `epochs` says. A run
            that is resumed keeps its own where this is None.
        resume: Go on with the run in the folder, from its last step.

    Raises:
        UsageError: The folder holds another run, or none to resume; the configuration or the data is not that of
            the run to resume; the configuration does not fit the data set's channels.
        ManifestError: The data set lacks the fold or a label value is unknown.
        InputError: A case cannot be read.
        TrainingError: The loss is not a number any more, or there was no time for a step.
        StorageError: The disk is full.
    """
    with joined(device) as world:
        run = set_up(
            config,
            dataset,
            folder,
            observer if world.is_first else Nobody(),
            device=device,
            budget_s=budget_s,
            resume=resume,
        )
        log = _open_log(run, dataset.name) if world.is_first else nullcontext(NoRecords())
        with log as records, stop_request() as run.stop:
            try:
                _fit(run, records)
                dice = validate_best(run)
            except StopTraining as stop:
                run.save()
                world.wait()  # or a launcher ends the process that still saves
                return TrainResult(folder / MODEL_FOLDER, {}, stop.signal)
    return TrainResult(folder / MODEL_FOLDER, dice)


def cross_validate(
    config: ExperimentConfig,
    dataset: Dataset,
    folder: Path,
    observer: Observer,
    *,
    device: str = "auto",
    budget_s: float | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train one network a fold, in ``fold_0``, ``fold_1`` ...; the package averages the logits of all of them.

    What the preprocessing leaves open is measured on all labelled cases, so that the networks see the same images.

    Args:
        config: The experiment; its fold is not looked at.
        dataset: Its data, with folds.
        folder: Of the runs and their common store.
        observer: Is told how it goes.
        device: As for `train`.
        budget_s: Seconds for all folds together, dealt evenly to those that have not begun.
        resume: Go on where the runs in the folder stopped.

    Returns:
        The package of all folds, and the Dice over the validation cases of all folds.

    Raises:
        ManifestError: The data set has no folds.
        UsageError: As for `train`.
    """
    with joined(device) as world:
        common = _common_settings(config, dataset, folder, observer)
        if world.is_first:
            folds = open_folds(folder, common, budget_s, resume=resume)
        world.wait()
        if not world.is_first:
            folds = open_folds(folder, common, budget_s, resume=True)
        parts = {fold: folder / f"fold_{fold}" for fold in dataset.folds}
        for fold, part in parts.items():
            if resume and is_finished(part):
                continue
            of_fold = common.model_copy(update={"data": common.data.model_copy(update={"fold": fold})})
            again = resume and (part / CHECKPOINT_FILE).is_file()
            left = fold_budget(folds, list(parts.values()), part)
            result = train(of_fold, dataset, part, observer, device=device, budget_s=left, resume=again)
            if result.stopped_by:
                return TrainResult(folder / MODEL_FOLDER, {}, result.stopped_by)
        if world.is_first:
            _merge(list(parts.values()), folder / MODEL_FOLDER)
        world.wait()
    return TrainResult(folder / MODEL_FOLDER, load_package(folder).provenance.known_dice)


def _merge(parts: Sequence[Path], target: Path) -> None:
    scores = pooled([read_evaluation(part / VALIDATION_FOLDER / SCORES_FILE) for part in parts])
    dice = {label.name: label.dice for label in scores.summary}
    merge_packages(parts, target, validation_dice=dice)


def _common_settings(
    config: ExperimentConfig, dataset: Dataset, folder: Path, observer: Observer
) -> ExperimentConfig:
    """Return the settings that all folds share: one store, and the preprocessing of all labelled cases.

    The first process measures; the others find it done.
    """
    world = current()
    dataset.fold(dataset.folds[0] if dataset.folds else 0)  # says what is wrong with the folds
    store = store_folder(config, folder)
    labelled = [case for case in dataset.cases if case.label is not None]
    if not world.is_first:
        world.wait()
    everything = measure_side(labelled, dataset.scheme, store, observer if world.is_first else Nobody())
    if world.is_first:
        world.wait()
    data = config.data.model_copy(update={"store": store})
    return config.model_copy(update={"preprocessing": config.preprocessing.completed(everything), "data": data})


def _open_log(run: Run, experiment: str) -> RunLog:
    chosen = {Tracking(run.config.training.track)}
    trackers = open_trackers(chosen, run.folder, run.config, experiment=experiment, step=run.state.step)
    return RunLog(run.folder, run.state.step, run.state.validated_step, trackers)


def _fit(run: Run, records: Records) -> None:
    """Take steps until the training is complete.

    Raises:
        StopTraining: It was asked to stop before.
    """
    if run.state.validation_due:
        _validate(run, records)
    with closing(run.data.loader.batches(run.state.step)) as batches:
        while (fraction := run.agree()) < 1:
            if _is_overdue(run, fraction):
                _validate(run, records)
                continue
            start = time.monotonic()
            image, label = next(batches)
            run.state.waited_s += time.monotonic() - start
            take_step(run, image, label, fraction)
            run.state.worked_s += time.monotonic() - start
            _after_step(run, records, fraction)
    _require_steps(run)
    if run.state.validated_step != run.state.step:
        _validate(run, records)


def _after_step(run: Run, records: Records, fraction: float) -> None:
    """Look at the loss now and then; at the end of an epoch write it down, save and validate."""
    per_epoch = run.config.training.steps_per_epoch
    done = run.state.step % per_epoch or per_epoch
    if done % _LOOK_EVERY == 0 or done == per_epoch:
        run.sum_losses()
        waiting = run.state.waited_s / max(run.state.worked_s, _INSTANT_S)
        run.observer.stepped(fraction, (run.state.step - 1) // per_epoch, run.mean_loss, waiting)
    if done == per_epoch:
        _end_epoch(run, records)
        epoch = run.state.step // per_epoch
        if epoch == 1 or epoch % run.config.training.validate_every == 0:
            _validate(run, records)
        else:
            run.save()


def _is_overdue(run: Run, fraction: float) -> bool:
    """Whether half of the time has gone without any validation."""
    never = run.pace.budget_s is not None and run.state.validated_step is None
    return never and run.state.step > 0 and fraction >= _OVERDUE


def _validate(run: Run, records: Records) -> None:
    """Validate between two checkpoints: a run that is cut off meanwhile is resumed with the same validation."""
    run.state.validation_due = True
    run.save()
    validate(run, records)
    run.save()


def _end_epoch(run: Run, records: Records) -> None:
    state = run.state
    patches = run.config.training.steps_per_epoch * run.config.training.batch_size
    values = {
        "loss": run.mean_loss,
        "learning_rate": float(run.optimizer.param_groups[-1]["lr"]),
        "elapsed_s": run.pace.elapsed_s,
        "waiting_share": state.waited_s / max(state.worked_s, _INSTANT_S),
        "patches_per_s": patches / max(state.worked_s, _INSTANT_S),
        "skipped_steps": float(state.skipped),
    }
    records.write(state.step, values)
    state.times["training_s"] = state.times.get("training_s", 0.0) + state.worked_s
    state.loss_sum, state.loss_count, state.waited_s, state.worked_s = 0.0, 0, 0.0, 0.0


def _require_steps(run: Run) -> None:
    if run.state.step == 0:
        raise TrainingError(
            "--budget",
            expected="time for at least one step",
            found=f"{run.pace.elapsed_s:.0f} s gone with measuring and preprocessing",
            remedy="allow more time",
        )
