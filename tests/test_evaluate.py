"""Evaluation of files and folders, its table, its CSV and its exit statuses."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from medseg.cli.evaluate import evaluate as evaluate_command
from medseg.errors import StorageError, UsageError
from medseg.evaluate import evaluate
from medseg.evaluation import CSV_COLUMNS, Evaluation
from medseg.labels import LabelSet
from medseg.metrics import all_label_metrics
from medseg.nifti import read_nifti, write_nifti
from medseg.regions import LabelScheme, Region
from medseg.volume import Volume

SPACING_MM = (0.7, 1.3, 3.0)
AFFINE = np.diag([*SPACING_MM, 1.0])
ORGANS = LabelSet.from_names({1: "liver", 2: "spleen"})


def label_array(shift: int = 0) -> NDArray[np.uint8]:
    array = np.zeros((16, 15, 10), dtype=np.uint8)
    array[2 + shift : 8 + shift, 3:10, 2:7] = 1
    array[10 + shift : 13 + shift, 8:13, 3:9] = 2
    return array


def store(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE) -> Path:
    write_nifti(path, Volume(array, affine))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases; c2's spleen is missing in the prediction and c3's in both."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    for name, predicted, reference in (
        ("c1", label_array(1), label_array()),
        ("c2", label_array() % 2, label_array()),
        ("c3", label_array() % 2, label_array() % 2),
    ):
        store(predictions / f"{name}.nii.gz", predicted)
        store(references / f"{name}.nii", reference)
    return predictions, references


def figures(result: Evaluation, case: str, label: int) -> dict[str, float]:
    return next(vars(row.metrics) for row in result.rows if (row.case, row.label) == (case, label))


def test_two_folders_are_matched_by_name(folders: tuple[Path, Path]) -> None:
    result = evaluate(*folders, ORGANS, tolerance_mm=0.8)
    assert [(row.case, row.label, row.name) for row in result.rows] == [
        (case, label, name) for case in ("c1", "c2", "c3") for label, name in ((1, "liver"), (2, "spleen"))
    ]
    expected = all_label_metrics(label_array(1), label_array(), (1, 2), SPACING_MM, 0.8)
    for label in (1, 2):
        assert figures(result, "c1", label) == pytest.approx(vars(expected[label]), rel=1e-6)
    assert figures(result, "c2", 2)["dice"] == 0.0
    assert math.isnan(figures(result, "c3", 2)["dice"])
    assert result.failures == result.without_reference == ()
    assert result.unlisted == {}


def test_the_summary_follows_the_empty_rule(folders: tuple[Path, Path]) -> None:
    result = evaluate(*folders, ORGANS)
    liver, spleen = result.summary
    moved = figures(result, "c1", 2)
    assert (liver.cases, liver.one_sided, spleen.cases, spleen.one_sided) == (3, 0, 2, 1)
    assert spleen.dice == pytest.approx(moved["dice"] / 2)
    assert spleen.surface_dice == pytest.approx(moved["surface_dice"] / 2)
    assert (spleen.hd95_mm, spleen.assd_mm) == (moved["hd95_mm"], moved["assd_mm"])
    assert spleen.volume_error_percent == pytest.approx(-50.0)
    assert result.mean_dice == pytest.approx((liver.dice + spleen.dice) / 2)


def test_regions_are_measured_in_place_of_labels(folders: tuple[Path, Path]) -> None:
    regions = (Region(name="both", labels=(1, 2), paint=1), Region(name="spleen", labels=(2,), paint=2))
    result = evaluate(*folders, LabelScheme(ORGANS, regions))
    moved, reference = label_array(1), label_array()
    expected = all_label_metrics(
        (moved > 0).astype(np.uint8), (reference > 0).astype(np.uint8), (1,), SPACING_MM, 1.0
    )
    assert figures(result, "c1", 1) == pytest.approx(vars(expected[1]), rel=1e-6)
    assert [(summary.label, summary.name) for summary in result.summary] == [(1, "both"), (2, "spleen")]
    assert figures(result, "c2", 2)["dice"] == 0.0
    assert result.unlisted == {}


def test_voxels_that_nobody_judged_do_not_count(folders: tuple[Path, Path]) -> None:
    reference = label_array()
    reference[:, :, 5:] = 9
    store(folders[1] / "c1.nii", reference)
    result = evaluate(*folders, LabelScheme(ORGANS, (), 9))
    cut = [array * (np.arange(10) < 5) for array in (label_array(1), label_array())]
    expected = all_label_metrics(*cut, (1, 2), SPACING_MM, 1.0)
    for label in (1, 2):
        assert figures(result, "c1", label) == pytest.approx(vars(expected[label]), rel=1e-6)
    assert result.unlisted == {}


def test_labels_default_to_the_values_of_the_references(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    stray = label_array(1)
    stray[0, 0, 0] = 9
    store(predictions / "c1.nii.gz", stray)
    result = evaluate(predictions, references)
    assert [(label.label, label.name) for label in result.summary] == [(1, "label_1"), (2, "label_2")]
    assert len(result.rows) == 6
    assert result.summary[1].cases == 2
    assert result.unlisted == {9: 1}


def test_values_outside_the_table_are_reported(folders: tuple[Path, Path]) -> None:
    result = evaluate(*folders, LabelSet.from_names({1: "liver", 5: "kidney"}))
    assert result.unlisted == {2: 2}
    assert [label.cases for label in result.summary] == [3, 0]
    assert math.isnan(result.summary[1].dice)
    assert result.mean_dice == result.summary[0].dice


def test_two_files_are_one_case(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    result = evaluate(predictions / "c1.nii.gz", references / "c2.nii", ORGANS)
    assert result.cases == ("c2",)
    assert result.summary[0].dice == pytest.approx(2 * 5 / 12)


def test_cases_that_cannot_be_compared_are_recorded_and_the_others_go_on(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    sheared = AFFINE.copy()
    sheared[0, 2] = 0.5
    for folder in folders:
        store(folder / "sheared.nii", label_array(), sheared)
    moved = AFFINE.copy()
    moved[0, 3] = 0.01
    store(predictions / "c1.nii.gz", label_array(), moved)
    store(predictions / "c2.nii.gz", label_array()[:-1])
    (references / "broken.nii.gz").write_bytes(b"no NIfTI at all")
    store(references / "unseen.nii.gz", label_array())
    for name in ("broken", "extra", "fraction", "image"):
        store(predictions / f"{name}.nii.gz", label_array())
    store(references / "fraction.nii.gz", label_array().astype(np.float32) / 2)
    store(references / "image.nii.gz", label_array().astype(np.int16) - 1000)
    result = evaluate(predictions, references, ORGANS)
    reasons = {failure.case: failure.reason for failure in result.failures}
    codes = {failure.case: failure.code for failure in result.failures}
    assert result.cases == ("c3",)
    assert list(reasons) == ["broken", "c1", "c2", "fraction", "image", "sheared", "unseen"]
    assert "0.01 mm away" in reasons["c1"]
    assert "shape 15x15x10 instead of 16x15x10" in reasons["c2"]
    assert "sheared" in reasons["sheared"]
    assert reasons["unseen"] == "no prediction"
    assert "fractions" in reasons["fraction"]
    assert "-1000" in reasons["image"]
    assert codes == {
        "broken": "NIFTI", "c1": "GRID", "c2": "GRID", "fraction": "NIFTI", "image": "NIFTI", "sheared": "GRID",
        "unseen": "INPUT",
    }  # fmt: skip
    assert result.without_reference == ("extra",)


def test_a_grid_off_by_rounding_only_is_the_same(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    nudged = AFFINE.copy()
    nudged[0, 3] = 5e-4
    store(predictions / "c1.nii.gz", label_array(), nudged)
    assert not evaluate(predictions, references, ORGANS).failures


def test_label_maps_stored_as_real_numbers_or_wide_integers_are_read(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    before = evaluate(predictions, references)
    for path in references.iterdir():
        store(path, read_nifti(path).array.astype(np.float32))
    for path in predictions.iterdir():
        store(path, read_nifti(path).array.astype(np.int32) * 70000)
    store(predictions / "c1.nii.gz", label_array(1).astype(np.float64))
    after = evaluate(predictions, references)
    assert figures(after, "c1", 1) == figures(before, "c1", 1)
    assert after.unlisted == {70000: 2}


def test_any_number_of_workers_gives_the_same_and_progress_counts_up(folders: tuple[Path, Path]) -> None:
    calls: list[tuple[int, int]] = []
    one = evaluate(*folders, ORGANS, workers=1, progress=lambda done, total: calls.append((done, total)))
    three = evaluate(*folders, ORGANS, workers=3)
    assert repr(one) == repr(three)
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_wrong_arguments_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, references = folders
    with pytest.raises(UsageError, match="nothing there"):
        evaluate(tmp_path / "none", references)
    with pytest.raises(UsageError, match="two files or two folders"):
        evaluate(predictions, references / "c1.nii")
    with pytest.raises(UsageError, match="tolerance"):
        evaluate(predictions, references, tolerance_mm=-1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="files"):
        evaluate(predictions, tmp_path / "empty")
    blank = store(tmp_path / "blank.nii", np.zeros((4, 4, 4), dtype=np.uint8))
    with pytest.raises(UsageError, match="background only"):
        evaluate(blank, blank)
    store(references / "c1.nii.gz", label_array())
    with pytest.raises(UsageError, match=r"c1\.nii and c1\.nii\.gz"):
        evaluate(predictions, references)


def test_the_csv_holds_every_row_and_every_failure(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, references = folders
    store(references / "unseen.nii.gz", label_array())
    target = tmp_path / "out" / "scores.csv"
    evaluate(predictions, references, ORGANS, tolerance_mm=0.8).write_csv(target)
    text = target.read_bytes().decode()
    assert text.splitlines()[0] == (
        "case,label,name,dice,surface_dice,hd95_mm,assd_mm,volume_ml,reference_ml,volume_error_percent,tolerance_mm,error"
    )
    assert "\r" not in text
    rows = list(csv.DictReader(text.splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["case"], row["label"]) for row in rows] == [
        *[(case, label) for case in ("c1", "c2", "c3") for label in ("1", "2")], ("unseen", "")
    ]  # fmt: skip
    liver = rows[0]
    assert liver["dice"] == f"{2 * 5 / 12:.6f}"
    assert (liver["hd95_mm"], liver["volume_error_percent"], liver["tolerance_mm"]) == (
        "0.700000",
        "0.000000",
        "0.8",
    )
    assert float(liver["reference_ml"]) == pytest.approx(6 * 7 * 5 * 0.7 * 1.3 * 3.0 / 1000, abs=1e-6)
    assert (rows[3]["hd95_mm"], rows[3]["volume_error_percent"]) == ("inf", "-100.000000")
    assert rows[5]["dice"] == "nan"
    assert rows[6]["error"] == "no prediction"
    assert [path.name for path in target.parent.iterdir()] == ["scores.csv"]
    with pytest.raises(StorageError):
        evaluate(predictions, references, ORGANS).write_csv(references)


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(evaluate_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


def test_the_command_prints_a_table_and_writes_the_csv(folders: tuple[Path, Path], tmp_path: Path) -> None:
    table = tmp_path / "dataset.json"
    table.write_text(json.dumps({"labels": {"0": "background", "1": "liver"}}))
    result = run(*folders, "--labels", table, "--tolerance", 2, "--csv", tmp_path / "scores.csv", "--workers", 1)
    assert result.exit_code == 0, result.output
    for part in ("liver", "at 2 mm", "HD95", "all labels", "scores.csv", "Not measured", "2 (in 2 case(s))"):
        assert part in result.output
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 4


def test_the_command_leaves_out_what_nobody_judged(folders: tuple[Path, Path], tmp_path: Path) -> None:
    table = tmp_path / "dataset.json"
    table.write_text(json.dumps({"labels": {"0": "background", "1": "liver"}}))
    reference = np.where(label_array() == 1, 1, 2)
    reference[0, 0, 0] = 0
    store(folders[1] / "c1.nii", reference.astype(np.uint8))
    store(folders[0] / "c1.nii.gz", np.where(reference == 2, 1, reference).astype(np.uint8))
    result = run(folders[0], folders[1], "--labels", table, "--ignore-value", 2, "--csv", tmp_path / "scores.csv")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("c1,1,liver,1.000000,")
    assert run(*folders, "--ignore-value", 2).exception.exit_status == 2


def test_the_exit_status_tells_some_from_all_failed(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    store(references / "unseen.nii.gz", label_array())
    store(predictions / "extra[1].nii.gz", label_array())
    some = run(predictions, references)
    assert some.exit_code == 3
    for part in ("1 of 4 case(s) failed", "unseen: no prediction", "Left out", "extra[1]"):
        assert part in some.output
    for path in predictions.glob("c*"):
        path.unlink()
    every = run(predictions, references)
    assert every.exit_code == 5
    assert "4 of 4 case(s) failed" in every.output


def test_wrong_use_of_the_command_is_a_usage_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(tmp_path / "none", folders[1]).exception.exit_status == 2
    assert run(*folders, "--labels", tmp_path / "none.json").exception.exit_status == 2
    assert run(*folders, "--tolerance", -1).exit_code == 2


@pytest.mark.data
def test_real_labels_equal_themselves_and_a_shift_is_seen(data_root: Path, tmp_path: Path) -> None:
    references = tmp_path / "references"
    for path in sorted((data_root / "hippocampus" / "labelsTr").glob("hippocampus_00*.nii.gz")):
        given = read_nifti(path)
        store(references / path.name, given.array, given.affine)
        store(tmp_path / "shifted" / path.name, np.roll(given.array, 1, axis=1), given.affine)
    same, shifted = evaluate(references, references), evaluate(tmp_path / "shifted", references)
    assert len(same.cases) > 3
    assert (same.mean_dice, same.summary[0].hd95_mm, same.summary[0].surface_dice) == (1.0, 0.0, 1.0)
    assert 0.7 < shifted.mean_dice < 0.95
    assert shifted.summary[0].hd95_mm == pytest.approx(1.0)
    assert shifted.summary[0].surface_dice == 1.0
