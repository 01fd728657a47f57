"""Networks made ready for inference: what training needs and inference does not is taken out.

Batch normalisation that does not learn multiplies each channel by one number and adds another; the convolution
before it can do both with other weights and biases. Instance normalisation depends on the image, hence cannot be
folded, but it need not keep the features that it normalises. On the CPU, oneDNN computes small convolutions too:
torch takes its own for them, half as fast, which leaves the features in plain order for all layers that follow.
Logits are better in plain order, each class by itself, since they are added up and compared class by class.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.networks.blocks import CONVOLUTIONS
from medseg.networks.decoder import Decoder
from medseg.networks.instance_norm import InstanceNorm

BatchNorm = nn.BatchNorm2d | nn.BatchNorm3d
Convolution = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d

_NAMED = {"bn1": "conv1", "bn2": "conv2", "bn3": "conv3", "norm": "conv"}  # outside of sequences
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)


def fuse(network: nn.Module) -> nn.Module:
    """Fold batch normalisation into the convolution before it, and spare memory and reordering, in place.

    The outputs are those of the network in evaluation mode, up to rounding; it cannot be trained any more, and its
    weights no longer have the names and values of a model package.

    Args:
        network: With its final weights.

    Returns:
        The same network, in evaluation mode.

    Source: Jacob et al. 2018 (arXiv:1712.05877), section 3.2, equation 14.
    """
    network.eval()
    for module in list(network.modules()):
        for first, second in _neighbours(module):
            conv, norm = getattr(module, first), getattr(module, second)
            if isinstance(conv, CONVOLUTIONS) and isinstance(norm, BatchNorm) and norm.track_running_stats:
                _fold(conv, norm)
                setattr(module, second, nn.Identity())
            elif isinstance(conv, CONVOLUTIONS) and isinstance(norm, InstanceNorm):
                norm.inplace = True
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        _compute_directly(network)
    return network


class DirectConvolution(nn.Module):
    """A convolution that oneDNN computes whatever its size, where the features are float32 on the CPU.

    Args:
        conv: Its weights and sizes.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, *spatial)."""
        c = self.conv
        if not _is_plain_cpu(x) or isinstance(c.padding, str):
            return c(x)  # type: ignore[no-any-return]
        return torch.mkldnn_convolution(x, c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups)


class DirectHead(nn.Module):
    """A convolution of single voxels, of whatever order, to logits in plain order: one matrix product.

    Args:
        conv: Its weights.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, *spatial) to logits (B, K, *spatial)."""
        conv = self.conv
        if not _is_plain_cpu(x) or conv.bias is None:
            return conv(x)  # type: ignore[no-any-return]
        places = x.movedim(1, -1).reshape(len(x), -1, conv.in_channels)  # (B, n, C): a view where channels are last
        weight = conv.weight.view(1, conv.out_channels, conv.in_channels).expand(len(x), -1, -1)
        logits = torch.baddbmm(conv.bias.view(1, -1, 1), weight, places.mT)
        return logits.view(len(x), conv.out_channels, *x.shape[2:])


def _is_plain_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _compute_directly(module: nn.Module) -> None:
    """Wrap the convolutions below a module, but for those of single voxels in between."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d | nn.Conv3d):
            if max(child.kernel_size) > 1:
                setattr(module, name, DirectConvolution(child))
        elif isinstance(module, Decoder) and child is module.heads:
            for level, head in enumerate(module.heads):
                if isinstance(head, nn.Conv2d | nn.Conv3d):
                    module.heads[level] = DirectHead(head)
        else:
            _compute_directly(child)


def _neighbours(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of children of which the second takes what the first gives, and nothing else does."""
    names = [name for name, _ in module.named_children()]
    if isinstance(module, nn.Sequential):
        yield from pairwise(names)
    else:
        yield from ((_NAMED[name], name) for name in names if _NAMED.get(name) in names)


@torch.no_grad()
def _fold(conv: Convolution, norm: BatchNorm) -> None:
    """Let a convolution give what the normalisation would have made of its output.

    With weight g, bias b, running mean m and variance v, the normalisation is y -> s (y - m) + b where
    s = g / sqrt(v + eps): weights are multiplied by s, the bias c becomes s (c - m) + b.
    """
    mean, variance = _exact(norm.running_mean, conv, 0), _exact(norm.running_var, conv, 1)
    scale = _exact(norm.weight, conv, 1) / (variance + norm.eps).sqrt()
    bias = (_exact(conv.bias, conv, 0) - mean) * scale + _exact(norm.bias, conv, 0)
    kernel = conv.weight.double()
    if isinstance(conv, _TRANSPOSED):  # (inputs, outputs / groups, *kernel): inputs of a group stand together
        per_input = scale.view(conv.groups, 1, -1).expand(-1, conv.in_channels // conv.groups, -1).flatten(0, 1)
        kernel = kernel * per_input.view(*kernel.shape[:2], *[1] * (kernel.ndim - 2))
    else:
        kernel = kernel * scale.view(-1, *[1] * (kernel.ndim - 1))
    conv.weight.copy_(kernel)
    conv.bias = nn.Parameter(bias.to(conv.weight))


def _exact(values: Tensor | None, conv: Convolution, absent: float) -> Tensor:
    """Return one float64 number for each output channel."""
    if values is None:
        return torch.full((conv.out_channels,), absent, dtype=torch.float64, device=conv.weight.device)
    return values.double()
