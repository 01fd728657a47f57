"""What the backbones share: the choice of one, and how resolution falls through it until dilation takes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from medseg.networks.anisotropy import Thick, spared, thick_axes
from medseg.networks.attention import Attention
from medseg.networks.blocks import Dims, Layers, Sizes

ResNetName = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "xception65"]
FirstBlockDilation = Literal["prev", "full"]
Shortcut = Literal["A", "B"]

LOW = 1  # the feature map at stride 4 among an encoder's
HALVINGS = 5


class Encoder(Protocol):
    """A backbone.

    Attributes:
        name: Its own.
        channels: Of each of the five feature maps.
        kernels: Of a convolution on each of them, one number an axis: 3, or 1 along thick axes.
        strides: Of each of them, one number an axis; those at strides 8, 16 and 32 come last (where the output
            stride is smaller, at that), and the one at stride 4 second.
    """

    name: BackboneName
    channels: Sizes
    kernels: tuple[Sizes, ...]
    strides: tuple[Sizes, ...]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of images (B, C, *spatial)."""

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image on."""


@dataclass(frozen=True)
class Backbone:
    """What a network asks of its backbone.

    Attributes:
        name: Which.
        in_channels: Image channels.
        output_stride: 8, 16 or 32: where it is reached, further strides become dilation.
        multi_grid: Dilation of the last stage's blocks (ResNet) or convolutions (Xception), times the stage's; 1 if
            unset.
        first_block_dilation: Where dilation takes over from a stride: whether the first block of the stage has the
            dilation before it (``prev``) or already its own (``full``).
        shortcut: Of a ResNet: A pads with zeros, B projects (He et al. 2016).
        attention: ``se`` or ``cbam`` recalibrates each feature map.
        width_multiplier: Of all channels.
        spacing_mm: Of the input, which says which axes are thick.
    """

    name: BackboneName
    in_channels: int
    output_stride: Literal[8, 16, 32] = 32
    multi_grid: Sequence[int] | None = None
    first_block_dilation: FirstBlockDilation = "prev"
    shortcut: Shortcut = "B"
    attention: Attention = "none"
    width_multiplier: float = 1.0
    spacing_mm: Sequence[float] | None = None

    def grid(self, block: int) -> int:
        """Return the multi-grid dilation of a block of the last stage."""
        return self.multi_grid[block % len(self.multi_grid)] if self.multi_grid else 1


class Descent:
    """Follows the resolution down a backbone that is being built.

    Attributes:
        dilation: Where this far down.
        stride: Voxels of the input that have become one, along each axis.
    """

    def __init__(self, dims: Dims, spec: Backbone) -> None:
        self._thick = thick_axes(spec.spacing_mm, dims, HALVINGS + 1)
        self._last = {8: 3, 16: 4, 32: 5}[spec.output_stride]
        self._level = 0
        self.dilation = 1
        self.stride: Sizes = (1,) * dims

    @property
    def thick(self) -> Thick:
        """The axes that are left alone here."""
        return self._thick[self._level]

    def kernel(self, size: int = 3) -> Sizes:
        """Return the kernel of a convolution here."""
        return spared(size, self.thick)

    def halve(self) -> Sizes:
        """Go a stage down; return the stride that leads there, which is 1 where dilation takes over."""
        if self._level == self._last:
            self.dilation *= 2
            return (1,) * len(self.stride)
        step = spared(2, self.thick)
        self._level += 1
        self.stride = tuple(a * b for a, b in zip(self.stride, step, strict=True))
        return step


def refit(module: nn.Module, layers: Layers) -> None:
    """Replace every batch normalisation and ReLU below `module` by the network's own kinds, wherever they are."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(module, name, layers.make_norm(child.num_features))
        elif isinstance(child, nn.ReLU):
            setattr(module, name, layers.make_act())
        else:
            refit(child, layers)
