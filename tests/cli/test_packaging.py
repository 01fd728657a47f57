"""A batch is tried again with the packages that it began with, wherever that is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medseg.batch import Ledger
from medseg.cli.clustering import packages_of
from medseg.cli.packaging import PACKAGES_NOTE, found_packages, noted
from medseg.errors import ModelError
from medseg.loading import InferenceOptions
from medseg.packages import model_hash
from medseg.recipe import load_recipe
from tests.builders import save_tiny_model
from tests.dicom.builder import SeriesSpec, write_series

PIPELINE = """\
name: p
select: {modality: MR}
model: m
quality: {hold: [outside-envelope]}
outputs: {nifti: {tables: false}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A pipeline whose model is found in ./models of the folder that the command is given in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDSEG_MODELS", raising=False)
    save_tiny_model(tmp_path / "models" / "m")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "p.yaml").write_text(PIPELINE)
    rng = np.random.default_rng(0)
    write_series(
        tmp_path / "study", SeriesSpec(modality="MR", shape=(24, 20, 12), stored=rng.integers(0, 900, (24, 20, 12)))
    )
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def changed(folder: Path) -> None:
    """Make another package of one."""
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"name": "another"}))


def test_a_batch_is_tried_again_from_another_folder_with_its_own_model(medseg, place, monkeypatch):
    status, text = medseg("segment", "study", "-p", "conf/p.yaml", "-o", "out", "--in-process")
    assert status == 3, text
    sha256 = model_hash(place / "models" / "m")
    with Ledger(place / "out") as ledger:
        assert ledger.note(PACKAGES_NOTE) == {"m": [str(place / "models" / "m"), sha256]}
    shutil.copytree(place / "models", place / "elsewhere" / "models")
    changed(place / "elsewhere" / "models" / "m")  # of the same name
    monkeypatch.chdir(place / "elsewhere")
    status, text = medseg("batch", "retry", place / "out", "--held")
    assert (status, "1 held back" in text) == (3, True), text
    with Ledger(place / "out") as ledger:
        assert ledger.note(PACKAGES_NOTE) == {"m": [str(place / "models" / "m"), sha256]}


def test_a_model_that_was_changed_is_not_the_batch_s(medseg, place):
    status, text = medseg("segment", "study", "-p", "conf/p.yaml", "-o", "out", "--in-process")
    assert status == 3, text
    before = model_hash(place / "models" / "m")
    changed(place / "models" / "m")
    status, text = medseg("batch", "retry", "out", "--held")
    assert status == 5
    assert before in text
    assert model_hash(place / "models" / "m") in text


def test_coarse_models_are_noted_too(place):
    save_tiny_model(place / "models" / "coarse")
    changed(place / "models" / "coarse")
    text = PIPELINE.replace(
        "model: m", "models:\n  - {path: m, roi_from: coarse}\n  - {path: coarse, rename: {ball: b, box: c}}"
    )
    (place / "conf" / "p.yaml").write_text(text)
    recipe, packages = found_packages(load_recipe("conf/p.yaml"))
    models = place / "models"
    assert packages == {"m": models / "m", "coarse": models / "coarse"}
    assert [entry.roi_from for entry in recipe.models] == [str(models / "coarse"), None]
    kept = noted(packages)
    shutil.move(models, place / "gone")
    with pytest.raises(ModelError, match="models/m"):
        found_packages(load_recipe("conf/p.yaml"), kept)
    shutil.move(place / "gone", models)
    assert found_packages(load_recipe("conf/p.yaml"), kept)[1] == packages
    changed(models / "coarse")
    save_tiny_model(models / "coarse")
    with pytest.raises(ModelError, match=kept["coarse"][1]):
        found_packages(load_recipe("conf/p.yaml"), kept)


def test_a_model_on_the_command_line_is_no_name_to_look_for(medseg, place, monkeypatch):
    """`-m m --outputs nifti` is ./m, as `-m m` is, not the one of that name in ./models."""
    status, text = medseg("segment", "study", "-m", "m", "--outputs", "nifti", "-o", "out")
    assert (status, f"none at {place}/m" in text) == (5, True), text
    save_tiny_model(place / "m")
    assert medseg("segment", "study", "-m", "m", "--outputs", "nifti", "-o", "out", "--in-process")[0] == 0
    with Ledger(place / "out") as ledger:
        assert list(ledger.note(PACKAGES_NOTE)) == [str(place / "m")]


def test_machines_of_a_cluster_are_asked_for_every_package(place):
    """Also the coarse ones: of the recipe, and those of the command line, which go before them."""
    save_tiny_model(place / "models" / "coarse")
    (place / "conf" / "p.yaml").write_text(PIPELINE.replace("model: m", "model: {path: m, roi_from: coarse}"))
    recipe, _ = found_packages(load_recipe("conf/p.yaml"))
    models = place / "models"

    def asked(model, **options):
        return packages_of(SimpleNamespace(model=model, options=InferenceOptions("cpu", **options)))

    assert asked(recipe) == [models / "m", models / "coarse"]
    assert asked(recipe, roi_from=Path("models/m")) == [models / "m"]
    assert asked(Path("models/m")) == [models / "m"]
    assert asked(Path("models/m"), roi_from=Path("models/coarse")) == [models / "m", models / "coarse"]
