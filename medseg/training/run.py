"""A training run: its data, its network and where it stands; what `train` works on."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medseg.config import ExperimentConfig
from medseg.data.loader import PatchLoader
from medseg.data.manifest import Case
from medseg.data.store import StoredCase
from medseg.files import storage_error
from medseg.model import ModelPackage
from medseg.training.checkpoint import CHECKPOINT_FILE, Learner, TrainState, load_tensors, save_checkpoint
from medseg.training.interrupt import StopRequest, StopTraining
from medseg.training.schedule import Pace
from medseg.training.world import World

MODEL_FOLDER = "model"
NOTES_FILE = "notes.txt"
_log = logging.getLogger(__name__)


class Observer(Protocol):
    """What wants to know how training goes, such as a progress bar."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """`done` of `total` cases are measured, preprocessed or validated."""

    def stepped(self, fraction: float, epoch: int, loss: float, waiting: float) -> None:
        """A share of the training is done; mean loss and share of time spent waiting are the epoch's so far."""

    def validated(self, epoch: int, dice: Mapping[str, float], is_best: bool) -> None:
        """Whole validation volumes were segmented; Dice by label name."""


class Nobody:
    """An observer that does nothing."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Do nothing."""

    def stepped(self, fraction: float, epoch: int, loss: float, waiting: float) -> None:
        """Do nothing."""

    def validated(self, epoch: int, dice: Mapping[str, float], is_best: bool) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Frame:
    """Where a run takes place.

    Attributes:
        folder: Of the run.
        device: Of this process.
        world: The processes that train together.
        pace: How far the training is.
        observer: Is told how it goes.
    """

    folder: Path
    device: torch.device
    world: World
    pace: Pace
    observer: Observer


@dataclass(frozen=True)
class Data:
    """What a run learns from and is validated on.

    Attributes:
        loader: Batches of the training cases.
        validation: The validation cases, as files and as stored.
    """

    loader: PatchLoader
    validation: Sequence[tuple[Case, StoredCase]]


@dataclass
class Run:
    """Everything that the parts of a training share.

    Attributes:
        network: The network itself.
        trained: What a batch goes through: the network, compiled or spread over processes.
        mean_weights: The running mean of its weights, where one is kept.
        losses: Of the steps since the last look.
        stop: Whether this process was asked to stop.
    """

    config: ExperimentConfig
    frame: Frame
    data: Data
    package: ModelPackage
    network: nn.Module
    trained: nn.Module
    mean_weights: AveragedModel | None
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    state: TrainState
    losses: list[Tensor] = field(default_factory=list)
    stop: StopRequest = field(default_factory=StopRequest)

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.frame.folder

    @property
    def device(self) -> torch.device:
        """Of this process."""
        return self.frame.device

    @property
    def world(self) -> World:
        """The processes that train together."""
        return self.frame.world

    @property
    def pace(self) -> Pace:
        """How far the training is."""
        return self.frame.pace

    @property
    def observer(self) -> Observer:
        """Is told how it goes."""
        return self.frame.observer

    @property
    def shown(self) -> nn.Module:
        """The network that is validated and saved."""
        return self.network if self.mean_weights is None else self.mean_weights.module

    @property
    def learner(self) -> Learner:
        """What a checkpoint holds the tensors of."""
        return Learner(self.network, self.optimizer, self.mean_weights)

    def sum_losses(self) -> None:
        """Add the losses of the last steps to the epoch's sum; waits for the device."""
        if self.losses:
            self.state.loss_sum += float(torch.stack(self.losses).double().sum())
            self.state.loss_count += len(self.losses)
            self.losses.clear()

    @property
    def mean_loss(self) -> float:
        """Of the steps of the epoch that `sum_losses` has seen; NaN where all were skipped."""
        return self.state.loss_sum / self.state.loss_count if self.state.loss_count else math.nan

    def agree(self) -> float:
        """Return the share of the training that is done, the same in all processes.

        Raises:
            StopTraining: The first process was asked to stop.
        """
        fraction, number = self.pace.fraction(self.state.step), float(self.stop.signal or 0)
        if self.world.size > 1:
            mine = torch.tensor([fraction, number], dtype=torch.float64, device=self.device)
            fraction, number = self.world.agree(mine).tolist()
        if number:
            raise StopTraining(signal.Signals(int(number)))
        return fraction

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count the seconds that something takes, for ``timings.json``."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.state.times[what] = self.state.times.get(what, 0.0) + time.monotonic() - start

    def note(self, text: str) -> None:
        """Log what was changed on the way, and keep it in the run folder.

        Raises:
            StorageError: The disk is full.
        """
        _log.warning(text)
        if not self.world.is_first:
            return
        try:
            with (self.folder / NOTES_FILE).open("a", encoding="utf-8") as stream:
                stream.write(text + "\n")
        except OSError as error:
            raise storage_error(self.folder / NOTES_FILE, error) from error

    def save(self) -> None:
        """Write the checkpoint that the run can be resumed from; one process of them does.

        Raises:
            StorageError: The disk is full.
        """
        self.sum_losses()
        self.state.spent_s, self.state.setup_s = self.pace.elapsed_s, self.pace.setup_s
        self.state.reserve_s, self.state.budget_s = self.pace.reserve_s, self.pace.budget_s
        self.state.scaler = self.scaler.state_dict()
        if self.world.is_first:
            save_checkpoint(self.folder / CHECKPOINT_FILE, self.learner, self.state)

    def load(self) -> None:
        """Read the tensors of the checkpoint that the run's state comes from.

        Raises:
            ModelError: It is damaged, or of another network.
        """
        load_tensors(self.folder / CHECKPOINT_FILE, self.learner)
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)

    def begin(self) -> None:
        """Count what comes now as training; a resumed run keeps its budget unless another is given."""
        if self.pace.budget_s is None:
            self.pace.budget_s = self.state.budget_s
        state = self.state
        self.pace.begin(spent_s=state.spent_s, setup_s=state.setup_s, reserve_s=state.reserve_s)
