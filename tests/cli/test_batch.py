"""Batches as a user types them: the ledger, status, retry, exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from medseg.batch import JobResult, Ledger, State, job_of
from medseg.batch.worker import outputs_of
from medseg.cli.batching import conclude, exit_status
from medseg.cli.console import progress_bar
from medseg.findings import Finding, FindingCode
from medseg.nifti import read_nifti, write_nifti
from medseg.study import nifti_study
from tests.builders import save_tiny_model, tiny_case


@pytest.fixture
def place(tmp_path):
    """A model, three scans and one file that is none."""
    save_tiny_model(tmp_path / "model")
    for n in range(3):
        write_nifti(tmp_path / "in" / f"s{n}.nii.gz", tiny_case(n)[0])
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"no image")
    return tmp_path


def rows_of(place):
    with Ledger(place / "out") as ledger:
        return {row.name: row for row in ledger.rows()}


def command(place, *words):
    return ["segment", place / "in", "-m", place / "model", "-o", place / "out", *words]


def test_a_batch_its_status_and_another_try(medseg, place):
    status, text = medseg(*command(place, "--in-process"))
    assert (status, "3 of 4 segmented" in text, "refused [NIFTI]" in text) == (3, True, True)
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "batch.html", "ledger.sqlite", "s0.nii.gz", "s1.nii.gz", "s2.nii.gz",
    ]  # fmt: skip
    status, text = medseg("batch", "status", place / "out")
    assert (status, "done │ 3" in text, "refused │ 1" in text, "bad.nii.gz" in text) == (0, True, True, True)
    status, text = medseg("batch", "status", place / "out", "--json")
    report = json.loads(text)
    assert report["summary"]["done"] == 3
    assert {study["name"] for study in report["studies"]} == {"s0", "s1", "s2", "bad"}
    before = {name: row.started for name, row in rows_of(place).items()}
    write_nifti(place / "in" / "bad.nii.gz", tiny_case(3)[0])
    status, text = medseg("batch", "retry", place / "out")
    assert (status, "1 studies planned again" in text, "4 of 4 segmented" in text) == (0, True, True)
    after = rows_of(place)
    assert {row.state for row in after.values()} == {State.DONE}
    assert {name for name, row in after.items() if row.started != before[name]} == {"bad"}


def test_what_is_done_is_done_again_only_when_asked_for_or_with_another_setting(medseg, place):
    (place / "in" / "bad.nii.gz").unlink()
    assert medseg(*command(place, "--in-process"))[0] == 0
    first = {name: row.ended for name, row in rows_of(place).items()}
    turns = ("", False), ("--again", True), ("", False), ("--no-resume", True), ("--overlap 0.25", True)
    for text, anew in (*turns, ("--overlap 0.25 --memory 64GB", False)):
        words = text.split()
        assert medseg(*command(place, "--in-process", *words))[0] == 0
        now = {name: row.ended for name, row in rows_of(place).items()}
        assert all((now[name] != first[name]) is anew for name in now), words
        first = now


def test_processes_give_the_bytes_that_one_process_gives(medseg, place):
    assert medseg(*command(place))[0] == 3
    found = rows_of(place)
    single = place / "single.nii.gz"
    for n in range(3):
        image = place / "in" / f"s{n}.nii.gz"
        assert medseg("segment", image, "-m", place / "model", "-o", single)[0] == 0
        assert single.read_bytes() == (place / "out" / f"s{n}.nii.gz").read_bytes()
        assert read_nifti(single).grid.difference(read_nifti(image).grid) is None
    assert found["s0"].result.timings_s.keys() == {"read", "segment", "write"}


def test_a_list_of_one_has_a_ledger(medseg, place):
    (place / "list.txt").write_text("in/s0.nii.gz\n")
    words = ("segment", "--from-file", place / "list.txt", "-m", place / "model", "-o", place / "out")
    assert medseg(*words)[0] == 0
    assert set(rows_of(place)) == {"s0"}


def test_all_refused_has_status_5_and_none_named_2(medseg, place):
    for n in range(3):
        (place / "in" / f"s{n}.nii.gz").write_bytes(b"no image")
    assert medseg(*command(place))[0] == 5
    status, text = medseg("segment", "-m", place / "model", "-o", place / "out")
    assert (status, "--from-file" in text) == (2, True)
    status, text = medseg("batch", "status", place / "in")
    assert (status, "no ledger" in text) == (2, True)
    status, text = medseg(*command(place, "--time-limit", "soon"))
    assert (status, "--time-limit" in text) == (2, True)


def test_what_is_held_back_is_told_with_its_reason_and_tried_again_when_asked(medseg, place):
    """As a recipe with `hold` leaves it."""
    studies = [nifti_study((place / "in" / f"s{n}.nii.gz",)) for n in range(2)]
    (place / "out").mkdir()
    (place / "made").mkdir()
    with Ledger(place / "out") as ledger:
        for job, held in zip(map(job_of, studies), ((), ("organ-absent",)), strict=True):
            ledger.plan([job])
            file = place / "made" / job.target
            file.write_text(job.name)
            outputs, made = outputs_of([(file, f"held/{job.target}" if held else job.target)])
            findings = (Finding(FindingCode.ORGAN_ABSENT, "no spleen"),)
            ledger.claim()
            ledger.finish(JobResult(job.key, outputs, findings=findings, made=made, held=held))
        rows = ledger.rows()
        conclude(ledger, place / "out", 1.0)
    assert [exit_status(some) for some in (rows, rows[:1], rows[1:])] == [3, 0, 3]
    status, text = medseg("batch", "status", place / "out")
    assert (status, "held │ 1" in text, "1 of 1 segmented" in text) == (0, True, False)
    assert re.search(r"held \[HELD\] \S*s1.nii.gz: organ-absent: no spleen", text)
    _, text = medseg("batch", "status", place / "out", "--json")
    report = json.loads(text)
    assert (report["summary"]["held"], report["studies"][1]["held"]) == (1, ["organ-absent"])
    page = (place / "out" / "batch.html").read_text(encoding="utf-8")
    assert "Held back for review" in page
    assert "held/s1.nii.gz" in page
    for words, count in (((), 0), (("--quarantined",), 0), (("--held",), 1)):
        assert f"{count} studies planned again" in medseg("batch", "retry", place / "out", "--plan", *words)[1]


def test_an_input_is_never_written_over(medseg, place):
    status, text = medseg("segment", place / "in", "-m", place / "model", "-o", place / "in")
    assert (status, "the input itself" in text) == (2, True)


def test_another_try_with_relative_paths_leaves_no_ghosts(medseg, place, monkeypatch):
    """A folder without images is refused once, whichever way its path is written."""
    (place / "empty").mkdir()
    monkeypatch.chdir(place)
    words = ("segment", "in", "empty", "-m", "model", "-o", "out", "--in-process")
    assert medseg(*words)[0] == 3
    first = rows_of(place)
    monkeypatch.chdir(place / "in")
    assert medseg("batch", "retry", place / "out")[0] == 3
    second = rows_of(place)
    assert second.keys() == first.keys() == {"s0", "s1", "s2", "bad", "empty"}
    assert {name for name, row in second.items() if row.state is State.REFUSED} == {"bad", "empty"}


def test_studies_are_watched_where_that_is_asked_for_or_was_before(medseg, place, monkeypatch):
    given = []
    monkeypatch.setattr("medseg.batch.run.run_batch", lambda *a: given.append(a[-1].options.in_process))
    scan = place / "in" / "s0.nii.gz"
    words = ("segment", scan, "-m", place / "model", "-o", place / "out")
    medseg(*words, "--time-limit", "1min")
    medseg(*words)
    medseg(*words, "--in-process")
    medseg(*words[:-1], place / "other", "--retries", "5")
    assert given == [False, False, True, True]
    for extra in (("--in-process", "--time-limit", "1min"), ()):
        status, text = medseg(*words[:-1], place / "x.nii.gz", *extra, "--time-limit", "1min")
        assert (status, "--time-limit" in text) == (2, True)
    status, text = medseg(*words, "--in-process", "--time-limit", "1min")
    assert (status, "--time-limit" in text) == (2, True)


def test_an_eta_is_shown_for_studies_of_minutes():
    now = [0.0]
    bar = progress_bar()
    bar.get_time = lambda: now[0]
    task = bar.add_task("studies", total=10, note="")
    for _ in range(4):
        now[0] += 120
        bar.advance(task)
    assert bar.tasks[0].time_remaining == 6 * 120


def test_ctrl_c_gives_back_what_is_in_work(place):
    for n in range(3, 12):
        write_nifti(place / "in" / f"s{n}.nii.gz", tiny_case(n)[0])
    words = [sys.executable, "-m", "medseg", *map(str, command(place, "--processes"))]
    process = subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list((place / "out").glob("*.nii.gz")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "the same command goes on" in err) == (130, True)
    rows = [row for row in rows_of(place).values() if row.name != "bad"]
    assert {row.state for row in rows} <= {State.DONE, State.PLANNED}
    assert all(row.attempts == (row.state is State.DONE) and row.strikes == 0 for row in rows)
    assert not list((place / "out").glob(".medseg*"))
