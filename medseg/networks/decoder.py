"""The expanding path that the U-Nets share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.networks.attention import Attention, make_gate
from medseg.networks.blocks import Layers, Sizes, crop_to
from medseg.networks.stages import Stages, per_stage

Logits = Tensor | list[Tensor]


class Decoder(nn.Module):
    """From the coarsest features to the finest: transposed convolution, concatenated skip, convolutions.

    Args:
        layers: The network's.
        stages: Channels, kernels and strides of the encoder's stages, the finest first.
        num_classes: Output channels.
        units: Convolutions of every stage, or of each one, the finest first.
        attention: ``gate`` puts gates on the skips.
        deep_supervision: Give logits at every stage while training.
        padded: Convolutions keep the size; otherwise they cut, and so do the skips.
        bias: Whether convolutions have biases; None: where no normalisation follows.
    """

    def __init__(  # noqa: PLR0913 - what the two U-Nets vary
        self,
        layers: Layers,
        stages: Stages,
        num_classes: int,
        *,
        units: int | Sizes = 2,
        attention: Attention = "none",
        deep_supervision: bool = False,
        padded: bool = True,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        channels, levels = stages.channels, range(len(stages.channels) - 1)
        convolutions = per_stage("decoder_units", units, len(levels))

        def stage(level: int) -> nn.Sequential:
            inputs = [2 * channels[level], *[channels[level]] * (convolutions[level] - 1)]
            kernel = stages.kernels[level]
            return nn.Sequential(
                *(layers.unit(i, channels[level], kernel, padded=padded, bias=bias) for i in inputs)
            )

        self.ups = nn.ModuleList(layers.transposed(channels[n + 1], channels[n], stages.strides[n]) for n in levels)
        self.gates = nn.ModuleList(make_gate(attention, layers, channels[n], channels[n]) for n in levels)
        self.stages = nn.ModuleList(stage(n) for n in levels)
        self.heads = nn.ModuleList(
            layers.conv(channels[n], num_classes, 1) for n in (levels if deep_supervision else levels[:1])
        )

    def forward(self, features: Sequence[Tensor]) -> Logits:
        """Map the encoder's features, the finest first, to logits (B, K, *spatial).

        Returns:
            The finest logits; with deep supervision, while training, those of every stage, the finest first.
        """
        x = features[-1]
        heads: list[Tensor] = []
        for level in reversed(range(len(self.stages))):
            x = self.ups[level](x)
            skip = self.gates[level](_centre(features[level], x.shape[2:]), x)
            x = self.stages[level](torch.cat((x, skip), dim=1))
            if level == 0 or (self.deep_supervision and self.training):
                heads.append(self.heads[level](x))
        return heads[::-1] if self.deep_supervision and self.training else heads[-1]

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the coarsest stage to the finest, and the heads last."""
        levels = reversed(range(len(self.stages)))
        return [*([self.ups[n], self.gates[n], self.stages[n]] for n in levels), [self.heads]]


def crop_logits(logits: Logits, size: Sequence[int], stages: Stages) -> Logits:
    """Cut an image's part out of the logits of the image padded at its far ends.

    Args:
        logits: Of every stage, the finest first, or of the finest.
        size: Of the image.
        stages: Of the network.

    Returns:
        Logits of the image's size; of coarser stages, of the voxels that reach into the image.
    """
    if isinstance(logits, Tensor):
        return crop_to(logits, size)
    return [
        crop_to(x, [-(-n // step) for n, step in zip(size, stages.downsampling(level), strict=True)])
        for level, x in enumerate(logits)
    ]


def _centre(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the centre of a size out of (B, C, *spatial)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    starts = [(have - want) // 2 for have, want in zip(x.shape[2:], size, strict=True)]
    return x[(slice(None), slice(None), *(slice(start, start + n) for start, n in zip(starts, size, strict=True)))]
