"""The writer of a pipeline: what it proves, what it cannot read for now, and where outputs may not come."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from medseg.batch import Ledger, State
from medseg.batch.job import case_folder, job_of
from medseg.batch.options import BatchOptions, RunContext
from medseg.batch.pipeline import Pipeline, PipelineWriter, checked_study
from medseg.batch.run import plan_batch, run_batch
from medseg.batch.scratch import scratch_folder
from medseg.batch.worker import Crew, Segmented, StudyReader, Worker
from medseg.dicom.policy import Policies
from medseg.errors import DicomError, ProofError, UnreadableError, UsageError
from medseg.labels import Label, LabelMap, LabelSet
from medseg.maker import Maker
from medseg.outputs import makers
from medseg.recipe import Recipe
from medseg.segment import dicom_studies
from medseg.study import nifti_study
from tests.batch.hooks import Told
from tests.builders import tiny_package
from tests.dicom.builder import SeriesSpec, write_series


class Box:
    """A network that always draws the same box; something may happen while it does."""

    def __init__(self, then, device):
        self.then = then

    def __call__(self, job, images, advance=None):
        array = np.zeros(images[0].array.shape, np.uint8, order="F")
        array[3:9, 3:9, 2:6] = 1
        self.then()
        return Segmented(LabelMap(replace(images[0], array=array), LabelSet((Label(index=1, name="liver"),))))


@pytest.fixture
def study(tmp_path):
    stored = np.random.default_rng(0).integers(0, 900, (16, 14, 8))
    write_series(tmp_path / "in", SeriesSpec(modality="MR", shape=(16, 14, 8), stored=stored))
    return next(iter(dicom_studies(tmp_path / "in", tiny_package())))


def recipe_of(**parts):
    return Recipe.model_validate({"name": "r", "model": "m", "outputs": {"seg": {}, "nifti": {}}} | parts)


def crew_of(recipe, scratch, then=lambda: None):
    pipeline = Pipeline(recipe, Policies(), Maker("m", "ab" * 32, "cd" * 32), ())
    writer = partial(PipelineWriter, pipeline, scratch)
    return Crew(partial(StudyReader, Policies()), partial(Box, then), writer, needs_images=True)


def test_files_that_are_away_when_the_study_is_written_are_tried_again(study, tmp_path):
    job = job_of(study, case_folder)
    crew = crew_of(recipe_of(), tmp_path / "scratch", lambda: (tmp_path / "in").rename(tmp_path / "away"))
    error = Worker(crew, "cpu").run(job).error
    assert isinstance(error, UnreadableError), error
    assert "No such file" in error.found
    (tmp_path / "away").rename(tmp_path / "in")
    assert Worker(crew_of(recipe_of(), tmp_path / "scratch"), "cpu").run(job).error is None


def test_a_series_that_was_changed_before_it_is_written_is_refused(study, tmp_path):
    def change():
        for file in (tmp_path / "in").iterdir():
            file.write_bytes(file.read_bytes() + b"\0\0")

    crew = crew_of(recipe_of(), tmp_path / "scratch", change)
    error = Worker(crew, "cpu").run(job_of(study, case_folder)).error
    assert type(error) is DicomError, error


def test_an_object_that_fails_its_proof_refuses_its_study_and_nothing_is_delivered(study, tmp_path, monkeypatch):
    def save_wrong(dataset, path):
        pixels = bytearray(dataset.PixelData)
        pixels[len(pixels) // 2] ^= 0xFF
        dataset.PixelData = bytes(pixels)
        real(dataset, path)

    real = makers.save_object
    monkeypatch.setattr(makers, "save_object", save_wrong)
    deliver, out = tmp_path / "deliver", tmp_path / "out"
    deliver.mkdir()
    out.mkdir()
    recipe = recipe_of(deliver=[{"to": "folder", "path": f"{deliver}/{{case}}"}])
    with Ledger(out, "m", "s") as ledger, scratch_folder(out) as scratch:
        jobs = plan_batch(ledger, [job_of(study, case_folder)])
        how = BatchOptions(None, in_process=True)
        run_batch(ledger, jobs, RunContext(crew_of(recipe, scratch), ["cpu"], scratch, Told(), how))
        (row,) = ledger.rows()
    assert (row.state, row.code, row.result.outputs) == (State.REFUSED, ProofError.code, ())
    assert list(deliver.iterdir()) == []
    assert [path.name for path in out.iterdir()] == ["ledger.sqlite"]


@pytest.mark.parametrize("where", ["own", "delivered", "held", "by a link"])
@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_an_input_in_a_folder_that_its_outputs_may_come_to_is_refused(study, tmp_path, where, kind):
    given = study if kind == "dicom" else nifti_study((tmp_path / "in" / "brain.nii.gz",))
    case, parts = case_folder(given), {}
    place = tmp_path / "out" / ("held" if where == "held" else "") / case
    if where == "delivered":
        place = tmp_path / "archive" / case
        parts = {"deliver": [{"to": "folder", "path": f"{tmp_path}/archive/{{case}}"}]}
    recipe, real = recipe_of(outputs={"nifti": {}}, **parts), place
    assert checked_study(given, recipe, tmp_path / "out") == given
    if where == "by a link":
        real = tmp_path / "in"
        place.parent.mkdir(parents=True)
        place.symlink_to(real)
    else:
        place.parent.mkdir(parents=True)
        (tmp_path / "in").rename(place)
    if kind == "dicom":
        given = next(iter(dicom_studies(real, tiny_package())))
    else:
        given = nifti_study((Path(real) / "brain.nii.gz",))
    with pytest.raises(UsageError, match="an input outside of its own outputs"):
        checked_study(given, recipe, tmp_path / "out")
