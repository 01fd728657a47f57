"""Atrous spatial pyramid pooling, and the rates of its branches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from operator import and_
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.networks.blocks import Layers, Sizes

Rates = Literal["paper", "auto"] | tuple[int | tuple[int, ...], ...]


class ASPP(nn.Module):
    """A 1x1 convolution, convolutions at several rates and the image's mean, side by side, then merged.

    Args:
        layers: The network's.
        inputs: Channels in.
        outputs: Channels of each branch and of the result.
        rates: Dilation of each atrous branch, one number an axis.
        kernel: Of the atrous branches.
        separable: Whether the atrous branches are depthwise separable.
        dropout: Probability of dropping a channel of the result, while training.

    Source: Chen et al. 2017 (arXiv:1706.05587), section 3.3.
    """

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        rates: Sequence[Sizes],
        *,
        kernel: Sizes,
        separable: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        branch = layers.separable if separable else layers.unit
        self.branches = nn.ModuleList(
            [
                layers.unit(inputs, outputs, 1),
                *(branch(inputs, outputs, kernel, dilation=rate) for rate in rates),
                ImagePooling(layers, inputs, outputs),
            ]
        )
        self.project = nn.Sequential(
            layers.unit((len(rates) + 2) * outputs, outputs, 1), layers.make_dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *spatial) to (B, outputs, *spatial)."""
        ys = [branch(x) for branch in self.branches]
        ys[-1] = torch.empty_like(ys[0]).copy_(ys[-1])  # laid out as the others: channels-last survives the join
        merged: Tensor = self.project(torch.cat(ys, dim=1))
        return merged


class ImagePooling(nn.Module):
    """The mean of the whole feature map through a 1x1 convolution, at every place.

    One value a channel has no spread of its own: where batch normalisation meets a single image, it uses its
    running statistics; instance normalisation gives way to group normalisation.
    """

    def __init__(self, layers: Layers, inputs: int, outputs: int) -> None:
        super().__init__()
        safe = Layers(layers.dims, "group", layers.act) if layers.norm == "instance" else layers
        self.conv, self.norm, self.act = safe.unit(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *spatial) to (B, outputs, *spatial)."""
        y = self.conv(x.mean(dim=list(range(2, x.ndim)), keepdim=True))  # (B, outputs, 1...)
        if len(y) == 1 and isinstance(self.norm, nn.BatchNorm2d | nn.BatchNorm3d):
            n = self.norm
            y = F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, training=False, eps=n.eps)
        else:
            y = self.norm(y)
        return self.act(y).expand(-1, -1, *x.shape[2:])  # type: ignore[no-any-return]


class SummedASPP(nn.Module):
    """Biased convolutions at several rates from features to scores, summed.

    Source: Chen et al. 2018 (arXiv:1606.00915), section 3.2.
    """

    def __init__(
        self, layers: Layers, inputs: int, num_classes: int, rates: Sequence[Sizes], kernel: Sizes
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(layers.conv(inputs, num_classes, kernel, dilation=rate) for rate in rates)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *spatial) to (B, num_classes, *spatial)."""
        total: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


def resolve_rates(
    rates: Rates,
    *,
    paper: Sequence[int],
    paper_size: int,
    patch_size: Sequence[int] | None,
    stride: Sizes,
    kernel: Sizes | None = None,
) -> tuple[Sizes, ...]:
    """Return the dilation of each branch along each axis.

    ``auto`` keeps each rate's share of the feature map as in the paper: 0.18, 0.36 and 0.55 of it for rates 6, 12
    and 18 on 33 places.

    Args:
        rates: Numbers, for all axes or for each; ``paper``; or ``auto``.
        paper: The paper's rates.
        paper_size: The size of the paper's feature map, which they were chosen for.
        patch_size: Voxels that the network is trained on.
        stride: Voxels that become one place of the feature map.
        kernel: Of the branches; 3 by default. Along axes where it is 1 no rate matters.

    Raises:
        UsageError: ``auto`` without a patch size, or rates that are not positive numbers.

    Warns:
        UserWarning: A rate reaches the size of the feature map along an axis.
    """
    dims = len(stride)
    if patch_size is not None and (len(patch_size) != dims or min(patch_size) < 1):
        raise UsageError(
            "network.patch_size", expected=f"{dims} positive numbers", found=str(patch_size), remedy="leave it out"
        )
    sizes = None if patch_size is None else [-(-n // step) for n, step in zip(patch_size, stride, strict=True)]
    if rates == "auto":
        if sizes is None:
            raise UsageError(
                "network.patch_size",
                expected="the patch size that the network is trained on, for rates: auto",
                found="none",
                remedy="give it, or the rates as numbers",
            )
        found = tuple(tuple(max(1, round(n * _share(rate, paper_size))) for n in sizes) for rate in paper)
        _warn_of_reach(found, sizes, kernel)
        return found
    given: Sequence[int | Sizes] = paper if rates == "paper" else rates
    full = tuple((rate,) * dims if isinstance(rate, int) else tuple(rate) for rate in given)
    if not full or any(len(rate) != dims or min(rate) < 1 for rate in full):
        raise UsageError(
            "network.rates",
            expected=f"positive numbers, or {dims} of them for each branch",
            found=str(rates),
            remedy="correct them, or write rates: auto",
        )
    if sizes is not None:
        _warn_of_reach(full, sizes, kernel)
    return full


def _share(rate: int, size: int) -> float:
    return round(rate / size, 2)


def _warn_of_reach(rates: Sequence[Sizes], sizes: Sequence[int], kernel: Sizes | None) -> None:
    axes = [axis for axis in range(len(sizes)) if kernel is None or kernel[axis] > 1]
    reach = [[rate[axis] >= sizes[axis] for axis in axes] for rate in rates]
    wide = [sizes[axis] > 1 for axis in axes]  # along a single place any rate is as good
    beyond = [
        rate for rate, far in zip(rates, reach, strict=True) if axes and (all(far) or any(map(and_, far, wide)))
    ]
    if beyond:
        warnings.warn(
            f"network.rates: {', '.join(str(rate) for rate in beyond)} reach the feature map's size {tuple(sizes)}:"
            " there such a branch is a 1x1 convolution; write rates: auto to fit them, or take larger patches",
            UserWarning,
            stacklevel=2,
        )
