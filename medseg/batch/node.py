"""`NodeWorker`: a `Worker` on another machine, which first proves that it sees the same files and the same model.

It writes into a folder that nobody else has; who owns the ledger moves what it accepts to its place. So a machine
that was thought lost and comes back can change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from medseg import __version__
from medseg.batch.job import Job, JobResult
from medseg.batch.network import StudyNetwork
from medseg.batch.readable import files_of
from medseg.batch.worker import Crew, StudyReader, StudyWriter, Worker, Writer, known_error
from medseg.dicom.policy import Policies
from medseg.errors import DeviceError, MedsegError, ModelError, StorageError, UsageError
from medseg.files import make_folder, write_text
from medseg.loading import InferenceOptions
from medseg.packages import model_hash
from medseg.recipe import Recipe

PROBE_FILE = "probe"


def study_crew(
    model: Path | Recipe,
    options: InferenceOptions,
    policies: Policies,
    scratch: Path,
    *,
    sharers: int = 1,
    writer: Callable[[Path], Writer] = StudyWriter,
    needs_images: bool = False,
) -> Crew:
    """Return the crew of `medseg segment`; with the first three given it is what an `Order` wants.

    Args:
        model: The package, absolute; or a recipe from `medseg.recipe.packages.find_models`.
        options: How it is run; the device is another's choice.
        policies: What to do about irregular DICOM series.
        scratch: A folder on the file system of the outputs.
        sharers: Network workers that share this machine's processors.
        writer: Makes the last stage, given the scratch folder; picklable. By default it writes a label map alone.
        needs_images: Whether it looks at the images.
    """
    objects = model.object_options if isinstance(model, Recipe) and model.needs_dicom else None
    return Crew(
        partial(StudyReader, policies, objects),
        partial(StudyNetwork, model, options, scratch=scratch, sharers=sharers),
        partial(writer, scratch),
        needs_images,
    )


@dataclass(frozen=True)
class Order:
    """What every machine of a cluster is to do; it is sent to each.

    Attributes:
        crew: Given a scratch folder, makes the crew of a worker that writes there; the models' paths in it must be
            absolute.
        models: Each package with its hash by `medseg.packages.model_hash`; every machine must see it under this
            path.
        scratch: A folder on the file system of the outputs; every machine must see it under this path.
        probe: What is in its file ``probe``.
        version: Of medseg.
    """

    crew: Callable[[Path], Crew]
    models: tuple[tuple[Path, str], ...]
    scratch: Path
    probe: str = ""
    version: str = __version__


@dataclass(frozen=True)
class Unseen:
    """A study whose files the machine does not see.

    Attributes:
        key: Of the job.
    """

    key: str


class NodeWorker:
    """Segments studies on one machine of a cluster, one at a time; the weights are loaded once.

    Args:
        order: What is to be done.
        name: Of its folder in the scratch folder; nobody else's.
        device: ``cpu`` or ``cuda``.
        threads: Of torch, on the CPU.
    """

    def __init__(self, order: Order, name: str, device: str, threads: int) -> None:
        self._order, self._device, self._threads = order, device, threads
        self._folder = order.scratch / name
        self._worker: Worker | None = None

    def open(self) -> MedsegError | None:
        """Check the machine and load the model; return why it cannot be used, None where it can."""
        try:
            self._check()
            if self._device == "cpu":
                torch.set_num_threads(self._threads)
            self._worker = Worker(self._order.crew(make_folder(self._folder)), self._device)
        except Exception as error:  # noqa: BLE001 - it is told to who waits for it
            return known_error(error, "a machine of the cluster")
        return None

    def run(self, job: Job) -> JobResult | Unseen:
        """Segment a study; the outputs are in its own folder, see `JobResult.made`.

        Raises:
            RuntimeError: It was not opened.
        """
        if self._worker is None:
            raise RuntimeError("open comes first")
        return self._worker.run(job) if sees(job) else Unseen(job.key)

    def _check(self) -> None:
        order = self._order
        if order.version != __version__:
            raise UsageError(
                "medseg",
                expected=f"version {order.version}",
                found=__version__,
                remedy="install the same everywhere",
            )
        if text_of(order.scratch / PROBE_FILE) != order.probe:
            raise StorageError(
                order.scratch.parent,
                expected="an output folder that every machine sees under this path",
                found="another one, or none",
                remedy="mount the shared storage on this machine",
            )
        write_text(self._folder / PROBE_FILE, order.probe)
        if self._device != "cpu" and not torch.cuda.is_available():
            raise DeviceError(
                "GPU",
                expected="a CUDA device",
                found="none that torch can use",
                remedy="check driver and torch build",
            )
        for model, sha256 in order.models:
            if (found := model_hash(model)) != sha256:
                raise ModelError(
                    model,
                    expected=f"the model {sha256[:12]}",
                    found=found[:12],
                    remedy="put the same package on every machine, or on shared storage",
                )


def sees(job: Job) -> bool:
    """Whether this machine can read the first file of a study: one that cannot, lacks the whole storage."""
    files = files_of(job)
    return not files or os.access(files[0], os.R_OK)


def text_of(path: Path) -> str:
    """Return what is in a text file; "" where it is not seen."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
