"""U-Net: published parameter count, an independent forward, any input size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.networks import build_network


def small(dims: int, **fields):
    return build_network(
        "unet", spatial_dims=dims, in_channels=1, num_classes=3, **{"channels": (4, 8, 16)} | fields
    )


def test_parameter_count_at_the_defaults():
    network = build_network("unet", spatial_dims=2, in_channels=1, num_classes=2)
    assert sum(p.numel() for p in network.parameters()) == 31_036_546


@pytest.mark.parametrize(("dims", "size"), [(2, (17, 31)), (3, (9, 14, 11)), (2, (1, 1)), (3, (5, 4, 1))])
def test_output_has_the_size_of_any_input(dims, size):
    network = small(dims).eval()
    assert network(torch.randn(1, 1, *size)).shape == (1, 3, *size)


def straight_line_forward(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The architecture of the paper's figure 1, padded and normalised, written out for three stages in 2-D."""
    w = dict(network.state_dict())

    def unit(x, name):
        x = F.conv2d(x, w[f"{name}.0.weight"], padding=1)
        x = F.batch_norm(x, w[f"{name}.1.running_mean"], w[f"{name}.1.running_var"], w[f"{name}.1.weight"],
                         w[f"{name}.1.bias"])  # fmt: skip
        return torch.relu(x)

    def double(x, name):
        return unit(unit(x, f"{name}.0"), f"{name}.1")

    def up(x, n):
        return F.conv_transpose2d(x, w[f"ups.{n}.weight"], w[f"ups.{n}.bias"], stride=2)

    a = double(x, "encoder.0")
    b = double(F.max_pool2d(a, 2), "encoder.1")
    c = double(F.max_pool2d(b, 2), "encoder.2")
    d = double(torch.cat([b, up(c, 1)], 1), "decoder.1")
    e = double(torch.cat([a, up(d, 0)], 1), "decoder.0")
    return F.conv2d(e, w["head.weight"], w["head.bias"])


def test_equals_a_straight_line_forward():
    torch.manual_seed(0)
    network = small(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    x = torch.randn(2, 1, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), straight_line_forward(network, x))


def test_strides_and_kernels_of_an_anisotropic_network():
    network = small(3, kernel_sizes=((3, 3, 1), (3, 3, 3), (3, 3, 3)), strides=((2, 2, 1), (2, 2, 2)))
    assert network.multiple == (4, 4, 2)
    assert network.encoder[0][0][0].kernel_size == (3, 3, 1)
    assert network(torch.randn(2, 1, 8, 8, 5)).shape == (2, 3, 8, 8, 5)


def test_wrong_number_of_strides_is_refused_with_the_number_that_works():
    with pytest.raises(UsageError, match=r"network\.strides: expected 2 entries of 3 positive numbers"):
        small(3, strides=((2, 2, 2),))


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize("act", ["relu", "leaky_relu", "prelu", "elu", "gelu", "silu"])
def test_every_norm_and_act_takes_a_gradient_step(norm, act):
    network = small(2, norm=norm, act=act, dropout=0.2)
    network(torch.randn(2, 1, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_only_convolutions_without_a_norm_have_a_bias():
    assert small(2, norm="none").encoder[0][0][0].bias is not None
    assert small(2, norm="batch").encoder[0][0][0].bias is None


def test_unknown_network_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'unet'"):
        build_network("unett", spatial_dims=2, in_channels=1, num_classes=2)
