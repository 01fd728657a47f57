"""The layers that the networks share, for two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.networks.instance_norm import InstanceNorm

Dims = Literal[2, 3]
Norm = Literal["batch", "instance", "group", "none"]
Act = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu"]
Sizes = tuple[int, ...]

Layer = Callable[..., nn.Module]

_CONV: dict[int, Layer] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Layer] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_MAX_POOL: dict[int, Layer] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_MEAN_POOL: dict[int, Layer] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_DROPOUT: dict[int, Layer] = {2: nn.Dropout2d, 3: nn.Dropout3d}
_BATCH: dict[int, Layer] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_PAD: dict[int, Layer] = {2: nn.ConstantPad2d, 3: nn.ConstantPad3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_GROUPS = 8
_SMALLEST_GROUP = 4  # channels
_LEAK = 0.01
_WIDEST = 64
_ROUND_TO = 8  # channels that a width multiplier leaves


@dataclass(frozen=True)
class Layers:
    """Makes the layers of one network, all of one kind.

    Sizes may be one number for all axes or one for each.

    Attributes:
        dims: 2 or 3.
        norm: Normalisation; ``group`` takes 8 groups, or fewer, of at least 4 channels.
        act: Activation.
    """

    dims: Dims
    norm: Norm
    act: Act

    def conv(  # noqa: PLR0913 - the arguments of a convolution
        self,
        inputs: int,
        outputs: int,
        kernel: int | Sizes = 3,
        *,
        stride: int | Sizes = 1,
        dilation: int | Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padded: bool = True,
    ) -> nn.Module:
        """Return a convolution that divides the size by its stride, rounding up; one that cuts if not `padded`."""
        kernels, dilations = self.sizes(kernel), self.sizes(dilation)
        padding = tuple(d * (k // 2) for k, d in zip(kernels, dilations, strict=True)) if padded else 0
        return _CONV[self.dims](
            inputs,
            outputs,
            kernels,
            stride=self.sizes(stride),
            padding=padding,
            dilation=dilations,
            groups=groups,
            bias=bias,
        )

    def unit(
        self,
        inputs: int,
        outputs: int,
        kernel: int | Sizes = 3,
        *,
        stride: int | Sizes = 1,
        dilation: int | Sizes = 1,
        padded: bool = True,
        bias: bool | None = None,
    ) -> nn.Sequential:
        """Return convolution, normalisation, activation.

        The convolution has a bias only where no normalisation follows, which would cancel it, unless told.
        """
        has_bias = self.norm == "none" if bias is None else bias
        conv = self.conv(inputs, outputs, kernel, stride=stride, dilation=dilation, bias=has_bias, padded=padded)
        return nn.Sequential(conv, self.make_norm(outputs), self.make_act())

    def separable(
        self, inputs: int, outputs: int, kernel: int | Sizes = 3, *, dilation: int | Sizes = 1
    ) -> nn.Sequential:
        """Return a depthwise and a pointwise convolution, each with normalisation and activation.

        Source: Chollet 2017 (arXiv:1610.02357), in the order of Chen et al. 2018 (arXiv:1802.02611).
        """
        has_bias = self.norm == "none"
        return nn.Sequential(
            self.conv(inputs, inputs, kernel, dilation=dilation, groups=inputs, bias=has_bias),
            self.make_norm(inputs),
            self.make_act(),
            *self.unit(inputs, outputs, 1),
        )

    def transposed(self, inputs: int, outputs: int, stride: int | Sizes) -> nn.Module:
        """Return a transposed convolution whose kernel is its stride: voxels do not overlap."""
        sizes = self.sizes(stride)
        return _TRANSPOSED[self.dims](inputs, outputs, sizes, sizes)

    def max_pool(self, kernel: int | Sizes, stride: int | Sizes, *, padded: bool = False) -> nn.Module:
        """Return max pooling; `padded`, with an odd kernel, it divides the size by its stride, rounding up."""
        kernels = self.sizes(kernel)
        padding = tuple(k // 2 for k in kernels) if padded else 0
        return _MAX_POOL[self.dims](kernels, self.sizes(stride), padding)

    def mean_pool(self, kernel: int | Sizes, stride: int | Sizes) -> nn.Module:
        """Return average pooling, without padding."""
        return _MEAN_POOL[self.dims](self.sizes(kernel), self.sizes(stride))

    def zero_pad(self, amount: Sizes) -> nn.Module:
        """Return padding with zeros on both sides of each axis."""
        return _PAD[self.dims]([n for size in reversed(amount) for n in (size, size)], 0.0)

    def make_dropout(self, probability: float) -> nn.Module:
        """Return a layer that drops whole channels while training."""
        return _DROPOUT[self.dims](probability) if probability else nn.Identity()

    def make_norm(self, channels: int) -> nn.Module:
        """Return a normalisation layer."""
        if self.norm == "batch":
            return _BATCH[self.dims](channels)
        if self.norm == "instance":
            return InstanceNorm(channels)
        if self.norm == "group":
            most = max(1, min(_GROUPS, channels // _SMALLEST_GROUP))
            return nn.GroupNorm(next(g for g in range(most, 0, -1) if channels % g == 0), channels)
        return nn.Identity()

    def make_act(self, *, inplace: bool = True) -> nn.Module:
        """Return an activation layer."""
        layers: dict[str, nn.Module] = {
            "relu": nn.ReLU(inplace),
            "leaky_relu": nn.LeakyReLU(_LEAK, inplace),
            "prelu": nn.PReLU(),
            "elu": nn.ELU(inplace=inplace),
            "gelu": nn.GELU(),
            "silu": nn.SiLU(inplace),
        }
        return layers[self.act]

    def resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Interpolate (B, C, *spatial) linearly to a size; the outer faces of both grids coincide."""
        if tuple(x.shape[2:]) == tuple(size):
            return x
        return F.interpolate(x, size=tuple(size), mode=_LINEAR[self.dims], align_corners=False)

    def sizes(self, size: int | Sizes) -> Sizes:
        """Return one number for each axis."""
        return (size,) * self.dims if isinstance(size, int) else size


def widen(channels: Sequence[int], multiplier: float) -> Sizes:
    """Multiply numbers of channels; the products are rounded to multiples of 8, and are at least 8."""
    if not 0 < multiplier < _WIDEST:
        raise UsageError(
            "network.width_multiplier",
            expected=f"a positive number below {_WIDEST}",
            found=str(multiplier),
            remedy="correct it",
        )
    if multiplier == 1:
        return tuple(channels)
    return tuple(max(_ROUND_TO, round(c * multiplier / _ROUND_TO) * _ROUND_TO) for c in channels)


def pad_to_multiple(x: Tensor, multiple: Sequence[int]) -> Tensor:
    """Pad the spatial axes of (B, C, *spatial) at their far ends, by repeating the edge, to multiples."""
    extra = [-size % m for size, m in zip(x.shape[2:], multiple, strict=True)]
    if not any(extra):
        return x
    pads = [pad for amount in reversed(extra) for pad in (0, amount)]
    return F.pad(x, pads, mode="replicate")


def crop_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the near corner of a size out of (B, C, *spatial)."""
    return x[(slice(None), slice(None), *(slice(0, n) for n in size))]


def init_he(module: nn.Module) -> None:
    """Initialise the convolutions below `module` as He et al. 2015 (arXiv:1502.01852), biases at zero.

    On torch's meta device, where a network is built only to see whether it can be, there is nothing to initialise.
    """
    for layer in module.modules():
        if isinstance(layer, CONVOLUTIONS) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, a=_LEAK)
            if layer.bias is not None:
                with torch.no_grad():
                    layer.bias.zero_()


def check_dropout(dropout: float) -> None:
    """Refuse what is no probability below 1.

    Raises:
        UsageError: It is not.
    """
    if not 0 <= dropout < 1:
        raise UsageError(
            "network.dropout",
            expected="a probability from 0 to below 1",
            found=str(dropout),
            remedy="correct it",
        )
