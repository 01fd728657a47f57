"""A batch of 40 studies against a shell loop over single runs: studies per hour, share of the network, memory.

    python benchmarks/batch.py [--quick] [--model RUN]

Small studies are volumes of the hippocampus set, larger ones synthetic torsos. The network of both is a 3-D U-Net of
the size that medseg plans for a CPU; its weights are random, but for those of RUN, a run of
``configs/hippocampus_unet3d_cpu.yaml``, where it is given. Folder of the data: MEDSEG_DATA, or ../shared/data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel as nib
import torch
from record import write

from medseg.labels import LabelSet
from medseg.model import ModelPackage
from medseg.phantom import TORSO_LABELS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.builders import LABELS, tiny_package  # noqa: E402

DATA = Path(os.environ.get("MEDSEG_DATA", ROOT.parent / "shared" / "data"))
MEDSEG = [sys.executable, "-m", "medseg"]
STUDIES, QUICK_STUDIES = 40, 8
MOST_TORSOS = 12  # each takes the network as long as a dozen hippocampi
COLD_RUNS = 3
TORSO_MM = 3.0
SAMPLE_S = 0.5
MB, GB = 1e6, 1e9

LOOP = 'for f in "$1"/*.nii.gz; do "$4" -m medseg segment "$f" --model "$2" -o "$3" || exit 1; done'


@dataclass(frozen=True)
class Ran:
    """A command that has ended.

    Attributes:
        seconds: Wall clock.
        cpu_s: Processor time of it and of all processes that it waited for.
        memory: (Seconds since 1970, bytes of the whole tree of processes), sampled; what is shared counts once.
            No ``ru_maxrss``: a process is born with that of the one that spawned it.
    """

    seconds: float
    cpu_s: float
    memory: list[tuple[float, int]]

    def peak(self, start: float = 0.0, end: float = float("inf")) -> int:
        """Return the most bytes of the whole tree between two times."""
        return max((held for when, held in self.memory if start <= when < end), default=0)


def run(command: list[object]) -> Ran:
    """Run a command, and watch its memory from a thread; whatever it prints is shown only where it fails."""
    memory: list[tuple[float, int]] = []
    ended = threading.Event()
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=said, stderr=subprocess.STDOUT)
        watch = threading.Thread(target=sample, args=(process.pid, memory, ended), daemon=True)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
        ended.set()
        watch.join()
        if status:
            said.seek(0)
            sys.stderr.write(said.read().decode())
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return Ran(seconds, usage.ru_utime + usage.ru_stime, memory)


def sample(pid: int, memory: list[tuple[float, int]], ended: threading.Event) -> None:
    """Add what a process and its descendants hold, again and again until it has ended."""
    while not ended.wait(SAMPLE_S):
        memory.append((time.time(), sum(map(held_by, descendants(pid)))))


def descendants(pid: int) -> Iterator[int]:
    """Return a process and all that it started and have not ended; see proc_pid_task(5)."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in text_of(children).split():
            yield from descendants(int(child))


def held_by(pid: int) -> int:
    """Return the bytes of a process, its part of what it shares: the proportional set size of proc_pid_smaps(5)."""
    lines = text_of(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""


def save_model(folder: Path, tile: tuple[int, int, int], spacing_mm: float, labels: LabelSet) -> Path:
    """Write a package with the network of ``configs/hippocampus_unet3d_cpu.yaml`` and random weights."""
    data = tiny_package().model_dump()
    data["network"] |= {"num_classes": len(labels) + 1}
    data["network"]["fields"] |= {"channels": (16, 32, 64, 128), "norm": "batch", "act": "leaky_relu"}
    data["labels"] = labels.model_dump()
    data["preprocessing"]["spacing_mm"] = (spacing_mm,) * 3
    data["inference"] |= {"tile_size": tile, "overlap": 0.5, "batch_size": 2, "mirror_axes": (0,)}
    package = ModelPackage.model_validate(data)
    torch.manual_seed(0)
    package.save(folder, {"fold_0": package.network.build().state_dict()})
    return folder


def link_hippocampi(folder: Path, count: int) -> Path:
    """Make a folder of the first images of the set."""
    folder.mkdir()
    for image in islice(sorted((DATA / "hippocampus" / "imagesTr").glob("*.nii.gz")), count):
        (folder / image.name).symlink_to(image.resolve())
    return folder


def make_torsos(folder: Path, count: int) -> Path:
    """Make a folder of synthetic MR torsos."""
    run([*MEDSEG, "phantom", folder, "--cases", count, "--spacing", TORSO_MM, "--modality", "MR"])
    return folder / "imagesTr"


def ledger_of(output: Path) -> list[dict[str, Any]]:
    """Return the studies of a batch in the order in which they ended; all must be done."""
    told = subprocess.run([*MEDSEG, "batch", "status", output, "--json"], check=True, capture_output=True)
    studies: list[dict[str, Any]] = json.loads(told.stdout)["studies"]
    if any(study["state"] != "done" or study["attempts"] != 1 for study in studies):
        raise SystemExit(f"not every study was done at the first attempt: {output}")
    return sorted(studies, key=lambda study: float(study["ended"]))


def cold_seconds(studies: Path, model: Path, folder: Path) -> dict[str, float]:
    """Return the median seconds of each stage in a process that does one study and ends."""
    folder.mkdir()
    timings = []
    for number, image in enumerate(islice(sorted(studies.iterdir()), COLD_RUNS)):
        one = folder / f"{number}.txt"
        one.write_text(f"{image}\n")  # a list has a ledger, which has the timings, however short it is
        run([*MEDSEG, "segment", "--from-file", one, "--model", model, "-o", folder / str(number)])
        timings.append(ledger_of(folder / str(number))[0]["timings_s"])
    return {stage: statistics.median(found[stage] for found in timings) for stage in timings[0]}


def busy_share(studies: list[dict[str, Any]]) -> float:
    """Return the network's share of the time from the end of the first study to that of the last."""
    network = sum(study["timings_s"]["segment"] for study in studies[1:])
    return float(network / (studies[-1]["ended"] - studies[0]["ended"]))


def different(first: Path, second: Path) -> int:
    """Return how many label maps of two folders differ in their bytes; the names must be the same."""
    folders = [{file.name: digest(file) for file in folder.glob("*.nii.gz")} for folder in (first, second)]
    if folders[0].keys() != folders[1].keys():
        raise SystemExit("the loop and the batch wrote other files")
    return sum(folders[0][name] != folders[1][name] for name in folders[0])


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def measure(name: str, folder: Path, studies: Path, model: Path) -> tuple[tuple[str, ...], str]:
    """Run the loop and the batch on a folder of studies; return a row of the table and a sentence."""
    count = len(list(studies.iterdir()))
    shape = "x".join(map(str, nib.load(next(studies.iterdir())).shape))
    cold = cold_seconds(studies, model, folder / "cold")
    (folder / "loop").mkdir()
    loop = run(["bash", "-c", LOOP, "loop", studies, model, folder / "loop", sys.executable])
    batch = run([*MEDSEG, "segment", studies, "--model", model, "-o", folder / "batch"])
    done = ledger_of(folder / "batch")
    single_s = loop.seconds / count
    network_s = sum(study["timings_s"]["segment"] for study in done)
    begun, half, end = (done[place]["ended"] for place in (0, count // 2 - 1, -1))
    halves = batch.peak(begun, half), batch.peak(half, end)
    row = (
        f"{count} {name}, {shape}",
        f"{single_s:.1f}",
        f"{single_s - sum(cold.values()):.1f}",
        f"{cold['segment']:.2f}",
        f"{network_s / count:.2f}",
        f"{count * 3600 / loop.seconds:.0f}",
        f"{count * 3600 / batch.seconds:.0f}",
        f"**{loop.seconds / batch.seconds:.2f}**",
        f"{network_s / batch.seconds:.0%}",
        f"{busy_share(done):.0%}",
        " / ".join(f"{peak / GB:.2f}" for peak in halves),
        f"{(halves[1] - halves[0]) / MB / (count / 2):+.1f}",
    )
    rest = {stage: statistics.median(study["timings_s"][stage] for study in done) for stage in ("read", "write")}
    sentence = (
        f"- {name}: loop {loop.seconds:.0f} s, {loop.cpu_s:.0f} s of processor time, {loop.peak() / GB:.2f} GB at most; "
        f"batch {batch.seconds:.0f} s, {batch.cpu_s:.0f} s of processor time, {batch.peak() / GB:.2f} GB at most; "
        f"reading {rest['read']:.2f} s and writing {rest['write']:.2f} s a study (medians), "
        f"at the same time as the network. {different(folder / 'loop', folder / 'batch')} of {count} label maps differ."
    )
    return row, sentence


HEADER = (
    "studies",
    "single run, s",
    "of it start-up, s",
    "its network, s",
    "network in the batch, s a study",
    "loop, studies/h",
    "batch, studies/h",
    "batch / loop",
    "network busy, share of all",
    "of the time after the first study",
    "peak GB, first / second half",
    "MB a study more",
)
NOTES = """Loop: `for f in ...; do medseg segment "$f" --model M -o OUT; done`. Batch: `medseg segment FOLDER --model M -o OUT`, with
its default processes: reader, network, writer and the one that hands out the work. Both are timed from outside, one run
each, after {cold} single runs that warm the disk's cache. A single run is the loop's time a study; its start-up is what
is left of that after reading, network and writing ({cold} processes of one study each, medians): imports, the weights
and the end of the process. The network stage is preprocessing, tiles and the label map on the native grid. So the
ratio is at most (start-up + network + reading + writing) / network, and falls as studies take longer. Asked for: 2.

Network busy: the network's seconds in the ledger by the wall clock's, of the whole command, and from the end of the
first study to that of the last. Memory: proportional set sizes of all processes, together, every {sample} s; the
halves are those of the studies after the first. Threads: {threads}.

U-Net of 16 to 128 channels with batch norm, two tiles at once, overlap 0.5, mirrored along one axis; hippocampi at 1 mm,
tiles of 32x48x32, {weights}, 3 classes; torsos at {torso:g} mm, tiles of 40^3, random weights, {classes} classes.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="trained on the hippocampus set; random weights by default")
    parser.add_argument("--quick", action="store_true", help="8 studies of each kind, to see that it runs")
    asked = parser.parse_args()
    count = QUICK_STUDIES if asked.quick else STUDIES
    with tempfile.TemporaryDirectory() as path:
        small, large = Path(path) / "small", Path(path) / "large"
        for folder in (small, large):
            folder.mkdir()
        hippocampus = asked.model or save_model(small / "model", (32, 48, 32), 1.0, LABELS)
        torso = save_model(large / "model", (40, 40, 40), TORSO_MM, TORSO_LABELS)
        measured = [
            measure("hippocampi", small, link_hippocampi(small / "studies", count), hippocampus),
            measure("torsos", large, make_torsos(large / "studies", min(count, MOST_TORSOS)), torso),
        ]
    notes = NOTES.format(
        cold=COLD_RUNS,
        sample=SAMPLE_S,
        threads=os.environ.get("OMP_NUM_THREADS", os.cpu_count()),
        weights="trained weights" if asked.model else "random weights",
        torso=TORSO_MM,
        classes=len(TORSO_LABELS) + 1,
    )
    leave = (lambda *page, **_: print(*page, sep="\n")) if asked.quick else write
    leave(
        "batch",
        "Studies in a batch, and in a shell loop over single runs",
        HEADER,
        [row for row, _ in measured],
        notes + "\n".join(sentence for _, sentence in measured),
        arguments=" --model RUN" if asked.model else "",
    )


if __name__ == "__main__":
    main()
