"""Where training stood: network, optimizer and counters in one safetensors file, so that it goes on exactly.

Random draws need no state: each is keyed by seed and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from medseg.errors import ModelError
from medseg.tensorfile import save_tensors

CHECKPOINT_FILE = "checkpoint.safetensors"
_METADATA_KEY = "medseg"


class TrainState(BaseModel):
    """The counters of a run.

    Attributes:
        step: Steps done.
        validated_step: Step of the last validation.
        validation_due: A validation comes before the next step; it was not done when the state was saved.
        loss_sum: Of the steps of the current epoch that were not skipped.
        loss_count: Number of these.
        parts: That a batch goes through the network in.
        times: Seconds that each part of the work took, by the keys of ``timings.json``.
        spent_s: Wall-clock seconds.
        setup_s: Of these, what measuring and preprocessing took.
        reserve_s: Seconds to keep for what comes after the last step, or None before it is known.
        budget_s: Wall-clock seconds that the run may take, or None.
        waited_s: Seconds of the current epoch that steps waited for data.
        worked_s: Seconds of the current epoch in all.
        skipped: Steps whose loss or gradient was not finite.
        skipped_in_row: Of these, the last ones in a row.
        best_dice: Best mean validation Dice so far, or None before the first validation.
        scaler: State of the gradient scaler (fp16 only).
        config_sha256: Of the configuration that the run belongs to.
        data_sha256: Of the training and the validation cases that the run belongs to.
    """

    model_config = ConfigDict(extra="forbid")

    step: int = 0
    validated_step: int | None = None
    validation_due: bool = False
    loss_sum: float = 0.0
    loss_count: int = 0
    parts: int = 1
    times: dict[str, float] = {}
    spent_s: float = 0.0
    setup_s: float = 0.0
    reserve_s: float | None = None
    budget_s: float | None = None
    waited_s: float = 0.0
    worked_s: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0
    best_dice: float | None = None
    scaler: dict[str, Any] = {}
    config_sha256: str = ""
    data_sha256: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Learner:
    """What the tensors of a checkpoint belong to.

    Attributes:
        network: The network itself.
        optimizer: Of its parameters.
        mean_weights: The running mean of its weights, or None.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    mean_weights: nn.Module | None = None


def save_checkpoint(path: Path, learner: Learner, state: TrainState) -> None:
    """Write a checkpoint atomically.

    Raises:
        StorageError: The file cannot be written.
    """
    tensors = _named("network.", learner.network) | _flat(learner.optimizer)
    if learner.mean_weights is not None:
        tensors |= _named("mean.", learner.mean_weights)
    save_tensors(path, tensors, {_METADATA_KEY: state.model_dump_json()})


def read_state(path: Path) -> TrainState:
    """Read the counters of a checkpoint, without its tensors.

    Raises:
        ModelError: The file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return TrainState.model_validate_json((file.metadata() or {}).get(_METADATA_KEY, ""))
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise _unusable(path, error) from error


def load_tensors(path: Path, learner: Learner) -> None:
    """Read the tensors of a checkpoint into a network, its optimizer and the mean of its weights.

    Raises:
        ModelError: The file is missing, damaged, or of another network.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        learner.network.load_state_dict(_under("network.", tensors))
        learner.optimizer.load_state_dict(_unflat(_under("optimizer.", tensors), learner.optimizer))
        if learner.mean_weights is not None:
            learner.mean_weights.load_state_dict(_under("mean.", tensors))
    except (OSError, safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        path,
        expected="a checkpoint of this run",
        found=str(error).splitlines()[0],
        remedy="start a new run in another folder",
    )


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in module.state_dict().items()}


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name each tensor of an optimizer's state ``optimizer.PARAMETER.KEY``."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{parameter}.{key}": torch.as_tensor(value)
        for parameter, values in state.items()
        for key, value in values.items()
        if value is not None
    }


def _unflat(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, key = name.split(".", 1)
        state.setdefault(int(parameter), {})[key] = value
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
