"""`Roster`: the workers of a Ray cluster, one a GPU or one a machine; those that join are used."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from medseg.batch.node import NodeWorker, Order
from medseg.errors import ClusterError, MedsegError, UsageError, listed

MOST_STARTS = 3
"""How often a worker may be lost while it starts, until its machine is left."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Member:
    """One worker.

    Attributes:
        node: Ray's id of its machine.
        place: The machine, for people.
        slot: Which of the machine's workers it is.
        name: Of its folder in the scratch folder.
        actor: Ray's handle.
        is_open: Whether it has been checked and has loaded the model.
    """

    node: str
    place: str
    slot: int
    name: str
    actor: Any
    is_open: bool = False


class Roster:
    """The workers of a cluster.

    Args:
        ray: From `medseg.batch.ray_session.ray_session`.
        order: What each worker is sent.
        device: ``cpu``: one worker a machine, with all its processors. ``cuda``: one a GPU. ``auto``: ``cuda`` once
            there is a GPU in the cluster, before that ``cpu``.
        most: Workers at once.

    Raises:
        UsageError: The device is another one.
    """

    def __init__(self, ray: ModuleType, order: Order, device: str, most: int) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                "--device", expected="auto, cpu or cuda", found=device, remedy="Ray chooses the GPU of each worker"
            )
        self._ray, self._order, self._device, self._most = ray, order, device, most
        self._actor_class = ray.remote(NodeWorker)
        self._refused: dict[str, str] = {}
        self._lost_starts: Counter[str] = Counter()
        self.members: list[Member] = []

    def hire(self) -> list[Member]:
        """Start what workers the machines have room for that have none; return them.

        Raises:
            ClusterError: Every machine there is has been refused.
        """
        nodes = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        if nodes and nodes.keys() <= self._refused.keys():
            reasons = dict.fromkeys(self._refused[node] for node in nodes)
            raise ClusterError(
                "--cluster",
                expected="a machine that can be used",
                found=f"{len(nodes)} that cannot: {listed(list(reasons), 3)}",
                remedy="see docs/cluster.md for what every machine needs",
            )
        if self._device == "auto" and any(gpus_of(node) for node in nodes.values()):
            self._device = "cuda"
        taken = {(member.node, member.slot) for member in self.members}
        free = [
            (node, slot)
            for name, node in nodes.items()
            if name not in self._refused
            for slot in range(self._slots(node))
            if (name, slot) not in taken
        ]
        hired = [self._start(node, slot) for node, slot in free[: max(self._most - len(self.members), 0)]]
        self.members += hired
        return hired

    def dismiss(self, member: Member) -> None:
        """End a worker, whatever it does."""
        if member in self.members:
            self.members.remove(member)
        with suppress(self._ray.exceptions.RayError, ValueError):  # it is gone already
            self._ray.kill(member.actor, no_restart=True)

    def refuse(self, member: Member, error: MedsegError) -> None:
        """Leave a machine: its workers are ended as they report, and no others started."""
        _log.warning("machine %s is not used: %s", member.place, error)
        self._refused[member.node] = f"{member.place}: {error}"
        self.dismiss(member)

    def lost_at_start(self, member: Member, reason: str) -> None:
        """Record a worker that was lost before it could take work; the third one of a machine is the last."""
        self.dismiss(member)
        self._lost_starts[member.node] += 1
        if self._lost_starts[member.node] >= MOST_STARTS:
            error = ClusterError(
                "a worker",
                expected="one that starts",
                found=f"{reason}, {MOST_STARTS} times",
                remedy="install the same medseg, torch and Ray on this machine, and look at its memory",
            )
            self.refuse(member, error)

    def is_refused(self, member: Member) -> bool:
        """Whether its machine is no longer used."""
        return member.node in self._refused

    def close(self) -> None:
        """End all workers."""
        for member in list(self.members):
            self.dismiss(member)

    def _slots(self, node: Mapping[str, Any]) -> int:
        return gpus_of(node) if self._device == "cuda" else int(cpus_of(node) > 0)

    def _start(self, node: Mapping[str, Any], slot: int) -> Member:
        on_gpu, gpus, cpus = self._device == "cuda", gpus_of(node), cpus_of(node)
        share = (max(cpus // gpus, 1) if cpus else 0) if on_gpu else cpus
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = secrets.token_hex(4)
        actor = self._actor_class.options(
            num_cpus=share,
            num_gpus=int(on_gpu),
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=here,
        ).remote(self._order, name, "cuda" if on_gpu else "cpu", max(share, 1))
        return Member(node["NodeID"], str(node["NodeName"]), slot, name, actor)


def cpus_of(node: Mapping[str, Any]) -> int:
    """Return how many processors Ray may use of a machine."""
    return int(node["Resources"].get("CPU", 0))


def gpus_of(node: Mapping[str, Any]) -> int:
    """Return how many GPUs Ray may use of a machine."""
    return int(node["Resources"].get("GPU", 0))
