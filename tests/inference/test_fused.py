"""Folded networks against themselves unfolded, and one normalisation against its definition by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medseg.inference.fused import fuse
from tests.networks.probes import NAMES, small
from tests.networks.seeded import seeded_image, seeded_state

BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
SIZES = {2: (40, 33), 3: (33, 20, 17)}
KINDS = [(name, {}) for name in NAMES] + [
    ("deeplabv3plus", {"backbone": "xception65"}),
    ("deeplabv3", {"backbone": "resnet18", "shortcut": "A"}),
    ("fcn8s", {"backbone": "resnet50"}),
    ("unet", {"attention": "se", "bias": True, "downsampling": "strided_conv"}),
]


def norms(network: nn.Module) -> int:
    return sum(isinstance(layer, BATCH_NORMS) for layer in network.modules())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("name", "fields"), KINDS)
def test_every_network_is_folded_whole_and_gives_the_same(name, fields, dims):
    network = small(name, dims, norm="batch", **fields)
    network.load_state_dict(seeded_state({key: value.shape for key, value in network.state_dict().items()}))
    network.eval()
    image = seeded_image("image", (1, 1, *SIZES[dims]))
    with torch.inference_mode():
        expected = network(image)
        assert norms(network) > 0
        assert fuse(network) is network
        found = network(image)
    assert norms(network) == 0
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)


def filled(norm: nn.Module) -> nn.Module:
    for number, tensor in enumerate((norm.running_mean, norm.running_var, norm.weight, norm.bias)):
        if tensor is not None:
            tensor.data.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(number)) + 0.5)
    return norm.eval()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.Conv3d, nn.ConvTranspose3d])
@pytest.mark.parametrize("affine", [False, True])
def test_convolutions_of_every_kind(kind, groups, bias, affine):
    conv = kind(4, 6, 2, stride=2, groups=groups, bias=bias)
    network = nn.Sequential(conv, filled(nn.BatchNorm3d(6, affine=affine, eps=1e-3)), nn.ReLU()).eval()
    image = torch.randn(2, 4, 6, 4, 8)
    with torch.no_grad():
        expected = network(image)
        torch.testing.assert_close(fuse(network)(image), expected, atol=1e-5, rtol=1e-5)
    assert isinstance(network[1], nn.Identity)


def test_by_hand():
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    for parameter, value in ((conv.weight, 3), (conv.bias, 1), (norm.weight, 2), (norm.bias, 5)):
        parameter.data.fill_(value)
    norm.running_mean.fill_(4)
    norm.running_var.fill_(16)
    fuse(nn.Sequential(conv, norm))
    assert conv.weight.item() == 1.5  # 2 (3 x + 1 - 4) / 4 + 5
    assert conv.bias.item() == 3.5


def test_what_cannot_be_folded_stays():
    instance = small("unet", 3, norm="instance")
    before = copy.deepcopy(list(instance.state_dict().values()))
    after = fuse(instance).state_dict().values()  # under other names
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    alone = nn.Sequential(nn.BatchNorm3d(2), nn.Conv3d(2, 2, 1), nn.ReLU(), nn.BatchNorm3d(2))
    batch_of_its_own = nn.Sequential(nn.Conv3d(2, 2, 1), nn.BatchNorm3d(2, track_running_stats=False))
    assert norms(fuse(alone)) == 2
    assert norms(fuse(batch_of_its_own)) == 1
