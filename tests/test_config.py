"""Training configurations: every mistake of a file is reported at once, with its line and the nearest key."""

import pytest

from medseg.config import load_config
from medseg.errors import ConfigError, UsageError
from medseg.shipped import Shelf, find_yaml

GOOD = find_yaml("torso_unet3d", Shelf.CONFIGS).read_text()


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
        (("patch_size: [64, 40, 48]", "patch_size: [64]"), "two or three sizes"),
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
    file.write_text(GOOD.replace("patch_size: [64, 40, 48]", "patch_size: [64, 40]"))
    config = load_config(str(file))
    assert config.spatial_dims == 2
    assert config.window().tile_size == (64, 40)
