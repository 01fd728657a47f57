"""Stages in processes of their own: whatever happens to one study, the others are done."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.batch import Ledger, State, job_of
from medseg.batch.options import BatchOptions, RunContext
from medseg.batch.run import StopBatch, plan_batch, run_batch
from medseg.batch.scratch import scratch_folder
from medseg.errors import InputError, OutOfMemoryError, StorageError
from medseg.files import sha256_of
from medseg.findings import FindingCode
from medseg.nifti import read_nifti
from medseg.study import nifti_study
from tests.batch.hooks import THRESHOLD, Told, crew, image, make_studies, run, started

ROOT = Path(__file__).resolve().parents[2]


def check_done(root, rows, names):
    """The label maps are right, and their hashes are those of the ledger."""
    for name in names:
        row = rows[name]
        assert row.state is State.DONE, row
        (output,) = row.result.outputs
        assert sha256_of(root / "out" / output.path) == output.sha256
        written = read_nifti(root / "out" / output.path)
        assert np.array_equal(written.array, image(int(name[1:])).array > THRESHOLD)


def nothing_else(root):
    return sorted(path.name for path in (root / "out").iterdir() if not path.name.endswith(".nii.gz")) == [
        "ledger.sqlite"
    ]


@pytest.mark.parametrize("in_process", [True, False])
def test_all_are_done_and_told_of(tmp_path, in_process):
    rows, told = run(tmp_path, 5, in_process=in_process)
    check_done(tmp_path, rows, rows)
    assert len(rows) == 5
    assert told.total == (5, 0)
    assert sorted(row.name for row in told.rows) == sorted(rows)
    assert told.last_tiles == (4, 4)
    assert nothing_else(tmp_path)
    row = rows["s00"]
    assert set(row.result.timings_s) == {"read", "segment", "write"}
    assert (row.attempts, row.strikes, row.result.device) == (1, 0, "cpu")
    assert [finding.code for finding in row.result.findings] == [FindingCode.SMALLER_TILES]
    volume = (image(0).array > THRESHOLD).sum() * 6 / 1000
    assert row.result.volumes_ml == {"bright": pytest.approx(volume)}
    again, told = run(tmp_path, 6, in_process=in_process)
    check_done(tmp_path, again, again)
    assert told.total == (6, 5)
    assert sorted(started(tmp_path)) == sorted(again)  # each once


def test_crashes_hangs_and_kills_cost_their_own_study_alone(tmp_path):
    """Every deed at once, as starting processes is what takes time."""
    rows, told = run(
        tmp_path,
        8,
        limit_s=6.0,
        strikes=2,
        read={"s01": "segv", "s02": "once:kill"},
        segment={"s03": "hang", "s04": "bug", "s05": "memory"},
        write={"s06": "once:segv"},
    )
    check_done(tmp_path, rows, ["s00", "s02", "s06", "s07"])
    quarantined = {name: row.code for name, row in rows.items() if row.state is State.QUARANTINED}
    assert quarantined == {"s01": "CRASH", "s03": "TIME", "s04": "BUG", "s05": "MEMORY"}
    assert "SIGSEGV" in rows["s01"].message
    assert "took more than 6 s" in rows["s03"].message
    assert "MUSTERMANN" not in str(rows)
    assert "RuntimeError in hooks.py" in rows["s04"].message
    assert {name: rows[name].strikes for name in ("s01", "s02", "s06", "s00")} == {
        "s01": 2, "s02": 1, "s06": 1, "s00": 0,
    }  # fmt: skip
    assert sorted(row.name for row in told.rows) == sorted(rows)  # each once, at its end
    assert nothing_else(tmp_path)
    again, _ = run(tmp_path, 8, strikes=2)  # the deeds are over, but what is quarantined stays so
    assert {name for name, row in again.items() if row.state is State.QUARANTINED} == set(quarantined)


@pytest.mark.parametrize("in_process", [True, False])
def test_a_full_disk_stops_the_batch_and_the_rest_is_done_later(tmp_path, in_process):
    with pytest.raises(StorageError, match="the disk is full"):
        run(tmp_path, 4, in_process=in_process, write={"s01": "once:full"})
    with Ledger(tmp_path / "out") as ledger:
        found = {row.name: row.state for row in ledger.rows()}
        assert found["s00"] is State.DONE
        assert set(found.values()) == {State.DONE, State.PLANNED}
    assert nothing_else(tmp_path)
    rows, _ = run(tmp_path, 4, in_process=True, write={"s01": "once:full"})
    check_done(tmp_path, rows, rows)


@pytest.mark.parametrize("in_process", [True, False])
def test_being_asked_to_stop_gives_back_what_is_in_work(tmp_path, in_process, monkeypatch):
    """SIGTERM as a scheduler sends it, once a study is done."""
    monkeypatch.setattr(Told, "ended", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StopBatch) as caught:
        run(tmp_path, 6, in_process=in_process, seconds=0.4)
    assert caught.value.signal == signal.SIGTERM
    monkeypatch.undo()
    with Ledger(tmp_path / "out") as ledger:
        rows = ledger.rows()
    done = {row.name for row in rows if row.state is State.DONE}
    assert 1 <= len(done) < 6
    assert {(row.state, row.attempts, row.strikes) for row in rows if row.name not in done} == {
        (State.PLANNED, 0, 0)
    }
    assert nothing_else(tmp_path)


def test_the_time_limit_holds_for_a_study_that_reports_its_tiles(tmp_path):
    """It would take 40 s, and says something every 0.1 s."""
    rows, _ = run(tmp_path, 2, limit_s=6.0, strikes=1, seconds=0.4, segment={"s00": "slow"})
    assert (rows["s00"].state, rows["s00"].code) == (State.QUARANTINED, "TIME")
    check_done(tmp_path, rows, ["s01"])


def test_a_network_that_cannot_start_again_at_once_is_waited_for(tmp_path, monkeypatch):
    """As where the memory of the one that crashed is not free yet."""
    monkeypatch.setattr("medseg.batch.stage.PAUSE_S", 0.1)
    rows, _ = run(tmp_path, 2, starting=True, segment={"s00": "once:segv"})
    check_done(tmp_path, rows, rows)
    assert (rows["s00"].strikes, len(list(tmp_path.glob("start.*")))) == (1, 4)


def test_a_network_that_cannot_start_at_all_ends_the_batch(tmp_path):
    (tmp_path / "start.0").touch()  # the first start is one that fails
    with pytest.raises(OutOfMemoryError):
        run(tmp_path, 1, starting=True)


def test_sigterm_to_the_whole_group_charges_no_study(tmp_path):
    command = [sys.executable, "-m", "tests.batch.hooks", str(tmp_path), "6", "processes", "1"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: started(tmp_path) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert "StopBatch" in told
    with Ledger(tmp_path / "out") as ledger:
        rows = ledger.rows()
    assert {(row.state, row.strikes, row.code) for row in rows} <= {(State.PLANNED, 0, ""), (State.DONE, 0, "")}
    assert {row.attempts for row in rows if row.state is State.PLANNED} == {0}


@pytest.mark.parametrize("in_process", [True, False])
def test_another_process_may_plan_what_is_in_work_or_was_refused(tmp_path, in_process, monkeypatch):
    """From a second shell: another try of a problem that this batch knew, and a changed file of the same name."""
    jobs = make_studies(tmp_path, 2)
    problem = InputError("bad", expected="a", found="b", remedy="c")
    bad = replace(jobs[0], key="bad", name="bad", target="", problem=problem)

    def second(*_):
        monkeypatch.undo()
        with Ledger(tmp_path / "out", "m", "s") as other:
            other.retry([State.REFUSED])
            other.plan([replace(jobs[0], key="changed"), bad])

    monkeypatch.setattr(Told, "tiles", second)
    told = Told()
    with Ledger(tmp_path / "out", "m", "s") as ledger, scratch_folder(tmp_path / "out") as scratch:
        planned = plan_batch(ledger, [*jobs, bad])
        crew_of = crew(tmp_path, scratch)
        run_batch(ledger, planned, RunContext(crew_of, ["cpu"], scratch, told, BatchOptions(None, in_process)))
        rows = {row.key: row for row in ledger.rows()}
    assert rows.keys() == {jobs[0].key, jobs[1].key, "bad", "changed"}
    assert (rows["bad"].state, rows["changed"].code) == (State.REFUSED, "TARGET")
    check_done(tmp_path, {row.name: row for row in rows.values() if row.state is State.DONE}, ["s00", "s01"])


@pytest.mark.parametrize("in_process", [True, False])
def test_a_name_as_long_as_can_be(tmp_path, in_process):
    """What was the temporary name of such a one had more than the 255 bytes of file systems."""
    run(tmp_path, 1, in_process=True)
    name = "n" * 232
    (tmp_path / "s00.nii.gz").rename(tmp_path / f"{name}.nii.gz")
    jobs = [job_of(nifti_study((tmp_path / f"{name}.nii.gz",)))]
    with Ledger(tmp_path / "out", "m", "s") as ledger, scratch_folder(tmp_path / "out") as scratch:
        planned = plan_batch(ledger, jobs)
        crew_of = crew(tmp_path, scratch)
        run_batch(ledger, planned, RunContext(crew_of, ["cpu"], scratch, Told(), BatchOptions(None, in_process)))
        assert [row.state for row in ledger.rows()] == [State.DONE, State.DONE]
    assert (tmp_path / "out" / f"{name}.nii.gz").exists()


def test_an_error_within_the_batch_is_not_that_of_its_scratch_folder(tmp_path):
    with pytest.raises(FileNotFoundError), scratch_folder(tmp_path):
        (tmp_path / "none").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["here", "processes"])
def test_kill_nine_at_any_moment_loses_nothing_and_does_nothing_twice(tmp_path, how):
    count, random = 10, np.random.default_rng(0)
    command = [sys.executable, "-m", "tests.batch.hooks", str(tmp_path), str(count), how, "0.15"]
    finished = {}
    for _ in range(3):
        before = len(started(tmp_path))
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        wait_for(lambda n=before, p=process: len(started(tmp_path)) > n + 1 or p.poll() is not None)
        time.sleep(float(random.uniform(0, 0.4)))
        process.kill()
        process.wait()
        time.sleep(0.5)  # its workers end by themselves
        log = started(tmp_path)
        time.sleep(0.5)
        assert started(tmp_path) == log
        with Ledger(tmp_path / "out") as ledger:
            for row in ledger.rows():
                assert row.state in (State.DONE, State.RUNNING, State.PLANNED)
                if row.state is State.DONE:
                    finished.setdefault(row.name, (log.count(row.name), row.result.outputs[0].sha256))
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    with Ledger(tmp_path / "out") as ledger:
        rows = {row.name: row for row in ledger.rows()}
    assert len(rows) == count
    check_done(tmp_path, rows, rows)
    assert nothing_else(tmp_path)
    for name, (times, sha256) in finished.items():
        assert started(tmp_path).count(name) == times  # what was done was not begun again
        assert rows[name].result.outputs[0].sha256 == sha256
    assert len(finished) >= 2


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("keeps_images", [False, True])
def test_no_more_volumes_wait_than_are_allowed(tmp_path, keeps_images):
    """The network is slow, or the writer where images are kept: files of voxels are counted while it runs."""
    most, over = [0], threading.Event()

    def count():
        while not over.is_set():
            files = list((tmp_path / "out").glob(".medseg-scratch-*/*/0.raw"))
            most[0] = max(most[0], len(files))
            time.sleep(0.01)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        if keeps_images:
            run(tmp_path, 10, needs_images=True, write={f"s{n:02}": "pause" for n in range(10)})
        else:
            run(tmp_path, 8, seconds=0.3)
    finally:
        over.set()
        thread.join()
    # one in the network and two that wait for it; with images one in the writer and two that wait for that
    low, high = (4, 6) if keeps_images else (2, 3)
    assert low <= most[0] <= high


def test_outputs_have_the_same_bytes_in_one_process_and_in_several(tmp_path):
    digests = []
    for name, in_process in (("a", True), ("b", False)):
        run(tmp_path / name, 2, in_process=in_process)
        files = sorted((tmp_path / name / "out").glob("*.nii.gz"))
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


def test_another_model_plans_every_study_anew(tmp_path):
    run(tmp_path, 2, in_process=True)
    run(tmp_path, 2, in_process=True, model="other")
    assert started(tmp_path) == ["s00", "s01"] * 2
    run(tmp_path, 2, in_process=True, model="other", again=True)
    assert started(tmp_path) == ["s00", "s01"] * 3
