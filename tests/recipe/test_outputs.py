"""What a recipe writes and where it goes: kinds and names, what refers to what, folders that no two cases share."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from medseg.dicom.output_options import CaptureOptions, RtstructOptions, SegOptions, SrOptions
from medseg.errors import ConfigError
from medseg.recipe import Recipe, load_recipe
from medseg.recipe.deliver import FolderDelivery
from medseg.recipe.outputs import DICOM_KINDS, KINDS, NiftiOutput, SegOutput

NAMES = {"case": "series_1f", "study": "study_2a", "series": "series_1f"}


def load(tmp_path, text):
    file = tmp_path / "x.yaml"
    file.write_text(f"name: x\n{text}")
    return load_recipe(str(file))


def problems(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return [problem.partition("x.yaml:")[2] for problem in caught.value.problems]


def test_every_kind_by_its_name_and_without_options(tmp_path):
    text = "outputs:\n" + "".join(f"  {kind}:\n" for kind in KINDS)
    recipe = load(tmp_path, text)
    assert {name: made.kind for name, made in recipe.outputs.items()} == dict(zip(KINDS, KINDS, strict=True))
    assert len(KINDS) == 9
    assert recipe.needs_dicom
    assert recipe.needs_probabilities
    for kind, options in (
        ("seg", SegOptions),
        ("rtstruct", RtstructOptions),
        ("sr", SrOptions),
        ("capture", CaptureOptions),
    ):
        assert isinstance(recipe.outputs[kind], options)
        assert kind in DICOM_KINDS


def test_two_of_a_kind_side_by_side(tmp_path):
    recipe = load(tmp_path, "outputs:\n  seg: {}\n  labelmap: {kind: seg, type: LABELMAP, compression: rle}\n")
    assert recipe.outputs["seg"] == SegOutput()
    assert recipe.outputs["labelmap"] == SegOutput(type="LABELMAP", compression="rle")
    assert list(recipe.outputs) == ["seg", "labelmap"]


def test_without_outputs_a_label_map_in_the_folder_of_the_case():
    recipe = Recipe(name="x")
    assert recipe.outputs == {"nifti": NiftiOutput()}
    assert [str(delivery.folder(NAMES)) for delivery in recipe.deliver] == ["series_1f"]
    assert not recipe.needs_dicom


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (
            "  sge: {}",
            "3: outputs.sge: an output whose name is no kind of output needs a kind (did you mean 'seg'?)",
        ),
        ("  mask: {}", "3: outputs.mask: an output whose name is no kind of output needs a kind (one of nifti, "),
        ("  mask: {kind: nift}", "3: outputs.mask: unknown name 'nift'; did you mean 'nifti'?"),
        ("  seg: {typ: BINARY}", "3: outputs.seg.typ: unknown key; did you mean 'type'?"),
        ("  seg: {type: BINRY}", "3: outputs.seg.type: unknown value 'BINRY'; did you mean 'BINARY'?"),
        ("  a/b: {kind: nifti}", "3: outputs.a/b: the name of an output has letters"),
        (
            "  pictures: {planes: [axail]}",
            "3: outputs.pictures.planes.0: unknown value 'axail'; did you mean 'axial'?",
        ),
        (
            "  nifti: {}\n  sr:",
            "4: outputs.sr: a report refers to the segments of a BINARY segmentation; add seg: {}",
        ),
        (
            "  seg: {type: LABELMAP}\n  sr: {}",
            "4: outputs.sr: a report refers to the segments of a BINARY segmentation; add seg: {}, or name one: "
            "segmentation: seg",
        ),
        (
            "  seg: {}\n  sr: {segmentation: sge}",
            "4: outputs.sr.segmentation: no output of the kind seg is named so; did you mean 'seg'?",
        ),
        (
            "  nifti: {}\n  sr: {segmentation: nifti}",
            "4: outputs.sr.segmentation: no output of the kind seg is named",
        ),
    ],
)
def test_outputs_that_mean_nothing(tmp_path, outputs, expected):
    (found,) = problems(tmp_path, f"outputs:\n{outputs}\n")
    assert found.startswith(expected)


def test_no_outputs_at_all(tmp_path):
    (found,) = problems(tmp_path, "outputs: {}\n")
    assert found.startswith("2: outputs: ")


def test_a_report_refers_to_the_first_binary_segmentation_or_the_one_named(tmp_path):
    segs = "outputs:\n  a: {kind: seg, type: LABELMAP}\n  b: {kind: seg}\n  c: {kind: seg}\n"
    assert load(tmp_path, f"{segs}  sr:\n").segmentation_of("sr") == "b"
    assert load(tmp_path, f"{segs}  sr: {{segmentation: a}}\n").segmentation_of("sr") == "a"


def test_probabilities_are_of_one_model(tmp_path):
    text = "outputs:\n  seg: {type: FRACTIONAL}\nmodels: [a, b]\n"
    assert problems(tmp_path, text) == [
        "3: outputs.seg.type: it is made of the probabilities of one model, and there are 2; take BINARY or "
        "LABELMAP"
    ]
    assert load(tmp_path, text.replace("[a, b]", "[a]")).needs_probabilities
    (hdf5,) = problems(tmp_path, text.replace("seg: {type: FRACTIONAL}", "probabilities:"))
    assert hdf5.startswith(
        "3: outputs.probabilities: it is made of the probabilities of one model, and there are 2"
    )
    assert not load(tmp_path, "outputs: {seg: }\n").needs_probabilities


@pytest.mark.parametrize(
    ("first", "second", "file"),
    [
        ("nifti:", "labels: {kind: nifti}", "labels.nii.gz"),
        ("nifti: {per_organ: true, tables: false}", "organs: {kind: nifti, per_organ: true}", "organs"),
        ("capture:", "capture_axial: {kind: rtstruct}", "capture_axial.dcm"),
        ("capture:", "Capture_Axial: {kind: rtstruct}", "Capture_Axial.dcm"),
        ("probabilities:", "labels: {kind: probabilities}", "labels.probabilities.h5"),
        ("tables: {formats: [json]}", "measurements: {kind: tables}", "measurements.json"),
    ],
)
def test_two_outputs_never_write_one_file(tmp_path, first, second, file):
    assert problems(tmp_path, f"outputs:\n  {first}\n  {second}\n") == [
        f"4: outputs.{second.partition(':')[0]}: '{first.partition(':')[0]}' writes {file} too; give one of them "
        "another name"
    ]


@pytest.mark.parametrize(
    "outputs",
    [
        "  nifti: {per_organ: true, tables: false}\n  labels: {kind: nifti, tables: false}",
        "  tables: {formats: [csv]}\n  measurements: {kind: tables, formats: [json]}",
        "  pictures: {planes: [axial]}\n  pictures_axial: {kind: seg}",
    ],
)
def test_outputs_of_like_names_whose_files_differ(tmp_path, outputs):
    assert len(load(tmp_path, f"outputs:\n{outputs}\n").outputs) == 2


def test_deliveries_take_all_or_what_they_name(tmp_path):
    recipe = load(
        tmp_path,
        "outputs: {nifti: , seg: }\n"
        "deliver:\n"
        '  - {to: folder, path: "/data/{study}/{series}", outputs: [seg]}\n'
        '  - {to: folder, path: "masks/{case}_x"}\n',
    )  # fmt: skip
    pacs, all_of_it = recipe.deliver
    assert [pacs.takes(name) for name in recipe.outputs] == [False, True]
    assert [all_of_it.takes(name) for name in recipe.outputs] == [True, True]
    assert pacs.folder(NAMES) == Path("/data/study_2a/series_1f")
    assert all_of_it.folder(NAMES) == Path("masks/series_1f_x")


@pytest.mark.parametrize(
    ("deliver", "expected"),
    [
        ("{to: c-store}", "3: deliver.0.to: unknown value 'c-store'; valid: folder"),
        ("{path: '{case}'}", "3: deliver.0.to: this key is required and is not there"),
        (
            "{to: folder, path: '{cas}'}",
            "3: deliver.0.path: there is no placeholder '{cas}'; did you mean '{case}'?",
        ),
        ("{to: folder, path: '{case!r}'}", "3: deliver.0.path: a placeholder is a name in braces and no more"),
        ("{to: folder, path: '{case'}", "3: deliver.0.path: not a path with placeholders"),
        ("{to: folder, path: '{}'}", "3: deliver.0.path: there is no placeholder '{}'"),
        (
            "{to: folder, path: '{study}'}",
            "3: deliver.0.path: two cases would share this folder; put {case} or {series}",
        ),
        ("{to: folder, path: '../{case}'}", "3: deliver.0.path: a path without '..'"),
        ("{to: folder, path: '~/x/{case}'}", "3: deliver.0.path: an absolute path: '~' is another folder"),
        ("{to: folder, path: 'held/{case}'}", "3: deliver.0.path: another folder: 'held' is that of studies"),
        ("{to: folder, path: './/held/{case}'}", "3: deliver.0.path: another folder: 'held' is that of studies"),
        ("{to: folder, path: 'HELD/{case}'}", "3: deliver.0.path: another folder: 'held' is that of studies"),
        (
            "{to: folder, outputs: [nifit]}",
            "3: deliver.0.outputs.0: there is no output 'nifit'; did you mean 'nifti'?",
        ),
    ],
)
def test_deliveries_that_mean_nothing(tmp_path, deliver, expected):
    assert problems(tmp_path, f"deliver:\n  - {deliver}\n")[0].startswith(expected)


def test_an_output_that_goes_nowhere_or_twice_to_one_folder(tmp_path):
    text = "outputs: {nifti: , seg: }\ndeliver:\n  - {to: folder, outputs: [nifti]}\n"
    assert problems(tmp_path, text) == ["2: outputs.seg: goes nowhere; name it in a delivery, or leave it out"]
    assert problems(tmp_path, f"{text}  - {{to: folder}}\n") == [
        "5: deliver.1: 'nifti' goes to this folder already, by delivery 1"
    ]
    for path in ("{case}", "./{case}/", "{series}"):
        text = f"deliver:\n  - {{to: folder}}\n  - {{to: folder, path: '{path}'}}\n"
        assert problems(tmp_path, text) == ["4: deliver.1: 'nifti' goes to this folder already, by delivery 1"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a"])
def test_a_placeholder_never_leads_to_another_folder(name):
    with pytest.raises(ValueError, match="case: expected the name of a file"):
        FolderDelivery(to="folder").folder(NAMES | {"case": name})


def test_a_recipe_survives_its_own_dump():
    recipe = load_recipe("everything")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe.model_copy(
        update={"models": tuple(type(entry).model_validate(entry.model_dump()) for entry in recipe.models)}
    )


def test_the_one_that_writes_everything_does():
    recipe = load_recipe("everything")
    assert {made.kind for made in recipe.outputs.values()} == set(KINDS)
    assert {made.type for made in recipe.outputs.values() if isinstance(made, SegOutput)} == {
        "BINARY", "FRACTIONAL", "LABELMAP",
    }  # fmt: skip
    assert recipe.model_fields_set == set(Recipe.model_fields)


def test_options_do_not_change(tmp_path):
    with pytest.raises(ValidationError):
        load_recipe("everything").outputs["seg"].series_number = 3
