"""`metrics.jsonl` and the trackers beside it get the same numbers."""

import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medseg.training.runlog import RunLog
from medseg.training.tracking import Tracking, open_trackers
from tests.builders import tiny_config


class Remembers:
    """A tracker that keeps what it is given."""

    def __init__(self):
        self.records, self.closed = [], 0

    def log(self, step, values):
        self.records.append((step, dict(values)))

    def close(self):
        self.closed += 1


class FailsAtTheEnd(Remembers):
    def close(self):
        raise RuntimeError("no disk")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scalars(folder, key):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, round(event.value, 6)) for event in events.Scalars(key)]


def test_tensorboard_is_the_default(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(1, {"loss": 0.5, "dice": math.nan})
        log.write(2, {"loss": 0.25})
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5, "dice": None}, {"step": 2, "loss": 0.25}]
    assert scalars(tmp_path, "loss") == [(1, 0.5), (2, 0.25)]


def test_every_tracker_gets_the_finite_numbers_and_is_closed(tmp_path):
    trackers = [Remembers(), Remembers()]
    with RunLog(tmp_path, trackers=trackers) as log:
        log.write(3, {"loss": math.inf, "learning_rate": 1e-3})
    for tracker in trackers:
        assert tracker.records == [(3, {"learning_rate": 1e-3})]
        assert tracker.closed == 1
    assert not (tmp_path / "tensorboard").exists()


def test_a_tracker_that_fails_at_the_end_keeps_no_other_open(tmp_path):
    first, last = Remembers(), Remembers()
    with pytest.raises(RuntimeError, match="no disk"), RunLog(tmp_path, trackers=[first, FailsAtTheEnd(), last]):
        pass
    assert (first.closed, last.closed) == (1, 1)


def test_records_after_the_step_to_resume_from_are_dropped(tmp_path):
    with RunLog(tmp_path, trackers=[]) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": float(step)})
            log.write(step, {"dice": step / 10})
    with RunLog(tmp_path, 2, 1, trackers=[]) as log:
        log.write(3, {"loss": 9.0})
    assert [(line["step"], line.get("loss")) for line in lines(tmp_path) if "loss" in line] == [
        (1, 1.0),
        (2, 2.0),
        (3, 9.0),
    ]
    assert [line["step"] for line in lines(tmp_path) if "dice" in line] == [1]


def test_trackers_are_opened_by_name(tmp_path):
    (board,) = open_trackers([Tracking.TENSORBOARD], tmp_path, tiny_config(), experiment="x")
    board.log(7, {"loss": 1.0})
    board.close()
    assert scalars(tmp_path, "loss") == [(7, 1.0)]
