"""Numbers of parameters are those of the papers' own code, or of what the papers' figures add up to."""

import pytest
import torch
from torch import nn

from medseg.networks import build_network

NNUNET_PLAIN = {
    "channels": (32, 64, 128, 256, 320, 320),
    "downsampling": "strided_conv",
    "norm": "instance",
    "act": "leaky_relu",
    "bias": True,
    "deep_supervision": True,
}
VOC = {"in_channels": 3, "num_classes": 21}  # photographs, 20 kinds of things and background


def on_meta(name: str, dims: int, **fields) -> nn.Module:
    with torch.device("meta"):
        return build_network(name, spatial_dims=dims, **fields)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"), [("fcn32s", 134_346_581), ("fcn16s", 134_357_354), ("fcn8s", 134_362_751)]
)
def test_fcn_without_its_deconvolutions(name, parameters):
    network = on_meta(name, 2, **VOC)
    assert count(network) - count(network.ups) == parameters


@pytest.mark.parametrize(
    ("name", "strides", "kernels"), [("fcn32s", 1, [64]), ("fcn16s", 2, [4, 32]), ("fcn8s", 3, [4, 4, 16])]
)
def test_deconvolutions_of_fcn_have_a_kernel_of_twice_their_stride(name, strides, kernels):
    network = on_meta(name, 2, **VOC)
    assert len(network.ups) == strides
    assert count(network.ups) == 21 * 21 * sum(size**2 for size in kernels)


@pytest.mark.parametrize(
    ("name", "dims", "fields", "parameters"),
    [
        ("unet", 2, {"in_channels": 1, "num_classes": 2, "padding": "valid", "norm": "none"}, 31_030_658),
        ("unet", 2, {"in_channels": 1, "num_classes": 2}, 31_036_546),
        ("unet", 3, {"in_channels": 1, "num_classes": 2} | NNUNET_PLAIN, 31_195_594),
        ("resunet", 3, {"in_channels": 1, "num_classes": 2, "deep_supervision": True}, 102_349_770),
        ("deeplabv1", 2, VOC, 20_505_429),
        ("deeplabv2", 2, VOC, 44_048_532),
        ("deeplabv3", 2, VOC | {"backbone": "resnet50"}, 39_638_869),
        ("deeplabv3plus", 2, VOC | {"backbone": "resnet50", "separable": True}, 26_696_133),
        ("deeplabv3plus", 2, VOC | {"backbone": "resnet50", "separable": False}, 40_352_181),
        ("deeplabv3plus", 2, VOC | {"backbone": "xception65"}, 41_055_413),
    ],
)
def test_whole_network(name, dims, fields, parameters):
    assert count(on_meta(name, dims, **fields)) == parameters


def test_xception65_backbone():
    assert count(on_meta("deeplabv3plus", 2, backbone="xception65", **VOC).encoder) == 37_867_312


def test_deep_supervision_adds_a_1x1_convolution_for_each_coarser_decoder_stage():
    with_heads = on_meta("unet", 3, in_channels=1, num_classes=2, **NNUNET_PLAIN)
    without = on_meta("unet", 3, in_channels=1, num_classes=2, **NNUNET_PLAIN | {"deep_supervision": False})
    assert count(with_heads) - count(without) == sum(2 * (n + 1) for n in (64, 128, 256, 320))


def test_attention_gates_add_the_three_1x1_convolutions_of_the_paper():
    gated = on_meta("attention_unet", 2, in_channels=1, num_classes=2)
    plain = on_meta("unet", 2, in_channels=1, num_classes=2)
    own = sum(n * n // 2 + n * n // 2 + n // 2 + n // 2 + 1 for n in (64, 128, 256, 512))
    assert count(gated) - count(plain) == own


@pytest.mark.parametrize(
    ("attention", "of_stage"),
    [
        ("se", lambda n: 2 * n * (n // 16) + n // 16 + n),
        ("cbam", lambda n: 2 * n * (n // 16) + n // 16 + n + 2 * 7 * 7 + 1),
    ],
)
def test_recalibration_adds_two_1x1_convolutions_to_each_stage_and_cbam_a_7x7_one(attention, of_stage):
    network = on_meta("unet", 2, in_channels=1, num_classes=2, attention=attention)
    plain = on_meta("unet", 2, in_channels=1, num_classes=2)
    assert count(network) - count(plain) == sum(of_stage(n) for n in (64, 128, 256, 512, 1024))


def test_width_multiplier_rounds_channels_to_multiples_of_8():
    narrow = on_meta("unet", 2, in_channels=1, num_classes=2, width_multiplier=0.3)
    # 19.2 -> 16, 38.4 -> 40, 76.8 -> 80, 153.6 -> 152, 307.2 -> 304
    told = on_meta("unet", 2, in_channels=1, num_classes=2, channels=(16, 40, 80, 152, 304))
    assert count(narrow) == count(told)
