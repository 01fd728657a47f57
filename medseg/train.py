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
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from medseg.config import ExperimentConfig
from medseg.data.manifest import Dataset
from medseg.ensemble import merge_packages
from medseg.errors import TrainingError
from medseg.evaluation import pooled, read_evaluation
from medseg.model import load_package
from medseg.training.checkpoint import CHECKPOINT_FILE
from medseg.training.interrupt import StopRequest, stop_request
from medseg.training.run import MODEL_FOLDER, Nobody, Observer, Run
from medseg.training.runlog import NoRecords, Records, RunLog
from medseg.training.setup import measure_side, set_up, store_folder
from medseg.training.step import take_step
from medseg.training.tracking import Tracking, open_trackers
from medseg.training.validate import SCORES_FILE, VALIDATION_FOLDER, mean_dice, validate, validate_best
from medseg.training.world import joined

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
        with log as records, stop_request() as stop:
            stopped_by = _fit(run, records, stop)
        dice = {} if stopped_by else validate_best(run)
    return TrainResult(folder / MODEL_FOLDER, dice, stopped_by)


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
        budget_s: Seconds for all folds together; what is left is dealt evenly to those that are left.
        resume: Go on where the runs in the folder stopped.

    Returns:
        The package of all folds, and the Dice over the validation cases of all folds.

    Raises:
        ManifestError: The data set has no folds.
        UsageError: As for `train`.
    """
    with joined(device) as world:
        common = _common_settings(config, dataset, folder, observer)
        left = _Left(budget_s, len(dataset.folds))
        for fold in dataset.folds:
            part = folder / f"fold_{fold}"
            budget = left.next()
            if resume and (part / VALIDATION_FOLDER / SCORES_FILE).is_file():
                continue
            of_fold = common.model_copy(update={"data": common.data.model_copy(update={"fold": fold})})
            again = resume and (part / CHECKPOINT_FILE).is_file()
            result = train(of_fold, dataset, part, observer, device=device, budget_s=budget, resume=again)
            if result.stopped_by:
                return TrainResult(folder / MODEL_FOLDER, {}, result.stopped_by)
        if world.is_first:
            parts = [folder / f"fold_{fold}" for fold in dataset.folds]
            scores = pooled([read_evaluation(part / VALIDATION_FOLDER / SCORES_FILE) for part in parts])
            dice = {label.name: label.dice for label in scores.summary}
            merge_packages(parts, folder / MODEL_FOLDER, validation_dice=dice)
        world.wait()
    return TrainResult(folder / MODEL_FOLDER, load_package(folder).provenance.known_dice)


def _common_settings(
    config: ExperimentConfig, dataset: Dataset, folder: Path, observer: Observer
) -> ExperimentConfig:
    """Return the settings that all folds share: one store, and the preprocessing of all labelled cases."""
    dataset.fold(dataset.folds[0] if dataset.folds else 0)  # says what is wrong with the folds
    store = store_folder(config, folder)
    labelled = [case for case in dataset.cases if case.label is not None]
    everything = measure_side(labelled, dataset.scheme, store, observer)
    data = config.data.model_copy(update={"store": store})
    return config.model_copy(update={"preprocessing": config.preprocessing.completed(everything), "data": data})


@dataclass
class _Left:
    """Deals the time that is left evenly to the folds that are left."""

    budget_s: float | None
    folds: int
    start: float = field(default_factory=time.monotonic)

    def next(self) -> float | None:
        if self.budget_s is None:
            return None
        share = (self.budget_s - (time.monotonic() - self.start)) / self.folds
        self.folds -= 1
        return share


def _open_log(run: Run, experiment: str) -> RunLog:
    chosen = {Tracking(run.config.training.track)}
    trackers = open_trackers(chosen, run.folder, run.config, experiment=experiment, step=run.state.step)
    return RunLog(run.folder, run.state.step, run.state.validated_step, trackers)


def _fit(run: Run, records: Records, stop: StopRequest) -> signal.Signals | None:
    """Take steps until the training is complete; return the signal where it was asked to stop before."""
    if run.state.validation_due:
        _validate(run, records)
    with closing(run.data.loader.batches(run.state.step)) as batches:
        while True:
            fraction, stopped_by = _agree(run, stop)
            if stopped_by is not None:
                run.save()
                return stopped_by
            if fraction >= 1:
                break
            start = time.monotonic()
            image, label = next(batches)
            run.state.waited_s += time.monotonic() - start
            take_step(run, image, label, fraction)
            run.state.worked_s += time.monotonic() - start
            _after_step(run, records)
    _require_steps(run)
    if run.state.validated_step != run.state.step:
        _validate(run, records)
    return None


def _agree(run: Run, stop: StopRequest) -> tuple[float, signal.Signals | None]:
    """Return the share that is done and the signal that asked to stop, the same in all processes."""
    mine = torch.tensor([run.pace.fraction(run.state.step), float(stop.signal or 0)], dtype=torch.float64)
    if run.world.size == 1:
        return float(mine[0]), stop.signal
    fraction, number = run.world.agree(mine.to(run.device)).tolist()
    return fraction, signal.Signals(int(number)) if number else None


def _after_step(run: Run, records: Records) -> None:
    """Look at the loss now and then; at the end of an epoch write it down, save and validate."""
    per_epoch = run.config.training.steps_per_epoch
    done = run.state.step % per_epoch or per_epoch
    if done % _LOOK_EVERY == 0 or done == per_epoch:
        run.sum_losses()
        mean, waiting = run.state.loss_sum / done, run.state.waited_s / max(run.state.worked_s, 1e-9)
        run.observer.stepped(run.pace.fraction(run.state.step), (run.state.step - 1) // per_epoch, mean, waiting)
    if done == per_epoch:
        _end_epoch(run, records)
    run.state.validation_due = _wants_validation(run)
    if run.state.validation_due:
        _validate(run, records)
    elif done == per_epoch:
        run.save()


def _wants_validation(run: Run) -> bool:
    """Whether the step just taken ends an epoch that is validated, or half the time has gone without any."""
    training = run.config.training
    epoch, rest = divmod(run.state.step, training.steps_per_epoch)
    if rest == 0:
        return epoch == 1 or epoch % training.validate_every == 0
    never = run.pace.budget_s is not None and run.state.validated_step is None
    return never and run.pace.fraction(run.state.step) >= _OVERDUE


def _validate(run: Run, records: Records) -> None:
    """Validate between two checkpoints: a run that is cut off meanwhile is resumed with the same validation."""
    run.state.validation_due = True
    run.save()
    validate(run, records)
    run.save()


def _end_epoch(run: Run, records: Records) -> None:
    per_epoch = run.config.training.steps_per_epoch
    patches = per_epoch * run.config.training.batch_size
    values = {
        "loss": run.state.loss_sum / per_epoch,
        "learning_rate": float(run.optimizer.param_groups[-1]["lr"]),
        "elapsed_s": run.pace.elapsed_s,
        "waiting_share": run.state.waited_s / run.state.worked_s,
        "patches_per_s": patches / run.state.worked_s,
        "skipped_steps": float(run.state.skipped),
    }
    records.write(run.state.step, values)
    run.state.loss_sum = run.state.waited_s = run.state.worked_s = 0.0


def _require_steps(run: Run) -> None:
    if run.state.step == 0:
        raise TrainingError(
            "--budget",
            expected="time for at least one step",
            found=f"{run.pace.elapsed_s:.0f} s gone with measuring and preprocessing",
            remedy="allow more time",
        )
