"""The building blocks that the networks share, for two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["batch", "instance", "group", "none"]
Act = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu"]
Sizes = tuple[int, ...]

Layer = Callable[..., nn.Module]

CONV: dict[int, Layer] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Layer] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOL: dict[int, Layer] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
DROPOUT: dict[int, Layer] = {2: nn.Dropout2d, 3: nn.Dropout3d}
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_GROUPS = 8
_LEAK = 0.01


def make_norm(norm: Norm, spatial_dims: int, channels: int) -> nn.Module:
    """Return a normalisation layer; ``group`` takes 8 groups, or as many as divide the channels."""
    if norm == "batch":
        return _BATCH[spatial_dims](channels)
    if norm == "instance":
        return _INSTANCE[spatial_dims](channels, affine=True)
    if norm == "group":
        groups = next(g for g in range(min(_GROUPS, channels), 0, -1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    return nn.Identity()


def make_act(act: Act) -> nn.Module:
    """Return an activation layer."""
    layers: dict[str, nn.Module] = {
        "relu": nn.ReLU(inplace=True),
        "leaky_relu": nn.LeakyReLU(_LEAK, inplace=True),
        "prelu": nn.PReLU(),
        "elu": nn.ELU(inplace=True),
        "gelu": nn.GELU(),
        "silu": nn.SiLU(inplace=True),
    }
    return layers[act]


def conv_norm_act(
    spatial_dims: int, in_channels: int, out_channels: int, *, kernel: Sizes, norm: Norm, act: Act
) -> nn.Sequential:
    """Return convolution, normalisation, activation; the size is kept.

    The convolution has a bias only where no normalisation follows, which would cancel it.
    """
    return nn.Sequential(
        CONV[spatial_dims](
            in_channels,
            out_channels,
            kernel_size=kernel,
            padding=tuple(size // 2 for size in kernel),
            bias=norm == "none",
        ),
        make_norm(norm, spatial_dims, out_channels),
        make_act(act),
    )


def pad_to_multiple(x: Tensor, multiple: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad the spatial axes at their far ends, by repeating the edge, to multiples of `multiple`.

    Args:
        x: (B, C, *spatial).
        multiple: One number for each spatial axis.

    Returns:
        The padded tensor, and the index that cuts the original part out of a tensor of its size.
    """
    spatial = x.shape[2:]
    extra = [-size % m for size, m in zip(spatial, multiple, strict=True)]
    crop = (slice(None), slice(None), *(slice(0, size) for size in spatial))
    if not any(extra):
        return x, crop
    pads = [pad for amount in reversed(extra) for pad in (0, amount)]
    return F.pad(x, pads, mode="replicate"), crop


def init_he(module: nn.Module) -> None:
    """Initialise the convolutions below `module` as He et al. 2015 (arXiv:1502.01852), biases at zero.

    On torch's meta device, where a network is built only to see whether it can be, there is nothing to initialise.
    """
    for layer in module.modules():
        if isinstance(layer, _CONVOLUTIONS) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, a=_LEAK)
            if layer.bias is not None:
                with torch.no_grad():
                    layer.bias.zero_()
