"""Backbones: where strides end and dilation begins, what the feature maps are, which layers they are made of."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.networks.backbone import Backbone
from medseg.networks.blocks import Layers
from medseg.networks.encoders import make_encoder
from medseg.networks.instance_norm import InstanceNorm
from tests.networks.probes import small

RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101"]
BACKBONES = [*RESNETS, "vgg16", "xception65"]
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def encoder(name: str, dims: int = 2, norm: str = "batch", act: str = "relu", **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    return make_encoder(Layers(dims, norm, act), Backbone(name, 1, **{"width_multiplier": 0.125} | fields))


def on_meta(name: str, **fields: Any) -> nn.Module:
    with torch.device("meta"):
        return encoder(name, **fields)


def block_convolutions(layer: nn.Module) -> list[tuple[int, int]]:
    """Return (stride, dilation) of the 3x3 convolution of each bottleneck block, the first one of a basic."""
    convs = [block.conv2 if hasattr(block, "conv3") else block.conv1 for block in layer]
    return [(conv.stride[0], conv.dilation[0]) for conv in convs]


# (stride, dilation) of the 3x3 convolutions of ResNet-50's layers 2, 3, 4, by torchvision's rule: where a stride
# becomes dilation, the first block has the dilation before ("prev"); DeepLab's own has the new one ("full").
FOUR, SIX = [(2, 1)] + 3 * [(1, 1)], [(2, 1)] + 5 * [(1, 1)]
TABLE = {
    (32, "prev", (1,)): [FOUR, SIX, [(2, 1), (1, 1), (1, 1)]],
    (16, "prev", (1,)): [FOUR, SIX, [(1, 1), (1, 2), (1, 2)]],
    (16, "full", (1,)): [FOUR, SIX, [(1, 2), (1, 2), (1, 2)]],
    (16, "prev", (1, 2, 4)): [FOUR, SIX, [(1, 1), (1, 4), (1, 8)]],
    (16, "full", (1, 2, 4)): [FOUR, SIX, [(1, 2), (1, 4), (1, 8)]],
    (8, "prev", (1,)): [FOUR, [(1, 1)] + 5 * [(1, 2)], [(1, 2), (1, 4), (1, 4)]],
    (8, "full", (1,)): [FOUR, 6 * [(1, 2)], [(1, 4), (1, 4), (1, 4)]],
    (8, "prev", (1, 2, 4)): [FOUR, [(1, 1)] + 5 * [(1, 2)], [(1, 2), (1, 8), (1, 16)]],
    (8, "full", (1, 2, 4)): [FOUR, 6 * [(1, 2)], [(1, 4), (1, 8), (1, 16)]],
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("output_stride", "first", "grid"), TABLE, ids=str)
def test_strides_of_a_bottleneck_resnet_become_dilation(output_stride, first, grid, dims):
    fields = {"output_stride": output_stride, "first_block_dilation": first, "multi_grid": grid}
    body = on_meta("resnet50", dims=dims, **fields).body
    assert block_convolutions(body.layer1) == [(1, 1)] * 3
    found = [block_convolutions(layer) for layer in (body.layer2, body.layer3, body.layer4)]
    assert found == TABLE[output_stride, first, grid]
    shortcuts = [layer[0].downsample[0].stride[0] for layer in (body.layer2, body.layer3, body.layer4)]
    assert shortcuts == [layer[0][0] for layer in found]


def test_both_convolutions_of_a_basic_block_are_dilated():
    """The first one has the stride, so that the second has the stage's own dilation in any case."""
    body = on_meta("resnet18", output_stride=8, first_block_dilation="prev", multi_grid=(1, 2)).body
    found = [[(b.conv1.dilation[0], b.conv2.dilation[0]) for b in layer] for layer in (body.layer3, body.layer4)]
    assert found == [[(1, 2), (2, 2)], [(2, 4), (8, 8)]]


def test_multi_grid_goes_round_where_there_are_more_blocks_than_numbers():
    body = on_meta("resnet50", output_stride=16, first_block_dilation="full", multi_grid=(1, 3)).body
    assert block_convolutions(body.layer4) == [(1, 2), (1, 6), (1, 2)]


# (stride, dilation) of the depthwise convolutions of Xception-65's entry blocks 1-3, middle, block 20, block 21, by
# tensorflow/models' stack_blocks_dense: a stride past the output stride becomes dilation of what comes after.
XCEPTION = {
    32: [[(1, 1), (1, 1), (2, 1)]] * 3 + [[(1, 1)] * 3, [(1, 1), (1, 1), (2, 1)], [(1, 1), (1, 2), (1, 4)]],
    16: [[(1, 1), (1, 1), (2, 1)]] * 3 + [[(1, 1)] * 3, [(1, 1)] * 3, [(1, 2), (1, 4), (1, 8)]],
    8: [[(1, 1), (1, 1), (2, 1)]] * 2 + [[(1, 1)] * 3, [(1, 2)] * 3, [(1, 2)] * 3, [(1, 4), (1, 8), (1, 16)]],
}


@pytest.mark.parametrize("output_stride", XCEPTION)
def test_strides_of_xception_become_dilation(output_stride):
    network = on_meta("xception65", output_stride=output_stride, multi_grid=(1, 2, 4))
    assert len(network.middle) == 16
    blocks = (network.block1, network.block2, network.block3, network.middle[7], network.block20, network.block21)
    found = [
        [(m.stride[0], m.dilation[0]) for m in block.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
        for block in blocks
    ]
    assert found == XCEPTION[output_stride]


@pytest.mark.parametrize(
    ("output_stride", "poolings", "dilations"),
    [
        (32, [(2, 2)] * 5, [1] * 13),
        (16, [(3, 2)] * 4 + [(3, 1)], [1] * 13),
        (8, [(3, 2)] * 3 + [(3, 1)] * 2, [1] * 10 + [2] * 3),
    ],
)
def test_strides_of_vgg16_become_dilation_and_its_poolings_odd_as_in_deeplab(output_stride, poolings, dilations):
    layers = list(on_meta("vgg16", norm="none", output_stride=output_stride).features)
    assert [(m.kernel_size[0], m.stride[0]) for m in layers if isinstance(m, nn.MaxPool2d)] == poolings
    assert [m.dilation[0] for m in layers if isinstance(m, nn.Conv2d)] == dilations


# --- feature maps

EVERY_STRIDE = [(name, stride) for name in BACKBONES for stride in (8, 16, 32) if (name, stride) != ("vgg16", 32)]
# VGG16's own poolings are even and round down: FCN pads the image


@pytest.mark.parametrize("size", [(70, 33), (33, 20, 1), (1, 1)], ids=str)
@pytest.mark.parametrize(("name", "output_stride"), EVERY_STRIDE)
def test_feature_maps_divide_the_image_by_their_strides_rounding_up(name, output_stride, size):
    network = encoder(name, len(size), "none", output_stride=output_stride)
    with torch.no_grad():
        features = network(torch.randn(1, 1, *size))
    assert len(features) == len(network.strides) == len(network.kernels) == len(network.channels) == 5
    assert [f.shape[1] for f in features] == list(network.channels)
    assert [f.shape[2:] for f in features] == [
        tuple(-(-n // step) for n, step in zip(size, stride, strict=True)) for stride in network.strides
    ]
    assert network.strides[1] == (4,) * len(size)
    wanted = [min(output_stride, step) for step in (8, 16, 32)]
    assert list(network.strides[2:]) == [(step,) * len(size) for step in wanted]


@pytest.mark.parametrize(("name", "dims"), [("resnet18", 2), ("resnet18", 3), ("resnet50", 2), ("xception65", 2)])
@pytest.mark.parametrize(("coarse", "fine"), [(32, 16), (16, 8), (32, 8)])
def test_a_dilated_backbone_computes_the_strided_ones_features_more_densely(name, dims, coarse, fine):
    """The algorithme à trous: at every second place of the dilated map is the strided network's."""
    strided = encoder(name, dims, "none", output_stride=coarse).double()
    dense = encoder(name, dims, "none", output_stride=fine).double()
    dense.load_state_dict(strided.state_dict())
    x = torch.randn(1, 1, *(96, 64, 33)[:dims], dtype=torch.float64)
    with torch.no_grad():
        expected, found = strided(x)[-1], dense(x)[-1]
    torch.testing.assert_close(found[(..., *(slice(None, None, coarse // fine),) * dims)], expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_shortcut_a_takes_every_second_voxel_and_pads_channels_with_zeros(name, dims):
    network = encoder(name, dims, shortcut="A")
    names = [name for name, _ in network.named_parameters() if "downsample" in name]
    assert names == []
    shortcut, x = network.body.layer2[0].downsample, torch.randn(2, 8, *(6, 5, 7)[:dims])
    y = shortcut(x)
    assert torch.equal(y[:, :8], x[(..., *(slice(None, None, 2),) * dims)])
    assert y[:, 8:].shape[1] == network.channels[2] - 8
    assert (y[:, 8:] == 0).all()


# --- what they are made of


def kinds(network: nn.Module) -> set[str]:
    return {type(module).__name__ for module in network.modules()}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_of_the_norm_and_activation_asked_for(name, dims):
    foreign = {"batch": ("BatchNorm",), "instance": ("InstanceNorm",), "group": ("GroupNorm",)}
    for norm in ("batch", "instance", "group", "none"):
        found = kinds(on_meta(name, dims=dims, norm=norm, act="silu"))
        present = {kind for kind, marks in foreign.items() if any(n.startswith(marks) for n in found)}
        assert present == ({norm} - {"none"})
        assert "SiLU" in found
        assert not found & {"ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "GELU"}


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize("name", ["vgg16", "xception65"])
def test_convolutions_have_a_bias_where_no_norm_follows(name, norm):
    biased = {m.bias is not None for m in on_meta(name, norm=norm).modules() if isinstance(m, CONVOLUTIONS)}
    assert biased == ({True} if norm == "none" or name == "vgg16" else {False})


# --- normalisation


@pytest.mark.parametrize("size", [(5, 6), (3, 4, 2), (1, 2)], ids=str)
def test_instance_norm_equals_torchs(size):
    norm, x = InstanceNorm(4), torch.randn(2, 4, *size)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    expected = F.instance_norm(x, weight=norm.weight, bias=norm.bias)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm.eval()(x), expected)


@pytest.mark.parametrize("training", [True, False])
def test_instance_norm_of_one_place_is_its_bias(training):
    norm, x = InstanceNorm(4).train(training), torch.randn(2, 4, 1, 1)
    nn.init.uniform_(norm.bias)
    torch.testing.assert_close(norm(x), norm.bias.view(1, 4, 1, 1).expand(2, 4, 1, 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 8), (32, 8), (40, 8), (24, 6), (16, 4), (8, 2), (4, 1), (3, 1), (1, 1), (36, 6)]
)
def test_group_norm_has_8_groups_or_fewer_of_4_channels_at_least(channels, groups):
    norm = Layers(2, "group", "relu").make_norm(channels)
    assert (type(norm), norm.num_groups) == (nn.GroupNorm, groups)


@pytest.mark.parametrize("name", BACKBONES)
def test_no_layer_writes_into_a_feature_map_that_has_been_handed_out(name):
    network, as_made = encoder(name, norm="none", output_stride=8), []
    makers = [*network.attention, *([network.block2.convs[1]] if name == "xception65" else [])]
    for module in makers:
        module.register_forward_hook(lambda _module, _inputs, output: as_made.append(output.clone()))
    with torch.no_grad():
        features = network(torch.randn(1, 1, 32, 32))
    assert len(as_made) == 5
    for feature in features:
        assert any(torch.equal(feature, made) for made in as_made)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "vgg16", "multi_grid": (1, 2, 4)}, r"network\.multi_grid: expected none for VGG16"),
        ({"backbone": "vgg16", "shortcut": "A"}, r"network\.shortcut: expected B"),
        ({"backbone": "xception65", "shortcut": "A"}, r"network\.shortcut: expected B"),
        ({"backbone": "resnet18", "multi_grid": (1, 0)}, r"network\.multi_grid: expected positive numbers"),
        ({"backbone": "resnet18", "multi_grid": ()}, r"network\.multi_grid: expected positive numbers"),
    ],
    ids=str,
)
def test_fields_that_a_backbone_does_not_have_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        small("deeplabv3", 2, **fields)


def test_xception_has_no_multi_grid_unless_told():
    """Chen et al. 2018, section 4.3: the Xception of DeepLab v3+ does without."""

    def grid(**fields):
        network = small("deeplabv3plus", 2, backbone="xception65", **fields)
        return [part[0].dilation for part in network.encoder.block21]

    assert grid() == [(2, 2)] * 3
    assert grid(multi_grid=(1, 2, 4)) == [(2, 2), (4, 4), (8, 8)]
