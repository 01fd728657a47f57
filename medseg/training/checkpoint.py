"""Where training stood: network, optimizer and counters in one safetensors file, so that it goes on exactly.

Random draws need no state: each is keyed by seed and step.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from medseg.errors import ModelError
from medseg.files import atomic_path

CHECKPOINT_FILE = "checkpoint.safetensors"
_METADATA_KEY = "medseg"


class TrainState(BaseModel):
    """The counters of a run.

    Attributes:
        step: Steps done.
        validated_step: Step of the last validation.
        loss_sum: Of the steps of the current epoch.
        spent_s: Wall-clock seconds.
        best_dice: Best mean validation Dice so far, or None before the first validation.
        scaler: State of the gradient scaler (fp16 only).
        config_sha256: Of the configuration that the run belongs to.
    """

    model_config = ConfigDict(extra="forbid")

    step: int = 0
    validated_step: int | None = None
    loss_sum: float = 0.0
    spent_s: float = 0.0
    best_dice: float | None = None
    scaler: dict[str, Any] = {}
    config_sha256: str = ""


def save_checkpoint(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> None:
    """Write a checkpoint atomically.

    Raises:
        StorageError: The file cannot be written.
    """
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= _flat(optimizer)
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(contiguous, temporary, metadata={_METADATA_KEY: state.model_dump_json()})


def load_checkpoint(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Read a checkpoint into a network and its optimizer.

    Raises:
        ModelError: The file is missing, damaged, or of another network.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            state = TrainState.model_validate_json((file.metadata() or {}).get(_METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        network.load_state_dict(_under("network.", tensors))
        optimizer.load_state_dict(_unflat(_under("optimizer.", tensors), optimizer))
    except (OSError, safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(
            path,
            expected="a checkpoint of this run",
            found=str(error).splitlines()[0],
            remedy="start a new run in another folder",
        ) from error
    return state


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


def config_digest(config: BaseModel) -> str:
    """Return the SHA-256 of a configuration's content, whatever its file looks like."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
