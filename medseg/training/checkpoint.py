"""Where training stood: network, optimizer and counters in one safetensors file, so that it goes on exactly.

Random draws need no state: each is keyed by seed and step.
"""

from __future__ import annotations

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
        loss_sum: Of the steps of the current epoch.
        spent_s: Wall-clock seconds.
        setup_s: Of these, what measuring and preprocessing took.
        reserve_s: Seconds to keep for what comes after the last step, or None before it is known.
        budget_s: Wall-clock seconds that the run may take, or None.
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
    spent_s: float = 0.0
    setup_s: float = 0.0
    reserve_s: float | None = None
    budget_s: float | None = None
    best_dice: float | None = None
    scaler: dict[str, Any] = {}
    config_sha256: str = ""
    data_sha256: tuple[str, str] = ("", "")


def save_checkpoint(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> None:
    """Write a checkpoint atomically.

    Raises:
        StorageError: The file cannot be written.
    """
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= _flat(optimizer)
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


def load_tensors(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Read the tensors of a checkpoint into a network and its optimizer.

    Raises:
        ModelError: The file is missing, damaged, or of another network.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        network.load_state_dict(_under("network.", tensors))
        optimizer.load_state_dict(_unflat(_under("optimizer.", tensors), optimizer))
    except (OSError, safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        path,
        expected="a checkpoint of this run",
        found=str(error).splitlines()[0],
        remedy="start a new run in another folder",
    )


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
