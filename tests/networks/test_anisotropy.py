"""Thick slices: no network mixes them, in plane alone, until the voxels are about as long as wide."""

import pytest
import torch
from torch import nn

from medseg.errors import UsageError
from medseg.networks.anisotropy import thick_axes
from tests.networks.probes import NAMES, scrambled, small

CONVOLUTIONS = (nn.Conv3d, nn.ConvTranspose3d)
POOLS = (nn.MaxPool3d, nn.AvgPool3d)
NO, Z, YZ = (False, False, False), (False, False, True), (False, True, True)

# (1, 1, 5) mm, by hand: 5 > 2 x 1 thick; then (2, 2, 5): 5 > 2 x 2 thick; then (4, 4, 5): 5 <= 2 x 4, and no more
SPACING = (1.0, 1.0, 5.0)


@pytest.mark.parametrize(
    ("spacing_mm", "expected"),
    [
        (None, [NO] * 4),
        ((1.0, 1.0, 1.0), [NO] * 4),
        ((1.0, 1.0, 2.0), [NO] * 4),  # twice is not more than twice
        ((1.0, 1.0, 2.01), [Z, NO, NO, NO]),
        (SPACING, [Z, Z, NO, NO]),  # (1, 1, 5), (2, 2, 5), (4, 4, 5)
        ((0.7, 0.7, 10.0), [Z, Z, Z, NO]),  # (.7, .7, 10), (1.4, 1.4, 10), (2.8, 2.8, 10), (5.6, 5.6, 10)
        ((1.0, 1.0, 100.0), [Z] * 4),  # (8, 8, 100) still
        ((1.0, 3.0, 9.0), [YZ, Z, Z, NO]),  # (1, 3, 9), (2, 3, 9), (4, 6, 9), (8, 12, 9)
        ((5.0, 1.0, 1.0), [(True, False, False)] * 2 + [NO] * 2),
        ((3.0, 3.0, 1.0), [(True, True, False), NO, NO, NO]),  # thin slices: (3, 3, 1), then (3, 3, 2)
    ],
    ids=str,
)
def test_an_axis_is_thick_while_its_spacing_is_over_twice_the_smallest(spacing_mm, expected):
    assert list(thick_axes(spacing_mm, 3, 4)) == expected


def test_two_axes_follow_the_same_rule():
    assert thick_axes((1.0, 5.0), 2, 3) == ((False, True), (False, True), (False, False))
    assert thick_axes((1.0, 1.5), 2, 1) == ((False, False),)


@pytest.mark.parametrize(
    ("spacing_mm", "dims"), [((1.0, 1.0), 3), ((1.0,) * 3, 2), ((), 2), ((1.0, 0.0), 2), ((1.0, -1.0), 2)], ids=str
)
def test_spacings_that_are_not_one_positive_number_an_axis_are_refused(spacing_mm, dims):
    with pytest.raises(UsageError, match=rf"network\.spacing_mm: expected {dims} positive numbers"):
        thick_axes(spacing_mm, dims, 3)


@pytest.mark.parametrize("name", ["unet", "resunet", "attention_unet"])
def test_u_nets_leave_thick_slices_alone(name):
    with torch.device("meta"):
        network = small(name, 3, spacing_mm=SPACING)
    deeper = 2 if name == "resunet" else 1
    assert network.stages.kernels == ((3, 3, 1),) * 2 + ((3, 3, 3),) * (2 + deeper)
    assert network.stages.strides == ((2, 2, 1),) * 2 + ((2, 2, 2),) * (1 + deeper)
    per_stage = [
        {m.kernel_size for m in stage.modules() if isinstance(m, nn.Conv3d)} - {(1, 1, 1)}
        for stage in (*network.encoder.stages, *network.decoder.stages)
    ]
    kernels = list(network.stages.kernels)
    assert per_stage == [{kernel} for kernel in (*kernels, *kernels[:-1])]
    assert [m.kernel_size for m in network.decoder.ups] == list(network.stages.strides)


def test_what_a_config_says_of_kernels_and_strides_goes_before_the_spacing():
    told = {"kernel_sizes": ((3, 3, 3),) * 2, "strides": ((2, 2, 2),), "channels": (8, 8)}
    network = small("unet", 3, spacing_mm=SPACING, **told)
    assert (network.stages.kernels, network.stages.strides) == (told["kernel_sizes"], told["strides"])


BACKBONES = [
    ("fcn8s", "resnet18", (32, 32, 8)),
    ("fcn8s", "resnet50", (32, 32, 8)),
    ("fcn8s", "vgg16", (32, 32, 8)),
    ("deeplabv1", None, (8, 8, 2)),
    ("deeplabv2", "resnet50", (8, 8, 2)),
    ("deeplabv3", "resnet18", (16, 16, 4)),
    ("deeplabv3plus", "resnet50", (16, 16, 4)),
    ("deeplabv3plus", "xception65", (16, 16, 4)),
]


def meta(name: str, backbone: str | None, **fields) -> nn.Module:
    with torch.device("meta"):
        return small(name, 3, **({"backbone": backbone} if backbone else {}), **fields)


@pytest.mark.parametrize(("name", "backbone", "multiple"), BACKBONES)
def test_backbones_take_no_through_plane_step_in_the_first_two_halvings(name, backbone, multiple):
    """In plane they go down to 4 mm first: the strides through the plane lag behind by four."""
    network = meta(name, backbone, spacing_mm=SPACING)
    plain = meta(name, backbone)
    assert network.multiple == multiple
    stages = [(a, a, max(1, a // 4)) for a, _, _ in plain.encoder.strides]
    assert list(network.encoder.strides) == stages
    # the first two levels have 1 or 2 mm in plane: at 4 mm the kernels are full
    expected = [(3, 3, 1) if stride[0] < 4 else (3, 3, 3) for stride in stages]
    assert list(network.encoder.kernels) == expected


@pytest.mark.parametrize(("name", "backbone", "multiple"), BACKBONES)
def test_the_first_feature_map_does_not_see_through_the_plane_and_the_last_does(name, backbone, multiple):
    network = scrambled(small(name, 3, spacing_mm=SPACING, **({"backbone": backbone} if backbone else {})))
    one, other = torch.randn(2, 1, 1, 32, 48, 16)
    other[..., 4:8] = one[..., 4:8]
    with torch.no_grad():
        first, second = network.encoder(one), network.encoder(other)
    assert torch.equal(first[0][..., 4:8], second[0][..., 4:8])
    assert not torch.equal(first[0], second[0])
    assert not torch.allclose(first[-1][..., 1], second[-1][..., 1])  # the slices that are the same


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [2, 3])
def test_equal_spacings_change_nothing(name, dims):
    with torch.device("meta"):
        plain, equal = small(name, dims), small(name, dims, spacing_mm=(0.8,) * dims)
    shapes = [{key: tensor.shape for key, tensor in network.state_dict().items()} for network in (plain, equal)]
    assert shapes[0] == shapes[1]
    assert plain.multiple == equal.multiple


@pytest.mark.parametrize("name", NAMES)
def test_voxels_that_stay_thick_make_a_network_of_planes(name):
    """At 1000 mm no kernel and no stride reaches beyond its slice, but image pooling and recalibration do."""
    network = small(name, 3, spacing_mm=(1.0, 1.0, 1000.0))
    assert network.multiple[2] == 1
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS + POOLS):
            size, step = module.kernel_size, module.stride
            assert (size[2], step[2]) == (1, 1), module
    x = torch.randn(1, 1, 40, 33, 3)
    assert network.eval()(x).shape == (1, 3, 40, 33, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spacing_mm", [SPACING, (1.0, 3.0, 9.0), (5.0, 1.0, 1.0)], ids=str)
def test_any_size_of_an_anisotropic_network(name, spacing_mm):
    network = small(name, 3, spacing_mm=spacing_mm).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, 21, 34, 5)).shape == (1, 3, 21, 34, 5)
