"""Model packages: what is saved is what is loaded; damage is noticed."""

import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import medseg.model
from medseg.errors import ModelError, StorageError
from medseg.model import MODEL_FILE, find_package, load_networks, load_package
from tests.builders import save_tiny_model, tiny_package


@contextmanager
def full_disk(size_bytes: int):
    """No file grows beyond a size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def weights_file(folder: Path) -> Path:
    (file,) = (folder / "weights").iterdir()
    return file


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
    file = weights_file(tmp_path)
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
        ({"schema_version": 1}, "schema_version"),
        ({"surprise": 1}, "surprise"),
        ({"labels": []}, "labels"),
        ({"labels": [{"index": 1, "name": "ball"}]}, "num_classes 3 for 1 labels and background"),
        ({"modalities": ["MR", "MR"]}, "in_channels 1 for 2 modalities"),
        ({"preprocessing": {"intensity": [{"kind": "zscore"}] * 2}}, "2 intensity rules for 1 channels"),
        ({"inference": {}}, "tile_size None must have 3 sizes"),
        ({"inference": {"tile_size": [16, 16]}}, "must have 3 sizes"),
        ({"inference": {"tile_size": [16, 16, 0]}}, "tile_size.2"),
        ({"inference": {"tile_size": [16, 16, 16], "mirror_axes": [3]}}, "mirror_axes"),
        ({"weights_sha256": {}}, "at least one file of weights, found none"),
        ({"network": {"name": "unett", "spatial_dims": 3, "in_channels": 1, "num_classes": 3}}, "unett"),
    ],
)
def test_a_description_that_is_not_valid_is_refused(tmp_path, change, message):
    save_tiny_model(tmp_path)
    file = tmp_path / MODEL_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load_package(tmp_path)


def test_weights_are_named_by_what_they_hold_and_readable_as_other_files_are(tmp_path):
    package = save_tiny_model(tmp_path)
    file = weights_file(tmp_path)
    assert file.name == f"fold_0-{package.weights_sha256[file.name][:8]}.safetensors"
    umask = os.umask(0)
    os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_package_stays_whole_while_better_weights_replace_it(tmp_path, monkeypatch):
    first = save_tiny_model(tmp_path)
    better = tiny_package().network.build().state_dict()

    def cut_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(medseg.model, "write_text", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tiny_package().save(tmp_path, {"fold_0": better})
    assert load_package(tmp_path) == first
    assert load_networks(tmp_path, first)
    second = tiny_package().save(tmp_path, {"fold_0": better})
    assert [weights_file(tmp_path).name] == list(second.weights_sha256)
    (network,) = load_networks(tmp_path, load_package(tmp_path))
    assert all(torch.equal(value, better[name]) for name, value in network.state_dict().items())


def test_a_full_disk_is_a_storage_error(tmp_path):
    with full_disk(1000), pytest.raises(StorageError):
        save_tiny_model(tmp_path)
    assert not (tmp_path / MODEL_FILE).exists()
    assert list((tmp_path / "weights").iterdir()) == []


@pytest.mark.parametrize("unreadable", ["read_text", "open", "is_file"])
def test_what_cannot_be_read_is_refused(tmp_path, monkeypatch, unreadable):
    package = save_tiny_model(tmp_path)

    def denied(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, unreadable, denied)
    with pytest.raises(ModelError, match="Permission denied"):
        load_networks(tmp_path, load_package(tmp_path) if unreadable != "open" else package)
