"""Every YAML file that comes with medseg is valid and is run small; the API's names are what they were."""

import pytest
import torch

import medseg
from medseg.config import load_config
from medseg.data.manifest import read_manifest
from medseg.shipped import Shelf, shelf_folder, shipped_names

CONFIGS = shipped_names(Shelf.CONFIGS)
MANIFESTS = shipped_names(Shelf.MANIFESTS)


def test_there_are_some():
    assert len(CONFIGS) >= 3
    assert MANIFESTS
    nested = [p for shelf in Shelf for p in shelf_folder(shelf).rglob("*.y*ml") if p.parent != shelf_folder(shelf)]
    assert not nested, "files in sub-folders are not found by name"


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds_a_network_that_takes_a_step(name):
    config = load_config(name)
    assert config.name == name
    assert config.description
    network = config.network_spec(1, 3).build()
    size = [2 * m for m in network.multiple]
    logits, target = network(torch.randn(2, 1, *size)), torch.randint(0, 3, (2, *size))
    loss = config.build_loss(None)(logits, target)
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_valid_and_has_folds(name):
    manifest = read_manifest(name)
    assert manifest.cases
    assert manifest.splits
    assert manifest.root is None


def test_public_names():
    assert medseg.__all__ == [
        "Grid", "Label", "LabelMap", "LabelSet", "Segmenter", "Volume", "load_model", "read_nifti", "read_volume",
        "read_volumes", "write_nifti",
    ]  # fmt: skip
    for name in medseg.__all__:
        assert getattr(medseg, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medseg.nothing
