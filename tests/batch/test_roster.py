"""Machines that come, go and are refused, without Ray: a stand-in that runs every worker in this process."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medseg.batch.cluster import Cluster, ClusterOptions
from medseg.batch.job import job_of
from medseg.batch.ledger import Ledger
from medseg.batch.node import PROBE_FILE, NodeWorker, Order, Unseen
from medseg.batch.ray_session import ClusterError, ray_session
from medseg.batch.roster import Roster
from medseg.batch.rows import State
from medseg.batch.run import plan_batch
from medseg.batch.scratch import scratch_folder
from medseg.batch.worker import Segmented
from medseg.errors import InputError, ModelError, StorageError, UsageError
from medseg.labels import LabelMap
from medseg.packages import model_hash
from medseg.study import nifti_study
from medseg.volume import Volume
from tests.batch.test_cluster import Told, assert_right, crew_of, studies_in
from tests.builders import LABELS, save_tiny_model

ANYTHING = SimpleNamespace(scratch=Path())


class FakeRay:
    """As much of Ray as a roster and a cluster use. Calls are carried out when they are waited for.

    Args:
        machines: {name: resources}.
        broken: {machine: what becomes of a call there, given the worker, the method and its arguments}.
    """

    def __init__(self, machines, broken=None) -> None:
        self.machines, self.broken, self.killed, self.options = machines, broken or {}, [], []
        self.exceptions = SimpleNamespace(RayError=Lost, OutOfMemoryError=NoMemory)
        strategy = lambda node, soft: node
        self.util = SimpleNamespace(scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=strategy))

    def nodes(self):
        return [
            {"NodeID": name, "NodeName": name, "Alive": True, "Resources": resources}
            for name, resources in self.machines.items()
        ]

    def remote(self, kind):
        def options(**given):
            self.options.append(given)
            return SimpleNamespace(remote=lambda *a: FakeActor(self, given["scheduling_strategy"], kind(*a)))

        return SimpleNamespace(options=options)

    def kill(self, actor, *, no_restart):
        assert no_restart
        self.killed.append(actor)

    def wait(self, refs, *, timeout):
        return refs[:1], refs[1:]

    def get(self, ref):
        return ref()


class Lost(Exception):  # noqa: N818 - as Ray's
    """Stands in for Ray's errors."""


class NoMemory(Lost):
    """Stands in for Ray's own out-of-memory error."""


class FakeActor:
    def __init__(self, ray, machine, worker) -> None:
        breaks = ray.broken.get(machine, lambda worker, method, *given: getattr(worker, method)(*given))
        self.open = SimpleNamespace(remote=lambda: partial(breaks, worker, "open"))
        self.run = SimpleNamespace(remote=lambda job: partial(breaks, worker, "run", job))


def lost(worker, method, *given):
    raise Lost


def everything_bright(job, images, advance=None) -> Segmented:
    labels = np.ones(images[0].array.shape, np.uint8, order="F")
    return Segmented(LabelMap(Volume(labels, images[0].affine), LABELS))


def quiet(name: str) -> None: ...


def begin(tmp_path, names):
    model, output = tmp_path / "model", tmp_path / "out"
    save_tiny_model(model)
    output.mkdir(exist_ok=True)
    ledger = Ledger(output, model_hash(model))
    jobs = plan_batch(ledger, [job_of(nifti_study((file,))) for file in studies_in(tmp_path / "in", names)])
    return ledger, jobs, Order(partial(crew_of, quiet), ((model, model_hash(model)),), output)


def run(tmp_path, ray, names=("a", "b"), *, stop=lambda: False, observer=None, **options) -> Ledger:
    ledger, jobs, order = begin(tmp_path, names)
    output = tmp_path / "out"
    settings = ClusterOptions(**{"device": "cpu", "tick_s": 0.01, "patience_s": 5.0} | options)
    with scratch_folder(output) as scratch:
        Cluster(ray, ledger, jobs, replace(order, scratch=scratch), output, observer or Told(), settings).run(stop)
    return ledger


def test_workers_are_one_a_machine_on_cpus_and_one_a_gpu_on_gpus():
    ray = FakeRay({"head": {"CPU": 8.0}, "idle": {"CPU": 0.0}, "gpus": {"CPU": 9.0, "GPU": 2.0}})
    assert [m.node for m in Roster(ray, ANYTHING, "cpu", 9).hire()] == ["head", "gpus"]
    assert [o["num_cpus"] for o in ray.options] == [8, 9]
    assert [o["num_gpus"] for o in ray.options] == [0, 0]
    ray.options.clear()
    assert [(m.node, m.slot) for m in Roster(ray, ANYTHING, "auto", 9).hire()] == [("gpus", 0), ("gpus", 1)]
    assert [(o["num_cpus"], o["num_gpus"], o["max_task_retries"]) for o in ray.options] == [(4, 1, 0)] * 2
    with pytest.raises(UsageError, match="cuda:1"):
        Roster(ray, ANYTHING, "cuda:1", 9)


def test_a_machine_that_joins_gets_a_worker_and_no_more_are_started_than_there_are_studies():
    ray = FakeRay({"one": {"CPU": 2.0}})
    roster = Roster(ray, ANYTHING, "cpu", 2)
    assert len(roster.hire()) == 1
    assert roster.hire() == []
    ray.machines |= {"two": {"CPU": 2.0}, "three": {"CPU": 2.0}}
    assert [member.node for member in roster.hire()] == ["two"]


def test_a_batch_goes_round_a_machine_whose_workers_do_not_start(tmp_path):
    ray = FakeRay({"bad": {"CPU": 1.0}, "good": {"CPU": 1.0}}, {"bad": lost})
    ledger = run(tmp_path, ray)
    assert_right(ledger, tmp_path, ["a", "b"])
    assert all((row.attempts, row.strikes) == (1, 0) for row in ledger.rows())


def test_where_no_machine_can_be_used_the_reasons_are_told_and_nothing_counts_as_tried(tmp_path):
    with pytest.raises(ClusterError, match=r"1 that cannot: bad: a worker: .* 3 times"):
        run(tmp_path, FakeRay({"bad": {"CPU": 1.0}}, {"bad": lost}))
    with Ledger(tmp_path / "out") as ledger:
        assert {(row.state, row.attempts) for row in ledger.rows()} == {(State.PLANNED, 0)}


def test_a_batch_is_given_up_where_no_machine_gets_ready(tmp_path):
    with pytest.raises(ClusterError, match=r"none for 0\.05 s"):
        run(tmp_path, FakeRay({}), patience_s=0.05)


def test_a_machine_without_the_inputs_is_left_and_its_study_is_done_elsewhere(tmp_path):
    def blind(worker, method, *given):
        return worker.open() if method == "open" else Unseen(given[0].key)

    ray = FakeRay({"blind": {"CPU": 1.0}, "good": {"CPU": 1.0}}, {"blind": blind})
    ledger = run(tmp_path, ray, ["a", "b", "c"])
    assert_right(ledger, tmp_path, ["a", "b", "c"])
    assert all((row.attempts, row.strikes) == (1, 0) for row in ledger.rows())


def test_a_study_whose_files_stay_away_is_quarantined_and_the_machine_kept(tmp_path):
    def late(worker, method, *given):
        (tmp_path / "in" / "a.nii.gz").unlink(missing_ok=True)
        return getattr(worker, method)(*given)

    ledger = run(tmp_path, FakeRay({"only": {"CPU": 1.0}}, {"only": late}))
    states = {row.name: row.state for row in ledger.rows()}
    assert states == {"a": State.QUARANTINED, "b": State.DONE}
    assert {row.code for row in ledger.rows()} == {"UNREADABLE", ""}


def test_a_label_map_that_has_not_arrived_whole_is_never_moved_into_place(tmp_path):
    def torn(worker, method, *given):
        answer = getattr(worker, method)(*given)
        if method == "run":
            next(tmp_path.glob("out/.medseg-scratch*/**/*.nii.gz")).write_bytes(b"half")
        return answer

    ledger = run(tmp_path, FakeRay({"only": {"CPU": 1.0}}, {"only": torn}), ["a"])
    row = ledger.rows()[0]
    assert (row.state, row.code, row.strikes) == (State.QUARANTINED, "STORAGE", 3)
    assert not (tmp_path / "out" / "a.nii.gz").exists()


def test_a_lost_study_is_quarantined_by_its_third_strike_and_what_ray_ended_for_memory_is_named(tmp_path):
    def dies(worker, method, *given):
        if method == "run" and given[0].name == "a":
            raise NoMemory
        return getattr(worker, method)(*given)

    ray = FakeRay({"only": {"CPU": 1.0}}, {"only": dies})
    rows = {row.name: row for row in run(tmp_path, ray).rows()}
    assert (rows["a"].state, rows["a"].code, rows["a"].attempts) == (State.QUARANTINED, "MEMORY", 3)
    assert rows["b"].state is State.DONE


def test_the_answer_of_a_worker_that_was_given_up_changes_nothing(tmp_path):
    """It comes back after its study was done by another one, and writes other bytes."""
    late = []

    def slow(worker, method, *given):
        if method == "open" or late:
            return getattr(worker, method)(*given)
        late.append((worker, given))
        raise Lost

    def then(ended: int) -> None:
        (worker, given), first = late[0], (tmp_path / "out" / "a.nii.gz").read_bytes()
        worker._worker._network = everything_bright
        assert worker.run(*given).error is None
        assert (tmp_path / "out" / "a.nii.gz").read_bytes() == first

    told = Told(then)
    ledger = run(tmp_path, FakeRay({"only": {"CPU": 1.0}}, {"only": slow}), ["a"], observer=told)
    assert_right(ledger, tmp_path, ["a"])
    assert len(told.ended_keys) == 1
    assert len(late) == 1


def test_what_is_in_work_when_asked_to_stop_is_planned_again_without_an_attempt(tmp_path):
    asked = iter([False, False, True])
    ray = FakeRay({"only": {"CPU": 1.0}})
    ray.wait = lambda refs, timeout: ([ref for ref in refs if ref.args[1] == "open"], refs)  # no study ever ends
    ledger = run(tmp_path, ray, stop=lambda: next(asked))
    assert {(row.state, row.attempts) for row in ledger.rows()} == {(State.PLANNED, 0)}
    assert all(row.worker == "" for row in ledger.rows())
    assert len(ray.killed) == 1
    assert_right(run(tmp_path, FakeRay({"only": {"CPU": 1.0}})), tmp_path, ["a", "b"])


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"version": "0.0.1"}, UsageError),
        ({"probe": "another"}, StorageError),
        ({"models": "0" * 64}, ModelError),
    ],
)
def test_a_machine_is_checked_before_it_gets_work(tmp_path, change, kind):
    _, jobs, order = begin(tmp_path, ["a"])
    (tmp_path / "out" / PROBE_FILE).write_text("seen")
    order = replace(order, probe="seen")
    if "models" in change:  # the same package, with another hash
        change = {"models": tuple((model, change["models"]) for model, _ in order.models)}
    worker = NodeWorker(order, "good", "cpu", 1)
    with pytest.raises(RuntimeError):
        worker.run(next(iter(jobs.values())))
    assert worker.open() is None
    assert isinstance(NodeWorker(replace(order, **change), "bad", "cpu", 1).open(), kind)
    gone = replace(next(iter(jobs.values())), files=(tmp_path / "nowhere.nii.gz",))
    assert worker.run(gone) == Unseen(gone.key)


def test_an_address_that_medseg_cannot_use_is_refused_before_ray_is_loaded():
    with pytest.raises(UsageError, match="HOST:PORT"), ray_session("ray://head:10001"):
        pass


def test_an_error_of_a_study_is_refused_not_retried(tmp_path):
    def refuses(worker, method, *given):
        answer = getattr(worker, method)(*given)
        error = InputError("a", expected="x", found="y", remedy="z")
        return replace(answer, outputs=(), made=(), error=error) if method == "run" else answer

    ledger = run(tmp_path, FakeRay({"only": {"CPU": 1.0}}, {"only": refuses}), ["a"])
    assert (ledger.rows()[0].state, ledger.rows()[0].attempts) == (State.REFUSED, 1)
