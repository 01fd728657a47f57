"""Recipes: every mistake of a file is reported at once, and reading one needs no heavy library."""

import re
import subprocess
import sys

import pytest

from medseg.dicom.policy import Policies
from medseg.errors import ConfigError, UsageError
from medseg.recipe import Recipe, load_recipe
from medseg.shipped import Shelf, shelf_folder

SHIPPED = sorted(shelf_folder(Shelf.PIPELINES).rglob("*.yaml"))

GOOD = """\
name: good
description: All there is.
select:
  modality: [CT, PT]
  sop_class: CT Image Storage
  body_part: chest
  description: 'thin|1\\.0'
  protocol: liver
  kernel: '^B[1-4]'
  image_type: {include: [ORIGINAL], exclude: LOCALIZER}
  slices: {min: 10}
  slice_thickness_mm: {max: 3}
  slice_spacing_mm: {min: 1e-1, max: 3}
  pixel_spacing_mm: {max: 1}
  orientation: axial
  orientation_tolerance_deg: 10
  contrast: false
  tags:
    KVP: '>= 100'
    0018,9305: < 1
    0019,100C: "!= no"
  prefer: [most_slices, thinnest, latest]
on:
  missing_slice: fill
"""


def write(tmp_path, text):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    return str(file)


def problems(tmp_path, *changes):
    text = GOOD
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, text))
    return [problem.partition("x.yaml:")[2] for problem in caught.value.problems]


def test_every_key_there_is(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert set(recipe.select.model_fields_set) == set(type(recipe.select).model_fields)
    assert recipe.select.contrast is False
    assert recipe.select.modality == ("CT", "PT")
    assert recipe.select.slice_spacing_mm.min == 0.1
    assert recipe.select.tags == {"KVP": ">= 100", "0018,9305": "< 1", "0019,100C": "!= no"}


def test_on_is_a_word_and_not_a_truth(tmp_path):
    assert load_recipe(write(tmp_path, GOOD)).on == Policies(missing_slice="fill")


def test_a_name_is_enough(tmp_path):
    assert load_recipe(write(tmp_path, "name: all\n")) == Recipe(name="all")


def test_all_problems_at_once_with_their_lines_and_the_nearest_key(tmp_path):
    found = problems(
        tmp_path,
        ("name: good", "name: not good"),
        ("[CT, PT]", "[MRI, PT]"),
        ("CT Image Storage", "CT Picture Storage"),
        ("'thin|1\\.0'", "'(thin'"),
        ("exclude: LOCALIZER", "excluded: LOCALIZER"),
        ("slices: {min: 10}", "slices: {min: 10, max: 9}"),
        ("orientation: axial", "orientation: axail"),
        ("contrast: false", "contrast: nope"),
        ("KVP: '>= 100'", "KVPP: '>= 100'\n    PatientName: == Doe"),
        ("0018,9305: < 1", "0018,9305: 1"),
        ("latest]", "lates]"),
        ("missing_slice: fill", "missing_slices: fill"),
        ("on:\n", "onn: {}\non:\n"),
    )
    expected = [
        "1: name: String should match pattern",
        "4: select.modality.0: DICOM calls this modality MR, found 'MRI'",
        "5: select.sop_class: there is no such SOP class of images (did you mean 'CT Image Storage'?), found 'CT",
        "7: select.description: not a regular expression: missing ), unterminated subpattern at position 0",
        "10: select.image_type.excluded: unknown key; did you mean 'exclude'?",
        "11: select.slices: min 10 must not be above max 9",
        "15: select.orientation: unknown value 'axail'; did you mean 'axial'?",
        "17: select.contrast: Input should be a valid boolean",
        "19: select.tags.KVPP: there is no such DICOM attribute (did you mean 'KVP'?)",
        "20: select.tags.PatientName: this attribute can identify a patient",
        "21: select.tags.0018,9305: Input should be a valid string, found 1; put it in quotes",
        "23: select.prefer.2: unknown value 'lates'; did you mean 'latest'?",
        "24: onn: unknown key; did you mean 'on'?",
        "26: on.missing_slices: unknown key; did you mean 'missing_slice'?",
    ]
    for text in expected:
        assert any(problem.startswith(text) for problem in found), "\n".join([text, *found])
    assert len(found) == len(expected)


@pytest.mark.parametrize("line", ["contrast: 2", "slices: 3", "tags: [KVP]", "description: 3"])
def test_values_of_another_kind(tmp_path, line):
    key = line.partition(":")[0]
    with pytest.raises(ConfigError, match=rf"x\.yaml:3: select\.{key}: "):
        load_recipe(write(tmp_path, f"name: x\nselect:\n  {line}\n"))


def test_a_duplicate_key(tmp_path):
    (problem,) = problems(tmp_path, ("  protocol: liver", "  protocol: liver\n  protocol: lung"))
    assert "duplicate key" in problem


def test_a_name_that_is_nearly_right():
    with pytest.raises(UsageError, match=r"a name of pipelines/.*did you mean ct_thin_axial\?"):
        load_recipe("ct_thin_axail")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes(path):
    recipe = load_recipe(path.stem)
    assert recipe.name == path.stem
    assert recipe.description
    assert recipe.select.model_fields_set
    option = "--pipeline" if recipe.models else "--recipe"
    assert f"{option} {path.stem}" in path.read_text(), "the first lines say how to run it"


def test_there_are_shipped_ones():
    assert len(SHIPPED) >= 6


@pytest.mark.parametrize(
    ("text", "is_t1"),
    [
        ("Ax T1 SE", True), ("t1_mprage_sag_p2_iso", True), ("Sag BRAVO", True), ("MP RAGE", True),
        ("T1post", False), ("Ax T1 +C", False), ("T1 FLAIR", False), ("T2 TSE", False), ("t1_tse_tra_KM", False),
        ("3D TFE", True), ("T1pre_reg", True), ("Ax T1 Gad", False), ("DWI", False),
    ],
)  # fmt: skip
def test_what_the_brain_recipe_calls_t1(text, is_t1):
    pattern = load_recipe("mr_brain_t1").select.description
    assert bool(re.search(pattern, text, re.IGNORECASE)) == is_t1


def test_importing_it_needs_neither_torch_nor_monai():
    code = (
        "import sys, medseg.recipe; print([name for name in ('torch', 'monai', 'nibabel') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
