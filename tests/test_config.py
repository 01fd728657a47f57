"""Training configurations: every mistake of a file is reported at once, with its line and the nearest key."""

import re

import pytest
import torch

from medseg.config import load_config
from medseg.errors import ConfigError, UsageError
from medseg.labels import LabelSet
from medseg.regions import LabelScheme, Region
from medseg.shipped import Shelf, find_yaml
from tests.builders import tiny_config

GOOD = find_yaml("torso_unet3d", Shelf.CONFIGS).read_text()
(PATCH,) = re.findall(r"patch_size: .*", GOOD)


def problems(tmp_path, *changes: tuple[str, str]) -> list[str]:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(file))
    return caught.value.problems


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(GOOD.splitlines(), 1) if text in line)


def test_all_misspelt_keys_at_once_with_their_lines_and_the_nearest_key(tmp_path):
    found = problems(
        tmp_path, ("batch_size: 2", "batchsize: 2"), ("clip_hu", "clip_hus"), ("channels:", "chanels:"),
        ("learning_rate", "lerning_rate"),
    )  # fmt: skip
    text = "\n".join(found)
    for key, line, nearest in (
        ("training.batchsize", "batch_size: 2", "batch_size"),
        ("preprocessing.intensity.0.clip_hus", "clip_hu", "clip_hu"),
        ("network.chanels", "channels:", "channels"),
        ("training.optimizer.lerning_rate", "learning_rate", "learning_rate"),
    ):
        assert f"x.yaml:{line_of(line)}: {key}: unknown key; did you mean '{nearest}'?" in text
    assert len(found) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: unet", "name: unett"), "unet"),
        (("name: ce_dice", "name: dice_ce"), "loss"),
        (("epochs: 16", "epochs: 0"), "training.epochs"),
        (("flip_axes: []", "flip_axes: [3]"), "flip_axes [3] must lie in 0..2"),
        (("overlap: 0.5", "tile_size: [32, 32]"), "tile_size has 2 sizes, training.patch_size 3"),
        (("[-200, 400]", "[400, -200]"), "clip_hu must rise"),
        ((PATCH, "patch_size: [64]"), "two or three sizes"),
        (("  batch_size: 2\n", "  batch_size: 2\n  batch_size: 3\n"), "duplicate key"),
    ],
)
def test_values_that_cannot_be(tmp_path, change, message):
    (problem,) = problems(tmp_path, change)
    assert message in problem


def test_a_name_that_is_nearly_right(tmp_path):
    with pytest.raises(UsageError, match="did you mean torso_unet3d"):
        load_config("torso_unet_3d")


def test_two_patch_sizes_make_a_two_dimensional_network(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(GOOD.replace(PATCH, "patch_size: [64, 40]"))
    config = load_config(str(file))
    assert config.spatial_dims == 2
    assert config.window().tile_size == (64, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("channels: [16, 32, 64, 128]", "channels: []"), "network.channels: expected one positive number a stage"),
        (("channels: [16, 32, 64, 128]", "channels: [16, 0]"), "network.channels"),
        (("norm: batch", "dropout: 1.0"), "network.dropout: expected a probability from 0 to below 1"),
        (("norm: batch", "dropout: -0.1"), "network.dropout"),
        (
            ("channels: [16, 32, 64, 128]", "channels: [16, 32]\n  kernel_sizes: [[3, 3, 3], [3, 2, 3]]"),
            "network.kernel_sizes: expected odd numbers",
        ),
        (("norm: batch", "strides: [[2, 2, 2]]"), "network.strides: expected 3 entries"),
        (("overlap: 0.5", "tile_size: [32, 32, 0]"), "inference.tile_size"),
    ],
)
def test_networks_that_cannot_be_built(tmp_path, change, message):
    (problem,) = problems(tmp_path, change)
    assert message in problem


@pytest.mark.parametrize(("norm", "batch", "fits"), [
    ("instance", 2, False), ("batch", 1, False), ("batch", 2, True), ("group", 1, True),
])  # fmt: skip
def test_a_patch_of_which_one_voxel_is_left_is_refused_with_one_that_works(tmp_path, norm, batch, fits):
    file = tmp_path / "x.yaml"
    changed = GOOD.replace("norm: batch", f"norm: {norm}").replace("batch_size: 2", f"batch_size: {batch}")
    file.write_text(changed.replace(PATCH, "patch_size: [8, 8, 6]"))
    if fits:
        load_config(str(file))
    else:
        with pytest.raises(ConfigError, match=r"one voxel is left; try \[16, 16, 16\]"):
            load_config(str(file))
        file.write_text(changed.replace(PATCH, "patch_size: [16, 16, 16]"))
    config = load_config(str(file))
    network = config.network_spec(1, 2).build().train()
    network(torch.zeros(batch, 1, *config.training.patch_size))


def test_rules_must_be_one_or_one_a_channel():
    two = tiny_config().preprocessing.model_copy(update={"intensity": tiny_config().preprocessing.intensity * 2})
    config = tiny_config().model_copy(update={"preprocessing": two})
    config.check_channels(2)
    with pytest.raises(UsageError, match="expected one rule, or one for each of 3 channels, found 2 rules"):
        config.check_channels(3)


def changed(**parts):
    tree = tiny_config().model_dump()
    for part, values in parts.items():
        tree[part] = values if part in ("network", "loss") else tree[part] | values
    return type(tiny_config()).model_validate(tree)


def test_network_and_loss_learn_patch_and_spacing_from_the_config():
    config = changed(
        network={"name": "deeplabv3plus", "backbone": "resnet18", "rates": "auto", "width_multiplier": 0.125},
        loss={"name": "ce_crf", "radius_mm": 5.0},
        preprocessing={"spacing_mm": (1.0, 1.0, 5.0)},
        training={"patch_size": (64, 48, 8)},
    )
    spec = config.network_spec(1, 3, spacing_mm=(1.0, 1.0, 5.0))
    assert spec.fields["patch_size"] == (64, 48, 8)
    assert spec.fields["spacing_mm"] == (1.0, 1.0, 5.0)
    assert spec.sketch().multiple == (16, 16, 4)  # two halvings until 4 mm against 5 mm
    assert config.build_loss((1.0, 1.0, 5.0)).loss.spacing_mm == (1.0, 1.0, 5.0)
    assert config.network_spec(1, 3).fields["spacing_mm"] is None


def test_what_a_config_says_itself_stands():
    network = {
        "name": "unet",
        "channels": (4, 8, 16),
        "spacing_mm": (1.0, 1.0, 1.0),
        "strides": ((1, 2, 2), (2, 2, 1)),
    }
    config = changed(network=network, loss={"name": "ce_crf", "spacing_mm": (2.0, 2.0, 2.0)})
    spec = config.network_spec(1, 3, spacing_mm=(1.0, 1.0, 5.0))
    assert spec.fields["spacing_mm"] == (1.0, 1.0, 1.0)
    assert spec.sketch().multiple == (2, 4, 2)
    assert config.build_loss((1.0, 1.0, 5.0)).loss.spacing_mm == (2.0, 2.0, 2.0)


def test_a_two_dimensional_network_gets_the_spacing_of_its_plane():
    config = changed(training={"patch_size": (32, 16)}, inference={"tile_size": None})
    assert config.network_spec(1, 3, spacing_mm=(1.0, 3.0, 9.0)).fields["spacing_mm"] == (1.0, 3.0)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"loss": {"name": "ce_crf", "radius_mm": 1.0}}, "radius_mm: expected a window that reaches a neighbour"),
        ({"loss": {"name": "ce_dice", "class_weights": (-1.0, 1.0)}}, "loss.class_weights"),
        ({"postprocessing": {"crf": {"radius_mm": 1.0}}}, "radius_mm: expected a window that reaches a neighbour"),
        ({"network": {"name": "unet", "channels": (4, 8), "slices": 3}}, "network.slices"),
        ({"network": {"name": "deeplabv1", "attention": "gate"}}, "has no skips to gate"),
        ({"network": {"name": "fcn32s", "finest": 8}}, "finest"),
    ],
)
def test_losses_and_networks_that_do_not_fit(part, message):
    with pytest.raises(ValueError, match=message):
        changed(**part)


def test_rates_that_reach_the_feature_map_are_warned_of():
    network = {"name": "deeplabv3", "backbone": "resnet18", "width_multiplier": 0.125}
    with pytest.warns(UserWarning, match=r"\(18, 18, 18\) reach the feature map's size \(4, 4, 4\)"):
        changed(network=network, training={"patch_size": (64, 64, 64)})


def test_pretrained_weights_are_of_training_not_of_the_model():
    weights = {"file": "w.safetensors", "sha256": "0" * 64}
    config = changed(network={"name": "unet", "channels": (4, 8), "weights": weights})
    assert config.weights().file.name == "w.safetensors"
    assert "weights" not in config.network_spec(1, 3).fields


def test_flags_of_channels_are_channels_of_the_network():
    config = changed(preprocessing={"channel_flags": True}, training={"channel_dropout": 0.2})
    assert config.network_spec(3, 2).in_channels == 6
    assert changed().network_spec(3, 2).in_channels == 3


def test_the_loss_of_a_scheme_is_that_of_its_regions_without_what_is_ignored():
    labels = LabelSet.from_names({1: "rim", 4: "core"})
    regions = (Region(name="whole", labels=(1, 4), paint=1), Region(name="core", labels=(4,), paint=4))
    torch.manual_seed(0)
    target = torch.randint(0, 4, (2, 6, 6, 6))  # class 3 is ignored
    logits, judged = torch.randn(2, 2, 6, 6, 6), target != 3
    loss = changed(loss={"name": "ce"}).build_loss(None, scheme=LabelScheme(labels, regions, 9))
    expected = [
        torch.nn.functional.binary_cross_entropy_with_logits(z[judged], truth[judged].float())
        for z, truth in zip(logits.unbind(1), (target >= 1, target == 2), strict=True)
    ]
    torch.testing.assert_close(loss(logits, target), sum(expected) / 2)
    plain = changed(loss={"name": "ce"}).build_loss(None, scheme=LabelScheme(labels, (), 9))
    logits = torch.randn(2, 3, 6, 6, 6)
    expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=3)
    torch.testing.assert_close(plain(logits, target), expected)
