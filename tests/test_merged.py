"""Several models in one mask: against each model alone and a loop over voxels; labels, findings, probabilities."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medseg.errors import ConfigError, ModelError, UsageError
from medseg.findings import Finding, FindingCode
from medseg.inference.needs import Needs
from medseg.inference.preflight import Preflight
from medseg.inference.saved import read_probabilities
from medseg.inference.scope import MARGIN_MM
from medseg.labels import LabelMap, LabelSet
from medseg.loading import InferenceOptions, load_model
from medseg.merged import MergedSegmenter, load_merged
from medseg.model import ModelPackage
from medseg.packages import model_hash
from medseg.recipe import load_recipe
from medseg.recipe.labels import merged_labels
from medseg.recipe.models import ModelEntry
from medseg.recipe.running import envelope_of, options_of, relabelled
from medseg.volume import Volume
from tests.builders import tiny_case, tiny_package

CPU = InferenceOptions("cpu")


def save(folder: Path, seed: int, **changes) -> ModelPackage:
    torch.manual_seed(seed)
    package = ModelPackage.model_validate(tiny_package().model_dump() | {"name": folder.name} | changes)
    return package.save(folder, {"fold_0": package.network.build().state_dict()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "first", 0)
    save(tmp_path / "second", 3, labels=LabelSet.from_names({2: "ball", 300: "ring"}).model_dump())
    return tmp_path


def recipe_in(folder: Path, text: str):
    (folder / "x.yaml").write_text(f"name: x\n{text}")
    return load_recipe(str(folder / "x.yaml"))


TWO = """\
models:
  - {path: first, labels: [box], rename: {box: cube}}
  - path: second
labels:
  ring: {color: "#123456"}
"""


def test_the_earlier_model_wins_voxel_by_voxel(folder):
    image, _ = tiny_case(1)
    merged = load_merged(recipe_in(folder, TWO), CPU)
    mask = merged.segment(image)
    first = load_model(folder / "first", "cpu").segment(image).array
    second = load_model(folder / "second", "cpu").segment(image).array
    expected = np.zeros(image.array.shape, int)
    for place in np.ndindex(*expected.shape):
        expected[place] = 1 if first[place] == 3 else {0: 0, 2: 2, 300: 3}[int(second[place])]
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    assert ((first == 3) & (second != 0)).any()
    np.testing.assert_array_equal(mask.array, expected)
    assert mask.array.dtype == np.uint8
    assert mask.array.flags.f_contiguous
    assert [(label.index, label.name) for label in mask.labels] == [(1, "cube"), (2, "ball"), (3, "ring")]
    assert mask.labels == merged.labels
    assert [label.color for label in mask.labels][2] == "#123456"
    assert mask.grid.difference(image.grid) is None


def test_the_other_order(folder):
    image, _ = tiny_case(1)
    text = "models:\n  - second\n  - {path: first, rename: {ball: other, box: cube}}\n"
    mask = load_merged(recipe_in(folder, text), CPU).segment(image).array
    first = load_model(folder / "first", "cpu").segment(image).array
    second = load_model(folder / "second", "cpu").segment(image).array
    own = np.select([second == 2, second == 300, first == 1, first == 3], [1, 2, 3, 4], 0)
    np.testing.assert_array_equal(mask, own)


def test_a_single_model_by_a_recipe_draws_what_it_draws(folder):
    image, _ = tiny_case(1)
    merged = load_merged(recipe_in(folder, "model: first\n"), CPU)
    alone = load_model(folder / "first", "cpu")
    mask, expected = merged.segment([image]), alone.segment(image)
    np.testing.assert_array_equal(mask.array, np.select([expected.array == 1, expected.array == 3], [1, 2], 0))
    assert merged.maker("abc").model_sha256 == model_hash(folder / "first")
    assert merged.maker("abc").model == "first"
    assert merged.maker("abc").settings_sha256 == "abc"
    assert merged.package.name == "first"
    assert merged.device.type == "cpu"


def test_cleanup_is_of_the_merged_mask(folder):
    image, _ = tiny_case(1)
    plain = load_merged(recipe_in(folder, TWO), CPU).segment(image)
    recipe = recipe_in(folder, f"{TWO}postprocess: {{minimum_ml: {{ball: 0.05}}, keep_largest: [ring]}}\n")
    cleaned = load_merged(recipe, CPU).segment(image)
    np.testing.assert_array_equal(cleaned.array, recipe.postprocess.clean(plain.array, plain.labels, plain.grid))
    assert (cleaned.array != plain.array).any()


def test_probabilities_bear_the_names_of_the_recipe(folder):
    image, _ = tiny_case(1)
    text = "model: {path: first, rename: {box: cube}}\noutputs: {seg: {type: FRACTIONAL}}\n"
    merged = load_merged(recipe_in(folder, text), CPU)
    mask = merged.segment(image, probabilities=folder / "p.h5")
    found = read_probabilities(folder / "p.h5")
    assert found.names == ("background", "ball", "cube")
    values = found.read().astype(float)
    drawn = np.take_along_axis(values, mask.array[None].astype(int), axis=0)[0]
    assert (drawn >= values.max(axis=0) - 1e-3).all()
    assert len(np.unique(mask.array)) == 3


def test_probabilities_of_several_models_are_refused(folder):
    with pytest.raises(ConfigError, match=r"x\.yaml:2: models: probabilities can be saved of one model only"):
        load_merged(recipe_in(folder, TWO), replace(CPU, save_probabilities=True))
    with pytest.raises(UsageError, match="probabilities: expected one model, found 2"):
        load_merged(recipe_in(folder, TWO), CPU).segment(tiny_case(1)[0], probabilities=folder / "p.h5")


def test_models_of_different_images_are_refused(folder):
    save(folder / "ct", 0, modalities=("CT",))
    with pytest.raises(ModelError, match="ct: expected a model of MR, as first, found one of CT"):
        load_merged(recipe_in(folder, "models: [{path: first}, {path: ct, rename: {ball: a, box: b}}]\n"), CPU)


def test_labels_that_do_not_fit_are_refused_with_their_lines(folder):
    with pytest.raises(ConfigError, match=r"x\.yaml:2: models\.1: 'ball' is drawn by model 1 already"):
        load_merged(recipe_in(folder, "models: [first, second]\n"), CPU)
    with pytest.raises(
        ConfigError, match=r"x\.yaml:7: quality\.expected\.0: no model draws 'cub'; did you mean 'cube'"
    ):
        load_merged(recipe_in(folder, f"{TWO}quality: {{expected: [cub]}}\n"), CPU)


def test_all_that_names_a_label_follows_its_new_name(folder):
    text = "model: {path: first, labels: [box], rename: {box: ball}}\n"
    (package,) = load_merged(recipe_in(folder, text), CPU).packages
    assert [label.name for label in package.labels] == ["ball (not taken)", "ball"]
    save(folder / "first", 0, postprocessing={"keep_largest": ["box"]})
    merged = load_merged(recipe_in(folder, "model: {path: first, rename: {box: ball, ball: box}}\n"), CPU)
    assert merged.packages[0].postprocessing.keep_largest == ("ball",)
    assert merged.envelopes == ((envelope_of(merged.packages[0]), ("box", "ball")),)
    recipe = recipe_in(folder, "model: {path: first, rename: {box: cube}}\n")
    seen = package.envelope.model_copy(update={"labels": {"ball": 1, "box": 2}})
    package = tiny_package().model_copy(update={"envelope": seen})
    assert relabelled(package, recipe, recipe.models[0]).envelope.labels == {"ball": 1, "cube": 2}


def test_what_the_command_line_says_goes_before_the_recipe():
    entry = ModelEntry(path="a", overlap=0.1, mirror=False, roi_from="b", roi_labels=("c",), roi_margin_mm=5)
    here = options_of(entry, CPU)
    assert (here.overlap, here.mirror_axes, here.roi_from) == (0.1, (), Path("b"))
    assert (here.roi_labels, here.roi_margin_mm, here.skip_air) == (("c",), 5, False)
    given = InferenceOptions("cpu", overlap=0.3, mirror_axes=(1,), roi_from=Path("d"), skip_air=True)
    assert options_of(entry, given) == given
    assert options_of(ModelEntry(path="a"), given) == given
    assert options_of(ModelEntry(path="a", skip_air=True), CPU).skip_air
    assert options_of(ModelEntry(path="a", roi_from="b"), CPU).roi_margin_mm == MARGIN_MM


def test_progress_counts_the_tiles_of_all_models(folder):
    image, _ = tiny_case(1)
    second = {"inference": {"tile_size": (8, 8, 16)}}
    save(folder / "second", 3, labels=LabelSet.from_names({2: "ball", 300: "ring"}).model_dump(), **second)
    merged, told = load_merged(recipe_in(folder, TWO), CPU), []
    merged.segment(image, lambda done, total: told.append((done, total)))
    alone = []
    for segmenter in merged.segmenters:
        segmenter.segment(image, lambda done, total: alone.append(total))
    tiles = sorted(set(alone))
    assert len(tiles) == 2
    assert told == [(done, sum(tiles)) for done in range(1, sum(tiles) + 1)]


class Fake:
    """A segmenter that says what it is told to; checks that no earlier label map is alive when it runs."""

    def __init__(self, name: str, value: int, alive: list, **said) -> None:
        self.package = tiny_package().model_copy(update={"name": name})
        self.window = self.package.inference
        self.measures_confidence = False
        self.value, self.alive, self.said = value, alive, said

    def engine(self):
        return SimpleNamespace(tile=self.window.tile_size)

    def segment(self, images, advance=None, *, probabilities=None):
        assert not any(reference() is not None for reference in self.alive)
        volume = replace_findings(images[0], self.said.get("findings", ()))
        array = np.full(volume.array.shape, self.value, np.uint8, order="F")
        self.alive.append(weakref.ref(array))
        labels = self.package.labels
        drawn = Volume(array, volume.affine, findings=volume.findings)
        return LabelMap(drawn, labels, self.said.get("rung", "as planned"), self.said.get("confidence", {}))


def replace_findings(volume, findings):
    return Volume(volume.array, volume.affine, findings=(*volume.findings, *findings))


def test_findings_rungs_and_confidence_of_each_model_are_kept(folder):
    own, odd = Finding(FindingCode.GANTRY_TILT, "tilted"), Finding(FindingCode.SMALLER_TILES, "smaller")
    alive: list = []
    models = [
        Fake("a", 1, alive, confidence={"ball": 0.5, "box": 0.1}),
        Fake("b", 3, alive, findings=(odd,), rung="tiles of 8", confidence={"one": 0.7}),
        Fake("c", 3, alive),
    ]
    text = (
        "models:\n  - {path: a, labels: [ball]}\n  - {path: b, rename: {ball: one, box: two}}\n"
        "  - {path: c, rename: {ball: x, box: y}}\n"
    )
    merged = MergedSegmenter(models, merged_labels(recipe_in(folder, text), [m.package.labels for m in models]))
    mask = merged.segment(replace_findings(tiny_case(1)[0], (own,)))
    assert mask.volume.findings == (own, Finding(FindingCode.SMALLER_TILES, "b: smaller"))
    assert mask.rung == "b: tiles of 8"
    assert mask.confidence == {"ball": 0.5, "one": 0.7}
    assert set(np.unique(mask.array)) == {1}
    assert len(alive) == 3
    assert merged.maker().model == "a+b+c"
    assert not merged.measures_confidence
    merged.measures_confidence = True
    assert all(model.measures_confidence for model in models)


def test_preflight_is_the_largest_need_and_the_sum_of_times(folder, monkeypatch):
    merged = load_merged(recipe_in(folder, TWO), CPU)
    for segmenter, size, seconds in zip(merged.segmenters, (7, 5), (1.0, 2.0), strict=True):
        flight = Preflight(None, None, 1, Needs({"image": size}, {}, 0), seconds, None, fits=True)
        monkeypatch.setattr(segmenter, "preflight", lambda *_, flight=flight, **__: flight)
    both = merged.preflight(tiny_case(1)[0].grid)
    assert both.seconds == 3.0
    assert both.needs.host_bytes == 7
