"""Channels that are missing: what the network sees of them, and what is dropped in training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from medseg.data.channels import drop_channels, present_volumes
from medseg.data.flags import with_flags
from medseg.data.preprocessing import Preprocessing
from medseg.data.transforms import build_transforms, prepare
from medseg.errors import GridError, InputError
from medseg.networks.slices import stack_slices
from medseg.volume import Volume

RULES = {
    "spacing_mm": (1.5, 1.5, 2.0),
    "crop_above": 20.0,
    "intensity": ({"kind": "zscore"}, {"kind": "ct", "clip_hu": (0, 90), "mean_hu": 40, "std_hu": 20}),
    "channel_flags": True,
}


def volume(seed: int, size: int = 12) -> Volume:
    rng = np.random.default_rng(seed)
    array = np.zeros((size, size + 2, size + 4), np.float32)
    array[2:-3, 1:-4, 3:-2] = rng.uniform(21, 100, (size - 5, size - 3, size - 1))
    return Volume(np.asfortranarray(array), np.diag([1.0, 1.0, 1.0, 1.0]))


def test_a_missing_channel_is_zero_and_the_others_are_what_they_are_without_it():
    transforms = build_transforms(Preprocessing.model_validate(RULES), 2)
    only = build_transforms(
        Preprocessing.model_validate(RULES | {"intensity": RULES["intensity"][1:], "channel_flags": False}), 1
    )
    found, expected = prepare(transforms, [None, volume(1)]), prepare(only, [volume(1)])
    assert found.present == (False, True)
    assert found.grid.difference(expected.grid) is None  # the crop too
    assert not found.image[0].any()
    torch.testing.assert_close(found.image[1], expected.image[0])
    assert expected.present is None


def test_given_channels_must_share_a_grid_and_one_must_be_there():
    transforms = build_transforms(Preprocessing.model_validate(RULES | {"intensity": RULES["intensity"][:1]}), 3)
    with pytest.raises(GridError):
        prepare(transforms, [None, volume(1), volume(2, size=14)])
    with pytest.raises(InputError, match="at least one channel, found none"):
        present_volumes([None, None])


def test_flags_are_constant_and_a_missing_channel_is_zero():
    image = torch.randn(2, 3, 4, 5, 6)
    present = torch.tensor([[True, False, True], [False, True, True]])
    found = with_flags(image, present)
    expected = torch.zeros(2, 6, 4, 5, 6)
    for sample, channel in itertools.product(range(2), range(3)):
        if present[sample, channel]:
            expected[sample, channel] = image[sample, channel]
            expected[sample, 3 + channel] = 1
    assert torch.equal(found, expected)


def test_slices_as_channels_have_the_flags_of_their_image():
    image, present = torch.randn(2, 2, 4, 5, 3), torch.tensor([[True, False], [False, True]])
    torch.testing.assert_close(with_flags(stack_slices(image), present), stack_slices(with_flags(image, present)))


def test_each_channel_is_dropped_with_its_probability_but_never_the_last():
    rng = np.random.default_rng(0)
    draws = [drop_channels((True, True, True), 0.3, rng) for _ in range(20_000)]
    share = {kept: draws.count(kept) / len(draws) for kept in itertools.product((True, False), repeat=3)}
    assert share[False, False, False] == 0
    assert share[True, True, True] == pytest.approx(0.7**3, abs=0.015)
    assert share[True, True, False] == pytest.approx(0.7**2 * 0.3, abs=0.015)
    # one alone: the two others fall, or all three fall and it is the one of three that stays
    assert share[False, True, False] == pytest.approx(0.7 * 0.3**2 + 0.3**3 / 3, abs=0.015)


def test_what_is_missing_stays_missing():
    rng = np.random.default_rng(0)
    assert {drop_channels((False, True, False), 0.9, rng) for _ in range(50)} == {(False, True, False)}
    assert {drop_channels((True, False), 0.0, rng) for _ in range(5)} == {(True, False)}
