"""Pretrained weights for a network's encoder, from files that lie on this machine.

Names of ResNets and VGG16 are torchvision's. Two-dimensional kernels become the centre slice of three-dimensional
ones; a stem for one channel sums the kernels of red, green and blue.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from medseg.errors import ModelError, UsageError, listed
from medseg.files import sha256_of
from medseg.networks.blocks import CONVOLUTIONS
from medseg.tensorfile import read_tensors


class WeightsFile(BaseModel):
    """A file of weights, and what it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(description="A .safetensors file, or a PyTorch file that holds tensors only.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file.")


KnownWeights = Literal["imagenet", "medicalnet"]
Pretrained = KnownWeights | WeightsFile | None

_IMAGENET = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "vgg16": "vgg16-397923af.pth",
}
_MEDICALNET = {
    "resnet18": "resnet_18_23dataset.pth",
    "resnet34": "resnet_34_23dataset.pth",
    "resnet50": "resnet_50_23dataset.pth",
    "resnet101": "resnet_101.pth",
}
_COUNTER = "num_batches_tracked"
_log = logging.getLogger(__name__)
_KNOWN = {"imagenet": _IMAGENET, "medicalnet": _MEDICALNET}
_ENCODER = "encoder."
_ATTENTION = "encoder.attention."  # which published weights do not have
_BODY = "body."  # where MONAI's ResNet stands in its encoder
_WRAPPERS = ("state_dict", "model")
_PARALLEL = "module."

Tensors = dict[str, Tensor]


def load_pretrained(network: nn.Module, weights: Pretrained) -> None:
    """Fill a network's encoder with pretrained weights, in place; the rest where a file of its own kind has it.

    Args:
        network: Built by `medseg.networks.build_network`.
        weights: A known name, whose file is looked for where torch keeps what it downloads; or a file. The file
            holds the encoder by torchvision's names, or a network of medseg by its own; there the layers whose
            shape differs, such as those of other classes, keep their fresh weights.

    Raises:
        UsageError: The network's encoder has no published weights of that name.
        ModelError: The file is missing, damaged, another than its checksum says, or lacks a layer of the encoder.
    """
    if weights is None:
        return
    path, checksum = _known_file(network, weights) if isinstance(weights, str) else (weights.file, weights.sha256)
    tensors = _read(path, checksum)
    state = network.state_dict()
    own = any(name.startswith(_ENCODER) for name in tensors)
    names = {name: name for name in state} if own else _published_names(network, state)
    axis = _through_plane(network)
    fitted: Tensors = {}
    for name, published in names.items():
        if published in tensors and not _of_other_norm(name, state, published, tensors):
            layer = network.get_submodule(name.rpartition(".")[0])
            tensor = _fit(tensors[published], state[name].shape, layer, axis)
            fitted |= {} if tensor is None else {name: tensor}
    _require_encoder(path, network, fitted, names, tensors)
    network.load_state_dict(fitted, strict=False)
    fresh = [name for name in state if name not in fitted and not name.endswith(_COUNTER)]
    _log.info("%d tensors from %s; fresh: %s", len(fitted), path.name, listed(fresh) or "none")


def _known_file(network: nn.Module, name: KnownWeights) -> tuple[Path, str]:
    """Return where a known file should lie, and how its SHA-256 begins."""
    backbone = str(getattr(network.encoder, "name", "this network's encoder"))
    file = _KNOWN[name].get(backbone)
    dims = next(p.ndim - 2 for p in network.parameters() if p.ndim > 2)
    if file is None or (name == "medicalnet" and dims != 3):
        raise UsageError(
            "network.weights",
            expected=f"weights that were published for {backbone} in {dims}-D",
            found=name,
            remedy="leave them out, give {file, sha256}, or choose a ResNet or VGG16 backbone",
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        raise ModelError(
            path,
            expected=f"the {name} weights of {backbone}, file {file}",
            found="no such file",
            remedy=f"{_where_from(name, backbone)}, and put it there; nothing is downloaded by itself",
        )
    return path, file.rpartition("-")[2].removesuffix(".pth") if name == "imagenet" else ""


def _where_from(name: KnownWeights, backbone: str) -> str:
    if name == "imagenet":
        return (
            f"get it where torchvision is installed, by torchvision.models.{backbone}(weights='IMAGENET1K_V1'), "
            "which leaves it in the folder of the same name"
        )
    return (
        "get it from the authors of MedicalNet (Chen et al. 2019, arXiv:1904.00625; repository Tencent/MedicalNet)"
    )


def _read(path: Path, checksum: str) -> Tensors:
    """Read a file of tensors whose SHA-256 begins with `checksum`; leave out what wraps them."""
    try:
        found = sha256_of(path)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise ModelError(
            path, expected="a file of weights", found=reason, remedy="correct network.weights"
        ) from error
    if not found.startswith(checksum):
        raise ModelError(
            path,
            expected=f"SHA-256 {checksum[:12]}",
            found=f"{found[:12]}…: another file, or a damaged one",
            remedy="get the file again, or correct network.weights.sha256",
        )
    content: Any = read_tensors(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    named = content.items() if isinstance(content, dict) else ()
    tensors = {str(key).removeprefix(_PARALLEL): value for key, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(path, expected="named tensors", found="none", remedy="give a file of weights")
    return tensors


def _published_names(network: nn.Module, state: Tensors) -> dict[str, str]:
    """Return {name here: torchvision's name}."""
    names = {
        name: name.removeprefix(_ENCODER).removeprefix(_BODY)
        for name in state
        if name.startswith(_ENCODER) and not name.startswith(_ATTENTION)
    }
    for here, there in getattr(network, "published_heads", {}).items():
        names |= {f"{here}.{part}": f"{there}.{part}" for part in ("weight", "bias")}
    return names


def _of_other_norm(name: str, state: Tensors, published: str, tensors: Tensors) -> bool:
    """Whether a tensor belongs to a batch normalisation where the network has another kind."""
    here, there = (f"{key.rpartition('.')[0]}.running_mean" for key in (name, published))
    return there in tensors and here not in state


def _through_plane(network: nn.Module) -> int:
    """Return the axis of a kernel along which a plane's kernel is put into a volume: the thick one, or the last."""
    kernel = next(tuple(layer.kernel_size) for layer in network.modules() if isinstance(layer, CONVOLUTIONS))
    thick = [axis for axis, size in enumerate(kernel) if size == 1]
    return thick[0] if len(thick) == 1 and len(kernel) == 3 else 2


def _fit(tensor: Tensor, shape: torch.Size, layer: nn.Module, axis: int) -> Tensor | None:
    """Return a tensor in the shape of a layer's, None where it is no form of the layer.

    A fully connected layer becomes a convolution, a plane the centre of a volume, or all of it where a transposed
    convolution fills one with it; input channels are adapted.
    """
    if tensor.shape == shape:
        return tensor
    if not isinstance(layer, CONVOLUTIONS) or len(shape) < 4:
        return None
    plane = shape if len(shape) == 4 else torch.Size(n for i, n in enumerate(shape) if i != 2 + axis)
    if tensor.ndim == 2 and tensor.shape[0] == shape[0] and tensor[0].numel() == plane[1:].numel():
        tensor = tensor.reshape(plane)
    if tensor.ndim > 2 and tensor.shape[1] in (1, 3) and tensor.shape[1] != shape[1] and len(tensor) == shape[0]:
        tensor = adapt_stem(tensor, shape[1])
    if len(shape) == 5 and tensor.shape == plane:
        filled = isinstance(layer, nn.ConvTranspose3d)
        tensor = tensor.unsqueeze(2 + axis).expand(shape) if filled else inflate(tensor, shape[2 + axis], axis)
    return tensor if tensor.shape == shape else None


def adapt_stem(kernel: Tensor, channels: int) -> Tensor:
    """Adapt a stem's kernel to other input channels.

    One channel gets the sum of the kernels: it gives the response of an image whose channels are equal. Several get
    the kernels in turn, scaled so that their absolute sum stays.

    Args:
        kernel: (outputs, inputs, *kernel).
        channels: Wanted inputs.
    """
    inputs = kernel.shape[1]
    turns = kernel[:, [n % inputs for n in range(channels)]]
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    scale = kernel.abs().sum() / turns.abs().sum()
    return turns * scale


def inflate(kernel: Tensor, depth: int, axis: int = 2) -> Tensor:
    """Put a plane's kernel (outputs, inputs, *plane) in the centre of a volume's, which is zero beside it.

    On an image that is constant along the new axis the response is that on the plane.

    Args:
        kernel: Of two spatial axes.
        depth: Size of the new axis.
        axis: Where it comes in: 0, 1 or 2.
    """
    volume = torch.stack([torch.zeros_like(kernel)] * depth, dim=2 + axis)
    volume.select(2 + axis, depth // 2).copy_(kernel)
    return volume


def _require_encoder(
    path: Path, network: nn.Module, fitted: Tensors, names: dict[str, str], tensors: Tensors
) -> None:
    """Refuse a file without every convolution and batch normalisation of the encoder."""
    missing = [
        names[key]
        for name, layer in network.encoder.named_modules()  # type: ignore[union-attr]
        for key in _needed(f"{_ENCODER}{name}", layer)
        if key in names and key not in fitted
    ]
    if not missing:
        return
    no_shortcuts = all("downsample" in name and name not in tensors for name in missing)
    raise ModelError(
        path,
        expected="every convolution and batch normalisation of the network's encoder, in its shape",
        found=f"not: {listed(missing)}",
        remedy="set network.shortcut: A, as these weights have nothing in their shortcuts"
        if no_shortcuts
        else "choose the backbone that the weights are of, with width_multiplier: 1, and for 3-D weights "
        "spacing_mm: [1, 1, 1], since kernels are smaller along thick axes",
    )


def _needed(name: str, layer: nn.Module) -> list[str]:
    if isinstance(layer, CONVOLUTIONS):
        return [f"{name}.weight"]
    if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
        return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return []
