"""Model packages: what is saved is what is loaded; damage is noticed."""

import json

import pytest
import torch

from medseg.errors import ModelError
from medseg.model import MODEL_FILE, find_package, load_networks, load_package
from tests.builders import save_tiny_model


def test_round_trip(tmp_path):
    saved = save_tiny_model(tmp_path)
    assert load_package(tmp_path) == saved
    torch.manual_seed(0)
    expected = saved.network.build().state_dict()
    (network,) = load_networks(tmp_path, saved)
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected[name])


def test_a_package_is_found_by_run_folder_and_by_file(tmp_path):
    save_tiny_model(tmp_path / "run" / "model")
    for path in (tmp_path / "run", tmp_path / "run" / "model", tmp_path / "run" / "model" / MODEL_FILE):
        assert find_package(path) == tmp_path / "run" / "model"
    with pytest.raises(ModelError, match="expected a model folder with model.json"):
        find_package(tmp_path)


def test_changed_weights_are_refused(tmp_path):
    package = save_tiny_model(tmp_path)
    file = tmp_path / "weights" / "fold_0.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"expected SHA-256 .* the weights were changed or damaged"):
        load_networks(tmp_path, package)
    file.unlink()
    with pytest.raises(ModelError, match="no such file"):
        load_networks(tmp_path, package)


def test_weights_of_another_network_are_refused(tmp_path):
    package = save_tiny_model(tmp_path)
    other = package.model_copy(
        update={"network": package.network.model_copy(update={"fields": {"channels": (4, 16)}})}
    )
    with pytest.raises(ModelError, match="expected the weights of network 'unet'"):
        load_networks(tmp_path, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"surprise": 1}, "surprise"),
        ({"labels": []}, "labels"),
        ({"network": {"name": "unett", "spatial_dims": 3, "in_channels": 1, "num_classes": 3}}, "unett"),
    ],
)
def test_a_description_that_is_not_valid_is_refused(tmp_path, change, message):
    save_tiny_model(tmp_path)
    file = tmp_path / MODEL_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load_package(tmp_path)
