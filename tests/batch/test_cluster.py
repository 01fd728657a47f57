"""A batch on two local Ray machines: a worker and a machine are killed, and nothing is lost or done twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from medseg.batch.cluster import Cluster, ClusterOptions
from medseg.batch.job import job_of
from medseg.batch.ledger import Ledger
from medseg.batch.node import Order
from medseg.batch.rows import State
from medseg.batch.run import plan_batch
from medseg.batch.scratch import scratch_folder
from medseg.batch.worker import Crew, Segmented, StudyReader, StudyWriter
from medseg.cli import app
from medseg.labels import LabelMap
from medseg.nifti import write_nifti
from medseg.packages import model_hash
from medseg.study import nifti_study
from medseg.volume import Volume
from tests.builders import LABELS, save_tiny_model, tiny_case

THRESHOLD = 50.0
PATIENCE_S = 120.0
MACHINE = {
    "num_cpus": 1,
    "object_store_memory": 80 * 2**20,
    "plasma_directory": "/tmp",
    "include_log_monitor": False,
}


class Threshold:
    """A network of one line; `play` may do something dreadful before."""

    def __init__(self, play, device: str) -> None:
        self.play, self.device = play, device

    def __call__(self, job, images, advance=None) -> Segmented:
        self.play(job.name)
        image = images[0]
        labels = np.asfortranarray((image.array > THRESHOLD).astype(np.uint8))
        return Segmented(LabelMap(Volume(labels, image.affine), LABELS), device=self.device)


def crew_of(play, scratch: Path) -> Crew:
    return Crew(StudyReader, partial(Threshold, play), partial(StudyWriter, scratch))


class Told:
    """An observer that remembers; `then` is called with how many studies have ended."""

    def __init__(self, then=lambda ended: None) -> None:
        self.ended_keys: list[str] = []
        self.then = then

    def planned(self, total: int, ended: int) -> None: ...

    def tiles(self, done: int, total: int) -> None: ...

    def ended(self, row) -> None:
        self.ended_keys.append(row.key)
        self.then(len(self.ended_keys))


def studies_in(folder: Path, names) -> list[Path]:
    files = [folder / f"{name}.nii.gz" for name in names]
    for number, file in enumerate(files):
        write_nifti(file, tiny_case(number)[0])
    return files


def run(ray, tmp_path, names, play, *, observer=None, strikes=3, stop=lambda: False, **options) -> Ledger:
    """Run a batch over phantoms, and return its ledger."""
    model, output = tmp_path / "model", tmp_path / "out"
    save_tiny_model(model)
    output.mkdir(exist_ok=True)
    ledger = Ledger(output, model_hash(model), strikes=strikes)
    jobs = plan_batch(ledger, [job_of(nifti_study((file,))) for file in studies_in(tmp_path / "in", names)])
    with scratch_folder(output) as scratch:
        order = Order(partial(crew_of, play), ((model, model_hash(model)),), scratch)
        settings = ClusterOptions(**{"device": "cpu", "patience_s": PATIENCE_S, "tick_s": 0.5} | options)
        Cluster(ray, ledger, jobs, order, output, observer or Told(), settings).run(stop)
    return ledger


def assert_right(ledger: Ledger, tmp_path: Path, names) -> None:
    """Every named study is done, its label map right and whole, and there is nothing else."""
    rows = {row.name: row for row in ledger.rows()}
    for name in names:
        assert rows[name].state is State.DONE, rows[name]
        assert rows[name].is_whole(tmp_path / "out")
        image = nibabel.load(tmp_path / "in" / f"{name}.nii.gz").get_fdata()
        labels = np.asarray(nibabel.load(tmp_path / "out" / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(labels, image > THRESHOLD)
    found = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("ledger.sqlite")}
    assert found == {f"{name}.nii.gz" for name in names}


def await_file(path: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < end, path.name
        time.sleep(0.05)


def once(path: Path) -> bool:
    """Whether nobody has come here before."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.fixture(scope="module")
def machines():
    """A head of one processor, which this process joins with a token; nothing of it is left behind."""
    if find_spec("ray") is None:
        pytest.skip("the extra [cluster] is not installed")
    if "ray" in sys.modules:
        pytest.skip("Ray was imported before its token was set")
    folder = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))  # a socket's path has at most 107 characters
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", os.urandom(16).hex())
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray import cloudpickle
        from ray.cluster_utils import Cluster as Machines

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        head = {"include_dashboard": False, "no_monitor": True}
        local = Machines(initialize_head=True, head_node_args=MACHINE | head)
        try:
            yield local
        finally:
            local.shutdown()
            signal.signal(signal.SIGTERM, before)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ray(machines):
    from medseg.batch.ray_session import ray_session

    before = signal.getsignal(signal.SIGTERM)
    with ray_session(machines.address) as joined:
        assert signal.getsignal(signal.SIGTERM) is before
        yield joined
    assert not joined.is_initialized()


def node_here() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def doomed(marks: Path, head: str, second: str, name: str) -> None:
    """On the second machine the first study kills its worker, the next one its machine; then a third one helps."""
    here = node_here()
    (marks / f"{name}.{time.time_ns()}").touch()
    if here == second:
        if once(marks / "worker-killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        (marks / "machine-killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(PATIENCE_S)
    if here != head:
        (marks / "third-machine").touch()
    elif once(marks / "first-here"):
        await_file(marks / "machine-killed")
    else:
        await_file(marks / "third-machine")


@pytest.mark.slow
def test_a_worker_and_a_machine_are_killed_and_nothing_is_lost_or_twice(ray, machines, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    head = ray.get_runtime_context().get_node_id()
    second = machines.add_node(**MACHINE)
    lost = next(node["NodeID"] for node in ray.nodes() if node["NodeID"] != head)
    raylet = second.all_processes["raylet"][0].process

    def then(ended: int) -> None:
        if ended == 1:
            raylet.wait(PATIENCE_S)  # the second study there kills it
            machines.add_node(**MACHINE)

    names = [f"case_{number}" for number in range(7)]
    told = Told(then)
    ledger = run(ray, tmp_path, names, partial(doomed, marks, head, lost), observer=told)
    assert raylet.returncode == -signal.SIGKILL
    assert_right(ledger, tmp_path, names)
    rows = ledger.rows()
    assert sorted(told.ended_keys) == sorted(row.key for row in rows)  # each ended once
    assert sorted(row.strikes for row in rows) == [0] * 5 + [1, 1]
    begun = [len(list(marks.glob(f"{row.name}.*"))) for row in rows]
    assert begun == [row.attempts for row in rows] == [row.strikes + 1 for row in rows]


def bad(name: str) -> None:
    if name == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "sleeper":
        time.sleep(PATIENCE_S)
    if name == "buggy":
        raise KeyError("PATIENT^NAME")


@pytest.mark.slow
def test_a_study_that_kills_or_blocks_its_worker_is_quarantined_and_the_others_are_done(ray, tmp_path):
    names = ["killer", "sleeper", "buggy", "good_1", "good_2"]
    ledger = run(ray, tmp_path, names, bad, strikes=1, time_limit_s=8.0)
    assert_right(ledger, tmp_path, ["good_1", "good_2"])
    rows = {row.name: row for row in ledger.rows()}
    assert [rows[name].code for name in names[:3]] == ["CRASH", "TIME", "BUG"]
    assert all(rows[name].state is State.QUARANTINED for name in names[:3])
    assert not any("PATIENT" in row.message for row in rows.values())


@pytest.mark.slow
def test_the_command_writes_the_same_bytes_as_without_a_cluster(ray, machines, tmp_path):
    save_tiny_model(tmp_path / "model")
    files = studies_in(tmp_path / "in", ["a", "b"])
    given = ["segment", *map(str, files), "--model", str(tmp_path / "model"), "--device", "cpu"]
    for place, extra in ((tmp_path / "there", ["--cluster", machines.address]), (tmp_path / "here", [])):
        result = CliRunner().invoke(app, [*given, "-o", str(place), *extra], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    for file in files:
        assert (tmp_path / "there" / file.name).read_bytes() == (tmp_path / "here" / file.name).read_bytes()
    assert not list((tmp_path / "there").glob(".medseg-scratch*"))


@pytest.mark.slow
def test_without_the_token_a_cluster_is_not_joined(ray, machines):
    """In a process of its own, with medseg's defaults and another token."""
    code = "import sys; from medseg.batch.ray_session import ray_session as s; s(sys.argv[1]).__enter__()"
    environment = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_MODE"}
    environment["RAY_AUTH_TOKEN"] = "another"
    done = subprocess.run(
        [sys.executable, "-c", code, machines.address],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode != 0
    assert "ClusterError: --cluster: expected the token of the cluster" in done.stderr
