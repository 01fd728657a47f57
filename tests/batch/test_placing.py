"""Outputs in folders and elsewhere: all come to their place or none, and what is deleted leaves no empty folder."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from medseg.batch import Ledger, State
from medseg.batch.delivery import Deliveries, place_of
from medseg.batch.job import JobResult, case_folder, job_of
from medseg.batch.settle import settle
from medseg.batch.worker import outputs_of
from medseg.errors import NiftiError, StorageError, UnreadableError
from medseg.findings import Finding, FindingCode
from medseg.study import Study, nifti_study
from tests.batch.hooks import make_studies


@pytest.fixture
def jobs(tmp_path):
    return make_studies(tmp_path, 3)


@pytest.fixture
def out(jobs, tmp_path):
    return tmp_path / "out"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system, if there is one."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev or not os.access(memory, os.W_OK):
        pytest.skip("there is no other file system")
    folder = memory / f"medseg-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def made(tmp_path, job, *places, held=(), text="x"):
    """The result of a study whose files are made, and are to come to some places."""
    files = [tmp_path / "made" / f"{job.name}.{number}" for number in range(len(places))]
    (tmp_path / "made").mkdir(exist_ok=True)
    for file in files:
        file.write_text(f"{text} {file.name}")
    outputs, lie = outputs_of(zip(files, places, strict=True))
    return JobResult(job.key, outputs, made=lie, held=tuple(held))


def files_in(*folders):
    """All files and folders below some, but for the ledger's."""
    return {
        str(path.relative_to(folder))
        for folder in folders
        for path in folder.rglob("*")
        if "ledger" not in path.name
    }


def finish(out, job, result, *, again=False):
    with Ledger(out, "m", "s") as ledger:
        ledger.plan([job], again=again)
        ledger.claim()
        state = settle(ledger, result)
        return state, ledger.row(job.key)


def known(out):
    with Ledger(out) as ledger:
        tables = [ledger._database.execute(f"SELECT path FROM {name}") for name in ("files", "folders")]
        return [sorted(path for (path,) in table.fetchall()) for table in tables]


def refuse(out, job):
    """Do a study again, this time without success."""
    error = NiftiError("x", expected="a", found="b", remedy="c")
    return finish(out, job, JobResult(job.key, error=error), again=True)[0]


def test_files_in_folders_and_elsewhere_are_whole_and_deleted_with_what_was_made_for_them(out, jobs, tmp_path):
    deliver = tmp_path / "deliver"
    deliver.mkdir()
    away = str(deliver / "new" / "s00" / "seg.dcm")
    state, row = finish(out, jobs[0], made(tmp_path, jobs[0], "s00/labels.nii.gz", "s00/organs/a", away))
    assert state is State.DONE
    assert files_in(out) == {"s00", "s00/labels.nii.gz", "s00/organs", "s00/organs/a"}
    assert files_in(deliver) == {"new", "new/s00", "new/s00/seg.dcm"}
    assert row.is_whole(out)
    with Ledger(out, "m", "s") as ledger:
        ledger.plan(jobs[:1])
        assert ledger.is_over()
    Path(away).write_text("other")
    assert not row.is_whole(out)
    (out / "s00" / "organs" / "mine").write_text("of somebody else")
    assert refuse(out, jobs[0]) is State.REFUSED
    assert files_in(out) == {"s00", "s00/organs", "s00/organs/mine"}
    assert files_in(deliver) == set()
    assert deliver.is_dir()  # which medseg has not made
    assert known(out) == [[], ["s00", "s00/organs"]]


def test_another_file_system_gets_whole_files_without_a_trace(out, jobs, tmp_path, elsewhere):
    place = elsewhere / "s00" / "labels.nii.gz"
    result = made(tmp_path, jobs[0], str(place), "s00.nii.gz")
    state, row = finish(out, jobs[0], result)
    assert (state, row.is_whole(out), place.read_text()) == (State.DONE, True, "x s00.0")
    assert files_in(elsewhere) == {"s00", "s00/labels.nii.gz"}
    assert known(out)[0] == sorted([str(place), "s00.nii.gz"])
    assert refuse(out, jobs[0]) is State.REFUSED
    assert files_in(elsewhere, out) == set()
    assert known(out) == [[], []]


def test_where_one_cannot_be_moved_none_stays(out, jobs, tmp_path):
    (out / "s00" / "b" / "in the way").mkdir(parents=True)
    result = made(tmp_path, jobs[0], "new/a", "s00/b")
    state, row = finish(out, jobs[0], result)
    assert (state, row.code, row.result.outputs) == (State.FAILED, "STORAGE", ())
    assert files_in(out) == {"s00", "s00/b", "s00/b/in the way"}
    assert known(out) == [[], []]


def test_an_earlier_output_is_not_forgotten_when_the_new_one_cannot_be_moved(out, jobs, tmp_path):
    finish(out, jobs[0], made(tmp_path, jobs[0], "s00/a"))
    (out / "b").mkdir()
    state, _ = finish(out, jobs[0], made(tmp_path, jobs[0], "s00/a", "b"), again=True)
    assert state is State.FAILED
    assert files_in(out) == {"b"}  # a failed study keeps no earlier output
    assert known(out) == [[], []]


def test_a_full_disk_elsewhere_leaves_nothing_there_and_stops_the_batch(
    out, jobs, tmp_path, elsewhere, monkeypatch
):
    def full(source, copy):
        Path(copy).write_text("half")
        if source.name == "s00.2":  # the one before is copied
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(StorageError, match="the disk is full"):
        finish(out, jobs[0], made(tmp_path, jobs[0], "a", *[str(elsewhere / "s00" / name) for name in "bc"]))
    assert files_in(elsewhere, out) == set()
    assert known(out) == [[], []]
    with Ledger(out) as ledger:
        assert (ledger.rows()[0].state, ledger.rows()[0].attempts) == (State.PLANNED, 0)


DIES = """
import os, sys
from pathlib import Path
from tests.batch.hooks import make_studies
from tests.batch.test_placing import finish, made
import medseg.batch.placing as placing
root, job = Path(sys.argv[1]), make_studies(Path(sys.argv[1]), 1)[0]
real, when = placing.delete_files if sys.argv[3] == "moved" else placing.copy_flushed, sys.argv[3]
def die(*given, **others):
    if when == "copied":
        real(*given)
    os._exit(9)
setattr(placing, "delete_files" if when == "moved" else "copy_flushed", die)
finish(root / "out", job, made(root, job, "s00/a", sys.argv[2] + "/s00/b"))
"""


@pytest.mark.parametrize("when", ["moved", "copied"])
def test_what_a_power_cut_leaves_behind_is_known_and_deleted(out, jobs, tmp_path, elsewhere, when):
    """The process ends once the files are copied, or have their names, before the ledger says that it is done."""
    command = [sys.executable, "-c", DIES, str(tmp_path), str(elsewhere), when]
    assert subprocess.run(command, check=False).returncode == 9
    left = files_in(elsewhere)
    assert ("s00/b" in left) == (when == "moved")
    assert len(left) == 2
    with Ledger(out, "m", "s") as ledger:
        ledger.plan(jobs[:1])
        assert ledger.claim() == jobs[0].key
        ledger.refuse(jobs[0].key, NiftiError("x", expected="a", found="b", remedy="c"))
    assert files_in(elsewhere, out) == set()
    assert known(out) == [[], []]


def test_an_output_never_replaces_that_of_another_study(out, jobs, tmp_path):
    finish(out, jobs[0], made(tmp_path, jobs[0], "all/seg.dcm"))
    state, row = finish(out, jobs[1], made(tmp_path, jobs[1], "own", "all/seg.dcm"))
    assert (state, row.code, "another study" in row.message) == (State.REFUSED, "INPUT", True)
    assert row.result.outputs == ()
    assert (out / "all" / "seg.dcm").read_text() == "x s00.0"
    assert files_in(out) == {"all", "all/seg.dcm"}


def test_another_layout_is_written_anew_and_the_earlier_files_go(out, jobs, tmp_path):
    finish(out, jobs[0], made(tmp_path, jobs[0], "s00.nii.gz"))
    in_folder = replace(jobs[0], target="s00")
    with Ledger(out, "m", "s") as ledger:
        ledger.plan([in_folder])
        assert not ledger.is_over()
    finish(out, in_folder, made(tmp_path, jobs[0], "s00/labels.nii.gz"))
    assert files_in(out) == {"s00", "s00/labels.nii.gz"}


def test_two_studies_never_share_a_folder(tmp_path, jobs):
    studies = [nifti_study((tmp_path / f"s{n:02}.nii.gz",)) for n in range(2)]
    assert [job_of(study, case_folder).target for study in studies] == ["s00", "s01"]
    assert job_of(studies[0]).target == "s00.nii.gz"
    assert job_of(studies[0]).key == job_of(studies[0], case_folder).key
    rivals = [replace(job, target="s00") for job in jobs[:2]]
    with Ledger(tmp_path / "out") as ledger:
        ledger.plan(rivals)
        assert [(row.state, row.code) for row in ledger.rows()] == [(State.PLANNED, ""), (State.REFUSED, "TARGET")]


def test_the_folder_of_a_study_never_leads_out_of_the_output_folder():
    study = Study(Path("in"), (Path("in") / "...nii.gz",))  # which without its suffix is ".."
    assert case_folder(study).startswith("case_")


def held(tmp_path, job):
    absent = Finding(FindingCode.ORGAN_ABSENT, "no spleen")
    result = made(tmp_path, job, "held/s00/labels.nii.gz", held=["organ-absent", "mine"])
    return replace(result, findings=(absent, Finding(FindingCode.GANTRY_TILT, "tilted")))


def test_a_held_study_has_ended_with_its_reasons_and_keeps_no_earlier_delivery(out, jobs, tmp_path):
    finish(out, jobs[0], made(tmp_path, jobs[0], "s00/labels.nii.gz"))
    state, row = finish(out, jobs[0], held(tmp_path, jobs[0]), again=True)
    assert (state, row.state, row.code) == (State.HELD, State.HELD, "HELD")
    assert row.message == "mine; organ-absent: no spleen"
    assert row.record()["held"] == ["organ-absent", "mine"]
    assert row.result.held == ("organ-absent", "mine")
    assert files_in(out) == {"held", "held/s00", "held/s00/labels.nii.gz"}
    with Ledger(out, "m", "s") as ledger:
        ledger.plan(jobs[:1])
        assert (ledger.is_over(), ledger.claim()) == (True, None)
        assert ledger.summary()[State.HELD] == 1
        assert ledger.retry([State.HELD]) == 1
        ledger.plan(jobs[:1])
        assert ledger.claim() == jobs[0].key
        assert settle(ledger, made(tmp_path, jobs[0], "s00/labels.nii.gz")) is State.DONE
        assert (ledger.rows()[0].message, ledger.rows()[0].code) == ("", "")
    assert files_in(out) == {"s00", "s00/labels.nii.gz"}


def test_a_held_study_whose_outputs_were_taken_away_is_done_anew_and_keeps_its_place_till_then(out, jobs, tmp_path):
    finish(out, jobs[0], held(tmp_path, jobs[0]))
    rival = replace(jobs[1], target=jobs[0].target)
    with Ledger(out, "m", "s") as ledger:
        ledger.plan([jobs[0], rival])
        assert [row.state for row in ledger.rows()] == [State.HELD, State.REFUSED]
        (out / "held" / "s00" / "labels.nii.gz").unlink()
        ledger.plan([jobs[0]])
        assert ledger.rows()[0].state is State.PLANNED


def test_who_lost_the_study_leaves_no_copy(out, jobs, tmp_path, elsewhere, monkeypatch):
    place, copy = str(elsewhere / "a"), shutil.copy

    def lose(*given):
        monkeypatch.undo()
        one._database.execute("UPDATE studies SET worker = ?", (two.owner,))
        return copy(*given)

    with Ledger(out) as one, Ledger(out) as two:
        one.plan(jobs[:1])
        two.plan(jobs[:1])
        one.claim()
        late = made(tmp_path, jobs[0], "s00/b", place)
        monkeypatch.setattr(shutil, "copy", lose)  # while it copies
        assert one.finish(late) is None
        assert (files_in(elsewhere), (out / "s00").exists()) == (set(), False)
        right = made(tmp_path, jobs[0], place, text="right")
        assert two.finish(right) is State.DONE
    assert Path(place).read_text() == "right s00.0"


def test_a_folder_in_the_place_of_an_earlier_output_stops_nothing(out, jobs, tmp_path):
    finish(out, jobs[0], made(tmp_path, jobs[0], "s00/a", "b"))
    (out / "b").unlink()
    (out / "b").mkdir()
    shutil.rmtree(out / "s00")
    (out / "s00").write_text("a file in the place of its folder")
    assert refuse(out, jobs[0]) is State.REFUSED
    assert files_in(out) == {"b", "s00"}


def held_name(out, tmp_path, form):
    """The place ``s00/seg.dcm`` of the output folder, said in another way."""
    if form == "absolute":
        return str(out / "s00" / "seg.dcm")
    (tmp_path / "link").symlink_to(out, target_is_directory=True)
    return str(tmp_path / "link" / "s00" / "seg.dcm")


@pytest.mark.parametrize("form", ["absolute", "by a link"])
def test_one_place_by_two_names_is_one_place(out, jobs, tmp_path, form):
    finish(out, jobs[0], made(tmp_path, jobs[0], "s00/seg.dcm", text="old"))
    other = held_name(out, tmp_path, form)
    state, row = finish(out, jobs[0], made(tmp_path, jobs[0], other, text="new"), again=True)
    assert (state, row.is_whole(out)) == (State.DONE, True)
    assert (out / "s00" / "seg.dcm").read_text() == "new s00.0"
    assert known(out)[0] == ["s00/seg.dcm"]
    state, row = finish(out, jobs[1], made(tmp_path, jobs[1], other))
    assert (state, "another study" in row.message) == (State.REFUSED, True)
    assert (out / "s00" / "seg.dcm").read_text() == "new s00.0"


def test_the_name_of_a_place_follows_the_folders_and_not_the_file(out, tmp_path):
    (tmp_path / "away").mkdir()
    (out / "s00").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "a").symlink_to(tmp_path / "elsewhere")
    assert place_of(out, "s00/a") == str(tmp_path / "away" / "a")
    assert place_of(out, "new/a") == place_of(out, f"{out}/new/a") == "new/a"


def other_case(out):
    """Make ``S00/SEG.DCM`` the same file as ``s00/seg.dcm``, as it is where case does not count."""
    (out / "S00").mkdir()
    os.link(out / "s00" / "seg.dcm", out / "S00" / "SEG.DCM")


def test_another_case_of_a_name_is_the_same_file_where_the_file_system_says_so(out, jobs, tmp_path, monkeypatch):
    finish(out, jobs[0], made(tmp_path, jobs[0], "s00/seg.dcm"))
    other_case(out)
    state, row = finish(out, jobs[1], made(tmp_path, jobs[1], "S00/SEG.DCM"))
    assert (state, "another study" in row.message) == (State.REFUSED, True)
    monkeypatch.setattr(
        "medseg.batch.placing.move_into_place", lambda lies, target: target.write_bytes(lies.read_bytes())
    )  # a rename would part the two names here
    new = made(tmp_path, jobs[0], "S00/SEG.DCM", text="new")
    assert finish(out, jobs[0], new, again=True)[0] is State.DONE
    assert (out / "s00" / "seg.dcm").read_text() == "new s00.0"


def test_two_deliveries_to_one_place_are_one_file(out, jobs, tmp_path):
    places = ["s00/seg.dcm", str(out / "s00" / "seg.dcm")]
    state, _ = finish(out, jobs[0], made(tmp_path, jobs[0], *places))
    assert (state, known(out)[0]) == (State.DONE, ["s00/seg.dcm"])


class Undeletable:
    """A folder that nothing can be deleted from."""

    def __init__(self, monkeypatch, folder):
        real = Path.unlink

        def unlink(path, missing_ok=False):
            if path.parent == folder:
                raise PermissionError(13, "Permission denied")
            real(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)


@pytest.mark.parametrize("how", ["refused", "failed", "taken back", "planned with a problem"])
def test_an_old_output_that_cannot_be_deleted_stops_nothing_and_stays_known(out, jobs, tmp_path, monkeypatch, how):
    deliver = tmp_path / "deliver"
    finish(out, jobs[0], made(tmp_path, jobs[0], "s00/a", str(deliver / "seg.dcm")))
    Undeletable(monkeypatch, deliver)
    error = NiftiError("x", expected="a", found="b", remedy="c")
    with Ledger(out, "m", "s", strikes=1) as ledger:
        for _ in range(2):  # as it is told once
            problem = error if how == "planned with a problem" else None
            ledger.plan([replace(jobs[0], problem=problem), jobs[1]], again=True)
            if problem:
                continue
            assert ledger.claim(alone=True) == jobs[0].key
            if how == "refused":
                assert settle(ledger, JobResult(jobs[0].key, error=error)) is State.REFUSED
            elif how == "failed":
                ledger.fail(jobs[0].key, "CRASH", "it crashed")
            else:
                ledger._database.execute("UPDATE studies SET worker = 'gone', lease = 0 WHERE state = 'running'")
                assert ledger.claim() == jobs[1].key
                ledger.requeue([jobs[1].key])
        row = ledger.row(jobs[0].key)
    assert row.state is (State.REFUSED if how in ("refused", "planned with a problem") else State.QUARANTINED)
    assert row.message.count(f"could not be deleted: {deliver / 'seg.dcm'} (permission is denied)") == 1
    assert files_in(out) == set()
    assert known(out)[0] == [str(deliver / "seg.dcm")]
    monkeypatch.undo()
    assert refuse(out, jobs[0]) is State.REFUSED
    assert (files_in(deliver) if deliver.exists() else set(), known(out)[0]) == (set(), [])


def test_a_place_that_cannot_be_looked_at_is_a_storage_error_of_its_study(out, jobs, tmp_path, monkeypatch):
    closed, real = tmp_path / "closed", Path.exists

    def exists(path):
        if path.is_relative_to(closed):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    state, row = finish(out, jobs[0], made(tmp_path, jobs[0], str(closed / "s00" / "seg.dcm")))
    assert (state, row.code) == (State.FAILED, "STORAGE")
    assert known(out) == [[], []]


@pytest.mark.parametrize("how", ["gone", "a file", "not mounted"])
def test_a_share_that_goes_away_stops_the_batch_and_costs_no_strike(out, jobs, tmp_path, monkeypatch, how):
    share = tmp_path / "share"
    share.mkdir()
    with Ledger(out, "m", "s") as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(os.path, "ismount", lambda path: how == "not mounted")
            ledger.deliveries = Deliveries([share])
        ledger.plan(jobs)
        key = ledger.claim()
        if how != "not mounted":
            share.rmdir()
        if how == "a file":
            share.write_text("")
        with pytest.raises(StorageError, match="share"):
            settle(ledger, made(tmp_path, jobs[0], str(share / "s00" / "seg.dcm")))
        row = ledger.row(key)
        assert (row.state, row.strikes, row.attempts) == (State.PLANNED, 0, 0)
    assert not (share / "s00").exists()
    assert known(out) == [[], []]


@pytest.mark.parametrize("code", ["refused", "failed"])
def test_what_lies_on_a_share_that_is_away_is_not_forgotten(out, jobs, tmp_path, code):
    share = tmp_path / "share"
    share.mkdir()
    place = share / "s00" / "seg.dcm"
    finish(out, jobs[0], made(tmp_path, jobs[0], str(place)))
    kind = NiftiError if code == "refused" else UnreadableError
    result = JobResult(jobs[0].key, error=kind("x", expected="a", found="b", remedy="c"))
    with Ledger(out, "m", "s") as ledger:
        ledger.deliveries = Deliveries([share])
        ledger.plan(jobs[:1], again=True)
        ledger.claim()
        share.rename(tmp_path / "away")
        with pytest.raises(StorageError, match="mount the share"):
            settle(ledger, result)
        assert ledger.row(jobs[0].key).state is State.PLANNED
        (tmp_path / "away").rename(share)
        ledger.claim()
        assert settle(ledger, result).value == code
    assert files_in(share) == set()


def test_a_share_that_is_there_gets_its_files_and_no_more(out, jobs, tmp_path):
    share = tmp_path / "share"
    share.mkdir()
    with Ledger(out, "m", "s") as ledger:
        ledger.deliveries = Deliveries([share])
        ledger.plan(jobs)
        ledger.claim()
        assert settle(ledger, made(tmp_path, jobs[0], str(share / "s00" / "seg.dcm"))) is State.DONE
    assert files_in(share) == {"s00", "s00/seg.dcm"}


HALF = """
import os, sys
from pathlib import Path
from tests.batch.hooks import make_studies
from tests.batch.test_placing import finish, made
import medseg.batch.placing as placing
root, job = Path(sys.argv[1]), make_studies(Path(sys.argv[1]), 1)[0]
real, moved = placing.move_into_place, []
def die(*given):
    if moved:
        os._exit(9)
    moved.append(real(*given))
placing.move_into_place = die
finish(root / "out", job, made(root, job, "s00/a", "s00/b"), again=True)
"""


@pytest.mark.parametrize("who", ["by the next claim", "by the next plan", "by one that replaces it"])
def test_half_a_study_does_not_stay_delivered(out, jobs, tmp_path, who):
    """The process is killed after the first of two files has its name."""
    finish(out, jobs[0], made(tmp_path, jobs[0], "s00/a", "s00/b", text="old"))
    assert subprocess.run([sys.executable, "-c", HALF, str(tmp_path)], check=False).returncode == 9
    assert [(out / "s00" / name).read_text() for name in "ab"] == ["x s00.0", "old s00.1"]
    with Ledger(out, "m", "s") as ledger:
        if who == "by the next claim":
            assert ledger.claim() is None  # nothing is planned here, but what others left is taken back
        elif who == "by the next plan":
            ledger.plan(jobs[:1])
        else:
            ledger.plan([replace(jobs[1], target=jobs[0].target)])
        assert State.DONE not in [row.state for row in ledger.rows()]
    assert files_in(out) == set()
    assert known(out) == [[], []]


def test_a_study_that_was_in_work_keeps_its_earlier_outputs_till_the_new_ones_come(out, jobs, tmp_path):
    finish(out, jobs[0], made(tmp_path, jobs[0], "s00/a"))
    with Ledger(out, "m", "s") as ledger:
        ledger.plan(jobs[:1], again=True)
        ledger.claim()
        ledger._database.execute("UPDATE studies SET worker = 'gone', lease = 0")
        assert ledger.claim() == jobs[0].key
    assert "s00/a" in files_in(out)


def test_a_strange_file_elsewhere_is_never_overwritten(out, jobs, tmp_path):
    place = tmp_path / "archive" / "seg.dcm"
    place.parent.mkdir()
    place.write_text("of somebody else")
    state, row = finish(out, jobs[0], made(tmp_path, jobs[0], "s00/a", str(place)))
    assert (state, row.code) == (State.REFUSED, "INPUT")
    assert "a file that this batch has not written; move it away" in row.message
    assert place.read_text() == "of somebody else"
    assert (files_in(out), known(out)) == (set(), [[], []])
    place.write_text("x s00.0")  # byte for byte what is made: that of a ledger that was lost
    state, _ = finish(out, jobs[0], made(tmp_path, jobs[0], str(place)), again=True)
    assert (state, place.read_text()) == (State.DONE, "x s00.0")
