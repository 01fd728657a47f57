"""``checkpoint_final.pth``: a network's weights and what nnU-Net notes beside them, read without running code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.errors import ModelError
from medseg.files import sha256_of
from medseg.tensorfile import UnpicklingError

_SCALAR: Any = np.float64(0).__reduce__()[0]  # what numpy makes its numbers with
_SCALAR_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # of numpy 1 and of numpy 2
_NUMBERS = (np.bool_, np.int32, np.int64, np.float16, np.float32, np.float64)
_ALLOWED: list[Any] = [
    np.dtype,
    *(type(np.dtype(number)) for number in _NUMBERS),
    *((_SCALAR, f"{module}.scalar") for module in _SCALAR_MODULES),
]
_REFUSED = re.compile(r"GLOBAL (\S+)")
_WRAPPERS = ("module.", "_orig_mod.")  # of networks that were trained on several GPUs or compiled
_KEYS = ("network_weights", "trainer_name", "init_args")
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Checkpoint:
    """What a package takes from a checkpoint.

    Attributes:
        weights: By nnU-Net's names.
        trainer: Name of the class that trained.
        configuration: Such as ``3d_fullres``.
        epoch: Epochs done.
        mirror_axes: Spatial axes of the network's input along which predictions may be mirrored.
        sha256: Of the file.
    """

    weights: dict[str, Tensor]
    trainer: str
    configuration: str
    epoch: int
    mirror_axes: tuple[int, ...]
    sha256: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; tensors stay in the file until they are used, and the optimizer's are never read.

    Nothing is unpickled but tensors, plain Python values, and numpy's numbers, in which nnU-Net logs its losses.

    Raises:
        ModelError: The file is missing, damaged, of nnU-Net 1, or holds objects of other classes.
    """
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checksum = sha256_of(path)
    except UnpicklingError as error:
        raise _with_objects(path, str(error)) from error
    except (OSError, RuntimeError, ValueError, EOFError, TypeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
        raise _damaged(path, reason) from error
    return _checked(path, content, checksum)


def _checked(path: Path, content: Any, checksum: str) -> Checkpoint:
    lacking = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    arguments = {} if lacking else content["init_args"]
    if lacking or not isinstance(arguments, dict) or "configuration" not in arguments:
        raise ModelError(
            path,
            expected="a checkpoint of nnU-Net 2",
            found=f"no {lacking[0] if lacking else 'init_args.configuration'}",
            remedy="give a folder that nnUNetv2_train wrote; models of nnU-Net 1 are trained again",
        )
    weights = content["network_weights"]
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise _damaged(path, f"network_weights that are {type(weights).__name__}, not named tensors")
    try:
        return Checkpoint(
            weights={_unwrapped(str(name)): tensor for name, tensor in weights.items()},
            trainer=str(content["trainer_name"]),
            configuration=str(arguments["configuration"]),
            epoch=int(content.get("current_epoch") or 0),
            mirror_axes=tuple(int(axis) for axis in content.get("inference_allowed_mirroring_axes") or ()),
            sha256=checksum,
        )
    except (TypeError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):  # one within the other, in either order
        name = name.partition(".")[2]
    return name


def _damaged(path: Path, found: str) -> ModelError:
    return ModelError(
        path,
        expected="a checkpoint of nnU-Net 2",
        found=found.splitlines()[0][:_SHOWN_CHARACTERS],
        remedy="copy the file again, or choose another with --folds and --checkpoint",
    )


def _with_objects(path: Path, message: str) -> ModelError:
    named = _REFUSED.search(message)
    return ModelError(
        path,
        expected="tensors, plain values and numpy's numbers, which hold no code",
        found=f"an object of {named[1]}" if named else message.splitlines()[0][:_SHOWN_CHARACTERS],
        remedy="a trainer of one's own wrote it: where it is trusted, load it with nnU-Net and save it without the "
        "object",
    )
