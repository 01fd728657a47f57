"""The standard U-Net in two and three dimensions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from medseg.errors import UsageError
from medseg.networks.blocks import (
    CONV,
    DROPOUT,
    POOL,
    TRANSPOSED,
    Act,
    Norm,
    Sizes,
    conv_norm_act,
    init_he,
    pad_to_multiple,
)

DEFAULT_CHANNELS = (64, 128, 256, 512, 1024)


class UNet(nn.Module):
    """Encoder and decoder joined by concatenated skips.

    Each stage is two convolution-norm-activation units; max pooling leads down, a transposed convolution up.
    Input of any size: it is padded inside and the output is cropped back.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        num_classes: Output channels, background included.
        channels: Feature channels of each stage, the finest first; its length is the depth.
        norm: Normalisation of every unit.
        act: Activation of every unit.
        kernel_sizes: Kernel of each stage, one number an axis; 3 everywhere by default.
        strides: Pooling between the stages, one number an axis; 2 everywhere by default. Use 1 along a thick
            slice axis.
        dropout: Probability of dropping a channel of the two deepest stages, while training.

    Raises:
        UsageError: The lists do not have one entry a stage (kernels) or between two stages (strides), a kernel is
            even, there are no channels, or the dropout is no probability below 1.

    Source: Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597); Çiçek et al. 2016 (arXiv:1606.06650). Padded
    convolutions with normalisation, as became usual since.
    """

    def __init__(  # noqa: PLR0913 - what a config may set is flat
        self,
        spatial_dims: Literal[2, 3],
        in_channels: int,
        num_classes: int,
        *,
        channels: Sizes = DEFAULT_CHANNELS,
        norm: Norm = "batch",
        act: Act = "relu",
        kernel_sizes: tuple[Sizes, ...] | None = None,
        strides: tuple[Sizes, ...] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        depth = len(channels)
        kernels = ((3,) * spatial_dims,) * depth if kernel_sizes is None else kernel_sizes
        self.strides = ((2,) * spatial_dims,) * (depth - 1) if strides is None else strides
        _check_numbers(channels, kernels, dropout)
        _check_stages("kernel_sizes", kernels, depth, spatial_dims)
        _check_stages("strides", self.strides, depth - 1, spatial_dims)

        def stage(inputs: int, level: int) -> nn.Sequential:
            units = [
                conv_norm_act(spatial_dims, i, channels[level], kernel=kernels[level], norm=norm, act=act)
                for i in (inputs, channels[level])
            ]
            drop = DROPOUT[spatial_dims](dropout) if dropout and level >= depth - 2 else nn.Identity()
            return nn.Sequential(*units, drop)

        self.encoder = nn.ModuleList(
            stage(inputs, level) for level, inputs in enumerate((in_channels, *channels[:-1]))
        )
        self.pools = nn.ModuleList(POOL[spatial_dims](stride) for stride in self.strides)
        self.ups = nn.ModuleList(
            TRANSPOSED[spatial_dims](channels[n + 1], channels[n], stride, stride)
            for n, stride in enumerate(self.strides)
        )
        self.decoder = nn.ModuleList(stage(2 * channels[level], level) for level in range(depth - 1))
        self.head = CONV[spatial_dims](channels[0], num_classes, kernel_size=1)
        self.multiple = tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(spatial_dims))
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, *spatial) to logits (B, K, *spatial)."""
        x, crop = pad_to_multiple(x, self.multiple)
        skips: list[Tensor] = []
        for stage, pool in zip(self.encoder, self.pools, strict=False):
            x = stage(x)  # (B, channels[level], *spatial / stride)
            skips.append(x)
            x = pool(x)
        x = self.encoder[-1](x)
        for level in reversed(range(len(skips))):
            x = self.decoder[level](torch.cat((skips[level], self.ups[level](x)), dim=1))
        return self.head(x)[crop]  # type: ignore[no-any-return]


def _check_numbers(channels: Sizes, kernels: tuple[Sizes, ...], dropout: float) -> None:
    for field, right, expected, found in (
        ("channels", channels and min(channels) >= 1, "one positive number a stage", list(channels)),
        (
            "kernel_sizes",
            all(size % 2 == 1 for kernel in kernels for size in kernel),
            "odd numbers, which keep the size",
            [list(kernel) for kernel in kernels],
        ),
        ("dropout", 0 <= dropout < 1, "a probability from 0 to below 1", dropout),
    ):
        if not right:
            raise UsageError(f"network.{field}", expected=expected, found=str(found), remedy="correct it")


def _check_stages(field: str, values: tuple[Sizes, ...], count: int, spatial_dims: int) -> None:
    if len(values) != count or any(len(value) != spatial_dims or min(value) < 1 for value in values):
        raise UsageError(
            f"network.{field}",
            expected=f"{count} entries of {spatial_dims} positive numbers",
            found=str([list(v) for v in values]),
            remedy="give one entry for each stage (kernels) or between two stages (strides)",
        )
