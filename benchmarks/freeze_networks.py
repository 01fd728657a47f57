"""What torchvision, timm and nnU-Net's package compute with weights made by rule, frozen for the tests.

    python -m venv zoo
    zoo/bin/pip install -r benchmarks/requirements-networks.txt -c constraints.txt
    zoo/bin/pip install --no-deps torchvision==0.28.0 timm==1.0.22 dynamic-network-architectures==0.4.4
    zoo/bin/python benchmarks/freeze_networks.py [OUT]

OUT is ``tests/networks/fixtures`` by default. Each fixture is a pair of files: NAME.json says how the peer was
built, how many parameters it has, the names and shapes of its tensors, their checksum, and mean and standard
deviation of each output; NAME.safetensors holds samples of the outputs. The weights are not stored: they are those of
``tests/networks/seeded.py``. No medseg and no pretrained weights are used here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.networks.seeded import checksum, seeded_image, seeded_state  # noqa: E402

# torchvision's compiled operators do not load beside a CPU build of torch; the networks use none of them, but
# importing the package asks for the schemas of these two.
OPERATORS = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet  # noqa: E402
from timm.models.xception_aligned import xception65  # noqa: E402
from torchvision.models import resnet18, resnet34, resnet50, resnet101, vgg16  # noqa: E402
from torchvision.models._utils import IntermediateLayerGetter  # noqa: E402
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3  # noqa: E402

Outputs = Mapping[str, tuple[Tensor, Sequence[int]]]  # name -> (output, step along each axis)
DILATED = {8: [False, True, True], 16: [False, False, True], 32: [False, False, False]}  # layer2, layer3, layer4
LAYERS = ("layer1", "layer2", "layer3", "layer4")


class Fixture:
    """Collects the cases of one peer and writes its two files."""

    def __init__(self, name: str, peer: str, *, parameters: int, **facts: Any) -> None:
        self.name = name
        self.record: dict[str, Any] = {
            "peer": {peer: version(peer), "torch": version("torch")},
            "parameters": parameters,
            **facts,
            "states": {},
            "cases": {},
        }
        self.samples: dict[str, Tensor] = {}

    def seed(self, state_name: str, network: nn.Module) -> None:
        """Fill `network`; a tensor that it holds under two names is known by the first."""
        tensors = {
            name: tensor
            for name, tensor in (*network.named_parameters(), *network.named_buffers())
            if not name.endswith("num_batches_tracked")  # a count that evaluation does not read
        }
        state = seeded_state({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state[name])
        network.eval()
        self.record["states"][state_name] = {
            "checksum": checksum(state),
            "tensors": {name: " ".join(map(str, tensor.shape)) for name, tensor in state.items()},
        }

    def image(self, case: str, *shape: int) -> Tensor:
        seed = f"{self.name}/{case}"
        self.record["cases"][case] = {"seed": seed, "image": list(shape)}
        return seeded_image(seed, shape)

    def case(self, case: str, state: str, outputs: Outputs, **build: Any) -> None:
        entry = self.record["cases"][case]
        entry |= {**build, "state": state, "outputs": {}}
        for key, (output, steps) in outputs.items():
            if not output.isfinite().all():
                raise ValueError(f"{self.name}: {case}: {key} is not finite")
            self.samples[f"{case}/{key}"] = output[tuple(slice(None, None, step) for step in steps)].contiguous()
            entry["outputs"][key] = {
                "shape": list(output.shape),
                "steps": list(steps),
                "mean": round(output.double().mean().item(), 7),
                "std": round(output.double().std().item(), 7),
            }

    def write(self, folder: Path) -> None:
        text = json.dumps(self.record, indent=1)
        text = re.sub(
            r"\[[\s\d,]+\]", lambda m: f"[{' '.join(m[0][1:-1].split())}]", text
        )  # a list of numbers is one line
        (folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")
        samples = folder / f"{self.name}.safetensors"
        save_file(self.samples, samples)
        samples.chmod(0o644)
        for case, entry in self.record["cases"].items():
            for key, output in entry["outputs"].items():
                print(
                    f"{self.name:20} {case:24} {key:12} {output['shape']} {output['mean']:.4f} {output['std']:.4f}"
                )


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def freeze_resnets(folder: Path) -> None:
    for build in (resnet18, resnet34, resnet50, resnet101):
        name = build.__name__
        whole = build(weights=None)
        fixture = Fixture(
            name,
            "torchvision",
            parameters=count(whole),
            parameters_without_fc=count(whole) - count(whole.fc),
        )
        for stride in (32, 16, 8) if build is resnet50 else (32,):
            network = build(weights=None, replace_stride_with_dilation=DILATED[stride])
            fixture.seed(name, network)
            body = IntermediateLayerGetter(network, {layer: layer for layer in LAYERS})
            case = f"stride_{stride}"
            image = fixture.image(case, 1, 3, 64, 64)
            features = body(image)
            fixture.case(
                case,
                name,
                {
                    layer: (x, (1, x.shape[1] // 16, max(1, x.shape[2] // 4), max(1, x.shape[3] // 4)))
                    for layer, x in features.items()
                },
                output_stride=stride,
            )
        fixture.write(folder)


def freeze_vgg16(folder: Path) -> None:
    network = vgg16(weights=None, init_weights=False)
    fixture = Fixture(
        "vgg16", "torchvision", parameters=count(network), parameters_features=count(network.features)
    )
    fixture.seed("vgg16", network)
    image = fixture.image("vgg16", 1, 3, 224, 224)
    outputs = {"features": (network.features(image), (1, 16, 1, 1)), "logits": (network(image), (1, 1))}
    fixture.case("vgg16", "vgg16", outputs)
    fixture.write(folder)


def deeplabv3(output_stride: int, rates: Sequence[int]) -> nn.Module:
    backbone = resnet50(weights=None, replace_stride_with_dilation=DILATED[output_stride])
    body = IntermediateLayerGetter(backbone, {"layer4": "out"})
    return DeepLabV3(body, DeepLabHead(2048, 21, rates))


def freeze_deeplabv3(folder: Path) -> None:
    fixture = Fixture("deeplabv3_resnet50", "torchvision", parameters=count(deeplabv3(8, (12, 24, 36))))
    for stride, rates in ((8, (12, 24, 36)), (16, (6, 12, 18))):
        network = deeplabv3(stride, rates)
        fixture.seed("deeplabv3_resnet50", network)
        # the third is wide enough for every atrous rate to reach from one pixel to another
        for size in ((97, 97), (64, 80), (17, 297)):
            case = f"stride_{stride}/{size[0]}x{size[1]}"
            image = fixture.image(case, 1, 3, *size)
            features, logits = network.backbone(image)["out"], network(image)["out"]
            outputs = {"features": (features, (1, 128, 3, 3)), "logits": (logits, (1, 1, 8, 8))}
            fixture.case(case, "deeplabv3_resnet50", outputs, output_stride=stride, rates=list(rates), classes=21)
    fixture.write(folder)


def freeze_xception65(folder: Path) -> None:
    fixture = Fixture("xception65", "timm", parameters=count(xception65(num_classes=0)))
    for stride in (32, 16, 8):
        network = xception65(num_classes=0, output_stride=stride)
        fixture.seed("xception65", network)
        low: list[Tensor] = []
        # 256 channels at stride 4: the second separable convolution of the second block, before its ReLU
        network.blocks[1].stack.conv2.register_forward_hook(lambda _m, _i, out, low=low: low.append(out.clone()))
        for size in ((65, 65), (64, 48)):
            low.clear()
            case = f"stride_{stride}/{size[0]}x{size[1]}"
            image = fixture.image(case, 1, 3, *size)
            features = network.forward_features(image)
            outputs = {"low": (low[0], (1, 32, 4, 4)), "features": (features, (1, 64, 1, 1))}
            fixture.case(case, "xception65", outputs, output_stride=stride)
    fixture.write(folder)


def nnunet(spatial_dims: int, *, residual: bool, **fields: Any) -> nn.Module:
    common = {
        "conv_op": {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims],
        "conv_bias": True,
        "norm_op": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[spatial_dims],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
        "n_stages": len(fields["features_per_stage"]),
    }
    return (ResidualEncoderUNet if residual else PlainConvUNet)(**common, **fields)


FULL = {
    "input_channels": 1,
    "num_classes": 2,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 5],
    "kernel_sizes": [[3, 3, 3]] * 6,
}
SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "2d": (
        (32, 48),
        {
            "features_per_stage": [4, 8, 16, 16],
            "strides": [[1, 1], *[[2, 2]] * 3],
            "kernel_sizes": [[3, 3]] * 4,
        },
    ),
    "3d": (
        (16, 32, 16),
        {
            "features_per_stage": [4, 8, 8],
            "strides": [[1, 1, 1], *[[2, 2, 2]] * 2],
            "kernel_sizes": [[3, 3, 3]] * 3,
        },
    ),
    "3d_anisotropic": (
        (16, 32, 6),
        {
            "features_per_stage": [4, 8, 8, 12],
            "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]],
            "kernel_sizes": [[3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3]],
        },
    ),
}


def depth_fields(residual: bool, stages: int) -> dict[str, Any]:
    if residual:
        return {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6][:stages], "n_conv_per_stage_decoder": [1] * (stages - 1)}
    return {"n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1)}


def freeze_nnunet(folder: Path) -> None:
    for name, residual in (("nnunet_plain", False), ("nnunet_residual", True)):
        full = {**FULL, **depth_fields(residual, 6)}
        with torch.device("meta"):
            parameters = count(nnunet(3, residual=residual, **full))
        fixture = Fixture(name, "dynamic-network-architectures", parameters=parameters, full=full)
        for case, (size, fields) in SMALL.items():
            stages = len(fields["features_per_stage"])
            build = {"input_channels": 2, "num_classes": 3, **fields, **depth_fields(residual, stages)}
            network = nnunet(len(size), residual=residual, **build)
            fixture.seed(case, network)
            image = fixture.image(case, 2, 2, *size)
            # a step that does not divide the strides: voxels of every parity are sampled
            outputs = {f"head_{level}": (x, (1, 1, *(3 for _ in size))) for level, x in enumerate(network(image))}
            fixture.case(case, case, outputs, build=build)
        fixture.write(folder)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "networks" / "fixtures"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with torch.inference_mode():
        for freeze in (freeze_resnets, freeze_vgg16, freeze_deeplabv3, freeze_xception65, freeze_nnunet):
            freeze(folder)


if __name__ == "__main__":
    main()
