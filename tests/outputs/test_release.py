"""What is made of a study: every kind of output, proved, then released, held back or not released at all."""

from __future__ import annotations

import hashlib
import json

import highdicom
import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from medseg.dicom.read import read_stack
from medseg.errors import GridError, InputError, ProofError, UsageError
from medseg.findings import FindingCode
from medseg.inference.saved import read_probabilities
from medseg.maker import Maker
from medseg.outputs import makers
from medseg.outputs.case import DrawnCase
from medseg.outputs.making import Making
from medseg.outputs.release import release
from medseg.recipe import Recipe
from medseg.recipe.filenames import names_of
from tests.dicom.builder import SeriesSpec
from tests.dicom.proving import draw, label_map

MAKER = Maker("tiny", "ab" * 32, "cd" * 32)
EVERYTHING = {
    "nifti": {},
    "organs": {"kind": "nifti", "per_organ": True, "tables": False},
    "seg": {},
    "labelmap": {"kind": "seg", "type": "LABELMAP", "compression": "rle"},
    "rtstruct": {"holes": "keyhole"},
    "sr": {},
    "tables": {},
    "pictures": {"planes": ["axial"]},
    "capture": {},
    "report": {},
}
WRITTEN = {
    "labels.nii.gz", "labels.json", "labels_itksnap.txt", "labels_slicer.ctbl",
    "organs/liver.nii.gz", "organs/kidney_left.nii.gz", "organs/kidney_right.nii.gz", "organs/spleen.nii.gz",
    "seg.dcm", "labelmap.dcm", "rtstruct.dcm", "sr.dcm", "measurements.csv", "measurements.json",
    "pictures_axial.png", "capture_axial.dcm", "capture_coronal.dcm", "capture_sagittal.dcm", "report.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("series"), SeriesSpec(modality="CT"))


@pytest.fixture(scope="module")
def case(drawn):
    return DrawnCase("series_x", (read_stack(drawn.origin.stack),), drawn.labels, MAKER, drawn.origin)


@pytest.fixture(scope="module")
def everything(case, tmp_path_factory):
    return release(case, recipe(), tmp_path_factory.mktemp("everything"))


def recipe(outputs=None, **parts) -> Recipe:
    return Recipe.model_validate({"name": "r", "model": "m", "outputs": outputs or EVERYTHING} | parts)


def test_every_output_is_made_and_goes_to_its_folder(case, everything):
    made = everything
    assert {place for _, place in made.files} == {f"series_x/{name}" for name in WRITTEN}
    files = {place.removeprefix("series_x/"): path for path, place in made.files}
    stored = np.asarray(nib.load(files["labels.nii.gz"]).dataobj)
    assert np.array_equal(stored, case.labels.array)
    liver = np.asarray(nib.load(files["organs/liver.nii.gz"]).dataobj)
    assert np.array_equal(liver, case.labels.array == 2)
    seg = highdicom.seg.segread(files["seg.dcm"])
    counts = {label: int((case.labels.array == value).sum()) for value, label in ((2, "liver"), (5, "kidney_left"))}
    for number in seg.segment_numbers:
        name = seg.get_segment_description(number).segment_label
        voxels = int(seg.get_volume(segment_numbers=[number], combine_segments=True).array.astype(bool).sum())
        assert counts.get(name, voxels) == voxels
    report = files["report.html"].read_text()
    assert "Not for diagnostic use" in report
    assert all(name in report for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm", "tiny", "ab" * 32))
    volumes = {
        one["label"]: one["volume_ml"] for one in json.loads(files["measurements.json"].read_text())["measurements"]
    }
    assert volumes == pytest.approx({name: ml for name, ml in made.volumes_ml.items() if ml})
    assert made.volumes_ml["spleen"] == 0


def test_the_recipe_foresees_the_names_of_the_files(case, everything, tmp_path):
    """By them it refuses outputs that would write one file."""
    named = {"masks": {"kind": "nifti"}, "values": {"kind": "tables"}, "views": {"kind": "pictures"}}
    foreseen = [name for name, made in recipe().outputs.items() for name in names_of(name, made)]
    assert {place.split("/")[1] for _, place in everything.files} == set(foreseen)
    other = recipe(named | {"page": {"kind": "report"}})
    foreseen = [name for name, made in other.outputs.items() for name in names_of(name, made)]
    assert sorted(place.split("/")[1] for _, place in release(case, other, tmp_path).files) == sorted(foreseen)


def test_a_file_is_entered_once(case, tmp_path):
    making = Making(case, recipe(), tmp_path)
    making.add("seg", "seg.dcm")
    with pytest.raises(UsageError, match="SEG.dcm twice"):
        making.add("SEG", "SEG.dcm")


def test_objects_of_one_mask_belong_together(case, everything):
    objects = {place: dcmread(path) for path, place in everything.files if place.endswith(".dcm")}
    source = case.origin.datasets[0]
    assert {dataset.StudyInstanceUID for dataset in objects.values()} == {source.StudyInstanceUID}
    assert {dataset.PatientID for dataset in objects.values()} == {source.PatientID}
    assert len({dataset.SOPInstanceUID for dataset in objects.values()}) == len(objects)
    assert len({dataset.SeriesInstanceUID for dataset in objects.values()}) == len(EVERYTHING) - 5
    named = json.dumps(objects["series_x/sr.dcm"].to_json_dict())
    assert objects["series_x/seg.dcm"].SOPInstanceUID in named
    assert objects["series_x/labelmap.dcm"].SOPInstanceUID not in named


def test_a_second_run_writes_the_same_bytes(case, everything, tmp_path):
    runs = [everything, release(case, recipe(), tmp_path)]
    first, second = (
        {place: hashlib.sha256(path.read_bytes()).hexdigest() for path, place in run.files} for run in runs
    )
    assert first == second


def test_another_model_or_mask_makes_other_objects(case, tmp_path):
    other = DrawnCase("series_x", case.images, case.labels, Maker("tiny", "ef" * 32, "cd" * 32), case.origin)
    array = case.labels.array.copy(order="F")
    array[0, 0, 0] = 9
    drawn = DrawnCase("series_x", case.images, label_map(case.origin, array), MAKER, case.origin)
    uids = [
        dcmread(release(one, recipe({"seg": {}}), tmp_path / name).files[0][0]).SOPInstanceUID
        for name, one in (("a", case), ("b", other), ("c", drawn))
    ]
    assert len(set(uids)) == 3


def test_deliveries_take_what_they_name(case, tmp_path):
    deliver = [
        {"to": "folder", "path": "{study}/{series}", "outputs": ["seg"]},
        {"to": "folder", "path": str(tmp_path / "far" / "{case}"), "outputs": ["seg", "nifti"]},
    ]
    made = release(case, recipe({"nifti": {"tables": False}, "seg": {}}, deliver=deliver), tmp_path / "scratch")
    series = case.origin.stack.series
    places = [place for _, place in made.files]
    assert places == [
        f"study_{series.study_name}/series_{series.name}/seg.dcm",
        str(tmp_path / "far" / "series_x" / "labels.nii.gz"),
        str(tmp_path / "far" / "series_x" / "seg.dcm"),
    ]
    paths = [path for path, _ in made.files]
    assert len(set(paths)) == 3
    assert paths[0].read_bytes() == paths[2].read_bytes()


def test_a_flagged_study_is_held_back(case, tmp_path):
    asked = {"expected": ["spleen"], "hold": ["organ-absent"]}
    far = [{"to": "folder"}, {"to": "folder", "path": str(tmp_path / "far" / "{case}")}]
    made = release(case, recipe({"nifti": {}, "report": {}}, quality=asked, deliver=far), tmp_path / "scratch")
    assert made.held == ("organ-absent",)
    assert FindingCode.ORGAN_ABSENT in {finding.code for finding in made.findings}
    places = [place for _, place in made.files]
    assert all(place.startswith("held/series_x/") for place in places)
    assert len(set(places)) == len(places)  # though two deliveries take them
    assert not (tmp_path / "far").exists()


def test_what_could_not_be_checked_is_said_and_holds_nothing_back(case, tmp_path):
    asked = {"expected": ["liver"], "hold": ["organ-absent", "unusual-volume", "sides-swapped"]}
    made = release(case, recipe({"nifti": {}}, quality=asked), tmp_path)
    (told,) = [finding.message for finding in made.findings if finding.code is FindingCode.UNCHECKED]
    assert "unusual-volume: " in told
    assert made.held == ()
    known = asked | {"volume_ml": {label.name: {} for label in case.labels.labels}}
    made = release(case, recipe({"nifti": {}}, quality=known), tmp_path)
    assert FindingCode.UNCHECKED not in {finding.code for finding in made.findings}
    made = release(case, recipe({"nifti": {}}, quality={"mark": ["unusual-volume"]}), tmp_path)
    assert FindingCode.UNCHECKED not in {finding.code for finding in made.findings}


def test_what_is_wrong_is_not_released(case, tmp_path, monkeypatch):
    def mirrored(dataset, path):
        bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
        count = dataset.NumberOfFrames * dataset.Rows * dataset.Columns
        frames = bits[:count].reshape(dataset.NumberOfFrames, dataset.Rows, dataset.Columns)[:, :, ::-1]
        dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
        dataset.PixelData += b"\0" * (len(dataset.PixelData) % 2)
        dataset.save_as(path, enforce_file_format=True)

    monkeypatch.setattr(makers, "save_object", mirrored)
    with pytest.raises(ProofError, match="Dice"):
        release(case, recipe({"seg": {}}), tmp_path)


def test_nothing_drawn_is_said_and_no_object_made(case, tmp_path):
    empty = label_map(case.origin, np.zeros(case.labels.array.shape, np.uint8))
    made = release(DrawnCase("series_x", case.images, empty, MAKER, case.origin), recipe(), tmp_path)
    places = {place.removeprefix("series_x/") for _, place in made.files}
    assert WRITTEN - places == {"seg.dcm", "labelmap.dcm", "rtstruct.dcm", "sr.dcm"}
    told = [finding.message for finding in made.findings if finding.code is FindingCode.EMPTY_MASK]
    assert len(told) == 4


def test_nifti_is_enough_for_what_is_no_object(case, tmp_path):
    plain = DrawnCase("a", case.images, case.labels, MAKER)
    made = release(plain, recipe({"nifti": {}, "tables": {}, "pictures": {}, "report": {}}), tmp_path)
    assert "a/report.html" in {place for _, place in made.files}
    with pytest.raises(InputError, match="DICOM series"):
        release(plain, recipe({"seg": {}}), tmp_path / "b")


def saved_probabilities(case, path, *, affine=None, mirrored=False, regions=False):
    """Write a file as `medseg.inference.probabilities` does: around those of the mask."""
    h5py = pytest.importorskip("h5py")
    names = ["background", *(label.name for label in case.labels.labels)]
    noise = np.random.default_rng(0).random(case.labels.array.shape) * 0.49
    values = np.stack(
        [np.where(case.labels.array == value, 1 - noise, 0) for value in (0, *case.labels.labels.indices)]
    )
    values = values[:, ::-1] if mirrored else values
    with h5py.File(path, "w") as stream:
        data = stream.create_dataset("probabilities", data=values.transpose(0, 3, 2, 1).astype(np.float16))
        grid = case.labels.affine if affine is None else affine
        facts = (["c", "k", "j", "i"], names, grid, regions, "tiny", ["ab"])
        data.attrs.update(
            dict(zip(("axes", "names", "affine_ras_mm", "regions", "model", "weights_sha256"), facts, strict=True))
        )
    return DrawnCase("x", case.images, case.labels, MAKER, case.origin, probabilities=path)


def test_probabilities_become_a_fractional_object(case, tmp_path):
    drawn = saved_probabilities(case, tmp_path / "labels.probabilities.h5")
    made = release(drawn, recipe({"seg": {"type": "FRACTIONAL"}, "probabilities": {}}), tmp_path / "made")
    places = {place: path for path, place in made.files}
    assert set(places) == {"x/seg.dcm", "x/labels.probabilities.h5"}
    seg = highdicom.seg.segread(places["x/seg.dcm"])
    assert seg.segmentation_type.value == "FRACTIONAL"
    liver = read_probabilities(places["x/labels.probabilities.h5"]).read("liver").astype(float)
    number = next(n for n in seg.segment_numbers if seg.get_segment_description(n).segment_label == "liver")
    found = seg.get_volume(segment_numbers=[number], rescale_fractional=True).array[..., 0]
    assert found.sum() == pytest.approx(liver.sum(), rel=1e-3)
    assert np.sort(found.ravel())[-100:] == pytest.approx(np.sort(liver.ravel())[-100:], abs=1 / 255)


def test_probabilities_that_are_not_the_masks_are_not_released(case, tmp_path):
    moved = case.labels.affine.copy()
    moved[0, 3] += 1
    wanted, path = recipe({"seg": {"type": "FRACTIONAL"}}), tmp_path / "p.h5"
    for wrong, error, said in (
        ({"mirrored": True}, ProofError, "what is probable"),
        ({"affine": moved}, GridError, "the grid of the image"),
        ({"regions": True}, InputError, "of regions"),
    ):
        with pytest.raises(error, match=said):
            release(saved_probabilities(case, path, **wrong), wanted, tmp_path / "made")


def test_an_empty_conditional_attribute_is_left_out(case, tmp_path):
    """Type 1C must have a value where it is there (PS3.5 7.4.2); what is empty and of type 2 stays."""
    source = case.origin.datasets[0]
    source.DeidentificationMethod, kept = "", source.ReferringPhysicianName
    source.ReferringPhysicianName = ""
    try:
        ((path, _),) = release(case, recipe({"seg": {}}), tmp_path).files
    finally:
        del source.DeidentificationMethod
        source.ReferringPhysicianName = kept
    made = dcmread(path)
    assert "DeidentificationMethod" not in made
    assert made.ReferringPhysicianName == ""
