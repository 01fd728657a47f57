"""Channels, kernels and strides of a U-Net's stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.errors import UsageError
from medseg.networks.anisotropy import spared, thick_axes
from medseg.networks.blocks import Sizes, widen

DEFAULT_CHANNELS = (64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Stages:
    """The stages of an encoder, the finest first.

    Attributes:
        channels: Feature channels of each stage.
        kernels: Kernel of each stage, one odd number an axis.
        strides: From each stage to the next, one number an axis.
    """

    channels: Sizes
    kernels: tuple[Sizes, ...]
    strides: tuple[Sizes, ...]

    @property
    def multiple(self) -> Sizes:
        """The voxels along each axis that become one in the last stage."""
        return self.downsampling(len(self.channels) - 1)

    @property
    def output_strides(self) -> tuple[Sizes, ...]:
        """The voxels along each axis that become one in each stage of the decoder, the finest first."""
        return tuple(self.downsampling(level) for level in range(len(self.strides)))

    def downsampling(self, level: int) -> Sizes:
        """Return the voxels along each axis that become one in a stage."""
        return tuple(math.prod(axis) for axis in zip(*self.strides[:level], strict=True)) or (1,) * len(
            self.kernels[0]
        )


def make_stages(
    dims: int,
    channels: Sizes,
    *,
    width_multiplier: float,
    kernel_sizes: tuple[Sizes, ...] | None,
    strides: tuple[Sizes, ...] | None,
    spacing_mm: Sequence[float] | None,
) -> Stages:
    """Complete and check what a config says of a U-Net's stages.

    Args:
        dims: 2 or 3.
        channels: Of each stage before `width_multiplier`.
        width_multiplier: Of all channels.
        kernel_sizes: Of each stage; by default 3, and 1 along axes that are thick there.
        strides: Between the stages; by default 2, and 1 along axes that are thick there.
        spacing_mm: Of the network's input, which says which axes are thick.

    Raises:
        UsageError: The lists do not have one entry a stage (kernels) or between two stages (strides), a kernel is
            even, or there are fewer than two stages.
    """
    depth = len(channels)
    thick = thick_axes(spacing_mm, dims, depth)
    kernels = tuple(spared(3, axes) for axes in thick) if kernel_sizes is None else kernel_sizes
    steps = tuple(spared(2, axes) for axes in thick[:-1]) if strides is None else strides
    if depth < 2 or min(channels) < 1:
        raise _unfit("channels", "one positive number a stage, of two stages or more", list(channels))
    _check_entries("kernel_sizes", kernels, depth, dims)
    _check_entries("strides", steps, depth - 1, dims)
    if any(size % 2 == 0 for kernel in kernels for size in kernel):
        raise _unfit("kernel_sizes", "odd numbers, which keep the size", [list(kernel) for kernel in kernels])
    return Stages(widen(channels, width_multiplier), kernels, steps)


def per_stage(field: str, units: int | Sizes, count: int) -> Sizes:
    """Return how many convolutions each stage has.

    Args:
        field: What a config calls it, for the message.
        units: For all stages, or for each of them.
        count: Of the stages.

    Raises:
        UsageError: There is neither one positive number nor one a stage.
    """
    numbers = (units,) * count if isinstance(units, int) else tuple(units)
    if len(numbers) != count or min(numbers) < 1:
        raise _unfit(field, f"one positive number, or one for each of {count} stages", units)
    return numbers


def _check_entries(field: str, values: tuple[Sizes, ...], count: int, dims: int) -> None:
    if len(values) != count or any(len(value) != dims or min(value) < 1 for value in values):
        raise UsageError(
            f"network.{field}",
            expected=f"{count} entries of {dims} positive numbers",
            found=str([list(v) for v in values]),
            remedy="give one entry for each stage (kernels) or between two stages (strides)",
        )


def _unfit(field: str, expected: str, found: object) -> UsageError:
    return UsageError(f"network.{field}", expected=expected, found=str(found), remedy="correct it")
