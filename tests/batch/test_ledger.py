"""The ledger: what is on the disk at every moment, who may claim what, and what is never done twice."""

import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from medseg.batch import Ledger, State
from medseg.batch.job import JobResult, Output, job_of
from medseg.batch.owner import _start_of, is_gone, this_process
from medseg.batch.schema import LEDGER_FILE
from medseg.batch.settle import settle
from medseg.errors import InputError, NiftiError, OutOfMemoryError, StorageError, UnreadableError, UsageError
from medseg.files import sha256_of
from medseg.findings import Finding, FindingCode
from medseg.study import nifti_study
from tests.batch.hooks import make_studies


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def jobs(tmp_path):
    return make_studies(tmp_path, 3)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir(exist_ok=True)
    return tmp_path / "out"


def finished(out, job, text="labels"):
    (out / job.target).write_text(text)
    output = Output(job.target, sha256_of(out / job.target), len(text))
    finding = Finding(FindingCode.GANTRY_TILT, "tilted", "slice 1")
    return JobResult(job.key, (output,), {"liver": 1.5}, (finding,), {"read": 0.5}, "smaller tiles", "cpu")


def states(ledger):
    return {row.name: row.state.value for row in ledger.rows()}


def plain(out):
    with sqlite3.connect(out / LEDGER_FILE) as other:
        return {row[0]: row[1:] for row in other.execute("SELECT name, state, attempts, strikes FROM studies")}


def test_the_attempt_is_on_the_disk_before_the_study_is_begun(out, jobs):
    with Ledger(out) as ledger:
        ledger.plan(jobs)
        assert ledger.claim() == jobs[0].key
        assert plain(out) == {"s00": ("running", 1, 0), "s01": ("planned", 0, 0), "s02": ("planned", 0, 0)}
        assert ledger._database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert ledger._database.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_what_is_recorded_comes_back_as_it_was(out, jobs):
    result = finished(out, jobs[0])
    with Ledger(out, "m", "s", clock=Clock()) as ledger:
        ledger.plan(jobs)
        ledger.claim()
        assert settle(ledger, result) is State.DONE
    with Ledger(out) as ledger:
        row = ledger.rows()[0]
    assert row.result == result
    assert (row.state, row.model, row.settings, row.started, row.ended) == (State.DONE, "m", "s", 1000.0, 1000.0)
    assert row.record()["outputs"][0]["sha256"] == result.outputs[0].sha256


def do_first(out, jobs, model="m", settings="s"):
    with Ledger(out, model, settings) as ledger:
        ledger.plan(jobs[:1])
        ledger.claim()
        ledger.finish(finished(out, jobs[0]))


@pytest.mark.parametrize(
    ("model", "settings", "again", "expected"),
    [("m", "s", False, "done"), ("other", "s", False, "planned"), ("m", "other", False, "planned"),
     ("m", "s", True, "planned")],
)  # fmt: skip
def test_what_is_done_stays_so_with_the_same_model_and_settings_alone(out, jobs, model, settings, again, expected):
    do_first(out, jobs)
    with Ledger(out, model, settings) as ledger:
        ledger.plan(jobs[:1], again=again)
        assert states(ledger) == {"s00": expected}
        assert ledger.is_over() is (expected == "done")


@pytest.mark.parametrize("damage", ["gone", "other bytes", "shorter"])
def test_an_output_that_is_not_what_it_was_is_made_again(out, jobs, damage):
    do_first(out, jobs)
    target = out / jobs[0].target
    if damage == "gone":
        target.unlink()
    else:
        target.write_text("LABELS" if damage == "other bytes" else "lab")
    with Ledger(out, "m", "s") as ledger:
        ledger.plan(jobs[:1])
        assert states(ledger) == {"s00": "planned"}


def test_a_changed_input_is_another_study_that_replaces_the_first(out, jobs, tmp_path):
    do_first(out, jobs)
    file = tmp_path / "s00.nii.gz"
    os.utime(file, ns=(1, 1))
    changed = job_of(nifti_study((file,)))
    assert changed.key != jobs[0].key
    with Ledger(out, "m", "s") as ledger:
        ledger.plan([changed])
        assert [(row.key, row.state) for row in ledger.rows()] == [(changed.key, State.PLANNED)]


def test_a_refusal_stays_until_medseg_changes_or_is_asked_again(out, jobs, monkeypatch):
    error = NiftiError("s00", expected="a", found="b", remedy="c")
    with Ledger(out) as ledger:
        ledger.plan(jobs[:1])
        assert settle(ledger, JobResult(ledger.claim(), error=error)) is State.REFUSED
        assert (ledger.rows()[0].code, ledger.rows()[0].message) == ("NIFTI", str(error))
        ledger.plan(jobs[:1])
        assert ledger.claim() is None
        assert ledger.retry([State.REFUSED]) == 1
        ledger.plan(jobs[1:])
        assert (states(ledger)["s00"], ledger.rows()[0].message) == ("refused", str(error))  # not of that command
        ledger.plan(jobs[:1])
        assert ledger.claim() == jobs[0].key
        ledger.refuse(jobs[0].key, error)
        monkeypatch.setattr("medseg.batch.planning.__version__", "99")
        ledger.plan(jobs[:1])
        assert states(ledger)["s00"] == "planned"


def test_three_strikes_and_it_is_quarantined(out, jobs):
    with Ledger(out) as ledger:
        ledger.plan(jobs[:2])
        shortage = OutOfMemoryError("s00", expected="a", found="b", remedy="c")
        order = []
        for _ in range(4):
            key = ledger.claim()
            order.append(ledger.row(key).name)
            if key == jobs[0].key:
                settle(ledger, JobResult(key, error=shortage))
            else:
                ledger.finish(finished(out, jobs[1]))
        assert order == ["s00", "s01", "s00", "s00"]  # the others come before another try
        assert states(ledger) == {"s00": "quarantined", "s01": "done"}
        row = ledger.row(jobs[0].key)
        assert (row.strikes, row.attempts, row.code) == (3, 3, "MEMORY")
        assert ledger.claim() is None
        assert ledger.is_over()
        ledger.retry([State.QUARANTINED])
        ledger.plan(jobs[:2])
        assert ledger.claim() == jobs[0].key
        assert ledger.row(jobs[0].key).strikes == 0


def test_giving_back_is_no_attempt(out, jobs):
    with Ledger(out) as ledger:
        ledger.plan(jobs[:1])
        ledger.requeue([ledger.claim()])
        assert plain(out) == {"s00": ("planned", 0, 0)}


def dead_owner():
    """The name of a process that has ended."""
    code = "from medseg.batch.owner import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_is_told_from_a_later_one_with_its_number():
    own = this_process()
    assert not is_gone(own)
    host, pid, start, token = own.split(":")
    assert is_gone(":".join((host, pid, str(int(start) - 1), token)))
    assert not is_gone(":".join(("another-machine", "1", "1", token)))
    assert is_gone(dead_owner())
    assert not is_gone("")


@pytest.mark.parametrize(("alone", "expected"), [(True, "quarantined"), (False, "planned")])
def test_the_study_of_a_process_that_is_gone_is_claimed_at_once(out, jobs, alone, expected):
    gone = dead_owner()
    with Ledger(out) as ledger:
        ledger.plan(jobs[:1])
        for number in range(1, 4):
            key = ledger.claim(alone=alone)
            assert key == jobs[0].key
            assert ledger.row(key).attempts == number
            ledger._database.execute("UPDATE studies SET worker = ?", (gone,))
        key = ledger.claim()
        assert (key is None, states(ledger)["s00"]) == (alone, expected if alone else "running")
        if alone:
            assert "ended 3 times while this study was in work" in ledger.rows()[0].message


def test_a_study_that_is_always_in_work_when_the_program_ends_is_quarantined_in_the_end(out, jobs):
    gone = dead_owner()
    with Ledger(out) as ledger:
        ledger.plan(jobs[:1])
        count = 0
        while ledger.claim():
            count += 1
            ledger._database.execute("UPDATE studies SET worker = ?", (gone,))
        assert count == 10
        assert states(ledger) == {"s00": "quarantined"}


def test_a_lease_holds_until_it_has_run_out_and_is_renewed(out, jobs):
    clock = Clock()
    with Ledger(out, clock=clock) as one, Ledger(out, clock=clock) as two:
        one.plan(jobs[:1])
        two.plan(jobs[:1])
        key = one.claim()
        clock.now += 100
        one.heartbeat()
        clock.now += 100
        assert two.claim() is None
        assert not two.is_over()
        clock.now += 30
        assert two.claim() == key
        one.finish(finished(out, jobs[0]))  # it has lost the study
        assert one.finish(finished(out, jobs[0])) is None
        assert two.row(key).state is State.RUNNING
        two.finish(finished(out, jobs[0]))
        assert one.is_over()


CLAIMER = """
import sys
from pathlib import Path
from tests.batch.hooks import make_studies
from tests.batch.test_ledger import finished
from medseg.batch import Ledger
root = Path(sys.argv[1])
jobs = {job.key: job for job in make_studies(root, 30)}
with Ledger(root / "out") as ledger:
    ledger.plan(jobs.values())
    while key := ledger.claim():
        print(key)
        ledger.finish(finished(root / "out", jobs[key]))
"""


def test_two_processes_share_a_ledger_and_every_study_is_claimed_once(tmp_path):
    jobs = make_studies(tmp_path, 30)
    command = [sys.executable, "-c", CLAIMER, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    claimed = [process.communicate(timeout=120)[0].split() for process in both]
    assert sorted(claimed[0] + claimed[1]) == sorted(job.key for job in jobs)


def test_the_same_target_twice_is_refused_the_second_time_and_stays_so(out, jobs):
    rival = replace(jobs[1], target=jobs[0].target)
    with Ledger(out) as ledger:
        for _ in range(2):
            ledger.plan([jobs[0], rival])
            assert states(ledger) == {"s00": "planned", "s01": "refused"}
            assert "another study of this batch" in ledger.row(rival.key).message


def test_a_problem_is_refused_at_once_and_forgotten_when_it_is_gone(out, jobs, tmp_path):
    problem = InputError(tmp_path, expected="images", found="none", remedy="look")
    bad = replace(jobs[0], key="bad", target="", source=tmp_path, problem=problem)
    good = replace(jobs[0], source=tmp_path)
    with Ledger(out) as ledger:
        ledger.plan([bad])
        assert [row.state for row in ledger.rows()] == [State.REFUSED]
        assert ledger.claim() is None
    with Ledger(out) as ledger:
        ledger.plan([good])
        assert [row.key for row in ledger.rows()] == [good.key]


def test_a_name_stays_with_the_study_that_had_it_whichever_comes_first(out, jobs):
    """A folder with a copy of a study is named before the study itself, which is done."""
    do_first(out, jobs)
    rival = replace(jobs[1], target=jobs[0].target)
    with Ledger(out, "m", "s") as ledger:
        ledger.plan([rival, jobs[0]])
        assert states(ledger) == {"s00": "done", "s01": "refused"}
        assert (ledger.row(rival.key).code, (out / jobs[0].target).exists()) == ("TARGET", True)
    with Ledger(out, "m", "s") as ledger:  # now alone: the name is its own
        ledger.plan([rival])
        assert states(ledger) == {"s01": "planned"}


def changed(job, **others):
    return replace(job, key="changed", **others)


def end_badly(ledger, how):
    key = ledger.claim()
    if how == "refused":
        ledger.refuse(key, NiftiError("x", expected="a", found="b", remedy="c"))
    else:
        while key:
            ledger.fail(key, "CRASH", "crashed")
            key = ledger.claim()


@pytest.mark.parametrize("how", ["refused", "quarantined"])
@pytest.mark.parametrize("what", ["input", "model", "again"])
def test_a_study_without_a_label_map_does_not_keep_an_earlier_one(out, jobs, how, what):
    do_first(out, jobs)
    (out / "s00.probabilities.h5").write_text("mine")
    job = changed(jobs[0]) if what == "input" else jobs[0]
    with Ledger(out, "other" if what == "model" else "m", "s") as ledger:
        ledger.plan([job], again=what == "again")
        assert (out / job.target).exists()
        end_badly(ledger, how)
        assert states(ledger) == {"s00": how}
    assert not (out / job.target).exists()
    assert (out / "s00.probabilities.h5").exists()  # which the ledger never wrote


def test_a_problem_that_is_known_at_once_leaves_no_earlier_label_map(out, jobs):
    do_first(out, jobs)
    problem = InputError("s00", expected="two files", found="one", remedy="look")
    with Ledger(out, "m", "s") as ledger:
        ledger.plan([changed(jobs[0], problem=problem)])
        assert states(ledger) == {"s00": "refused"}
    assert not (out / jobs[0].target).exists()


def test_files_that_a_study_no_longer_has_are_deleted(out, jobs):
    first, (extra,) = finished(out, jobs[0]), [out / "s00.probabilities.h5"]
    extra.write_text("p")
    more = (*first.outputs, Output(extra.name, sha256_of(extra), 1))
    with Ledger(out, "m", "s") as ledger:
        ledger.plan(jobs[:1])
        ledger.claim()
        ledger.finish(replace(first, outputs=more))
        ledger.plan(jobs[:1], again=True)
        ledger.claim()
        ledger.finish(finished(out, jobs[0]))
    assert ((out / jobs[0].target).exists(), extra.exists()) == (True, False)


def test_outputs_are_moved_by_who_owns_the_study_alone(out, jobs, tmp_path):
    """One whose lease has run out comes back with other labels."""
    clock, late, right = Clock(), tmp_path / "late", tmp_path / "right"
    late.write_text("late")
    right.write_text("right")

    def result(file):
        return JobResult(jobs[0].key, (Output(jobs[0].target, sha256_of(file), 4),), made=(file,))

    with Ledger(out, clock=clock) as one, Ledger(out, clock=clock) as two:
        one.plan(jobs[:1])
        two.plan(jobs[:1])
        one.claim()
        clock.now += 130
        two.claim()
        assert settle(two, result(right)) is State.DONE
        assert settle(one, result(late)) is None
    assert (out / jobs[0].target).read_text() == "right"


def test_a_living_process_of_this_machine_keeps_its_study_whatever_the_lease(out, jobs):
    clock = Clock()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with Ledger(out, "m", "s", clock=clock) as ledger:
        ledger.plan(jobs[:2])
        ledger.claim()
        host = this_process().split(":")[0]
        start = _start_of(sleeper.pid)
        ledger._database.execute(
            "UPDATE studies SET worker = ? WHERE state = 'running'", (f"{host}:{sleeper.pid}:{start}:0",)
        )
        clock.now += 1000
        assert ledger.claim() == jobs[1].key
        ledger.plan([changed(jobs[0])])  # a changed file of the same name waits for it
        assert {row.key: row.state.value for row in ledger.rows()}[jobs[0].key] == "running"
        assert ledger.row("changed").code == "TARGET"
        with Ledger(out, "other", "s", clock=clock) as other, pytest.raises(UsageError, match="with another model"):
            other.plan(jobs)
    sleeper.kill()
    sleeper.wait()
    with Ledger(out, "m", "s", clock=clock) as ledger:
        ledger.plan([changed(jobs[0])])
        assert ledger.row("changed").state is State.PLANNED
        assert ledger.row(jobs[0].key) is None


def test_memory_counts_where_tiles_had_to_be_smaller(out, jobs):
    smaller = Finding(FindingCode.SMALLER_TILES, "smaller")
    with Ledger(out, "m", "s:4GB") as ledger:
        ledger.plan(jobs[:2])
        for job, findings in zip(jobs[:2], ((smaller,), ()), strict=True):
            ledger.claim()
            ledger.finish(replace(finished(out, job), findings=findings))
        ledger.plan(jobs[:2])
        assert states(ledger) == {"s00": "done", "s01": "done"}
    with Ledger(out, "m", "s:8GB") as ledger:
        ledger.plan(jobs[:2])
        assert states(ledger) == {"s00": "planned", "s01": "done"}


def test_storage_that_is_away_is_a_strike_and_one_bad_name_does_not_stop_the_others(out, jobs):
    away = UnreadableError("s00", expected="files", found="none", remedy="c")
    with Ledger(out) as ledger:
        ledger.plan(jobs)
        assert settle(ledger, JobResult(ledger.claim(), error=away)) is State.FAILED
        unwritten = StorageError("x", expected="a", found="File name too long", remedy="c")
        assert settle(ledger, JobResult(ledger.claim(), error=unwritten)) is State.FAILED
        made = out / "made"
        made.write_text("l")
        (out / jobs[2].target).mkdir()
        output = Output(jobs[2].target, sha256_of(made), 1)
        assert settle(ledger, JobResult(ledger.claim(), (output,), made=(made,))) is State.FAILED
        assert ledger.row(jobs[2].key).result.outputs == ()


def test_a_locked_ledger_is_waited_for_and_then_told(out, jobs):
    with Ledger(out, busy_s=0.2) as ledger:
        ledger.plan(jobs)
        other = sqlite3.connect(out / LEDGER_FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        with pytest.raises(StorageError, match="another program has locked"):
            ledger.claim()
        assert time.monotonic() - start >= 0.2
        other.execute("ROLLBACK")
        assert ledger.claim() == jobs[0].key


def test_a_full_disk_leaves_the_ledger_as_it_was(out, jobs):
    with Ledger(out) as ledger:
        ledger.plan(jobs[:1])
        key = ledger.claim()
        pages = ledger._database.execute("PRAGMA page_count").fetchone()[0]
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")
        huge = JobResult(key, volumes_ml={f"label {n}": 1.0 for n in range(20_000)})
        with pytest.raises(StorageError, match="the disk is full"):
            ledger.finish(huge)
        assert ledger.row(key).state is State.RUNNING
    assert plain(out) == {"s00": ("running", 1, 0)}


def test_a_study_that_cannot_be_written_stops_the_batch_and_is_planned_again(out, jobs):
    with Ledger(out) as ledger:
        ledger.plan(jobs[:1])
        error = StorageError("x", expected="a", found="the disk is full", remedy="c")
        with pytest.raises(StorageError, match="the disk is full"):
            settle(ledger, JobResult(ledger.claim(), error=error))
    assert plain(out) == {"s00": ("planned", 0, 0)}


def test_a_file_that_is_no_ledger_or_a_later_one_is_refused(out):
    (out / LEDGER_FILE).write_text("no database at all, but text " * 50)
    with pytest.raises(StorageError, match="another file in its place"):
        Ledger(out)
    (out / LEDGER_FILE).unlink()
    with sqlite3.connect(out / LEDGER_FILE) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match="use the medseg that made it"):
        Ledger(out)


def test_notes_are_kept(out):
    with Ledger(out) as ledger:
        assert ledger.note("command") is None
        ledger.note("command", {"a": [1, None]})
    with Ledger(out) as ledger:
        assert ledger.note("command") == {"a": [1, None]}
