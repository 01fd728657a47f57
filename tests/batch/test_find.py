"""What inputs stand for; jobs that are small, travel, and know when their input has changed."""

import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.batch.find import given_inputs, iterate_studies
from medseg.batch.job import job_of, result_of
from medseg.batch.worker import BugError, StudyReader, known_error
from medseg.dicom.policy import Policies
from medseg.dicom.reference import recall, refer_to
from medseg.dicom.write import write_series
from medseg.errors import (
    ClusterError,
    ConfigError,
    DicomError,
    GridError,
    InputError,
    MedsegError,
    NiftiError,
    OutOfMemoryError,
    StorageError,
    UnreadableError,
    UsageError,
)
from medseg.nifti import write_nifti
from medseg.study import output_name, read_study
from tests.batch.hooks import image
from tests.builders import tiny_package
from tests.dicom.written_series import make_volume


def test_a_list_of_inputs(tmp_path):
    (tmp_path / "list.txt").write_text("# mine\n\nb.nii.gz\n  /else/where \n#c\n", encoding="utf-8")
    paths = given_inputs([tmp_path / "a"], tmp_path / "list.txt")
    assert [str(path) for path in paths] == [str(tmp_path / "a"), str(tmp_path / "b.nii.gz"), "/else/where"]


@pytest.mark.parametrize("text", [None, "# nothing\n", b"\xff\xfe\x00"])
def test_a_list_that_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match="list.txt"):
        given_inputs([], tmp_path / "list.txt")


def test_no_inputs_at_all():
    with pytest.raises(UsageError, match="--from-file"):
        given_inputs([])


@pytest.fixture
def dicom(tmp_path):
    for n in range(3):
        volume = make_volume("MR")
        write_series(replace(volume, array=volume.array + n), tmp_path / "pile" / f"s{n}", identity=f"{n}")
    return tmp_path / "pile"


def test_a_large_pile_gives_the_studies_of_a_small_one(dicom):
    package = tiny_package()
    at_once = [study.stack.series.name for study in iterate_studies([dicom], package)]
    apart = [study.stack.series.name for study in iterate_studies([dicom], package, small=0)]
    assert apart == at_once
    assert len(apart) == 3


@pytest.mark.parametrize("small", [0, 20_000])
def test_a_pile_that_the_model_does_not_take_says_why(dicom, small):
    package = tiny_package("CT")
    (study,) = iterate_studies([dicom], package, small=small)
    assert "found 3 that cannot" in str(study.problem)
    assert "(MR: modality in CT, MR)" in str(study.problem)


def test_the_job_of_a_series_is_read_as_the_study_and_holds_no_headers(dicom):
    study = next(iterate_studies([dicom], tiny_package()))
    job = pickle.loads(pickle.dumps(job_of(study)))
    assert (job.target, job.files) == (output_name(study), ())
    assert len(pickle.dumps(job)) < 2000
    assert str(dicom / "s0") not in repr(job)
    (first,), (second,) = read_study(study), read_study(job.study(Policies()))
    assert np.array_equal(first.array, second.array)
    assert np.array_equal(first.affine, second.affine)


def test_the_key_is_the_identity_of_the_input(dicom, tmp_path):
    keys = [job_of(study).key for study in iterate_studies([dicom], tiny_package())]
    assert len(set(keys)) == 3
    assert [job_of(study).key for study in iterate_studies([dicom], tiny_package())] == keys
    moved = dicom.rename(tmp_path / "moved")
    assert [job_of(study).key for study in iterate_studies([moved], tiny_package())] == keys
    os.utime(next((moved / "s1").iterdir()), ns=(5, 5))
    again = [job_of(study).key for study in iterate_studies([moved], tiny_package())]
    assert [a == b for a, b in zip(again, keys, strict=True)] == [True, False, True]


def test_a_nifti_that_is_written_again_has_another_key(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", image(0))
    (study,) = iterate_studies([tmp_path], tiny_package())
    key = job_of(study).key
    write_nifti(tmp_path / "a.nii.gz", image(1))
    assert job_of(study).key != key


def zipped(folder, archive, change):
    """Put a series into an archive; each slice's voxels in the other order where it is to change."""
    with zipfile.ZipFile(archive, "w") as packed:
        for n, file in enumerate(sorted(folder.rglob("*.dcm"))):
            data = file.read_bytes()
            packed.writestr(f"{n}.dcm", data[:-40] + data[-40:][::-1] if change else data)
    return archive


def test_a_zip_with_other_voxels_has_another_key_and_is_not_read_for_the_first(dicom, tmp_path):
    archive = zipped(dicom / "s0", tmp_path / "a.zip", False)
    (job,) = map(job_of, iterate_studies([archive], tiny_package()))
    (same,) = map(job_of, iterate_studies([archive], tiny_package()))
    assert same.key == job.key
    zipped(dicom / "s0", archive, True)
    (other,) = map(job_of, iterate_studies([archive], tiny_package()))
    assert other.key != job.key
    with pytest.raises(DicomError, match="another size or time"):
        job.study(Policies())


def test_a_series_in_the_place_of_another_is_noticed(dicom):
    (study, *_) = iterate_studies([dicom / "s0"], tiny_package())
    packed = refer_to(study.stack.series)
    with pytest.raises(DicomError, match="another series"):
        recall(replace(packed, name="0123456789ab"))


def test_storage_that_is_away_is_no_refusal(dicom, tmp_path):
    write_nifti(tmp_path / "a.nii.gz", image(0))
    jobs = [job_of(study) for study in iterate_studies([tmp_path / "a.nii.gz", dicom / "s0"], tiny_package())]
    (tmp_path / "a.nii.gz").unlink()
    dicom.rename(tmp_path / "gone")
    for job in jobs:
        with pytest.raises(UnreadableError, match="No such file"):
            StudyReader()(job)
    (tmp_path / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(NiftiError):
        StudyReader()(jobs[0])


def test_a_stray_nifti_does_not_hide_the_dicom_of_its_folder(dicom):
    write_nifti(dicom / "stray.nii.gz", image(0))
    found = list(iterate_studies([dicom], tiny_package()))
    assert [bool(study.stack) for study in found] == [False, True, True, True]
    (dicom / "s0" / "notes.txt").write_text("no image")
    assert len(list(iterate_studies([dicom], tiny_package()))) == 4


def test_the_same_file_is_found_once_and_two_of_one_name_are_both(tmp_path):
    for folder in ("a", "b"):
        write_nifti(tmp_path / folder / "scan.nii.gz", image(0))
    paths = [tmp_path / "a", tmp_path / "a" / ".." / "a" / "scan.nii.gz", tmp_path / "b"]
    assert len(list(iterate_studies(paths, tiny_package()))) == 2


def test_a_problem_has_one_key_however_its_path_is_written(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    jobs = [job_of(*iterate_studies([path], tiny_package())) for path in (Path("empty"), tmp_path / "empty")]
    assert jobs[0].problem
    assert (jobs[0].key, jobs[0].source) == (jobs[1].key, jobs[1].source)


WHAT = {"expected": "a", "found": "b", "remedy": "c"}


@pytest.mark.parametrize(
    "error",
    [
        kind("x", **WHAT)
        for kind in (MedsegError, InputError, NiftiError, GridError, OutOfMemoryError, StorageError, BugError)
    ]
    + [UnreadableError("x", **WHAT), ClusterError("x", **WHAT)]
    + [DicomError("x", **WHAT, reason="gantry-tilt"), ConfigError("x", ["one", "two"])],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_processes(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), back.code, back.exit_status) == (str(error), error.code, error.exit_status)
    assert getattr(back, "reason", None) == getattr(error, "reason", None)


def test_what_is_no_error_of_medseg_is_said_without_its_text():
    try:
        raise ValueError("MUSTERMANN^ERIKA")
    except ValueError as error:
        known = known_error(error, "scan")
    assert (known.code, known.where) == ("BUG", "scan")
    assert "ValueError in test_find.py:" in str(known)
    assert "MUSTERMANN" not in str(known)
    assert known_error(MemoryError(), "scan").code == "MEMORY"
    assert known_error(PermissionError(13, "Permission denied", "/MUSTERMANN"), "scan").found.endswith("denied")
    refused = InputError("x", **WHAT)
    assert known_error(refused, "scan") is refused


def test_an_empty_record_is_an_empty_result():
    assert result_of("k", {}).outputs == ()
