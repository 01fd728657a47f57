"""Presets fill what is not given, and a user's own value wins."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from medseg.data.augment import Augmentation
from medseg.data.augment.settings import PRESETS

# nnU-Net 2.8, nnUNetTrainer.get_training_transforms
NNUNET_PROBABILITIES = {
    "rotation": 0.2,
    "scaling": 0.2,
    "noise": 0.1,
    "blur": 0.2,
    "brightness": 0.15,
    "contrast": 0.15,
    "low_resolution": 0.25,
    "inverted_gamma": 0.1,
    "gamma": 0.3,
    "channel": 0.5,
    "elastic": 0.0,
    "bias": 0.0,
}


def probabilities(a: Augmentation) -> dict[str, float]:
    fields = a.model_dump()
    return {name.removesuffix("_probability"): fields[name] for name in fields if name.endswith("_probability")}


def test_the_default_preset_has_nnunets_probabilities_and_ranges():
    a = Augmentation()
    assert a == Augmentation(preset="default")
    assert probabilities(a) == NNUNET_PROBABILITIES
    assert (a.brightness, a.contrast, a.gamma) == ((0.75, 1.25), (0.75, 1.25), (0.7, 1.5))
    assert (a.blur_sigma, a.low_resolution, a.noise_std) == ((0.5, 1.0), (0.5, 1.0), 0.1)
    assert [1 / s for s in a.scale] == pytest.approx([1.4, 0.7])  # nnU-Net's is of the grid, not of what is seen
    assert a.flip_axes == ()


def test_none_does_nothing():
    assert set(probabilities(Augmentation(preset="none")).values()) == {0.0}


def test_light_does_less_than_default_and_strong_more():
    light, default, strong = (probabilities(Augmentation(preset=p)) for p in ("light", "default", "strong"))
    for name in set(NNUNET_PROBABILITIES) - {"elastic", "bias", "channel"}:
        assert light[name] < default[name] < strong[name]
    assert light["elastic"] == strong["elastic"] == light["bias"] == strong["bias"] == 0


def test_a_value_of_ones_own_wins_over_the_preset():
    a = Augmentation(preset="light", gamma_probability=0.9, flip_axes=(1,))
    assert (a.gamma_probability, a.flip_axes) == (0.9, (1,))
    others = Augmentation(preset="light").model_dump() | {"gamma_probability": 0.9, "flip_axes": (1,)}
    assert a.model_dump() == others
    assert Augmentation(preset="none", noise_probability=1).noise_probability == 1
    assert Augmentation(preset="light", rotation_degrees=None).rotation_degrees is None


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_what_is_written_is_read_as_the_same(preset):
    a = Augmentation(preset=preset, flip_axes=(0, 2), scale=(0.9, 1.1))
    assert Augmentation.model_validate(a.model_dump()) == a
    assert Augmentation.model_validate(a.model_dump(mode="json")) == a
    assert Augmentation.model_validate(a.model_dump(exclude_unset=True)) == a
    assert Augmentation.model_validate_json(a.model_dump_json()) == a


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "medium"},
        {"preset": ["light"]},
        {"scale": (0, 1)},
        {"scale": (1.2, 0.8)},
        {"gamma": (-1, 1)},
        {"gamma": (0, 1)},
        {"contrast": (1.5, 0.5)},
        {"blur_sigma": (0, 1)},
        {"low_resolution": (0.5, 1.1)},
        {"low_resolution": (0, 0.5)},
        {"elastic_displacement": (0.1, 0.5)},
        {"elastic_displacement": (-0.1, 0.1)},
        {"elastic_cells": 0},
        {"flip_axes": (0, 0)},
        {"noise_std": -1},
        {"rotation_degrees": 181},
        {"rotation_probability": 1.1},
        {"mirror": 1},
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(fields):
    with pytest.raises(ValidationError):
        Augmentation(**fields)
