"""The processes of one stage: those that cannot start, that hang, and what a killed one leaves behind."""

import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.connection import wait

import pytest

from medseg.batch import stage as module
from medseg.batch.scratch import park, scratch_folder, study_folder
from medseg.batch.stage import Stage
from medseg.batch.station import Made
from medseg.errors import DeviceError, MedsegError
from tests.batch.hooks import image


def working():
    return lambda job, given, advance: given


def broken():
    raise DeviceError("cuda:1", expected="a device", found="none", remedy="look")


def hanging():
    time.sleep(600)


@pytest.fixture
def made(monkeypatch):
    """Make a stage whose waits are short; its processes end with the test."""
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    stages = []

    def make(*builds):
        stages.append(Stage("segment", builds))
        return stages[-1]

    yield make
    for stage in stages:
        stage.kill()


def tend(stage, until, seconds=60):
    """Do what the watching process does, until something is so."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        stage.tend()
        for connection in wait([station.connection for station in stage.stations], 0.05):
            (station,) = [station for station in stage.stations if station.connection is connection]
            message = station.receive()
            if message is None:
                stage.replace(station)
            elif isinstance(message, Made):
                stage.replace(station, error=message.error)


def is_settled(stage, ready):
    return not stage._due and len(stage.stations) == ready and all(station.is_ready for station in stage.stations)


def test_one_of_several_devices_that_cannot_start_is_left_out_with_a_warning(made, monkeypatch, caplog):
    """Though it fails before the other one has started."""
    monkeypatch.setattr(module, "MOST_STARTS", 2)
    stage = made(broken, working)
    with caplog.at_level(logging.WARNING, "medseg"):
        tend(stage, lambda: is_settled(stage, 1))
    (record,) = caplog.records
    assert "one of the processes that segment is left out" in record.getMessage()
    assert "cuda:1" in record.getMessage()


def test_where_none_of_several_devices_can_start_the_reason_is_told(made):
    with pytest.raises(DeviceError, match="cuda:1"):
        tend(made(broken, broken), lambda: False)


def test_a_build_that_hangs_is_given_up_after_the_limit(made, monkeypatch):
    stage = made(hanging)
    stage.tend()
    (station,) = stage.stations
    pid = station.pid
    monkeypatch.setattr(module, "START_LIMIT_S", 3.0)
    start = time.monotonic()
    with pytest.raises(MedsegError, match="starts within 3 s"):
        tend(stage, lambda: False)
    assert 2.5 < time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_hangs_does_not_stop_the_other(made, monkeypatch, caplog):
    monkeypatch.setattr(module, "MOST_STARTS", 1)
    stage = made(hanging, working)
    tend(stage, lambda: any(station.is_ready for station in stage.stations))
    monkeypatch.setattr(module, "START_LIMIT_S", 0.5)
    with caplog.at_level(logging.WARNING, "medseg"):
        tend(stage, lambda: is_settled(stage, 1))
    assert "left out" in caplog.text


PARKS = """
import sys, time
from pathlib import Path
from medseg.batch.scratch import park, scratch_folder, study_folder
from tests.batch.hooks import image
with scratch_folder(Path(sys.argv[1])) as scratch:
    park(image(0), study_folder(scratch, "key") / "0.raw")
    print(scratch, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_in_scratch_is_removed_at_the_next_start(tmp_path):
    """And neither what a living one has there, nor what else begins with a dot."""
    command = partial(
        subprocess.Popen, [sys.executable, "-c", PARKS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    killed, living = command(), command()
    left, kept = (tmp_path / process.stdout.readline().strip() for process in (killed, living))
    (tmp_path / ".mine").mkdir()
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "key" / "0.raw").stat().st_size == image(0).array.nbytes
        with scratch_folder(tmp_path) as own:
            park(image(1), study_folder(own, "key") / "0.raw")
            assert not left.exists()
            assert (kept / "key" / "0.raw").exists()
        assert not own.exists()
    finally:
        living.kill()
        living.wait()
    with scratch_folder(tmp_path):
        assert not kept.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".mine"]
