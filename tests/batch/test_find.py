"""What inputs stand for; jobs that are small, travel, and know when their input has changed."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest

from medseg.batch.find import given_inputs, iterate_studies
from medseg.batch.job import job_of, result_of
from medseg.batch.worker import BugError, known_error
from medseg.dicom.policy import Policies
from medseg.dicom.write import write_series
from medseg.errors import (
    ConfigError,
    DicomError,
    GridError,
    InputError,
    MedsegError,
    NiftiError,
    OutOfMemoryError,
    StorageError,
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


WHAT = {"expected": "a", "found": "b", "remedy": "c"}


@pytest.mark.parametrize(
    "error",
    [
        kind("x", **WHAT)
        for kind in (MedsegError, InputError, NiftiError, GridError, OutOfMemoryError, StorageError, BugError)
    ]
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
