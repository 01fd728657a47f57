"""Attention that any network can have: gates on its skips, or recalibration of each encoder stage's channels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medseg.errors import UsageError
from medseg.networks.blocks import Layers, Sizes

Attention = Literal["none", "gate", "se", "cbam"]

_REDUCTION = 16
_SPATIAL_KERNEL = 7


class SqueezeExcitation(nn.Module):
    """Weigh each channel by what the channels' means say.

    Source: Hu et al. 2018 (arXiv:1709.01507), reduction 16.
    """

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.excite = nn.Sequential(
            layers.conv(channels, hidden, 1), layers.make_act(), layers.conv(hidden, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weigh (B, C, *spatial)."""
        weight: Tensor = self.excite(_mean(x))  # (B, C, 1...)
        return x * weight


class CBAM(nn.Module):
    """Weigh each channel by means and maxima over space, then each place by mean and maximum over the channels.

    Args:
        layers: The network's.
        channels: Of the features.
        kernel: Of other convolutions here: along axes where it is 1, that of the places is 1 too.

    Source: Woo et al. 2018 (arXiv:1807.06521), reduction 16, kernel 7.
    """

    def __init__(self, layers: Layers, channels: int, kernel: int | Sizes = 3) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.channel = nn.Sequential(
            layers.conv(channels, hidden, 1), layers.make_act(), layers.conv(hidden, channels, 1)
        )
        self.place = layers.conv(2, 1, tuple(_SPATIAL_KERNEL if size > 1 else 1 for size in layers.sizes(kernel)))

    def forward(self, x: Tensor) -> Tensor:
        """Weigh (B, C, *spatial)."""
        x = x * (self.channel(_mean(x)) + self.channel(x.amax(dim=_spatial(x), keepdim=True))).sigmoid()
        both = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)  # (B, 2, *spatial)
        weight: Tensor = self.place(both).sigmoid()
        return x * weight


class AttentionGate(nn.Module):
    """Let through of a skip what the decoder asks for: x * sigmoid(psi(ReLU(Wx x + Wg g))).

    Args:
        layers: The network's.
        skip: Channels of the skip x.
        gate: Channels of the decoder's features g.

    Source: Oktay et al. 2018 (arXiv:1804.03999).
    """

    def __init__(self, layers: Layers, skip: int, gate: int) -> None:
        super().__init__()
        hidden = max(1, skip // 2)
        self.layers = layers
        self.from_skip = layers.conv(skip, hidden, 1, bias=False)
        self.from_gate = layers.conv(gate, hidden, 1)
        self.psi = layers.conv(hidden, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Weigh the skip (B, C, *spatial); the gate (B, G, *any) is interpolated to its size."""
        gate = self.layers.resize(self.from_gate(gate), skip.shape[2:])
        weight: Tensor = self.psi((self.from_skip(skip) + gate).relu()).sigmoid()  # (B, 1, *spatial)
        return skip * weight


class Ungated(nn.Module):
    """A skip without attention."""

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Return the skip."""
        return skip


def make_gate(attention: Attention, layers: Layers, skip: int, gate: int) -> nn.Module:
    """Return what a skip of `skip` channels goes through, beside decoder features of `gate` channels."""
    return AttentionGate(layers, skip, gate) if attention == "gate" else Ungated()


def recalibrate(attention: Attention, layers: Layers, channels: int, kernel: Sizes) -> nn.Module:
    """Return what the features of an encoder stage, whose convolutions have this kernel, go through."""
    if attention == "se":
        return SqueezeExcitation(layers, channels)
    if attention == "cbam":
        return CBAM(layers, channels, kernel)
    return nn.Identity()


def refuse_gate(attention: Attention, network: str) -> None:
    """Refuse gates on a network that has no skips.

    Raises:
        UsageError: They were asked for.
    """
    if attention == "gate":
        raise UsageError(
            "network.attention",
            expected=f"none, se or cbam: {network} has no skips to gate",
            found="gate",
            remedy="choose one of these, or a network with skips",
        )


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=_spatial(x), keepdim=True)
