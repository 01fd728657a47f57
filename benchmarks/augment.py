"""Augmentation of a 128^3 patch on one thread: medseg against MONAI and batchgeneratorsv2.

``python benchmarks/augment.py [PYTHON]``; PYTHON is an interpreter that has nnunetv2, which brings batchgeneratorsv2.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import monai
import numpy as np
import torch
from monai import transforms as mt
from record import write
from torch.nn import functional as F

from medseg.data.augment import Augmentation, augment, draw

SIZE = (128, 128, 128)
RUNS, DRAWS = 5, 30
KEYS = ["image", "label"]
MOVE, WHOLE = "rotation and scaling", "default preset"
ROWS = (MOVE, "noise", "blur", "brightness", "contrast", "low resolution", "inverted gamma", "gamma", WHOLE)
Times = tuple[float, float]  # seconds of wall clock and of CPU
Change = Callable[[], Times]


def make_patch() -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth image with noise, (1, 128, 128, 128), and two organs beside the background."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.randn(1, 1, 9, 9, 9, generator=generator), SIZE, mode="trilinear")[0]
    image = smooth + 0.2 * torch.randn(1, *SIZE, generator=generator)
    label = (smooth[0] > 0.4).long() + (smooth[0] > 0.9).long()
    return (image - image.mean()) / image.std(), label


def timed(change: Callable[[], object]) -> Times:
    wall, cpu = time.perf_counter(), time.process_time()
    change()
    return time.perf_counter() - wall, time.process_time() - cpu


def of_medseg(row: str, image: torch.Tensor, label: torch.Tensor) -> Change:
    if row == WHOLE:
        settings = Augmentation(flip_axes=(0, 1, 2))
    else:
        names = ["rotation", "scaling"] if row == MOVE else [row.replace(" ", "_")]
        settings = Augmentation(
            preset="none", channel_probability=1, **{f"{name}_probability": 1 for name in names}
        )
    index = iter(range(1 << 30))

    def once() -> Times:
        images, labels = image[None].clone(), label[None].clone()
        key = (0, 0, next(index))
        return timed(lambda: augment(images, labels, [draw(settings, image.shape, (1.0, 1.0, 1.0), key)]))

    return once


def of_monai(row: str, image: torch.Tensor, label: torch.Tensor) -> Change:
    def all_of(probability: dict[str, float]) -> dict[str, mt.Transform]:
        p = defaultdict(lambda: 1.0, probability)
        gamma = {"gamma": (0.7, 1.5), "retain_stats": True}
        return {
            MOVE: mt.RandAffined(
                KEYS, prob=p[MOVE], rotate_range=[np.pi / 6] * 3, scale_range=[(-0.3, 0.4)] * 3,
                mode=("bilinear", "nearest"), padding_mode=("border", "zeros"),
            ),
            "noise": mt.RandGaussianNoised("image", prob=p["noise"], std=0.1),
            "blur": mt.RandGaussianSmoothd("image", (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=p["blur"]),
            "brightness": mt.RandScaleIntensityd("image", 0.25, prob=p["brightness"]),
            "contrast": mt.RandScaleIntensityFixedMeand(
                "image", factors=0.25, fixed_mean=True, preserve_range=True, prob=p["contrast"]
            ),
            "low resolution": mt.RandSimulateLowResolutiond("image", prob=p["low resolution"], zoom_range=(0.5, 1.0)),
            "inverted gamma": mt.RandAdjustContrastd("image", p["inverted gamma"], invert_image=True, **gamma),
            "gamma": mt.RandAdjustContrastd("image", p["gamma"], **gamma),
        }  # fmt: skip

    single = all_of({})
    if row in single:
        change = single[row]
    else:  # the probabilities of the default preset, for one channel
        shares = dict(zip(ROWS, (0.36, 0.1, 0.1, 0.15, 0.15, 0.125, 0.1, 0.3), strict=False))
        flips = [mt.RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in range(3)]
        change = mt.Compose([*all_of(shares).values(), *flips])
    change.set_random_state(0)

    def once() -> Times:
        fresh = {"image": image.clone(), "label": label[None].clone()}
        return timed(lambda: change(fresh))

    return once


class Peer:
    """batchgeneratorsv2 in a process of its own, idle unless asked."""

    def __init__(self, python: str, patch: Path) -> None:
        script = Path(__file__).with_name("augment_peer.py")
        self.process = subprocess.Popen(
            [python, str(script), str(patch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("batchgeneratorsv2's side ended; its message is above")
        return line

    def of(self, row: str) -> Change:
        def once() -> Times:
            self.process.stdin.write(row + "\n")
            self.process.stdin.flush()
            wall, cpu = self._answer().split()
            return float(wall), float(cpu)

        return once


def measure(row: str, programs: dict[str, Change]) -> dict[str, Times]:
    """Run the programs in turn, so that what else the machine does falls on all of them."""
    for once in programs.values():
        once()
    taken: dict[str, list[Times]] = {name: [] for name in programs}
    for _ in range(DRAWS if row == WHOLE else RUNS):
        for name, once in programs.items():
            taken[name].append(once())
    middle = statistics.mean if row == WHOLE else statistics.median
    return {name: (middle(t[0] for t in times), middle(t[1] for t in times)) for name, times in taken.items()}


def main(python: str | None) -> None:
    torch.set_num_threads(1)
    monai.data.set_track_meta(False)
    image, label = make_patch()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patch.npz"
        np.savez(path, image=image.numpy(), label=label.numpy())
        peer = Peer(python, path) if python else None
        for row in ROWS:
            programs = {"medseg": of_medseg(row, image, label), "MONAI": of_monai(row, image, label)}
            if peer:
                programs["batchgeneratorsv2"] = peer.of(row)
            found = measure(row, programs)
            ours = found["medseg"]
            cells = [f"{1e3 * wall:.1f} ({1e3 * cpu:.1f})" for wall, cpu in found.values()]
            ratios = [f"{found[name][1] / ours[1]:.1f}" for name in list(found)[1:]]
            rows.append((row, *cells, *ratios))
            print(*rows[-1], sep=" | ", flush=True)
        if peer:
            peer.process.stdin.close()
            peer.process.wait()
    names = list(found)
    write(
        "augment",
        "Augmentation of a 128^3 patch with its label, one thread",
        ("change", *(f"{name} ms (CPU ms)" for name in names), *(f"{name} / medseg" for name in names[1:])),
        rows,
        NOTES,
        arguments=" PYTHON",
    )


NOTES = f"""\
Wall-clock time, and in brackets that of the CPU; ratios are of CPU time. One change at a time with probability 1: medians
of {RUNS} runs, with other random numbers in each. The default preset, nnU-Net's changes with nnU-Net's probabilities:
means of {DRAWS} draws. The programs take turns, run by run, on the same patch of one channel and three classes; copies of
it are made before the clock starts. MONAI's own ranges are those of nnU-Net, without metadata on its tensors.
batchgeneratorsv2 interpolates each class of the label and takes the highest, as nnU-Net's trainer has it; medseg and
MONAI take the nearest voxel."""


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
