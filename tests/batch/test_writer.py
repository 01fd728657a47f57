"""The last stage: what it is given, what it may hold back or refuse, and how much waits for it."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from medseg.batch import Ledger, State
from medseg.batch.job import case_folder, job_of
from medseg.batch.node import NodeWorker, Order
from medseg.batch.options import BatchOptions, RunContext
from medseg.batch.run import plan_batch, run_batch
from medseg.batch.scratch import scratch_folder
from medseg.batch.worker import StudyWriter, Worker
from medseg.nifti import read_nifti
from medseg.study import nifti_study
from tests.batch.hooks import THRESHOLD, Reviewer, Told, crew, image, make_studies, run


def reviewing(root, count, *, in_process, needs_images=True, held=()):
    """Run a batch with a writer of several files; its rows by name."""
    make_studies(root, count)
    jobs = [job_of(nifti_study((root / f"s{n:02}.nii.gz",)), case_folder) for n in range(count)]
    with Ledger(root / "out", "m", "s") as ledger, scratch_folder(root / "out") as scratch:
        planned = plan_batch(ledger, jobs)
        writer = partial(Reviewer, root, root / "deliver", held, scratch)
        made = replace(crew(root, scratch), writer=writer, needs_images=needs_images)
        run_batch(ledger, planned, RunContext(made, ["cpu"], scratch, Told(), BatchOptions(None, in_process)))
        return {row.name: row for row in ledger.rows()}


def seen(root, name):
    return json.loads((root / f"{name}.seen.json").read_text())


@pytest.mark.parametrize("in_process", [True, False])
def test_a_writer_gets_images_and_confidence_and_may_hold_back(tmp_path, in_process):
    rows = reviewing(tmp_path, 2, in_process=in_process, held=("s01",))
    assert {name: row.state for name, row in rows.items()} == {"s00": State.DONE, "s01": State.HELD}
    for n, name in enumerate(rows):
        sums, confidence, raw = seen(tmp_path, name)
        assert sums == [pytest.approx(image(n).array.sum(dtype=np.float64))]
        assert confidence == {"bright": 0.75}
        assert raw == ([] if in_process else ["0.raw", "labels.raw"])
        labels = read_nifti(tmp_path / "out" / ("held/s01" if n else "s00") / "labels.nii.gz")
        assert np.array_equal(labels.array, image(n).array > THRESHOLD)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/**/notes.txt"))
    assert found == ["deliver/s00/notes.txt", "out/held/s01/notes.txt"]
    row = rows["s01"]
    assert (row.code, row.message) == ("HELD", "organ-absent: no bright")
    assert [finding.code.value for finding in row.result.findings] == ["smaller-tiles", "organ-absent"]
    assert row.result.timings_s.keys() == {"read", "segment", "write", "proof"}
    assert not list((tmp_path / "out").glob(".medseg*"))


@pytest.mark.parametrize("in_process", [True, False])
def test_a_writer_that_asks_for_no_images_gets_none_and_they_are_dropped(tmp_path, in_process):
    rows = reviewing(tmp_path, 1, in_process=in_process, needs_images=False)
    assert rows["s00"].state is State.DONE
    assert seen(tmp_path, "s00") == [[], {"bright": 0.75}, [] if in_process else ["labels.raw"]]


@pytest.mark.parametrize("in_process", [True, False])
def test_an_output_that_is_not_proved_refuses_its_study_and_nothing_is_released(tmp_path, in_process):
    first, _ = run(tmp_path, 2, in_process=True)
    assert first["s00"].state is State.DONE
    rows, told = run(tmp_path, 2, in_process=in_process, again=True, write={"s00": "proof"})
    assert (rows["s00"].state, rows["s00"].code) == (State.REFUSED, "PROOF")
    assert "expected the mask" in rows["s00"].message
    assert rows["s00"].result.outputs == ()
    assert rows["s01"].state is State.DONE
    assert {row.name for row in told.rows} == {"s00", "s01"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ledger.sqlite", "s01.nii.gz"}


def test_a_machine_of_a_cluster_passes_it_all_on(tmp_path):
    make_studies(tmp_path, 1)
    job = job_of(nifti_study((tmp_path / "s00.nii.gz",)), case_folder)

    def crew_of(scratch):
        writer = partial(Reviewer, tmp_path, tmp_path / "deliver", ("s00",), scratch)
        return replace(crew(tmp_path, scratch), writer=writer, needs_images=True)

    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "probe").write_text("")
    worker = NodeWorker(Order(crew_of, (), tmp_path / "scratch"), "one", "cpu", 1)
    assert worker.open() is None
    result = worker.run(job)
    assert (result.error, result.held) == (None, ("organ-absent",))
    assert [output.path for output in result.outputs] == ["held/s00/labels.nii.gz", "held/s00/notes.txt"]
    assert all(path.is_relative_to(tmp_path / "scratch" / "one") for path in result.made)
    assert len(seen(tmp_path, "s00")[0]) == 1


def test_a_label_map_in_a_folder_has_its_further_files_there_too(tmp_path):
    make_studies(tmp_path, 1)
    job = job_of(nifti_study((tmp_path / "s00.nii.gz",)), lambda study: f"{case_folder(study)}/labels.nii.gz")
    worker = Worker(replace(crew(tmp_path, tmp_path), writer=partial(Extra, StudyWriter(tmp_path))))
    places = [output.path for output in worker.run(job).outputs]
    assert places == ["s00/labels.nii.gz", "s00/labels.probabilities.h5"]


class Extra:
    """A writer that is given a further file."""

    def __init__(self, writer):
        self.writer = writer

    def __call__(self, job, images, made):
        file = self.writer.scratch / "labels.probabilities.h5"
        file.write_text("p")
        return self.writer(job, images, replace(made, extra=(file,)))
