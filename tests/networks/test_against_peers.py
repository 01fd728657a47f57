"""medseg's networks compute what their peers do, with the same weights.

``benchmarks/freeze_networks.py`` froze the peers' outputs; it says how a fixture reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medseg.files import sha256_of
from medseg.networks import build_network
from medseg.networks.backbone import Backbone
from medseg.networks.blocks import Layers
from medseg.networks.encoders import make_encoder
from medseg.networks.weights import WeightsFile
from tests.networks.seeded import checksum, seeded_image, seeded_state

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4  # of the value, and of the output's standard deviation
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
NNUNETS = ("nnunet_plain", "nnunet_residual")

State = dict[str, Tensor]
Rules = dict[str, str | Callable[[re.Match[str]], str]]  # pattern in a peer's names -> medseg's, applied in order


class Peer:
    """A fixture: what was frozen, and the peer's weights and images made anew."""

    def __init__(self, name: str) -> None:
        self.record: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
        self.cases: dict[str, Any] = self.record["cases"]
        self._samples = load_file(FIXTURES / f"{name}.safetensors")

    def state(self, case: str) -> State:
        frozen = self.record["states"][self.cases[case]["state"]]
        shapes = {name: tuple(map(int, shape.split())) for name, shape in frozen["tensors"].items()}
        state = seeded_state(shapes)
        assert checksum(state) == frozen["checksum"]
        return state

    def image(self, case: str) -> Tensor:
        return seeded_image(self.cases[case]["seed"], tuple(self.cases[case]["image"]))

    def check(self, case: str, output: str, found: Tensor) -> None:
        expected = self.cases[case]["outputs"][output]
        assert list(found.shape) == expected["shape"]
        near = TOLERANCE * expected["std"]
        sample = found[tuple(slice(None, None, step) for step in expected["steps"])]
        torch.testing.assert_close(sample, self._samples[f"{case}/{output}"], rtol=TOLERANCE, atol=near)
        assert found.double().mean().item() == pytest.approx(expected["mean"], abs=near)
        assert found.double().std().item() == pytest.approx(expected["std"], abs=near)


peer = cache(Peer)


def cases(*names: str) -> list[tuple[str, str]]:
    return [(name, case) for name in names for case in peer(name).cases]


def load(network: nn.Module, state: State, rules: Rules) -> None:
    """Give a network the weights of its peer, every one of them."""

    def rename(name: str) -> str:
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        return name

    network.load_state_dict({rename(name): tensor for name, tensor in state.items()})
    network.eval()


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def encoder(name: str, norm: str = "batch", **fields: Any) -> nn.Module:
    return make_encoder(Layers(2, norm, "relu"), Backbone(name, 3, **fields))


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_has_as_many_parameters_as_torchvisions(name: str) -> None:
    with torch.device("meta"):
        assert parameters(encoder(name)) == peer(name).record["parameters_without_fc"]


@pytest.mark.parametrize(("name", "case"), cases(*RESNETS))
def test_resnet_gives_torchvisions_features(name: str, case: str) -> None:
    resnet = peer(name)
    network = encoder(name, output_stride=resnet.cases[case]["output_stride"])
    state = {key: tensor for key, tensor in resnet.state(case).items() if not key.startswith("fc.")}
    load(network, state, {"^": "body."})
    with torch.inference_mode():
        features = network(resnet.image(case))
    for number, found in enumerate(features[1:], start=1):
        resnet.check(case, f"layer{number}", found)


def test_resnet_gives_torchvisions_features_with_weights_from_a_file(tmp_path: Path) -> None:
    resnet, file = peer("resnet18"), tmp_path / "resnet18.safetensors"
    save_file(resnet.state("stride_32"), file)
    weights = WeightsFile(file=file, sha256=sha256_of(file))
    network = build_network(
        "fcn32s", spatial_dims=2, in_channels=3, num_classes=2, backbone="resnet18", weights=weights
    )
    with torch.inference_mode():
        features = network.eval().encoder(resnet.image("stride_32"))
    for number, found in enumerate(features[1:], start=1):
        resnet.check("stride_32", f"layer{number}", found)


XCEPTION_RULES: Rules = {
    r"^blocks\.20\.stack\.conv(\d)": lambda m: f"block21.{int(m[1]) - 1}",  # with activations inside
    r"^(block21\.\d)\.conv_pw": r"\1.3",
    r"^(block21\.\d)\.bn_pw": r"\1.4",
    r"^blocks\.19\.": "block20.",
    r"^blocks\.([012])\.": lambda m: f"block{int(m[1]) + 1}.",
    r"^blocks\.(\d+)\.": lambda m: f"middle.{int(m[1]) - 3}.",
    r"\.stack\.conv(\d)\.": lambda m: f".convs.{int(m[1]) - 1}.",
    r"\.conv_dw\.|\.conv\.": ".0.",
    r"\.bn_dw\.|\.bn\.": ".1.",
    r"\.conv_pw\.": ".2.",
    r"\.bn_pw\.": ".3.",
}


def test_xception_has_as_many_parameters_as_timms() -> None:
    with torch.device("meta"):
        assert parameters(encoder("xception65")) == peer("xception65").record["parameters"] == 37_867_312


@pytest.mark.parametrize("case", peer("xception65").cases)
def test_xception_gives_timms_features(case: str) -> None:
    xception = peer("xception65")
    network = encoder("xception65", output_stride=xception.cases[case]["output_stride"])
    load(network, xception.state(case), XCEPTION_RULES)
    with torch.inference_mode():
        _, low, *_, last = network(xception.image(case))
    xception.check(case, "low", low)
    xception.check(case, "features", last)


VGG_RULES: Rules = {
    r"^features": "encoder.features",
    r"^classifier\.0": "head.0",
    r"^classifier\.3": "head.3",
    r"^classifier\.6": "scores.0",
}


def test_vgg16s_classifier_is_a_convolution_of_fcn32s() -> None:
    """At the centre of the 7x7 feature map the first kernel covers all of it: the scores there are VGG16's."""
    vgg = peer("vgg16")
    network = build_network(
        "fcn32s", spatial_dims=2, in_channels=3, num_classes=1000, upsampling="fixed", dropout=0.0
    )
    assert parameters(network) == vgg.record["parameters"] == 138_357_544
    state = vgg.state("vgg16")
    for name, side in (("classifier.0.weight", 7), ("classifier.3.weight", 1), ("classifier.6.weight", 1)):
        state[name] = state[name].unflatten(1, (-1, side, side))
    load(network, {**state, "ups.0.weight": network.get_buffer("ups.0.weight")}, VGG_RULES)
    seen: list[Tensor] = []
    network.encoder.register_forward_hook(lambda _module, _inputs, features: seen.append(features[-1]))
    network.scores[0].register_forward_hook(lambda _module, _inputs, scores: seen.append(scores))
    with torch.inference_mode():
        logits = network(vgg.image("vgg16"))
    features, scores = seen
    vgg.check("vgg16", "features", features)
    assert scores.shape[2:] == (7, 7)
    vgg.check("vgg16", "logits", scores[:, :, 3, 3])
    assert logits.shape == (1, 1000, 224, 224)


DEEPLAB_RULES: Rules = {
    r"^backbone\.": "encoder.body.",
    r"^classifier\.0\.convs\.4\.1\.": "aspp.branches.4.conv.",
    r"^classifier\.0\.convs\.4\.2\.": "aspp.branches.4.norm.",
    r"^classifier\.0\.convs\.": "aspp.branches.",
    r"^classifier\.0\.project\.": "aspp.project.0.",
    r"^classifier\.([12])\.": lambda m: f"head.0.{int(m[1]) - 1}.",
    r"^classifier\.4\.": "head.1.",
}


def deeplabv3(**fields: Any) -> nn.Module:
    """Build medseg's network as torchvision would."""
    own = {"backbone": "resnet50", "multi_grid": (1, 1, 1), "first_block_dilation": "prev"}
    return build_network("deeplabv3", spatial_dims=2, in_channels=3, num_classes=21, **own, **fields)


def test_deeplabv3_has_as_many_parameters_as_torchvisions() -> None:
    with torch.device("meta"):
        assert parameters(deeplabv3()) == peer("deeplabv3_resnet50").record["parameters"] == 39_638_869


@pytest.mark.parametrize("case", peer("deeplabv3_resnet50").cases)
def test_deeplabv3_gives_torchvisions_logits(case: str) -> None:
    deeplab = peer("deeplabv3_resnet50")
    entry = deeplab.cases[case]
    network = deeplabv3(output_stride=entry["output_stride"], rates=tuple(entry["rates"]))
    load(network, deeplab.state(case), DEEPLAB_RULES)
    with torch.inference_mode():
        deeplab.check(case, "features", network.encoder(deeplab.image(case))[-1])
        deeplab.check(case, "logits", network(deeplab.image(case)))


def nnunet(name: str, build: dict[str, Any]) -> nn.Module:
    """Build medseg's network as nnU-Net's package would."""
    depth: dict[str, Any] = {"decoder_units": build["n_conv_per_stage_decoder"][0]}
    if name == "nnunet_residual":
        depth["blocks"] = tuple(build["n_blocks_per_stage"])
    else:
        assert {*build["n_conv_per_stage"], depth.pop("decoder_units")} == {2}
        depth |= {"norm": "instance", "act": "leaky_relu", "downsampling": "strided_conv", "bias": True}
    return build_network(
        {"nnunet_plain": "unet", "nnunet_residual": "resunet"}[name],
        spatial_dims=len(build["strides"][0]),
        in_channels=build["input_channels"],
        num_classes=build["num_classes"],
        channels=tuple(build["features_per_stage"]),
        kernel_sizes=tuple(map(tuple, build["kernel_sizes"])),
        strides=tuple(map(tuple, build["strides"][1:])),
        deep_supervision=True,
        **depth,
    )


def nnunet_rules(stages: int) -> Rules:
    """nnU-Net counts the decoder's stages from the coarsest, medseg from the finest."""
    levels = {"stages": "stages", "transpconvs": "ups", "seg_layers": "heads"}
    return {
        r"^decoder\.(\w+)\.(\d+)": lambda m: f"decoder.{levels[m[1]]}.{stages - 2 - int(m[2])}",
        r"^(decoder\.stages\.\d+)\.convs": r"\1",
        r"^encoder\.stages\.(\d+)\.0\.convs\.(\d)": lambda m: f"encoder.stages.{m[1]}.{int(m[2]) + 1}",
        r"^encoder\.stem\.convs\.0": "encoder.stem",
        r"\.blocks\.(\d+)\.conv1": r".\1.first",
        r"\.blocks\.(\d+)\.conv2": r".\1.second",
        r"\.blocks\.(\d+)\.skip\.1\.conv": r".\1.shortcut.1",  # after the pooling
        r"\.blocks\.(\d+)\.skip\.1\.norm": r".\1.shortcut.2",
        r"\.conv\.": ".0.",
        r"\.norm\.": ".1.",
    }


@pytest.mark.parametrize(("name", "count"), [("nnunet_plain", 31_195_594), ("nnunet_residual", 102_349_770)])
def test_unet_has_as_many_parameters_as_nnunets(name: str, count: int) -> None:
    record = peer(name).record
    with torch.device("meta"):
        assert parameters(nnunet(name, record["full"])) == record["parameters"] == count


@pytest.mark.parametrize(("name", "case"), cases(*NNUNETS))
def test_unet_gives_nnunets_logits(name: str, case: str) -> None:
    other = peer(name)
    build = other.cases[case]["build"]
    network = nnunet(name, build)
    load(network, other.state(case), nnunet_rules(len(build["strides"])))
    with torch.inference_mode():
        other.check(case, "head_0", network(other.image(case)))
        heads = network.train()(other.image(case))
    assert len(heads) == len(other.cases[case]["outputs"]) == len(build["strides"]) - 1
    for level, found in enumerate(heads):
        other.check(case, f"head_{level}", found)
