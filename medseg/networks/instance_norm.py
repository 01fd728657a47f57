"""Instance normalisation in either memory order.

torch's own reorders channels-last features to normalise them, forward and backward, which on the CPU takes longer
than the arithmetic. Its group normalisation does not, but sums squares without centring them: at a mean of 3
standard deviations 4e-4 are lost.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable


class InstanceNorm(nn.Module):
    """Instance normalisation with weight and bias, of any size: a single place, equal to its mean, gives the bias.

    torch's own refuses a single place, and with it every image as small as the network's coarsest voxel.

    Attributes:
        inplace: Without gradients, the result may take the place of the features, which nothing else uses.

    Source: Ulyanov et al. 2016 (arXiv:1607.08022).
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each image of (B, C, *spatial)."""
        if x.shape[2:].numel() == 1:
            return (x - x) * _by_channel(self.weight, x) + _by_channel(self.bias, x)
        if x.device.type == "cpu" and x.dtype == torch.float32 and _is_channels_last(x):
            if not torch.is_grad_enabled():
                return self._normalize(x, x if self.inplace else torch.empty_like(x))
            apply: Callable[..., Tensor] = _ChannelsLast.apply
            return apply(x, self.weight, self.bias, self.eps)
        use_cudnn = torch.backends.cudnn.enabled
        return torch.instance_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps, use_cudnn)

    def _normalize(self, x: Tensor, out: Tensor) -> Tensor:
        """Normalise channels-last images one by one, each as a batch of its own: half the passes over memory."""
        mean, inverse_std = torch.empty_like(self.weight), torch.empty_like(self.weight)
        for n in range(len(x)):
            torch.native_batch_norm(
                x[n : n + 1],
                self.weight,
                self.bias,
                None,
                None,
                True,
                0.0,
                self.eps,
                out=(out[n : n + 1], mean, inverse_std),
            )
        return out


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _is_channels_last(x: Tensor) -> bool:
    order = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.ndim in (4, 5) and x.is_contiguous(memory_format=order) and not x.is_contiguous()


class _ChannelsLast(Function):
    """The normalisation in sums over places and sums of products, which keep the order of the features."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        places = tuple(range(2, x.ndim))
        centred = x - x.mean(places, keepdim=True)
        inverse_std = ((centred * centred).mean(places, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(centred, inverse_std, weight)
        return torch.addcmul(_by_channel(bias, x), centred, inverse_std * _by_channel(weight, x))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With x' = centred / std and g the gradient: std / weight * dx = g - mean(g) - x' mean(g x')."""
        centred, inverse_std, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        places = tuple(range(2, gradient.ndim))
        of_bias = gradient.sum(places, keepdim=True)
        of_weight = (gradient * centred).sum(places, keepdim=True) * inverse_std
        scale = inverse_std * _by_channel(weight, gradient)
        number = gradient.shape[2:].numel()
        dx = torch.addcmul(-scale * of_bias / number, gradient, scale)
        dx.addcmul_(centred, -scale * inverse_std * of_weight / number)
        return dx, of_weight.sum((0, *places)), of_bias.sum((0, *places)), None
