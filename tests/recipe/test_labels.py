"""Labels of several models in one mask: numbers, names, what is said of them; names that no model draws."""

import pytest

from medseg.errors import ConfigError, UsageError
from medseg.labels import CodedConcept, Label, LabelSet, Laterality
from medseg.recipe import Recipe, load_recipe
from medseg.recipe.labels import check_against, merged_labels

ORGANS = LabelSet.from_names({2: "liver", 5: "kidney_left", 9: "spleen"})
BONES = LabelSet((Label(index=1, name="spine", color="#ffffff"), Label(index=4, name="liver")))

TEXT = """\
name: x
models:
  - path: organs
    labels: [liver, kidney_left]
    rename: {kidney_left: kidney}
  - path: bones
    labels: [spine]
labels:
  kidney: {laterality: left, code: {value: "64033007", meaning: Kidney}}
  spine: {color: "#010203"}
postprocess:
  keep_largest: [liver]
  closing_mm: {spine: 2}
quality:
  expected: [liver]
  components: {kidney: 1}
"""


def load(tmp_path, text=TEXT):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    return load_recipe(str(file))


def problems(tmp_path, *changes, own=(ORGANS, BONES)):
    text = TEXT
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    with pytest.raises(ConfigError) as caught:
        check_against(load(tmp_path, text), own)
    return [problem.partition("x.yaml:")[2] for problem in caught.value.problems]


def test_labels_are_numbered_model_after_model(tmp_path):
    merged = merged_labels(load(tmp_path), [ORGANS, BONES])
    assert [(label.index, label.name) for label in merged.labels] == [(1, "liver"), (2, "kidney"), (3, "spine")]
    assert merged.values == ({2: 1, 5: 2}, {1: 3})
    assert merged.names == (("liver", "kidney"), ("spine",))


def test_what_a_recipe_says_of_a_label_goes_before_what_its_model_says(tmp_path):
    liver, kidney, spine = merged_labels(load(tmp_path), [ORGANS, BONES]).labels
    assert liver == Label(index=1, name="liver")
    assert kidney.laterality is Laterality.LEFT
    assert kidney.code == CodedConcept(value="64033007", meaning="Kidney")
    assert spine.color == "#010203"


def test_names_may_change_places():
    recipe = Recipe(name="x", model={"path": "a", "rename": {"liver": "spleen", "spleen": "liver"}})
    merged = merged_labels(recipe, [ORGANS])
    assert merged.names == (("spleen", "kidney_left", "liver"),)


def test_every_name_that_no_model_draws_with_its_line(tmp_path):
    found = problems(
        tmp_path,
        ("[liver, kidney_left]", "[livr, kidney_left]"),
        ("{kidney_left: kidney}", "{kidney_left: kidny}"),
        ("labels: [spine]", "rename: {spin: x}"),
        ("  spine: {color", "  spin: {color"),
        ("closing_mm: {spine: 2}", "closing_mm: {spleen: 2}"),
        ("components: {kidney: 1}", "components: {kidney: 1}\n  volume_ml: {spine: {min: 1}, heart: {min: 1}}"),
    )
    assert found == [
        "4: models.0.labels.0: the model has no label 'livr'; did you mean 'liver'?",
        "7: models.1.rename.spin: the model has no label 'spin'; did you mean 'spine'?",
        "9: labels.kidney: no model draws 'kidney'; did you mean 'kidny'?",
        "10: labels.spin: no model draws 'spin'; did you mean 'spine'?",
        "13: postprocess.closing_mm.spleen: no model draws 'spleen'; did you mean 'spine'?",
        "16: quality.components.kidney: no model draws 'kidney'; did you mean 'kidny'?",
        "17: quality.volume_ml.heart: no model draws 'heart'; labels: kidny, liver, spine",
    ]


def test_every_name_beside_another_is_one_that_is_drawn(tmp_path):
    left_of = "components: {kidney: 1}\n  left_of: {kidny: livr}\n  may_touch_border: [spin]"
    assert problems(tmp_path, ("components: {kidney: 1}", left_of)) == [
        "18: quality.may_touch_border.0: no model draws 'spin'; did you mean 'spine'?",
        "17: quality.left_of.kidny: no model draws 'kidny'; did you mean 'kidney'?",
        "17: quality.left_of.kidny: no model draws 'livr'; did you mean 'liver'?",
    ]


def test_two_models_that_draw_one_name(tmp_path):
    assert problems(tmp_path, ("labels: [spine]", "labels: [spine, liver]")) == [
        "6: models.1: 'liver' is drawn by model 1 already; rename one, or take other labels"
    ]
    found = problems(tmp_path, ("{kidney_left: kidney}", "{kidney_left: liver}"))
    assert found[0] == "3: models.0: 'liver' is drawn by this model already; rename one, or take other labels"


def test_sides_that_contradict_one_another(tmp_path):
    change = ("rename: {kidney_left: kidney}", "rename: {kidney_left: kidney_right}")
    names = [("  kidney: {lat", "  kidney_right: {lat"), ("{kidney: 1}", "{kidney_right: 1}")]
    assert problems(tmp_path, change, *names) == [
        "9: labels.kidney_right: 'kidney_right' has to be of one side: its name says right, "
        "its laterality says left; correct name, laterality or code"
    ]
    code = CodedConcept(value="9846003", meaning="Right kidney")
    own = LabelSet((Label(index=2, name="liver"), Label(index=5, name="kidney_left", code=code)))
    with pytest.raises(ConfigError, match=r"models.0: 'kidney_left' .*its name says left, its code says right"):
        check_against(Recipe(name="x", models=({"path": "a"},)), [own])


def test_of_models_that_are_not_known_nothing_is_said(tmp_path):
    check_against(load(tmp_path, TEXT.replace("[liver]", "[heart]")), [None, BONES])
    found = problems(tmp_path, ("[spine]", "[spin]"), own=(None, BONES))
    assert found == ["7: models.1.labels.0: the model has no label 'spin'; did you mean 'spine'?"]


def test_of_a_recipe_made_in_code_there_are_no_lines():
    recipe = Recipe(name="x", model="a", postprocess={"fill_holes": ["livr"]})
    with pytest.raises(
        ConfigError, match=r"^x: postprocess.fill_holes.0: no model draws 'livr'; did you mean 'liver'"
    ):
        check_against(recipe, [ORGANS])


def test_a_single_model_and_its_short_form(tmp_path):
    short, long = (load(tmp_path, f"name: x\n{model}\n") for model in ("model: a", "models: [{path: a}]"))
    assert short.models[0].path == long.models[0].path == "a"
    assert short.model is None
    assert short.models[0].written_in.key == ("model",)
    assert short.require_models() == short.models
    with pytest.raises(ConfigError, match="x.yaml:2: model: give either model or models"):
        load(tmp_path, "name: x\nmodel: a\nmodels: [b]\n")
    with pytest.raises(UsageError, match="a recipe that only chooses series"):
        load(tmp_path, "name: x\n").require_models()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{path: a, sha: x}", "model.sha: unknown key; did you mean 'sha256'?"),
        ("{path: a, sha256: abc}", "model.sha256: "),
        ("{path: a, roi_labels: [b]}", "model: roi_labels and roi_margin_mm describe the region of a coarse model"),
        ("{path: a, labels: [b], rename: {c: d}}", "model: rename: 'c' is not among the labels that are taken"),
        ("{path: a, overlap: 1}", "model.overlap: "),
        ("''", "model: String should have at least 1 character"),
        ("{labels: [b]}", "model.path: this key is required"),
    ],
)
def test_models_that_mean_nothing(tmp_path, entry, expected):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"name: x\nmodel: {entry}\n")
    assert caught.value.problems[0].partition("x.yaml:2: ")[2].startswith(expected)
