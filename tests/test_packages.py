"""Where a model is looked for, and that it is the one that was asked for."""

import os

import pytest

from medseg.errors import ModelError
from medseg.packages import find_model, model_hash, require_sha256
from medseg.recipe import Recipe, load_recipe
from medseg.recipe.packages import find_models, models_hash, recipe_hash, without_delivery
from tests.builders import save_tiny_model


def test_places_in_their_order(tmp_path, monkeypatch):
    here, beside, first, second = (tmp_path / name for name in ("here", "beside", "first", "second"))
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("MEDSEG_MODELS", os.pathsep.join([str(first), "", str(second)]))
    with pytest.raises(ModelError) as caught:
        find_model("liver", beside)
    text = str(caught.value)
    at = [text.index(str(place / "liver")) for place in (beside, first, second)]
    assert at == sorted(at)
    assert text.index("models/liver") > at[-1]
    for place in (here, here / "models", second, first, beside):
        save_tiny_model(place / "liver")
        assert find_model("liver", beside).absolute() == place / "liver"


def test_a_run_folder_and_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "run" / "model")
    assert find_model("run").absolute() == tmp_path / "run" / "model"
    assert find_model(str(tmp_path / "run")) == tmp_path / "run" / "model"
    with pytest.raises(ModelError, match=rf"found none at {tmp_path}/nothing; correct the path, train the model$"):
        find_model(str(tmp_path / "nothing"), tmp_path)


def test_another_package_than_the_one_asked_for_is_refused(tmp_path):
    save_tiny_model(tmp_path)
    found = model_hash(tmp_path)
    assert require_sha256(tmp_path, found) == require_sha256(tmp_path, None) == found
    with pytest.raises(ModelError, match=rf"SHA-256 {'0' * 64}, found {found}; put that package there"):
        require_sha256(tmp_path, "0" * 64)


def recipe_in(folder, text):
    (folder / "x.yaml").write_text(f"name: x\n{text}")
    return load_recipe(str(folder / "x.yaml"))


def test_models_of_a_recipe_are_found_beside_it(tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "a")
    save_tiny_model(tmp_path / "b", modality="CT")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    recipe = recipe_in(
        tmp_path, f"models: [{{path: a, sha256: {model_hash(tmp_path / 'a')}}}, {{path: b, roi_from: a}}]\n"
    )
    monkeypatch.chdir(elsewhere)
    found = find_models(recipe)
    assert [entry.path for entry in found.models] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert found.models[1].roi_from == str(tmp_path / "a")
    assert found.file == tmp_path / "x.yaml"
    with pytest.raises(ModelError, match=rf"a: expected the package with SHA-256 {model_hash(tmp_path / 'b')}"):
        find_models(recipe_in(tmp_path, f"model: {{path: a, sha256: {model_hash(tmp_path / 'b')}}}\n"))


def test_hashes_say_what_changes_a_mask(tmp_path):
    save_tiny_model(tmp_path / "a")
    save_tiny_model(tmp_path / "copy")
    save_tiny_model(tmp_path / "b", modality="CT")

    def hashes(text):
        found = find_models(recipe_in(tmp_path, text))
        return models_hash(found), recipe_hash(found)

    one = hashes("model: a\n")
    assert one[0] == model_hash(tmp_path / "a")
    assert hashes("description: other\nmodels: [copy]\n") == one
    assert hashes("model: b\n")[0] != one[0]
    assert hashes("models: [a, b]\n")[0] != hashes("models: [b, a]\n")[0]
    changes = ["postprocess: {fill_holes: [box]}\n", "outputs: {seg: }\n", "on: {irregular: resample}\n"]
    models = [
        "model: {path: a, overlap: 0.1}\n",
        "model: {path: a, roi_from: a}\n",
        "model: {path: a, roi_from: b}\n",
    ]
    others = [*(hashes(f"model: a\n{change}") for change in changes), *map(hashes, models)]
    assert len({other[1] for other in others} | {one[1]}) == 7
    assert {other[0] for other in others} == {one[0]}


def test_another_delivery_is_another_run_of_the_same_objects(tmp_path):
    save_tiny_model(tmp_path / "a")
    texts = ["", "deliver: [{to: folder, path: 'all/{case}'}]\n", "outputs: {seg: {}}\n"]
    found = [find_models(recipe_in(tmp_path, f"model: a\n{text}")) for text in texts]
    usual, elsewhere, other = map(recipe_hash, found)
    assert usual != elsewhere
    usual, elsewhere, other = (recipe_hash(without_delivery(recipe)) for recipe in found)
    assert usual == elsewhere != other


def test_a_recipe_made_in_code_looks_from_the_current_folder(tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert find_models(Recipe(name="x", model="a")).models[0].path == str(tmp_path / "a")
