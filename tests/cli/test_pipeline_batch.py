"""Pipelines that change between two runs of a batch: each study has what the last one says, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.batch import Ledger, State
from medseg.cli.batching import Batch
from tests.builders import save_tiny_model
from tests.dicom.builder import SeriesSpec, write_series

PIPELINE = """\
name: clinic
select: {modality: MR}
model: model
quality: QUALITY
outputs:
  nifti: {tables: false}
  seg: {}
deliver:
  - {to: folder, path: "PATH"}
"""
MARKS = "{mark: []}"
HOLDS = "{hold: [unusual-volume], mark: [], volume_ml: {ball: {min: 100000}, box: {min: 100000}}}"
NAMES = {"labels.nii.gz", "seg.dcm"}


@pytest.fixture
def place(tmp_path):
    """A model and a study."""
    save_tiny_model(tmp_path / "model")
    stored = np.random.default_rng(0).integers(0, 900, (24, 20, 12))
    write_series(tmp_path / "study", SeriesSpec(modality="MR", shape=(24, 20, 12), stored=stored))
    return tmp_path


def run(medseg, place, quality=MARKS, path="{case}"):
    """Segment the study with a pipeline of a text; status, what was said, and the study's row."""
    (place / "clinic.yaml").write_text(PIPELINE.replace("QUALITY", quality).replace("PATH", str(path)))
    status, text = medseg("segment", place / "study", "-p", place / "clinic.yaml", "-o", place / "out")
    with Ledger(place / "out") as ledger:
        return status, text, ledger.rows()[0]


def files_in(folder: Path) -> set[str]:
    if not folder.exists():
        return set()
    own = ("ledger.sqlite", "batch.html")
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in own]
    return {str(path.relative_to(folder)) for path in found}


def test_what_was_held_back_is_delivered_when_the_pipeline_no_longer_holds_it(medseg, place):
    status, text, row = run(medseg, place, HOLDS)
    assert (status, row.state) == (3, State.HELD), text
    assert {Path(name).name for name in files_in(place / "out" / "held")} == NAMES
    assert {name.split("/")[0] for name in files_in(place / "out")} == {"held"}
    status, text, row = run(medseg, place)
    assert (status, row.state, row.message) == (0, State.DONE, ""), text
    assert {Path(name).name for name in files_in(place / "out")} == NAMES
    assert not (place / "out" / "held").exists()
    assert row.is_whole(place / "out")


def test_what_was_delivered_is_taken_back_when_the_pipeline_holds_it(medseg, place):
    share = place / "share"
    share.mkdir()
    assert run(medseg, place, path=share / "{case}")[0] == 0
    assert {Path(name).name for name in files_in(share)} == NAMES
    status, text, row = run(medseg, place, HOLDS, share / "{case}")
    assert (status, row.state) == (3, State.HELD), text
    assert list(share.iterdir()) == []
    assert {Path(name).name for name in files_in(place / "out" / "held")} == NAMES


@pytest.mark.parametrize("again", ["absolute", "by a link"])
def test_the_same_folder_by_another_name_keeps_its_outputs(medseg, place, again):
    assert run(medseg, place)[0] == 0
    before = files_in(place / "out")
    (place / "link").symlink_to(place / "out", target_is_directory=True)
    other = place / ("out" if again == "absolute" else "link") / "{case}"
    status, text, row = run(medseg, place, path=other)
    assert (status, row.state) == (0, State.DONE), text
    assert files_in(place / "out") == before
    assert row.is_whole(place / "out")


def test_a_share_that_goes_away_stops_the_batch_and_the_study_stays_planned(medseg, place, monkeypatch):
    share = place / "share"
    share.mkdir()
    work = Batch._work

    def unmount(self, *given, **others):
        shutil.rmtree(share)
        return work(self, *given, **others)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "_work", unmount)
        status, text, row = run(medseg, place, path=share / "{case}")
    assert (status, "mount the share" in text) == (4, True), text
    assert (row.state, row.attempts, row.strikes) == (State.PLANNED, 0, 0)
    assert not share.exists()
    share.mkdir()
    assert run(medseg, place, path=share / "{case}")[0] == 0
    assert {Path(name).name for name in files_in(share)} == NAMES


def test_a_share_that_cannot_be_written_to_is_refused_before_anything_is_read(medseg, place):
    (place / "share").write_text("a file")
    (place / "clinic.yaml").write_text(
        PIPELINE.replace("QUALITY", MARKS).replace("PATH", f"{place}/share/{{case}}")
    )
    status, text = medseg("segment", place / "study", "-p", place / "clinic.yaml", "-o", place / "out")
    assert (status, "a place that can be written to" in text) == (4, True), text
    assert not (place / "out" / "ledger.sqlite").exists()
