"""Packages of several networks: their average is the mean of the networks; what does not fit is refused by name."""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

import medseg.ensemble
from medseg import load_model
from medseg.data.label_statistics import LabelStatistics
from medseg.data.transforms import build_transforms, prepare
from medseg.ensemble import difference, merge_packages
from medseg.errors import ModelError, UsageError
from medseg.labels import LabelSet
from medseg.model import MODEL_FILE, load_networks, load_package
from medseg.postprocess import Postprocessing
from tests.builders import save_tiny_model, tiny_case, tiny_package


def save_model(folder, seed, fold=0, dice=None, update=None, **package):
    """A package with random weights and any field changed; nested fields by a dict."""
    torch.manual_seed(seed)
    tiny = tiny_package(**package)
    provenance = {"folds": (fold,), "validation_dice": dice or {}, "config_sha256": f"c{fold}", "training_cases": 4}
    tiny = tiny.model_copy(update={"provenance": tiny.provenance.model_copy(update=provenance), **(update or {})})
    return tiny.save(folder, {f"fold_{fold}": tiny.network.build().state_dict()})


def logits_of(folder, image):
    """Logits of one package on the network's grid, (K, i, j, k)."""
    segmenter = load_model(folder)
    prepared = prepare(build_transforms(segmenter.package.preprocessing, 1), [image])
    with torch.inference_mode():
        return torch.cat([slab.logits for slab in segmenter.engine().slabs(prepared.image)], dim=-1).numpy()


@pytest.mark.parametrize("dims", [2, 3])
def test_labels_are_those_of_the_mean_of_all_networks_logits(tmp_path, dims):
    specs = [{"channels": (4, 8)}, {"channels": (4, 8)}, {"channels": (4, 6, 8)}]
    folders = [tmp_path / f"m{n}" for n in range(3)]
    for n, (folder, spec) in enumerate(zip(folders, specs, strict=True)):
        save_model(folder, seed=n, fold=n, dims=dims, **spec)
    merged = merge_packages(folders, tmp_path / "all")
    assert len(merged.weights_sha256) == 3
    assert [spec.fields["channels"] for spec in merged.networks.values()] == [(4, 6, 8)]
    assert load_package(tmp_path / "all") == merged
    image = tiny_case(5)[0]
    mean = np.mean([logits_of(folder, image) for folder in folders], axis=0)
    np.testing.assert_allclose(logits_of(tmp_path / "all", image), mean, atol=1e-5)
    native = np.indices(image.array.shape)  # the network's spacing is the image's own
    spread = np.stack([map_coordinates(channel, native, order=1, mode="nearest") for channel in mean])
    expected = np.array([0, 1, 3])[spread.argmax(axis=0)]
    assert (load_model(tmp_path / "all").segment(image).array == expected).mean() > 0.999
    assert len(np.unique(expected)) > 1


def test_provenance_window_and_envelope_are_those_of_all(tmp_path):
    def label(low: float, high: float) -> LabelStatistics:
        ml = {"percentile_05_ml": low, "median_ml": low, "percentile_95_ml": high}
        shares = {"share_of_cases": 1, "share_at_border": 0, "largest_share_apart": 0}
        return LabelStatistics(smallest_ml=low, largest_ml=high, **ml, **shares)

    envelopes = [tiny_package().envelope.model_copy(update=u) for u in (
        {"smallest_extent_mm": (9.0, 3.0, 5.0), "largest_spacing_mm": (1.0, 2.0, 3.0), "cases": 4,
         "labels": {"box": label(4, 9)}},
        {"smallest_extent_mm": (8.0, 4.0, 5.0), "largest_spacing_mm": (2.0, 1.0, 3.0), "cases": 5,
         "labels": {"box": label(3, 5), "ball": label(1, 2)}},
    )]  # fmt: skip
    windows = [tiny_package().inference.model_copy(update=u) for u in (
        {"tile_size": (16, 24, 8), "mirror_axes": (0, 1), "batch_size": 4, "overlap": 0.5},
        {"tile_size": (20, 16, 8), "mirror_axes": (1, 2), "batch_size": 2, "overlap": 0.25},
    )]  # fmt: skip
    dice = [{"ball": 0.5, "box": None}, {"ball": 0.25, "box": 0.75}]
    for n in (0, 1):
        update = {"envelope": envelopes[n], "inference": windows[n]}
        save_model(tmp_path / f"m{n}", seed=n, fold=2 - n, dice=dice[n], update=update)
    merged = merge_packages([tmp_path / "m0", tmp_path / "m1"], tmp_path / "all", name="both")
    assert merged.name == "both"
    assert merged.provenance.folds == (1, 2)
    assert merged.provenance.config_sha256 == "c2+c1"
    assert merged.provenance.dataset == "tiny"
    assert merged.provenance.training_cases == 4
    assert merged.provenance.validation_dice == {"ball": 0.375, "box": 0.75}
    assert merged.envelope.smallest_extent_mm == (8.0, 3.0, 5.0)
    assert merged.envelope.largest_spacing_mm == (2.0, 2.0, 3.0)
    assert merged.envelope.cases == 5
    assert merged.envelope.labels["box"].smallest_ml == 3.0
    assert merged.envelope.labels["box"].largest_ml == 9.0
    assert set(merged.envelope.labels) == {"ball", "box"}
    window = merged.inference
    assert (window.tile_size, window.mirror_axes, window.batch_size, window.overlap) == ((20, 24, 8), (1,), 2, 0.5)
    given = merge_packages(
        [tmp_path / "m0", tmp_path / "m1"],
        tmp_path / "all",
        validation_dice={"ball": 0.1234567, "box": float("nan")},
        postprocessing=Postprocessing(keep_largest=("box",)),
    )
    assert given.provenance.validation_dice == {"ball": 0.123457, "box": None}
    assert load_package(tmp_path / "all").postprocessing.keep_largest == ("box",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocessing": {"spacing_mm": (1.5, 1.5, 1.0), "intensity": ({"kind": "zscore"},)}},
         "found preprocessing.spacing_mm.2 1.0 instead of 2.0"),
        ({"preprocessing": {"spacing_mm": (1.5, 1.5, 2.0), "intensity": ({"kind": "zscore", "nonzero": True},)}},
         "found preprocessing.intensity.0.nonzero True instead of False"),
        ({"labels": LabelSet.from_names({1: "ball", 2: "box"})}, "found labels.1.index 2 instead of 3"),
        ({"modalities": ("CT",)}, "found modalities.0 'CT' instead of 'MR'"),
        ({"postprocessing": {"keep_largest": ("ball",)}}, "found postprocessing.keep_largest"),
        ({"postprocessing": {"crf": {}}}, "found postprocessing.crf"),
    ],
)  # fmt: skip
def test_packages_that_cannot_be_averaged_are_refused(tmp_path, change, message):
    first = save_model(tmp_path / "a", 0)
    other = type(first).model_validate(first.model_dump() | change)
    other.save(tmp_path / "b", {"fold_1": other.network.build().state_dict()})
    with pytest.raises(ModelError, match=message):
        merge_packages([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_networks_with_another_input_are_refused(tmp_path):
    save_model(tmp_path / "a", 0)
    save_model(tmp_path / "flat", 1, dims=2)
    save_model(tmp_path / "thick", 2, dims=2, slices=3)
    with pytest.raises(ModelError, match="found network.spatial_dims 2 instead of 3"):
        merge_packages([tmp_path / "a", tmp_path / "flat"], tmp_path / "all")
    with pytest.raises(ModelError, match="found network.slices 3 instead of 1"):
        merge_packages([tmp_path / "flat", tmp_path / "thick"], tmp_path / "all")
    package = save_model(tmp_path / "b", 3)
    file = tmp_path / "b" / MODEL_FILE
    other = {next(iter(package.weights_sha256)): tiny_package(dims=2).network.model_dump()}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"networks": other}))
    with pytest.raises(ModelError, match="has another input or output than network"):
        load_package(tmp_path / "b")


def test_what_cannot_be_merged_leaves_nothing_half_done(tmp_path):
    save_model(tmp_path / "a", 0)
    save_model(tmp_path / "same", 0, fold=1)
    with pytest.raises(ModelError, match="found the same weights in two packages"):
        merge_packages([tmp_path / "a", tmp_path / "same"], tmp_path / "all")
    with pytest.raises(UsageError, match="found none"):
        merge_packages([], tmp_path / "all")
    save_model(tmp_path / "b", 1, fold=1)
    with pytest.raises(UsageError, match="another folder for the result"):
        merge_packages([tmp_path / "a", tmp_path / "b"], tmp_path / "b" / ".." / "b")
    (file,) = (tmp_path / "b" / "weights").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="the weights were changed or damaged"):
        merge_packages([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert not (tmp_path / "all" / MODEL_FILE).exists()


@pytest.mark.parametrize("can_link", [True, False])
def test_weights_are_linked_or_copied_and_earlier_ones_removed(tmp_path, monkeypatch, can_link):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    if not can_link:
        monkeypatch.setattr(medseg.ensemble.os, "link", refuse)
    for n in range(3):
        save_model(tmp_path / f"m{n}", n, fold=n)
    merge_packages([tmp_path / "m0", tmp_path / "m1"], tmp_path / "all")
    merged = merge_packages([tmp_path / "m1", tmp_path / "m2"], tmp_path / "all")
    files = sorted((tmp_path / "all" / "weights").iterdir())
    assert [file.name for file in files] == sorted(merged.weights_sha256)
    (source,) = (tmp_path / "m1" / "weights").iterdir()
    assert source.samefile(tmp_path / "all" / "weights" / source.name) == can_link
    assert len(load_networks(tmp_path / "all", merged)) == 2
    assert len(load_networks(tmp_path / "m1", load_package(tmp_path / "m1"))) == 1


def test_a_package_of_one_network_as_it_used_to_be_is_read(tmp_path):
    save_tiny_model(tmp_path)
    file = tmp_path / MODEL_FILE
    tree = json.loads(file.read_text())
    assert tree["provenance"].pop("folds") == [0]
    del tree["networks"], tree["postprocessing"]["keep_largest"]
    tree["provenance"]["fold"] = 3
    file.write_text(json.dumps(tree))
    package = load_package(tmp_path)
    assert package.provenance.folds == (3,)
    assert difference(package, tiny_package()) is None
