"""Pretrained weights: from a local file alone, checked, without code, and fitted to the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets.resnet import ResNet
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.errors import ModelError, UsageError
from medseg.files import sha256_of
from medseg.networks import NETWORKS, weights
from medseg.networks.weights import WeightsFile, adapt_stem, load_pretrained
from tests.networks.probes import scrambled, small

State = dict[str, Tensor]
OF_BACKBONE = {"resnet18": "deeplabv3plus", "resnet50": "deeplabv3", "vgg16": "fcn32s"}


def network_of(backbone: str, dims: int, channels_in: int = 1, **fields: Any) -> nn.Module:
    return small(OF_BACKBONE[backbone], dims, backbone=backbone, channels_in=channels_in, **fields)


def published(network: nn.Module) -> State:
    """Return a network's encoder by torchvision's names."""
    return {key.removeprefix("body."): tensor for key, tensor in network.encoder.state_dict().items()}


def written(path: Path, content: Any) -> WeightsFile:
    """Write a file by its name's ending and describe it."""
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return WeightsFile(file=path, sha256=sha256_of(path))


def loaded(network: nn.Module, file: WeightsFile) -> nn.Module:
    load_pretrained(network, file)
    return network.eval()


def same(network: nn.Module, state: State) -> bool:
    found = published(network)
    return all(torch.equal(found[key], tensor) for key, tensor in state.items())


# --- forms of a file


FORMS: dict[str, Callable[[State], Any]] = {
    "plain.safetensors": lambda state: state,
    "plain.pth": lambda state: state,
    "state_dict.pth": lambda state: {"epoch": 3, "state_dict": state},
    "model.pt": lambda state: {"model": state, "optimizer": {"step": 1}},
    "parallel.pth": lambda state: {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
    "with_classifier.pth": lambda state: state | {"fc.weight": torch.ones(10, 64), "fc.bias": torch.ones(10)},
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_file_fills_the_encoder(tmp_path, form):
    source = published(scrambled(network_of("resnet18", 2)))
    network = small("deeplabv3", 2, backbone="resnet18", weights=written(tmp_path / form, FORMS[form](source)))
    assert same(network, source)


def test_the_rest_of_the_network_keeps_its_fresh_weights(tmp_path):
    file = written(tmp_path / "a.pth", published(scrambled(network_of("resnet18", 2))))
    fresh, filled = network_of("resnet18", 2), loaded(network_of("resnet18", 2), file)
    kept = {key for key, tensor in fresh.state_dict().items() if torch.equal(tensor, filled.state_dict()[key])}
    changed = {key for key in fresh.state_dict() if key.startswith("encoder.")}
    assert {key for key in kept if not key.startswith("encoder.")} == set(fresh.state_dict()) - changed
    assert not [key for key in changed & kept if "num_batches_tracked" not in key]


def test_no_weights_change_nothing():
    network = network_of("resnet18", 2)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    load_pretrained(network, None)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


# --- what is refused


def refused(network: nn.Module, file: WeightsFile, match: str) -> ModelError:
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(ModelError, match=match) as caught:
        load_pretrained(network, file)
    assert caught.value.where == str(file.file)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    return caught.value


def test_a_missing_file_is_refused(tmp_path):
    file = WeightsFile(file=tmp_path / "none.pth", sha256="0" * 64)
    refused(network_of("resnet18", 2), file, "expected a file of weights, found no such file")


def test_a_folder_is_refused(tmp_path):
    refused(network_of("resnet18", 2), WeightsFile(file=tmp_path, sha256="0" * 64), "expected a file of weights")


def test_another_file_than_its_checksum_says_is_refused(tmp_path):
    network = network_of("resnet18", 2)
    file = written(tmp_path / "a.pth", published(network))
    other = file.model_copy(update={"sha256": "0" * 64})
    refused(network, other, f"expected SHA-256 000000000000, found {file.sha256[:12]}")


class Payload:
    """A pickled object that makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_with_an_object_is_refused_and_its_code_does_not_run(tmp_path, wrapped):
    state = published(network_of("resnet18", 2))
    content = {"state_dict": state, "args": Payload(tmp_path / "ran")} if wrapped else Payload(tmp_path / "ran")
    file = written(tmp_path / "a.pth", content)
    refused(network_of("resnet18", 2), file, "expected a file of tensors, which holds no code")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_network_is_refused(tmp_path):
    refused(network_of("resnet18", 2), written(tmp_path / "a.pth", nn.Linear(2, 2)), "which holds no code")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    path = tmp_path / name
    written(path, published(network_of("resnet18", 2)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    file = WeightsFile(file=path, sha256=sha256_of(path))
    refused(network_of("resnet18", 2), file, "expected a file of tensors")


@pytest.mark.parametrize(
    "content",
    [torch.zeros(3), [torch.zeros(3)], {}, {"epoch": 3}, {"state_dict": {}}, {1: torch.zeros(2)}, 5, None],
    ids=lambda content: type(content).__name__ + str(len(str(content))),
)
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    refused(network_of("resnet18", 2), written(tmp_path / "a.pth", content), "expected")


@pytest.mark.parametrize(
    ("source", "target"),
    [("resnet50", "resnet18"), ("resnet18", "resnet50"), ("vgg16", "resnet18"), ("resnet18", "vgg16")],
)
def test_the_weights_of_another_backbone_are_refused(tmp_path, source, target):
    file = written(tmp_path / "a.pth", published(network_of(source, 2)))
    error = refused(network_of(target, 2), file, "expected every convolution")
    assert "choose the backbone that the weights are of" in error.remedy


def test_weights_of_another_width_are_refused(tmp_path):
    file = written(tmp_path / "a.pth", published(network_of("resnet18", 2, width_multiplier=0.25)))
    refused(network_of("resnet18", 2), file, "expected every convolution.* in its shape")


def test_weights_without_one_layer_are_refused_and_it_is_named(tmp_path):
    state = published(network_of("resnet18", 2))
    del state["layer3.1.conv2.weight"]
    refused(network_of("resnet18", 2), written(tmp_path / "a.pth", state), r"found not: layer3\.1\.conv2\.weight")


def test_weights_without_running_statistics_are_refused(tmp_path):
    state = {key: tensor for key, tensor in published(network_of("resnet18", 2)).items() if "running" not in key}
    refused(network_of("resnet18", 2), written(tmp_path / "a.pth", state), r"found not: bn1\.running_mean")


def test_weights_of_shortcut_a_say_which_field_to_set(tmp_path):
    file = written(tmp_path / "a.pth", published(network_of("resnet18", 3, shortcut="A")))
    error = refused(network_of("resnet18", 3), file, r"downsample\.0\.weight")
    assert "shortcut: A" in error.remedy


@pytest.mark.parametrize("sha256", ["", "abc", "G" * 64, "A" * 64, "0" * 65])
def test_a_checksum_is_64_small_hexadecimal_digits(sha256):
    with pytest.raises(ValidationError):
        WeightsFile(file="a.pth", sha256=sha256)


# --- fitting


def test_group_norm_gets_the_convolutions_and_keeps_its_own_scale(tmp_path):
    source = published(scrambled(network_of("resnet18", 2)))
    network = loaded(network_of("resnet18", 2, norm="group"), written(tmp_path / "a.pth", source))
    convolutions, norms = 0, 0
    for key, tensor in published(network).items():
        if tensor.ndim > 1:
            assert torch.equal(tensor, source[key])
            convolutions += 1
        else:
            assert tensor.unique().tolist() == [float(key.endswith("weight"))]
            norms += 1
    assert (convolutions, norms) == (20, 40)


def test_a_vgg16_with_batch_norm_fills_one_with_batch_norm(tmp_path):
    source = published(scrambled(network_of("vgg16", 2, norm="batch")))
    assert same(loaded(network_of("vgg16", 2, norm="batch"), written(tmp_path / "a.pth", source)), source)


def features_of(network: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return network.double().eval().encoder(x.double())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("backbone", OF_BACKBONE)
def test_one_channel_responds_as_three_equal_ones(tmp_path, backbone, dims):
    colour = scrambled(network_of(backbone, dims, channels_in=3))
    grey = loaded(network_of(backbone, dims), written(tmp_path / "a.safetensors", published(colour)))
    x = torch.randn(1, 1, *(64, 33 if backbone != "vgg16" else 32, 32)[:dims])
    expanded = x.expand(1, 3, *x.shape[2:])
    for found, expected in zip(features_of(grey, x), features_of(colour, expanded), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # the sum is rounded to float32


def test_a_stem_for_more_channels_takes_the_kernels_in_turn_at_the_same_strength():
    red, green, blue = kernel = torch.randn(3, 8, 7, 7)
    kernel = kernel.movedim(0, 1)  # (outputs, inputs, 7, 7)
    assert torch.equal(adapt_stem(kernel, 1)[:, 0], kernel.sum(1))
    six = adapt_stem(kernel, 6)
    torch.testing.assert_close(six, torch.stack([red, green, blue] * 2, 1) / 2)
    for channels in (2, 4, 9):
        adapted = adapt_stem(kernel, channels)
        assert adapted.shape == (8, channels, 7, 7)
        torch.testing.assert_close(adapted.abs().sum(), kernel.abs().sum())
    grey = adapt_stem(kernel[:, :1], 3)
    torch.testing.assert_close(grey.sum(1), kernel[:, 0])


@pytest.mark.parametrize("slices", [1, 3])
def test_neighbouring_slices_share_the_kernels_of_a_grey_network(tmp_path, slices):
    source = published(scrambled(network_of("resnet18", 2, channels_in=3)))
    file = written(tmp_path / "a.pth", source)
    network = small("deeplabv3plus", 2, backbone="resnet18", channels_in=2, slices=slices, weights=file)
    assert network.encoder.body.conv1.weight.shape[1] == 2 * slices
    torch.testing.assert_close(network.encoder.body.conv1.weight.abs().sum(), source["conv1.weight"].abs().sum())


@pytest.mark.parametrize("backbone", OF_BACKBONE)
@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 5.0)], ids=str)
def test_inflated_weights_give_on_a_volume_constant_along_z_the_features_of_the_plane(
    tmp_path, backbone, spacing_mm
):
    plane = scrambled(network_of(backbone, 2))
    file = written(tmp_path / "a.safetensors", published(plane))
    volume = loaded(network_of(backbone, 3, spacing_mm=spacing_mm), file)
    x = torch.randn(1, 1, 64, 96)
    flat = features_of(plane, x)
    for found, expected in zip(features_of(volume, x[..., None].expand(1, 1, 64, 96, 32)), flat, strict=True):
        assert found.shape[:4] == expected.shape
        torch.testing.assert_close(found, expected[..., None].expand_as(found))


def test_inflated_kernels_stand_in_the_centre_slice(tmp_path):
    plane = network_of("resnet18", 2)
    volume = loaded(network_of("resnet18", 3), written(tmp_path / "a.pth", published(plane)))
    for key, kernel in published(volume).items():
        if kernel.ndim == 5:
            middle = kernel.shape[4] // 2
            assert torch.equal(kernel[..., middle], published(plane)[key])
            assert torch.equal(kernel.abs().sum(-1), kernel[..., middle].abs())


@pytest.mark.parametrize("dims", [2, 3])
def test_the_classifier_of_vgg16_becomes_fc6_and_fc7(tmp_path, dims):
    plane = small("fcn32s", 2, channels_in=3)
    fc6, fc7 = torch.randn(512, 64 * 7 * 7), torch.randn(512, 512)  # an eighth of the width
    state = published(plane) | {
        "classifier.0.weight": fc6,
        "classifier.0.bias": torch.randn(512),
        "classifier.3.weight": fc7,
        "classifier.3.bias": torch.randn(512),
        "classifier.6.weight": torch.randn(1000, 512),
        "classifier.6.bias": torch.randn(1000),
    }
    network = small("fcn32s", dims, backbone="vgg16", channels_in=3, norm="none")
    loaded(network, written(tmp_path / "a.pth", state))
    map_of_vgg, volume = torch.randn(1, 64, 7, 7), dims == 3
    x = map_of_vgg[..., None].expand(1, 64, 7, 7, 3) if volume else map_of_vgg
    with torch.no_grad():
        hidden = F.linear(map_of_vgg.flatten(1), fc6, state["classifier.0.bias"]).relu()
        expected = F.linear(hidden, fc7, state["classifier.3.bias"]).relu()
        found = network.head(x)[(0, slice(None), 3, 3, *([1] * volume))]
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-3)


# --- MedicalNet


def medicalnet(backbone: str) -> ResNet:
    """Build MONAI's ResNet as MONAI builds MedicalNet's, an eighth as wide, at MedicalNet's stem stride."""
    torch.manual_seed(1)
    return scrambled(
        ResNet(
            "basic" if backbone == "resnet18" else "bottleneck",
            [2, 2, 2, 2] if backbone == "resnet18" else [3, 4, 6, 3],
            [8, 16, 32, 64],
            spatial_dims=3,
            n_input_channels=1,
            conv1_t_stride=2,
            shortcut_type="A" if backbone == "resnet18" else "B",
            bias_downsample=False,
            feed_forward=False,
        )
    )


@pytest.mark.parametrize(("backbone", "shortcut"), [("resnet18", "A"), ("resnet50", "B")])
def test_medicalnets_weights_give_monais_features(tmp_path, backbone, shortcut):
    peer, x = medicalnet(backbone), torch.randn(1, 1, 32, 40, 33)
    file = written(tmp_path / "a.pth", {"state_dict": {f"module.{k}": v for k, v in peer.state_dict().items()}})
    network = small("fcn8s", 3, backbone=backbone, shortcut=shortcut, weights=file)
    peer.double()
    with torch.no_grad():
        y = peer.maxpool(peer.act(peer.bn1(peer.conv1(x.double()))))
        expected = [y]
        for layer in (peer.layer1, peer.layer2, peer.layer3, peer.layer4):
            y = layer(y)
            expected.append(y)
    for found, wanted in zip(features_of(network, x), expected, strict=True):
        torch.testing.assert_close(found, wanted)


# --- files by a known name


@pytest.fixture
def checkpoints(tmp_path, monkeypatch) -> Path:
    """The folder where torch keeps what it downloads, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


IMAGENET = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "vgg16": "vgg16-397923af.pth",
}  # torchvision's ResNet*_Weights.IMAGENET1K_V1.url and the like


@pytest.mark.parametrize("backbone", IMAGENET)
def test_a_known_file_that_is_not_there_is_named_with_its_place_and_source(checkpoints, backbone):
    with torch.device("meta"):
        network = small("fcn16s", 2, backbone=backbone)
    with pytest.raises(ModelError) as caught:
        load_pretrained(network, "imagenet")
    assert caught.value.where == str(checkpoints / IMAGENET[backbone])
    assert IMAGENET[backbone] in caught.value.expected
    assert f"torchvision.models.{backbone}(" in caught.value.remedy
    assert "nothing is downloaded" in caught.value.remedy


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_a_medicalnet_file_that_is_not_there_is_named(checkpoints, depth):
    with torch.device("meta"):
        network = small("fcn16s", 3, backbone=f"resnet{depth}")
    with pytest.raises(ModelError, match=f"resnet_{depth}.*no such file.*Tencent/MedicalNet") as caught:
        load_pretrained(network, "medicalnet")
    assert Path(caught.value.where).parent == checkpoints


def test_a_known_file_is_checked_by_the_digits_in_its_name(checkpoints):
    network = network_of("resnet18", 2)
    torch.save(published(network), checkpoints / IMAGENET["resnet18"])
    with pytest.raises(ModelError, match="expected SHA-256 f37072fd") as caught:
        load_pretrained(network, "imagenet")
    assert caught.value.where == str(checkpoints / IMAGENET["resnet18"])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_known_file_fills_the_encoder(checkpoints, monkeypatch, dims):
    source = published(scrambled(network_of("resnet18", 2, channels_in=3)))
    torch.save(source, checkpoints / "here.pth")
    name = f"resnet18-{sha256_of(checkpoints / 'here.pth')[:8]}.pth"
    (checkpoints / "here.pth").rename(checkpoints / name)
    monkeypatch.setitem(weights._IMAGENET, "resnet18", name)
    network = small("fcn8s", dims, backbone="resnet18", channels_in=3, weights="imagenet")
    assert torch.equal(published(network)["layer4.1.bn2.running_var"], source["layer4.1.bn2.running_var"])
    centre = published(network)["conv1.weight"]
    assert torch.equal(centre if dims == 2 else centre[..., 3], source["conv1.weight"])


def test_medicalnets_file_fills_the_encoder(checkpoints):
    peer = medicalnet("resnet18")
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in peer.state_dict().items()}},
        checkpoints / "resnet_18_23dataset.pth",
    )
    network = small("deeplabv3", 3, backbone="resnet18", shortcut="A", weights="medicalnet")
    assert same(network, peer.state_dict())


@pytest.mark.parametrize(
    ("name", "dims", "known", "fields"),
    [
        ("unet", 2, "imagenet", {}),
        ("resunet", 3, "medicalnet", {}),
        ("deeplabv3plus", 2, "imagenet", {"backbone": "xception65"}),
        ("fcn8s", 2, "medicalnet", {"backbone": "resnet18"}),
        ("fcn8s", 3, "medicalnet", {"backbone": "vgg16"}),
        ("deeplabv1", 3, "medicalnet", {}),
    ],
)
def test_weights_that_nobody_has_published_are_a_wrong_configuration(checkpoints, name, dims, known, fields):
    with pytest.raises(UsageError, match=r"network\.weights: expected weights that were published for") as caught:
        small(name, dims, weights=known, **fields)
    assert caught.value.found == known


# --- a network's own weights


OWN = [
    ("unet", "decoder.heads.0."),
    ("resunet", "decoder.heads.0."),
    ("deeplabv3plus", "decoder.2."),
    ("fcn16s", ("scores.", "ups.")),
    ("deeplabv2", "head."),
]


@pytest.mark.parametrize(("name", "heads"), OWN)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_own_weights_for_other_classes_fill_all_but_the_heads(tmp_path, name, heads, ending):
    source = scrambled(small(name, 2, classes=3))
    file = written(tmp_path / f"a.{ending}", source.state_dict())
    fresh, network = small(name, 2, classes=5), small(name, 2, classes=5, weights=file)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, (fresh if key.startswith(heads) else source).state_dict()[key]), key


@pytest.mark.parametrize("name", [entry.name for entry in NETWORKS])
def test_own_weights_for_the_same_classes_fill_everything(tmp_path, name):
    source = scrambled(small(name, 2))
    network = loaded(small(name, 2), written(tmp_path / "a.safetensors", source.state_dict()))
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in network.state_dict().items())


def test_own_weights_of_a_plane_fill_a_volume_and_give_the_same_logits_where_it_is_constant(tmp_path):
    plane = scrambled(small("unet", 2))
    volume = loaded(small("unet", 3), written(tmp_path / "a.safetensors", plane.state_dict()))
    x = torch.randn(1, 1, 32, 48)
    with torch.no_grad():
        found = volume(x[..., None].expand(1, 1, 32, 48, 16))
        expected = plane(x)[..., None].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_own_weights_of_another_network_are_refused(tmp_path):
    file = written(tmp_path / "a.safetensors", small("unet", 2).state_dict())
    refused(small("resunet", 2), file, "expected every convolution")
    refused(
        small("unet", 2, channels=(64, 128)),
        written(tmp_path / "b.pth", small("unet", 2, channels=(32, 64)).state_dict()),
        "expected every convolution",
    )


# --- beside the published layers


@pytest.mark.parametrize("attention", ["se", "cbam"])
def test_attention_that_the_file_does_not_have_starts_afresh(tmp_path, attention):
    plain = network_of("resnet18", 2)
    network = loaded(network_of("resnet18", 2, attention=attention), written(tmp_path / "a.pth", published(plain)))
    found = published(network)
    assert all(torch.equal(found[key], tensor) for key, tensor in published(plain).items())
    assert any("attention" in key for key in found)


@pytest.mark.parametrize("axis", [0, 1])
def test_planes_are_put_across_the_thick_axis(tmp_path, axis):
    """Sagittal or coronal slices: constant along the thick axis, a volume gives the features of the plane."""
    plane = scrambled(network_of("resnet18", 2))
    spacing_mm = [1.0, 1.0, 1.0]
    spacing_mm[axis] = 3.0
    file = written(tmp_path / "a.pth", published(plane))
    volume = loaded(network_of("resnet18", 3, spacing_mm=tuple(spacing_mm)), file)
    x = torch.randn(1, 1, 64, 96)
    size = [1, 1, 64, 96]
    size.insert(2 + axis, 16)
    flat = features_of(plane, x)
    for found, expected in zip(features_of(volume, x.unsqueeze(2 + axis).expand(size)), flat, strict=True):
        torch.testing.assert_close(found, expected.unsqueeze(2 + axis).expand_as(found))


def test_volumes_kernels_for_thick_axes_are_refused_with_what_to_set(tmp_path):
    file = written(tmp_path / "a.pth", published(network_of("resnet18", 3)))
    with pytest.raises(ModelError, match=r"spacing_mm: \[1, 1, 1\]"):
        load_pretrained(network_of("resnet18", 3, spacing_mm=(1.0, 1.0, 5.0)), file)
