"""FCN: transposed convolutions that interpolate, scores of finer features, any input size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.networks.fcn import Upsampling
from tests.networks.probes import scrambled, small

STRIDES = [
    (2, 2),
    (8, 8),
    (16, 16),
    (32, 32),
    (4, 1),
    (2, 2, 2),
    (8, 8, 8),
    (2, 2, 1),
    (16, 4, 2),
    (32, 1, 1),
    (16, 16, 16),
]
BIG = (32, 32, 32)


@pytest.mark.parametrize("learned", [True, False], ids=["learned", "fixed"])
@pytest.mark.parametrize("stride", [*STRIDES, BIG], ids=str)
def test_a_new_deconvolution_equals_interpolate_inside(stride, learned):
    """Beyond half a voxel from the border; there it sees the zeros outside."""
    channels = 1 if stride == BIG else 2
    x = torch.randn(1, channels, *(2 if step > 8 else 4 for step in stride))
    with torch.no_grad():
        found = Upsampling(channels, stride, learned=learned)(x)
    linear = "bilinear" if len(stride) == 2 else "trilinear"
    expected = F.interpolate(x, scale_factor=stride, mode=linear, align_corners=False)
    assert found.shape == expected.shape
    inside = (..., *(slice(step // 2, n - step // 2) for step, n in zip(stride, expected.shape[2:], strict=True)))
    torch.testing.assert_close(found[inside], expected[inside], rtol=1e-5, atol=1e-5)


def test_a_fixed_deconvolution_has_no_parameters_and_stays_in_the_saved_state():
    fixed = Upsampling(3, (4, 4), learned=False)
    assert list(fixed.parameters()) == []
    assert list(fixed.state_dict()) == ["weight"]


def test_a_learned_deconvolution_learns_across_channels():
    learned = Upsampling(3, (2, 2), learned=True)
    learned(torch.randn(1, 3, 4, 4)).square().sum().backward()
    assert (learned.weight.grad != 0).all()


@pytest.mark.parametrize("upsampling", ["learned", "fixed"])
def test_deconvolutions_of_a_network_begin_as_interpolation(upsampling):
    for up in small("fcn8s", 2, upsampling=upsampling).ups:
        constant = up(torch.ones(1, 3, 4, 4))
        step = up.stride[0]
        torch.testing.assert_close(constant[..., step:-step, step:-step], torch.ones(1, 3, 2 * step, 2 * step))


class StraightLine:
    """Figure 3 of Long et al. 2015 on the features and weights of a network: fuse by sum, finer and finer."""

    def __init__(self, network: nn.Module) -> None:
        self.w = network.state_dict()

    def score(self, x, n):
        return F.conv2d(x, self.w[f"scores.{n}.weight"], self.w[f"scores.{n}.bias"])

    def up(self, x, n, stride):
        return F.conv_transpose2d(x, self.w[f"ups.{n}.weight"], stride=stride, padding=stride // 2)

    def __call__(self, name, pool3, pool4, deep):
        deep = self.score(deep, 0)
        if name == "fcn32s":
            return self.up(deep, 0, 32)
        fused = self.up(deep, 0, 2) + self.score(pool4, 1)
        if name == "fcn16s":
            return self.up(fused, 1, 16)
        return self.up(self.up(fused, 1, 2) + self.score(pool3, 2), 2, 8)


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
@pytest.mark.parametrize("backbone", ["vgg16", "resnet18"])
def test_equals_a_straight_line_forward(name, backbone):
    network, x = scrambled(small(name, 2, backbone=backbone)), torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        for up in network.ups:  # no longer linear, nor apart for each channel
            nn.init.normal_(up.weight, std=0.1)
        *_, pool3, pool4, deep = network.encoder(x)
        if backbone == "vgg16":
            w = network.state_dict()
            deep = F.conv2d(deep, w["head.0.weight"], w["head.0.bias"], padding=3).relu()
            deep = F.conv2d(deep, w["head.3.weight"], w["head.3.bias"]).relu()
        torch.testing.assert_close(network(x), StraightLine(network)(name, pool3, pool4, deep))


def test_an_odd_size_is_that_of_the_image_extended_by_its_edge():
    network, x = scrambled(small("fcn8s", 2)), torch.randn(1, 1, 37, 50)
    with torch.no_grad():
        extended = network(F.pad(x, (0, 14, 0, 27), mode="replicate"))
        torch.testing.assert_close(network(x), extended[:, :, :37, :50])


@pytest.mark.parametrize(("dims", "backbone", "norm"), [(2, "vgg16", "none"), (3, "resnet18", "batch")])
def test_the_backbone_is_that_of_the_paper_in_2d_and_a_resnet_in_3d(dims, backbone, norm):
    network = small("fcn16s", dims)
    assert (network.encoder.name, network.norm) == (backbone, norm)


@pytest.mark.parametrize(
    ("backbone", "norm", "expected"),
    [
        ("resnet18", None, "batch"),
        ("vgg16", None, "none"),
        ("vgg16", "batch", "batch"),
        ("resnet18", "none", "none"),
    ],
)
def test_the_norm_is_as_published_for_the_backbone_unless_told(backbone, norm, expected):
    assert small("fcn16s", 2, backbone=backbone, norm=norm).norm == expected


@pytest.mark.parametrize(
    ("spacing_mm", "kernel"), [(None, (7, 7, 7)), ((1, 1, 5), (7, 7, 7)), ((1, 1, 1000), (7, 7, 1))], ids=str
)
def test_fc6_is_seven_wide_along_the_axes_that_are_not_thick(spacing_mm, kernel):
    with torch.device("meta"):
        network = small("fcn8s", 3, backbone="vgg16", spacing_mm=spacing_mm)
    assert network.head[0].kernel_size == kernel


def test_a_single_score_has_no_skip_to_gate():
    with pytest.raises(UsageError, match=r"network\.attention: expected none, se or cbam: fcn32s has no skips"):
        small("fcn32s", 2, attention="gate")


@pytest.mark.parametrize(("probability", "layers"), [(0.5, [0.5, 0.5]), (0.0, [])])
def test_dropout_follows_fc6_and_fc7(probability, layers):
    network = small("fcn32s", 2, dropout=probability)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout2d)] == layers
