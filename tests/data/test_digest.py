"""Hashes of configurations are those that versions before some settings existed made of them."""

from __future__ import annotations

import pytest

from medseg.data.digest import digest_facts
from medseg.data.preprocessing import Preprocessing
from medseg.networks import NETWORKS
from medseg.training.folder import config_digest

RULES = {"spacing_mm": (1, 1, 2), "intensity": [{"kind": "zscore"}, {"kind": "ct"}]}
BEFORE = {  # by the version before the import of nnU-Net's models
    "preprocessing": "be937e47361de9f0af9570758b1a8b76202dc855a173c2ae60b28a1fe99c0ee0",
    "unet": "4ecefd27bf06fdc7a71920524953f2818b9a5dc9f130ad29b6f1d087c0bd62ea",
    "resunet": "3827d944fa0d04e11fa689d6527454b8d89d675a959d86556f75d5d401462aec",
}


def test_settings_that_came_later_change_no_hash():
    assert config_digest(Preprocessing.model_validate(RULES)) == BEFORE["preprocessing"]
    for name in ("unet", "resunet"):
        fields = next(entry.fields for entry in NETWORKS if entry.name == name)
        assert config_digest(fields(name=name, channels=(4, 8))) == BEFORE[name]


@pytest.mark.parametrize(
    "used",
    [
        {"axes": (2, 1, 0)},
        {"crop_nonzero": True},
        {"spline": {}},
        {"orientation": "LPS"},
        {"intensity": [{"kind": "zscore", "filled": True}, {"kind": "ct"}]},
    ],
    ids=str,
)
def test_where_they_are_used_they_count(used):
    before, now = (digest_facts(Preprocessing.model_validate(RULES | more)) for more in ({}, used))
    assert before != now
