"""``medseg check``: which kind of file it is, every problem with its line, models that are there or not."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from medseg.cli import app
from medseg.packages import model_hash
from medseg.shipped import Shelf, shelf_folder
from tests.builders import TINY_YAML, save_tiny_model

SHIPPED = {
    "a training config": sorted(shelf_folder(Shelf.CONFIGS).glob("*.yaml"))[:2],
    "a data manifest": sorted(shelf_folder(Shelf.MANIFESTS).glob("*.yaml")),
    "a recipe": sorted(shelf_folder(Shelf.PIPELINES).glob("*.yaml")),
}


def check(*files: object, status: int) -> list[str]:
    result = CliRunner().invoke(app, ["check", *map(str, files)])
    assert result.exit_code == status, result.output
    return result.output.splitlines()


@pytest.mark.parametrize("kind", SHIPPED)
def test_shipped_files_are_valid_and_known_for_what_they_are(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no models
    assert SHIPPED[kind]
    lines = [line for line in check(*SHIPPED[kind], status=0) if not line.startswith(" ")]
    assert lines == [f"{path}: {kind}, valid" for path in SHIPPED[kind]]


def test_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    title, note = check("mr_hippocampus", status=0)
    assert title == "mr_hippocampus: a recipe, valid"
    assert note.startswith(
        "  note: model: not on this machine, so labels are not checked: runs/hippocampus_unet3d_cpu"
    )
    assert check("mr_hipocampus", status=2)[1].strip().startswith("mr_hipocampus: expected a YAML file")


def test_every_problem_of_every_file(tmp_path):
    config, recipe, manifest = (tmp_path / f"{name}.yaml" for name in ("config", "recipe", "manifest"))
    config.write_text(TINY_YAML.replace("epochs: 1", "epoch: 1").replace("name: unet", "name: unnet"))
    recipe.write_text("name: x\nseries: {modality: CT}\noutputs:\n  sge: {}\n")
    manifest.write_text("name: x\nchannels: [{name: T1}]\nlabel: []\ncases: []\n")
    lines = check(config, recipe, manifest, status=2)
    assert lines[0] == f"{config}: a training config, 2 problem(s)"
    assert any(line.endswith(": network: unknown name 'unnet'; did you mean 'unet'?") for line in lines)
    assert any(line.endswith("training.epoch: unknown key; did you mean 'epochs'?") for line in lines)
    assert f"{recipe}: a recipe, 2 problem(s)" in lines
    assert f"  {recipe}:2: series: unknown key; did you mean 'select'?" in lines
    assert f"{manifest}: a data manifest, 4 problem(s)" in lines
    assert f"  {manifest}:3: label: unknown key; did you mean 'labels'?" in lines


def test_one_that_is_wrong_among_others(tmp_path):
    (tmp_path / "x.yaml").write_text("name: x\nmodel: 3\n")
    assert check("any_volume", tmp_path / "x.yaml", status=2)[0] == "any_volume: a recipe, valid"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\n", "expected keys of a training config: "),
        ("- a\n", "expected keys and values, found a list"),
        ("a: [", ":1:"),
    ],
)
def test_a_file_that_is_nothing_of_this(tmp_path, text, found):
    (tmp_path / "x.yaml").write_text(text)
    title, problem = check(tmp_path / "x.yaml", status=2)
    assert title == f"{tmp_path}/x.yaml: 1 problem(s)"
    assert found in problem


def test_a_recipe_is_checked_against_the_models_that_are_there(tmp_path):
    save_tiny_model(tmp_path / "tiny")
    file = tmp_path / "x.yaml"
    text = "name: x\nmodel:\n  path: tiny\npostprocess:\n  fill_holes: [ball]\n"
    file.write_text(text)
    _, note = check(file, status=0)
    assert note == f"  note: model: tiny at {tmp_path}/tiny, sha256: {model_hash(tmp_path / 'tiny')}"
    file.write_text(f"{text}quality: {{hold: [unusual-volume, sides-swapped], volume_ml: {{ball: {{max: 9}}}}}}\n")
    assert check(file, status=0)[2:] == [
        "  note: quality.hold: not in the package, so no study is held back for it: unusual-volume: box"
    ]
    file.write_text(f"{text}outputs: {{seg: {{type: FRACTIONAL}}}}\n")
    assert any("as the model gives them, not cleaned up" in line for line in check(file, status=0))
    file.write_text(text.replace("[ball]", "[bal]"))
    assert (
        check(file, status=2)[1]
        == f"  {file}:5: postprocess.fill_holes.0: no model draws 'bal'; did you mean 'ball'?"
    )
    file.write_text(text.replace("path: tiny", f"path: tiny\n  sha256: '{'0' * 64}'"))
    assert (
        f"{file}:2: model: {tmp_path}/tiny: expected the package with SHA-256 {'0' * 64}"
        in check(file, status=2)[1]
    )
    file.write_text(text.replace("path: tiny", "path: tiny\n  roi_from: tiny\n  roi_labels: [x]"))
    assert "expected ball, box, found x" in check(file, status=2)[1]
    (tmp_path / "tiny" / "model.json").write_text("{}")
    file.write_text(text)
    assert "expected a model description of schema version" in check(file, status=2)[1]
