"""Training: set up, fit, validate, save. The run folder ends up holding a model package.

::

    RUN/
      config.yaml             the configuration, complete
      store/                  the preprocessed cases
      metrics.jsonl           one line an epoch; the same numbers in tensorboard/
      checkpoint.safetensors  where training stands, for --resume
      model/                  the package of the best validation so far
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medseg.config import ExperimentConfig
from medseg.data.manifest import Dataset
from medseg.device import autocast, memory_format
from medseg.errors import TrainingError
from medseg.networks.slices import centre_slices
from medseg.training.interrupt import stop_request
from medseg.training.run import MODEL_FOLDER, Observer, Run, save_state, set_up
from medseg.training.runlog import RunLog
from medseg.training.schedule import rate_factor, set_rate
from medseg.training.validate import mean_dice, validate, validate_best

_LOOK_EVERY = 10  # steps between looks at the loss, which wait for the device
_SEED_STRIDE = 1_000_003
_OVERDUE = 0.5  # share of the time after which the first validation does not wait for the epoch's end


@dataclass(frozen=True)
class TrainResult:
    """What became of a run.

    Attributes:
        model: The model package.
        dice: Mean Dice over the validation cases on their own grids, by label name; empty if interrupted.
        interrupted: Training was asked to stop; it can be resumed.
    """

    model: Path
    dice: dict[str, float]
    interrupted: bool = False

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
        TrainingError: The loss is not a number any more.
        StorageError: The disk is full.
    """
    run = set_up(config, dataset, folder, observer, device=device, budget_s=budget_s, resume=resume)
    with RunLog(folder, run.state.step, run.state.validated_step) as records, stop_request() as stop:
        finished = _fit(run, records, stop)
    if not finished:
        return TrainResult(folder / MODEL_FOLDER, {}, interrupted=True)
    dice = validate_best(run)
    return TrainResult(folder / MODEL_FOLDER, dice)


def _fit(run: Run, records: RunLog, stop: threading.Event) -> bool:
    """Take steps until the training is complete; return False where it was asked to stop before."""
    per_epoch = run.config.training.steps_per_epoch
    if run.state.validation_due:
        _validate(run, records)
    for image, label in run.loader.batches(run.state.step):
        if run.pace.fraction(run.state.step) >= 1:
            break
        _step(run, image, label)
        epoch_ends, stopped = run.state.step % per_epoch == 0, stop.is_set()
        if epoch_ends:
            _end_epoch(run, records)
        run.state.validation_due = _wants_validation(run)
        if stopped or (epoch_ends and not run.state.validation_due):
            save_state(run)
        if stopped:
            return False
        if run.state.validation_due:
            _validate(run, records)
    if run.state.step == 0:
        raise TrainingError(
            "--budget",
            expected="time for at least one step",
            found=f"{run.pace.elapsed_s:.0f} s gone with measuring and preprocessing",
            remedy="allow more time",
        )
    if run.state.validated_step != run.state.step:
        _validate(run, records)
    return True


def _wants_validation(run: Run) -> bool:
    """Whether the step just taken ends an epoch that is validated, or half the time has gone without any."""
    training = run.config.training
    epoch, rest = divmod(run.state.step, training.steps_per_epoch)
    if rest == 0:
        return epoch == 1 or epoch % training.validate_every == 0
    never = run.pace.budget_s is not None and run.state.validated_step is None
    return never and run.pace.fraction(run.state.step) >= _OVERDUE


def _validate(run: Run, records: RunLog) -> None:
    """Validate between two checkpoints: a run that is cut off meanwhile is resumed with the same validation."""
    run.state.validation_due = True
    save_state(run)
    validate(run, records)
    save_state(run)


def _step(run: Run, image: Tensor, label: Tensor) -> None:
    """Take one optimizer step on a batch (B, C, *patch), (B, *patch)."""
    training, step = run.config.training, run.state.step
    torch.manual_seed(training.seed * _SEED_STRIDE + step)  # dropout is keyed too: a resumed run draws the same
    chosen = training.optimizer
    factor = rate_factor(run.pace.fraction(step), chosen.schedule, chosen.warmup)
    set_rate(run.optimizer, chosen.learning_rate * factor)
    run.network.train()
    with autocast(training.precision, run.device):
        logits = run.network(image.contiguous(memory_format=memory_format(run.config.spatial_dims)))
    loss = run.loss(logits, label, centre_slices(image, run.package.network.slices))
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    if chosen.clip_norm is not None:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.network.parameters(), chosen.clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    _count(run, loss.detach())


def _count(run: Run, loss: Tensor) -> None:
    """Add a step's loss to the epoch's; look at it, which waits for the device, only now and then."""
    run.losses.append(loss)
    run.state.step += 1
    per_epoch = run.config.training.steps_per_epoch
    done = run.state.step % per_epoch or per_epoch
    if done % _LOOK_EVERY and done != per_epoch:
        return
    run.sum_losses()
    run.observer.stepped(
        run.pace.fraction(run.state.step), (run.state.step - 1) // per_epoch, run.state.loss_sum / done
    )


def _end_epoch(run: Run, records: RunLog) -> None:
    values = {
        "loss": run.state.loss_sum / run.config.training.steps_per_epoch,
        "learning_rate": float(run.optimizer.param_groups[0]["lr"]),
        "elapsed_s": run.pace.elapsed_s,
    }
    records.write(run.state.step, values)
    run.state.loss_sum = 0.0
