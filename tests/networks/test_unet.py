"""U-Net and residual U-Net: independent forwards, mirrored borders, stages, any input size."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.networks import build_network
from tests.networks.probes import receptive_field, scrambled, transparent

PAPER = {"padding": "valid", "norm": "none"}


def small(dims: int, name: str = "unet", **fields) -> nn.Module:
    torch.manual_seed(0)
    own = {"channels": (4, 8, 16)} | ({"blocks": (1, 2, 2)} if name == "resunet" else {})
    return build_network(name, spatial_dims=dims, in_channels=1, num_classes=3, **own | fields)


class StraightLine:
    """A three-stage U-Net in 2-D written out from its papers, on the weights of a network."""

    def __init__(self, network: nn.Module, *, padding: int = 1, normalised: bool = True) -> None:
        self.w = dict(network.state_dict())
        self.padding, self.normalised = padding, normalised

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), stride, padding)

    def norm(self, x: Tensor, name: str) -> Tensor:
        scale, shift = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        if f"{name}.running_mean" not in self.w:
            return F.instance_norm(x, weight=scale, bias=shift)
        return F.batch_norm(x, self.w[f"{name}.running_mean"], self.w[f"{name}.running_var"], scale, shift)

    def unit(self, x: Tensor, name: str) -> Tensor:
        x = self.conv(x, f"{name}.0", padding=self.padding)
        return torch.relu(self.norm(x, f"{name}.1") if self.normalised else x)

    def up(self, x: Tensor, n: int) -> Tensor:
        return F.conv_transpose2d(x, self.w[f"decoder.ups.{n}.weight"], self.w[f"decoder.ups.{n}.bias"], stride=2)

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """The crop of figure 1: the borders are lost in every convolution."""
        top, left = ((skip.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3))
        return torch.cat([x, skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]], 1)

    def __call__(self, x: Tensor) -> Tensor:
        a = self.unit(self.unit(x, "encoder.stages.0.1"), "encoder.stages.0.2")
        b = self.unit(self.unit(F.max_pool2d(a, 2), "encoder.stages.1.1"), "encoder.stages.1.2")
        c = self.unit(self.unit(F.max_pool2d(b, 2), "encoder.stages.2.1"), "encoder.stages.2.2")
        d = self.join(self.up(c, 1), b)
        d = self.unit(self.unit(d, "decoder.stages.1.0"), "decoder.stages.1.1")
        e = self.join(self.up(d, 0), a)
        e = self.unit(self.unit(e, "decoder.stages.0.0"), "decoder.stages.0.1")
        return self.conv(e, "decoder.heads.0")


class ResidualStraightLine(StraightLine):
    """The residual U-Net with 1, 2 and 2 blocks and one convolution a decoder stage."""

    def unit(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x, f"{name}.0", stride, 1), f"{name}.1"), 0.01)

    def block(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        y = self.unit(x, f"{name}.first", stride)
        y = self.norm(self.conv(y, f"{name}.second.0", padding=1), f"{name}.second.1")
        if stride > 1:  # then the channels change too
            x = self.norm(self.conv(F.avg_pool2d(x, 2), f"{name}.shortcut.1"), f"{name}.shortcut.2")
        return F.leaky_relu(y + x, 0.01)

    def __call__(self, x: Tensor) -> Tensor:
        a = self.block(self.unit(x, "encoder.stem"), "encoder.stages.0.0")
        b = self.block(self.block(a, "encoder.stages.1.0", 2), "encoder.stages.1.1")
        c = self.block(self.block(b, "encoder.stages.2.0", 2), "encoder.stages.2.1")
        d = self.unit(self.join(self.up(c, 1), b), "decoder.stages.1.0")
        e = self.unit(self.join(self.up(d, 0), a), "decoder.stages.0.0")
        return self.conv(e, "decoder.heads.0")


def test_the_usual_form_equals_a_straight_line_forward():
    network, x = scrambled(small(2)), torch.randn(2, 1, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(network(x), StraightLine(network)(x))


def test_the_papers_form_equals_a_straight_line_forward():
    network, x = scrambled(small(2, **PAPER)), torch.randn(2, 1, 44, 52)
    with torch.no_grad():
        found = network.forward_valid(x)
        torch.testing.assert_close(found, StraightLine(network, padding=0, normalised=False)(x))
    assert found.shape == (2, 3, 4, 12)


def test_the_residual_form_equals_a_straight_line_forward():
    network, x = scrambled(small(2, "resunet")), torch.randn(2, 1, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(network(x), ResidualStraightLine(network)(x))


@pytest.mark.parametrize("name", ["unet", "resunet"])
def test_an_odd_size_is_that_of_the_image_extended_by_its_edge(name):
    network, x = scrambled(small(2, name)), torch.randn(1, 1, 13, 18)
    with torch.no_grad():
        extended = network(F.pad(x, (0, 2, 0, 3), mode="replicate"))
        torch.testing.assert_close(network(x), extended[:, :, :13, :18])


def test_the_papers_form_maps_572_to_388():
    with torch.device("meta"):
        network = build_network("unet", spatial_dims=2, in_channels=1, num_classes=2, **PAPER)
        assert network.forward_valid(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
        assert network(torch.empty(1, 1, 512, 333)).shape == (1, 2, 512, 333)


def test_the_3d_papers_form_maps_132_132_116_to_44_44_28():
    """Çiçek et al. 2016, figure 2, where the paper counts a tile of 132x132x116."""
    with torch.device("meta"):
        network = build_network(
            "unet", spatial_dims=3, in_channels=3, num_classes=3, channels=(64, 128, 256, 512), **PAPER
        )
        assert network.forward_valid(torch.empty(1, 3, 132, 132, 116)).shape == (1, 3, 44, 44, 28)


@pytest.mark.parametrize("size", [(40, 24), (41, 27), (5, 7), (1, 2), (1, 1), (64, 3)])
def test_borders_are_mirrored_in_the_papers_form(size):
    """Three stages lose 20 voxels at each end and give a multiple of 4; numpy mirrors as often as needed."""
    network, x = scrambled(small(2, **PAPER)), torch.randn(1, 1, *size)
    pads = [(20, 20 + -n % 4) for n in size]
    mirrored = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *pads], mode="reflect"))
    with torch.no_grad():
        expected = network.forward_valid(mirrored)[:, :, : size[0], : size[1]]
        torch.testing.assert_close(network(x), expected)
    assert expected.shape[2:] == size


def test_the_interior_of_the_papers_form_is_that_of_the_image_itself():
    network, x = scrambled(small(2, **PAPER)), torch.randn(1, 1, 60, 64)
    with torch.no_grad():
        found, reflected = network(x), F.pad(x, (20, 20, 20, 20), mode="reflect")
        torch.testing.assert_close(found, network.forward_valid(reflected))
        torch.testing.assert_close(found[:, :, 20:-20, 20:-20], network.forward_valid(x))


def test_borders_are_mirrored_in_3d_along_each_axis_by_what_it_loses():
    kernels, strides = ((3, 3, 1), (3, 3, 3)), ((2, 2, 1),)
    network = scrambled(small(3, channels=(4, 8), kernel_sizes=kernels, strides=strides, **PAPER))
    x = torch.randn(1, 1, 12, 9, 5)  # 4 + 2*2 = 8 voxels are lost at each end in plane, 2 through it
    mirrored = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (8, 8), (8, 9), (2, 2)], mode="reflect"))
    with torch.no_grad():
        expected = network.forward_valid(mirrored)
        assert expected.shape == (1, 3, 12, 10, 5)
        torch.testing.assert_close(network(x), expected[:, :, :, :9])


@pytest.mark.parametrize("size", [(176, 176), (176, 16, 16)], ids=str)
def test_the_bottleneck_sees_140_voxels(size):
    network = build_network(
        "unet", spatial_dims=len(size), in_channels=1, num_classes=2, channels=(2,) * 5, norm="none"
    )
    network, place = transparent(network), tuple(n // 32 for n in size)
    seen = receptive_field(lambda x: network.encoder(x)[-1], size, place)
    assert seen == [min(140, n) for n in size]


def test_a_strided_convolution_replaces_the_pooling():
    network = small(2, downsampling="strided_conv")
    assert not [m for m in network.modules() if isinstance(m, nn.MaxPool2d)]
    strides = [m.stride for m in network.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert strides == [(1, 1), (1, 1), (2, 2), (1, 1), (2, 2), (1, 1)]


def test_strides_and_kernels_of_an_anisotropic_network():
    network = small(3, kernel_sizes=((3, 3, 1), (3, 3, 3), (3, 3, 3)), strides=((2, 2, 1), (2, 2, 2)))
    assert network.multiple == (4, 4, 2)
    kernels = [m.kernel_size for m in network.encoder.modules() if isinstance(m, nn.Conv3d)]
    assert kernels == [(3, 3, 1)] * 2 + [(3, 3, 3)] * 4
    pools = [m.kernel_size for m in network.encoder.modules() if isinstance(m, nn.MaxPool3d)]
    assert pools == [m.kernel_size for m in network.decoder.ups] == [(2, 2, 1), (2, 2, 2)]
    assert network(torch.randn(2, 1, 8, 8, 5)).shape == (2, 3, 8, 8, 5)


@pytest.mark.parametrize("name", ["unet", "resunet", "attention_unet"])
@pytest.mark.parametrize("size", [(16, 8), (13, 6), (8, 12, 4), (9, 7, 3)], ids=str)
def test_deep_supervision_gives_logits_of_each_decoder_stage_the_finest_first(name, size):
    network = small(len(size), name, deep_supervision=True)
    halved = tuple(-(-n // 2) for n in size)
    x = torch.randn(2, 1, *size)
    assert [y.shape for y in network(x)] == [(2, 3, *size), (2, 3, *halved)]
    assert network.eval()(x).shape == (2, 3, *size)


def test_a_voxel_of_coarser_logits_lies_over_the_voxels_that_it_stands_for():
    """With weights of one sign, an image that is bright at its far end gives coarse logits bright there."""
    network = transparent(small(2, deep_supervision=True, norm="none")).train()
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    x[:, :, 40:44, 8:12] = 1
    finest, coarser = network(x)
    where = [divmod(int(y[0, 0].argmax()), y.shape[3]) for y in (finest, coarser)]
    assert 38 <= where[0][0] < 46
    assert 6 <= where[0][1] < 14
    assert (2 * where[1][0], 2 * where[1][1]) == pytest.approx(where[0], abs=3)


def test_dropout_is_in_the_two_deepest_stages():
    network = small(2, dropout=0.3, channels=(4, 8, 16, 16))
    found = [[m.p for m in s.modules() if isinstance(m, nn.Dropout2d)] for s in network.encoder.stages]
    assert found == [[], [], [0.3], [0.3]]
    assert not [m for m in network.decoder.modules() if isinstance(m, nn.Dropout2d)]


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize("act", ["relu", "leaky_relu", "prelu", "elu", "gelu", "silu"])
def test_every_norm_and_act_takes_a_gradient_step(norm, act):
    network = small(2, norm=norm, act=act, dropout=0.2)
    network(torch.randn(2, 1, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    ("norm", "bias", "has_bias"),
    [("none", None, True), ("batch", None, False), ("batch", True, True), ("none", False, False)],
)
def test_convolutions_have_a_bias_where_no_norm_follows_unless_told(norm, bias, has_bias):
    network = small(2, norm=norm, bias=bias)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)][:-1]  # the head always has one
    assert {m.bias is not None for m in convolutions} == {has_bias}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strides": ((2, 2, 2),)}, r"network\.strides: expected 2 entries of 3 positive numbers"),
        ({"strides": ((2, 2), (2, 2))}, r"network\.strides: expected 2 entries of 3 positive numbers"),
        ({"strides": ((2, 2, 2), (2, 2, 0))}, r"network\.strides: expected 2 entries of 3 positive numbers"),
        ({"kernel_sizes": ((3, 3, 3),) * 2}, r"network\.kernel_sizes: expected 3 entries of 3 positive"),
        ({"kernel_sizes": ((3, 3, 2),) * 3}, r"network\.kernel_sizes: expected odd numbers"),
        ({"channels": (4,)}, r"network\.channels: expected .*two stages"),
        ({"channels": (4, 0)}, r"network\.channels: expected .*two stages"),
        ({"channels": ()}, r"network\.channels: expected .*two stages"),
        ({"dropout": 1.0}, r"network\.dropout: expected a probability from 0 to below 1, found 1\.0"),
        ({"dropout": -0.1}, r"network\.dropout: expected a probability"),
        ({"width_multiplier": 0.0}, r"network\.width_multiplier: expected a positive number"),
        ({"spacing_mm": (1.0, 1.0)}, r"network\.spacing_mm: expected 3 positive numbers"),
        ({"width_multiplier": 1e3}, r"network\.width_multiplier: expected a positive number below 64"),
        (PAPER | {"downsampling": "strided_conv"}, r"network\.downsampling: expected max_pool with padding: valid"),
        (PAPER | {"deep_supervision": True}, r"network\.deep_supervision: expected false with padding: valid"),
        (PAPER | {"encoder_units": (2, 2, 3)}, r"network\.encoder_units: expected 2 with padding: valid"),
        (PAPER | {"decoder_units": 1}, r"network\.decoder_units: expected 2 with padding: valid, .*found 1"),
    ],
    ids=str,
)
def test_stages_that_do_not_fit_are_refused_with_what_would(fields, message):
    with pytest.raises(UsageError, match=message):
        small(3, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": (1, 2)}, r"network\.blocks: expected one positive number for each of 3 stages"),
        ({"blocks": (1, 0, 2)}, r"network\.blocks: expected one positive number for each of 3 stages"),
        (
            {"decoder_units": 0},
            r"network\.decoder_units: expected one positive number, or one for each of 2",
        ),
    ],
    ids=str,
)
def test_blocks_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        small(2, "resunet", **fields)


def test_unknown_network_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'unet'"):
        build_network("unett", spatial_dims=2, in_channels=1, num_classes=2)


def test_pools_of_any_stride_take_the_voxels_that_their_place_stands_for():
    """A stride of 3 pools voxels 0 to 2, 3 to 5, ...: nothing is shifted."""
    network = small(2, strides=((3, 3), (5, 1)), norm="none").eval()
    x = torch.randn(1, 1, 30, 12)
    first, second, _ = network.encoder(x)
    pooled = network.encoder.stages[1][0](first)
    assert torch.equal(pooled, F.max_pool2d(first, 3))
    assert second.shape[2:] == (10, 4)
    assert torch.equal(network.encoder.stages[2][0](second), F.max_pool2d(second, (5, 1)))


def test_a_gate_of_the_papers_form_lies_on_the_part_of_the_skip_that_is_kept():
    network = small(2, "attention_unet", **PAPER).eval()
    seen = []
    for gate in network.decoder.gates:
        gate.register_forward_pre_hook(lambda _, inputs: seen.append([x.shape[2:] for x in inputs]))
    network(torch.randn(1, 1, 24, 24))
    assert seen
    assert all(skip == asking for skip, asking in seen)
