"""Stages for tests: a network that is a threshold, and that crashes, hangs or fails as it is told. No torch."""

import json
import os
import signal
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from medseg.batch.job import job_of
from medseg.batch.ledger import Ledger
from medseg.batch.options import BatchOptions, RunContext
from medseg.batch.run import plan_batch, run_batch
from medseg.batch.scratch import scratch_folder, study_folder
from medseg.batch.worker import Crew, Segmented, StudyReader, StudyWriter, Written, outputs_of
from medseg.errors import ProofError, StorageError
from medseg.files import write_text
from medseg.findings import Finding, FindingCode
from medseg.labels import LabelMap, LabelSet
from medseg.nifti import write_nifti
from medseg.study import nifti_study
from medseg.volume import Volume

LABELS = LabelSet.from_names({1: "bright"})
THRESHOLD = 0.5


def die(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def full():
    raise StorageError("disk", expected="space", found="the disk is full", remedy="free some")


def unproved():
    raise ProofError("labels", expected="the mask", found="another one", remedy="report it")


def bug():
    raise RuntimeError("MUSTERMANN^ERIKA")


def no_memory():
    raise MemoryError


@dataclass
class Starting:
    """A network that fails to start, or to come up at all, the second and the third time."""

    root: Path
    network: object
    device: str

    def __post_init__(self):
        started = len(list(self.root.glob("start.*")))
        (self.root / f"start.{started}").touch()
        if started in (1, 2):
            raise MemoryError
        self.network = self.network(self.device)

    def __call__(self, *given):
        return self.network(*given)


DEEDS = {
    "segv": partial(die, signal.SIGSEGV),
    "kill": partial(die, signal.SIGKILL),
    "hang": partial(time.sleep, 600),
    "bug": bug,
    "memory": no_memory,
    "full": full,
    "proof": unproved,
    "slow": int,
    "pause": partial(time.sleep, 0.4),
}


@dataclass
class Deed:
    """Does what it is told for a study, each time or, with ``once:``, the first time."""

    folder: Path
    stage: str
    deeds: dict = field(default_factory=dict)

    def __call__(self, job):
        with (self.folder / f"{self.stage}.log").open("a") as stream:
            stream.write(f"{job.name}\n")
        deed = self.deeds.get(job.name, "")
        marker = self.folder / f"{self.stage}.{job.name}.once"
        if deed.startswith("once:") and marker.exists():
            return
        marker.touch()
        if deed:
            DEEDS[deed.removeprefix("once:")]()


@dataclass
class Reader:
    deed: Deed

    def __call__(self, job):
        self.deed(job)
        return StudyReader()(job)


@dataclass
class Network:
    deed: Deed
    seconds: float
    device: str

    def __call__(self, job, images, advance=None):
        self.deed(job)
        tiles = 400 if self.deed.deeds.get(job.name) == "slow" else 4
        for tile in range(tiles):
            time.sleep(self.seconds / 4)
            if advance:
                advance(tile + 1, tiles)
        labels = replace(threshold(images[0]), confidence={"bright": 0.75})
        return Segmented(labels, device=self.device)


@dataclass
class Writer:
    deed: Deed
    writer: StudyWriter

    def __call__(self, job, images, made):
        self.deed(job)
        return self.writer(job, images, made)


@dataclass
class Reviewer:
    """A writer of two files in folders, which holds back the studies that it is told to; it looks at the images.

    What it saw lies in a file: the image's sum of voxels, the confidence, and which raw files there were.
    """

    root: Path
    deliver: Path
    held: tuple
    scratch: Path

    def __call__(self, job, images, made):
        folder = study_folder(self.scratch, job.key)
        raw = sorted(path.name for path in self.scratch.glob(f"{job.key}/*.raw"))
        sums = [float(image.array.sum(dtype=np.float64)) for image in images]
        (self.root / f"{job.name}.seen.json").write_text(json.dumps([sums, dict(made.labels.confidence), raw]))
        files = [folder / "labels.nii.gz", folder / "notes.txt"]
        write_nifti(files[0], made.labels)
        write_text(files[1], job.name)
        codes = ("organ-absent",) if job.name in self.held else ()
        findings = tuple(Finding(FindingCode(code), "no bright") for code in codes)
        place = f"held/{job.target}" if codes else job.target
        delivered = f"{place}/notes.txt" if codes else str(self.deliver / job.target / "notes.txt")
        outputs = outputs_of(zip(files, (f"{place}/labels.nii.gz", delivered), strict=True))
        return Written(*outputs, {"bright": 1.0}, findings, codes, {"proof": 0.25})


def threshold(image):
    array = np.asfortranarray((image.array > THRESHOLD).astype(np.uint8))
    findings = (*image.findings, Finding(FindingCode.SMALLER_TILES, "smaller"))
    return LabelMap(Volume(array, image.affine, source=image.source, findings=findings), LABELS)


def crew(root, scratch, read=(), segment=(), write=(), seconds=0.0):
    """A crew whose stages do what they are told: {study: deed}."""
    return Crew(
        partial(Reader, Deed(root, "read", dict(read))),
        partial(Network, Deed(root, "segment", dict(segment)), seconds),
        partial(Writer, Deed(root, "write", dict(write)), StudyWriter(scratch)),
    )


def image(seed):
    return Volume(
        np.asfortranarray(np.random.default_rng(seed).random((6, 5, 4), dtype=np.float32)), np.diag([1, 2, 3, 1.0])
    )


def make_studies(root, count):
    """Write images and make the output folder; the jobs."""
    (root / "out").mkdir(parents=True, exist_ok=True)
    for n in range(count):
        if not (root / f"s{n:02}.nii.gz").exists():
            write_nifti(root / f"s{n:02}.nii.gz", image(n))
    return [job_of(nifti_study((root / f"s{n:02}.nii.gz",))) for n in range(count)]


class Told:
    """An observer that remembers."""

    def __init__(self):
        self.total = None
        self.rows = []
        self.last_tiles = None

    def planned(self, total, ended):
        self.total = (total, ended)

    def tiles(self, done, total):
        self.last_tiles = (done, total)

    def ended(self, row):
        self.rows.append(row)


def run(
    root,
    count,
    *,
    strikes=3,
    limit_s=None,
    in_process=False,
    model="m",
    again=False,
    starting=False,
    needs_images=False,
    **deeds,
):
    """Run a batch of studies; return its rows by name and what the observer was told."""
    jobs, told = make_studies(root, count), Told()
    with Ledger(root / "out", model, "s", strikes=strikes) as ledger, scratch_folder(root / "out") as scratch:
        planned = plan_batch(ledger, jobs, again=again)
        options = BatchOptions(limit_s, in_process)
        try:
            made = replace(crew(root, scratch, **deeds), needs_images=needs_images)
            made = replace(made, network=partial(Starting, root, made.network)) if starting else made
            run_batch(ledger, planned, RunContext(made, ["cpu"], scratch, told, options))
        finally:
            rows = {row.name: row for row in ledger.rows()}
    return rows, told


def started(root, stage="segment"):
    """The studies that a stage was begun for, in order."""
    path = root / f"{stage}.log"
    return path.read_text().split() if path.exists() else []


if __name__ == "__main__":
    import sys

    run(Path(sys.argv[1]), int(sys.argv[2]), in_process=sys.argv[3] == "here", seconds=float(sys.argv[4]))
