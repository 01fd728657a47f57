"""Attention: each kind equals its paper's formula, and stands where it belongs."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.networks.attention import CBAM, AttentionGate, SqueezeExcitation
from medseg.networks.blocks import Layers
from tests.networks.probes import NAMES, scrambled, small

WITH_SKIPS = {"fcn16s": 1, "fcn8s": 2, "unet": 4, "attention_unet": 4, "resunet": 5, "deeplabv3plus": 1}  # gates
STAGES = {"unet": 5, "attention_unet": 5, "resunet": 6}  # of all others: the five feature maps of a backbone


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    """A 1x1 convolution of vectors (B, C)."""
    return x @ layer.weight.flatten(1).T + layer.bias


@pytest.mark.parametrize("size", [(5, 7), (4, 3, 6)], ids=str)
@pytest.mark.parametrize(("channels", "hidden"), [(32, 2), (8, 1)])
def test_squeeze_and_excitation_weighs_channels_by_their_means(size, channels, hidden):
    module = scrambled(SqueezeExcitation(Layers(len(size), "batch", "relu"), channels))
    x = torch.randn(2, channels, *size)
    first, second = module.excite[0], module.excite[2]
    assert first.out_channels == hidden
    weight = linear(linear(x.flatten(2).mean(2), first).relu(), second).sigmoid()
    torch.testing.assert_close(module(x), x * weight.view(2, channels, *(1 for _ in size)))


@pytest.mark.parametrize("size", [(5, 7), (4, 3, 6)], ids=str)
def test_cbam_weighs_channels_then_places(size):
    module = scrambled(CBAM(Layers(len(size), "batch", "relu"), 32))
    x = torch.randn(2, 32, *size)
    first, second = module.channel[0], module.channel[2]
    votes = [
        linear(linear(vector, first).relu(), second) for vector in (x.flatten(2).mean(2), x.flatten(2).amax(2))
    ]
    y = x * sum(votes).sigmoid().view(2, 32, *(1 for _ in size))
    conv = F.conv2d if len(size) == 2 else F.conv3d
    both = torch.stack([y.mean(1), y.amax(1)], 1)
    place = conv(both, module.place.weight, module.place.bias, padding=3).sigmoid()
    assert module.place.kernel_size == (7,) * len(size)
    torch.testing.assert_close(module(x), y * place)


@pytest.mark.parametrize(("size", "coarse"), [((8, 6), (8, 6)), ((8, 6), (4, 3)), ((4, 6, 2), (2, 3, 1))], ids=str)
def test_a_gate_weighs_a_skip_by_skip_and_decoder(size, coarse):
    gate = scrambled(AttentionGate(Layers(len(size), "batch", "silu"), 6, 5))
    conv, linear_mode = (F.conv2d, "bilinear") if len(size) == 2 else (F.conv3d, "trilinear")
    x, g = torch.randn(2, 6, *size), torch.randn(2, 5, *coarse)
    from_gate = conv(g, gate.from_gate.weight, gate.from_gate.bias)
    if size != coarse:
        from_gate = F.interpolate(from_gate, size=size, mode=linear_mode, align_corners=False)
    hidden = (conv(x, gate.from_skip.weight) + from_gate).relu()
    torch.testing.assert_close(gate(x, g), x * conv(hidden, gate.psi.weight, gate.psi.bias).sigmoid())


@pytest.mark.parametrize(("name", "stages"), [("unet", 5), ("resunet", 6), ("fcn8s", 5), ("deeplabv3plus", 5)])
def test_cbam_does_not_mix_slices_where_the_network_does_not(name, stages):
    with torch.device("meta"):
        thick = small(name, 3, attention="cbam", spacing_mm=(1.0, 1.0, 1000.0))
        equal = small(name, 3, attention="cbam")
    for network, kernel in ((thick, (7, 7, 1)), (equal, (7, 7, 7))):
        assert [m.place.kernel_size for m in network.modules() if isinstance(m, CBAM)] == [kernel] * stages


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("attention", "kind"), [("se", SqueezeExcitation), ("cbam", CBAM)])
def test_each_stage_of_the_encoder_is_recalibrated(name, attention, kind):
    with torch.device("meta"):
        network = small(name, 3, attention=attention)
    assert count(network.encoder, kind) == count(network, kind) == STAGES.get(name, 5)
    assert count(network, AttentionGate) == 0


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16"])
def test_recalibrated_features_go_on_down_the_encoder_and_to_the_decoder(backbone):
    network, x = scrambled(small("fcn8s", 2, backbone=backbone, attention="se")), torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        before = network.encoder(x)
        for module in network.encoder.attention[:1]:
            nn.init.constant_(module.excite[2].bias, -30.0)  # shut
        after = network.encoder(x)
    assert after[0].abs().max() < 1e-6 < before[0].abs().max()
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize("name", WITH_SKIPS)
def test_each_skip_has_a_gate(name):
    with torch.device("meta"):
        network = small(name, 2, attention="gate")
    assert count(network, AttentionGate) == WITH_SKIPS[name]


@pytest.mark.parametrize("name", WITH_SKIPS)
@pytest.mark.parametrize("bias", [-40.0, 40.0], ids=["shut", "open"])
def test_gates_act_on_the_skips_and_on_nothing_else(name, bias):
    """Shut, the decoder has the deepest features alone; open, the network is the one without gates."""
    gated, plain = (scrambled(small(name, 2, attention=attention)) for attention in ("gate", "none"))
    state = gated.state_dict()
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    for module in gated.modules():
        if isinstance(module, AttentionGate):
            nn.init.zeros_(module.psi.weight)
            nn.init.constant_(module.psi.bias, bias)
    if bias < 0:
        _blind(plain, name)
    x = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(gated(x), plain(x), atol=1e-4, rtol=1e-4)


def _blind(network: nn.Module, name: str) -> None:
    """Set to zero what reads the skips."""
    with torch.no_grad():
        if name.startswith("fcn"):
            for score in network.scores[1:]:
                score.weight.zero_()
        elif name == "deeplabv3plus":
            network.low[0].weight.zero_()
        else:
            for stage in network.decoder.stages:
                weight = stage[0][0].weight
                weight[:, weight.shape[1] // 2 :] = 0


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WITH_SKIPS)))
@pytest.mark.parametrize("dims", [2, 3])
def test_gates_are_refused_where_there_are_no_skips(name, dims):
    with pytest.raises(UsageError, match=rf"network\.attention: expected none, se or cbam: {name} has no skips"):
        small(name, dims, attention="gate")
