"""The preprocessed store against MONAI's PersistentDataset: bytes a voxel, time to build, cost of reading a patch.

python benchmarks/store.py FOLDER-OF-HIPPOCAMPUS
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    FgBgToIndicesd,
    LoadImaged,
    MapTransform,
    NormalizeIntensityd,
    Orientationd,
    Spacingd,
    SpatialCropd,
)
from record import write

from medseg.data.manifest import Case
from medseg.data.preprocessing import Preprocessing
from medseg.data.store import build_store
from medseg.data.stored import StoredCase, write_case
from medseg.data.transforms import Prepared
from medseg.labels import LabelSet
from medseg.nifti import write_nifti
from medseg.volume import Grid, Volume

KEYS = ("image", "label")
ROUNDS = 2
HIPPOCAMPUS_CASES = 40
LARGE, PATCH = (512, 512, 300), 64
LABELS = LabelSet.from_names({1: "a", 2: "b"})


def synthetic(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Noise with two boxes that take a tenth of it."""
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    label = np.zeros(shape, np.uint8)
    i, j, k = (n // 2 for n in shape)
    label[: i // 2, :j, :k], label[i:, j:, : k // 4] = 1, 2
    return image, label


def hippocampus(root: Path) -> list[Case]:
    names = sorted(path.name for path in (root / "labelsTr").glob("hippocampus*.nii.gz"))[:HIPPOCAMPUS_CASES]
    return [Case(n, n, (root / "imagesTr" / n,), root / "labelsTr" / n) for n in names]


def one_large(folder: Path) -> list[Case]:
    image, label = synthetic((256, 256, 256))
    write_nifti(folder / "image.nii.gz", Volume(image, np.eye(4)))
    write_nifti(folder / "label.nii.gz", Volume(label, np.eye(4)))
    return [Case("large", "large", (folder / "image.nii.gz",), folder / "label.nii.gz")]


def medseg_build(cases: list[Case], spacing: tuple[float, ...], folder: Path, dtype: str) -> int:
    rules = {"spacing_mm": spacing, "intensity": ({"kind": "zscore"},)}
    stored = build_store(folder, cases, Preprocessing.model_validate(rules), LABELS, dtype=dtype)
    return sum(case.grid.voxel_count for case in stored)


def monai_build(cases: list[Case], spacing: tuple[float, ...], folder: Path) -> int:
    recipe = Compose(
        [
            LoadImaged(KEYS),
            EnsureChannelFirstd(KEYS),
            Orientationd(KEYS, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(KEYS, spacing, mode=("bilinear", "nearest")),
            NormalizeIntensityd("image"),
            FgBgToIndicesd("label"),
        ]
    )
    items = [{"image": str(case.images[0]), "label": str(case.label)} for case in cases]
    dataset = PersistentDataset(items, recipe, folder)
    return sum(dataset[n]["image"].numel() for n in range(len(dataset)))


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def compare_builds(name: str, cases: list[Case], spacing: tuple[float, ...]) -> list[tuple[object, ...]]:
    """Build in turns, each time into a new folder."""
    ways = {
        "medseg float16": lambda folder: medseg_build(cases, spacing, folder, "float16"),
        "medseg float32": lambda folder: medseg_build(cases, spacing, folder, "float32"),
        "MONAI": lambda folder: monai_build(cases, spacing, folder),
    }
    seconds, work, size = ({way: [] for way in ways} for _ in range(3))
    for _ in range(ROUNDS):
        for way, build in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                start, start_work = time.perf_counter(), time.process_time()
                voxels = build(Path(folder))
                seconds[way].append(time.perf_counter() - start)
                work[way].append(time.process_time() - start_work)
                size[way].append(bytes_in(Path(folder)) / voxels)
    return [
        (
            name,
            way,
            f"{size[way][0]:.2f}",
            f"{statistics.median(seconds[way]):.2f}",
            f"{statistics.median(work[way]):.2f}",
        )
        for way in ways
    ]


class Synthetic(MapTransform):
    """Make the large volume."""

    def __call__(self, data):
        image, label = synthetic(LARGE)
        return {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(label)[None].float()}


def read_bytes() -> int:
    """Bytes that this process has had from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def compare_patches(folder: Path) -> list[tuple[object, ...]]:
    """Read patches at random places in turns, from the disk and from the page cache."""
    (folder / "medseg").mkdir()
    case = StoredCase("large", folder / "medseg")
    image, label = synthetic(LARGE)
    write_case(case, Prepared(torch.from_numpy(image)[None], Grid(LARGE, np.eye(4)), torch.from_numpy(label)))
    del image, label
    recipe = Compose([Synthetic(KEYS), FgBgToIndicesd("label")])
    dataset = PersistentDataset([{"image": "", "label": ""}], recipe, folder / "monai")
    dataset[0]

    def monai_patch(corner: list[int]) -> object:
        crop = SpatialCropd(KEYS, roi_start=corner, roi_end=[c + PATCH for c in corner])
        return crop(dataset[0])

    readers: dict[str, Callable[[list[int]], object]] = {
        "medseg": lambda corner: case.patch(corner, (PATCH,) * 3),
        "MONAI": monai_patch,
    }
    rng = np.random.default_rng(0)
    cold, warm, work, read = ({name: [] for name in readers} for _ in range(4))
    for _ in range(ROUNDS):
        corner = [int(rng.integers(0, n - PATCH)) for n in LARGE]
        for name, reader in readers.items():
            forget(folder)
            before, start = read_bytes(), time.perf_counter()
            reader(corner)
            cold[name].append(time.perf_counter() - start)
            read[name].append(read_bytes() - before)
            start, start_work = time.perf_counter(), time.process_time()
            reader(corner)
            warm[name].append(time.perf_counter() - start)
            work[name].append(time.process_time() - start_work)
    return [
        (
            "512x512x300",
            name,
            f"{statistics.median(read[name]) / 1e6:.1f}",
            f"{1e3 * statistics.median(cold[name]):.1f}",
            f"{1e3 * statistics.median(warm[name]):.1f}",
            f"{1e3 * statistics.median(work[name]):.1f}",
        )
        for name in readers
    ]


def main(root: Path) -> None:
    """Measure everything and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        rows = compare_builds(f"{HIPPOCAMPUS_CASES} hippocampus, 1 mm", hippocampus(root), (1.0, 1.0, 1.0))
        rows += compare_builds("one of 256^3, 1 to 1.25 mm", one_large(Path(folder)), (1.25, 1.25, 1.25))
    with tempfile.TemporaryDirectory() as folder:
        patches = compare_patches(Path(folder))
    header = (
        "patch of 64^3 from",
        "program",
        "MB from disk",
        "ms, from disk",
        "ms, in page cache",
        "CPU ms, in page cache",
    )
    table = ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, ["---"] * len(header), *patches)]
    needed = PATCH**3 * 3 / 1e6
    write(
        "store",
        "Preprocessed store",
        ("cases", "program", "bytes a voxel", "s to build", "CPU s to build"),
        rows,
        "MONAI: `PersistentDataset` of LoadImaged, EnsureChannelFirstd, Orientationd, Spacingd, NormalizeIntensityd and\n"
        "FgBgToIndicesd, the recipe of its fast training tutorial. The same spacing and z-score in both. Medians of\n"
        f"{ROUNDS} rounds turn about, medseg's files flushed to disk, on a machine with other work (load "
        f"{os.getloadavg()[0]:.1f}).\n\n" + "\n".join(table) + "\n\n"
        f"The patch itself has {needed:.1f} MB of float16 image and uint8 label; whole rows of it are read.",
        arguments=" FOLDER-OF-HIPPOCAMPUS",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
