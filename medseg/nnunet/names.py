"""nnU-Net's weights in medseg's networks: the network that computes the same, and its tensors by medseg's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from medseg.errors import ModelError, listed
from medseg.model import NetworkSpec
from medseg.nnunet.plans import Architecture

_TWICE = re.compile(r"^decoder\.encoder\.|\.all_modules\.")  # tensors that have another name too
_RUNNING_MEAN = ".norm.running_mean"

# nnU-Net's names -> medseg's, applied in order
_RENAMED: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^(encoder\.stages\.\d+)\.0\.convs\.(\d+)", lambda m: f"{m[1]}.{int(m[2]) + 1}"),  # behind the pooling
    (r"^encoder\.stem\.convs\.0", "encoder.stem"),
    (r"^(encoder\.stages\.\d+)\.blocks\.(\d+)\.conv1", r"\1.\2.first"),
    (r"^(encoder\.stages\.\d+)\.blocks\.(\d+)\.conv2", r"\1.\2.second"),
    (r"^(encoder\.stages\.\d+)\.blocks\.(\d+)\.skip\.(\d+)\.conv", r"\1.\2.shortcut.\3"),
    (
        r"^(encoder\.stages\.\d+)\.blocks\.(\d+)\.skip\.(\d+)\.norm",
        lambda m: f"{m[1]}.{m[2]}.shortcut.{int(m[3]) + 1}",
    ),
    (r"^(decoder\.stages\.\d+)\.convs", r"\1"),
    (r"^decoder\.transpconvs\.", "decoder.ups."),
    (r"^decoder\.seg_layers\.", "decoder.heads."),
    (r"\.conv\.(\w+)$", r".0.\1"),
    (r"\.norm\.(\w+)$", r".1.\1"),
)
_DECODER = re.compile(r"^(decoder\.(?:stages|ups|heads)\.)(\d+)")


def network_of(architecture: Architecture, *, in_channels: int, num_classes: int) -> NetworkSpec:
    """Return the network that computes what nnU-Net's does.

    Args:
        architecture: Of nnU-Net's network.
        in_channels: Channels of its input.
        num_classes: Channels of its output.
    """
    fields = {
        "channels": architecture.channels,
        "kernel_sizes": architecture.kernels,
        "strides": architecture.strides[1:],
        "decoder_units": architecture.decoder_units[::-1],
        "norm": architecture.norm,
        "act": architecture.act,
        "deep_supervision": True,  # nnU-Net keeps the heads of every stage
    }
    if architecture.residual:
        fields["blocks"] = architecture.units
    else:
        fields |= {"encoder_units": architecture.units, "downsampling": "strided_conv", "bias": True}
    return NetworkSpec(
        name="resunet" if architecture.residual else "unet",
        spatial_dims=architecture.dims,
        in_channels=in_channels,
        num_classes=num_classes,
        fields=fields,
    )


def has_batch_norm(weights: Mapping[str, Tensor]) -> bool:
    """Whether nnU-Net's weights have batch normalisation, which some trainers put in place of what is planned."""
    return any(name.endswith(_RUNNING_MEAN) for name in weights)


def weights_of(where: Path, weights: Mapping[str, Tensor], network: NetworkSpec) -> dict[str, Tensor]:
    """Return nnU-Net's weights by the names of medseg's network.

    A convolution without bias gets one of zeros.

    Args:
        where: The checkpoint, for messages.
        weights: By nnU-Net's names; those of tensors that it has under two names may stand there twice.
        network: See `network_of`.

    Raises:
        ModelError: They are not those of the network.
    """
    wanted = network.sketch().state_dict()
    levels = len(network.fields["channels"]) - 1
    found = {_renamed(name, levels): tensor for name, tensor in weights.items() if not _TWICE.search(name)}
    for name, tensor in wanted.items():
        kernel = wanted.get(f"{name.removesuffix('.bias')}.weight")
        if name.endswith(".bias") and name not in found and kernel is not None and kernel.ndim > 2:
            found[name] = torch.zeros(tensor.shape)
    unlike = [name for name in (*wanted, *found) if _shape(wanted, name) != _shape(found, name)]
    if unlike:
        shapes = f"{_shape(found, unlike[0]) or 'none'} for {_shape(wanted, unlike[0]) or 'none'}"
        raise ModelError(
            where,
            expected="the weights of the network that plans.json describes",
            found=f"others for {listed(list(dict.fromkeys(unlike)), 3)} ({shapes})",
            remedy="predict with nnU-Net itself, where a trainer of one's own builds another network",
        )
    return {name: found[name] for name in wanted}


def _renamed(name: str, levels: int) -> str:
    """Return medseg's name; nnU-Net counts the decoder's stages from the coarsest, medseg from the finest."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return _DECODER.sub(lambda m: f"{m[1]}{levels - 1 - int(m[2])}", name)


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
