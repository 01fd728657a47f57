"""An imported nnU-Net model against nnU-Net v2 itself: label maps, voxel for voxel.

    python benchmarks/nnunet_import.py RESULTS NNUNET_PYTHON CASE [CASE ...] [--spacing Z Y X --patch Z Y X] [--out OUT]

RESULTS is the folder of a trained model (``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``; the one of
``train_vs_nnunet.py --only nnunet`` will do); NNUNET_PYTHON is the interpreter of an environment with
``benchmarks/requirements.txt``; a CASE is the NIfTI files of its channels, joined by commas. Every case is predicted
with mirroring and without. ``--spacing`` and ``--patch`` change copies of the plans, so that a model whose plan is the
grid of its files is measured with resampling and with several tiles too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from record import write

from medseg.loading import load_model
from medseg.nifti import read_nifti
from medseg.nnunet.package import import_nnunet

SIDE = Path(__file__).parent / "nnunet_predict.py"
MOST_DIFFERENT, LARGEST_MARGIN = 1e-4, 1e-2


def changed(results: Path, out: Path, name: str, **configuration: list[float] | None) -> Path:
    """Copy a folder of results, with keys of its configuration changed."""
    folder = out / name / results.name
    shutil.copytree(results, folder, ignore=shutil.ignore_patterns("validation", "*.log", "checkpoint_[bl]*"))
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"][results.name.split("__")[-1]] |= {k: v for k, v in configuration.items() if v}
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


def compare(folder: Path, python: str, cases: list[str], out: Path, *, mirror: bool) -> list[list[str]]:
    """Predict with both, and return a row for each case."""
    line = [python, str(SIDE), str(folder), str(out), str(int(mirror)), *cases]
    subprocess.run(line, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    if not (out / "model").is_dir():
        import_nnunet(folder, out / "model")
    segmenter = load_model(out / "model", device="cpu")
    if not mirror:
        segmenter.window = segmenter.window.model_copy(update={"mirror_axes": ()})
    rows = []
    for case in cases:
        files = [Path(file) for file in case.split(",")]
        started = time.perf_counter()
        labels = segmenter.segment([read_nifti(file) for file in files]).array
        seconds = time.perf_counter() - started
        name = files[0].name.split(".")[0]
        theirs = np.load(out / f"{name}.npz")
        cells = [f"{folder.parent.name}, {name}", "on" if mirror else "off", "x".join(map(str, labels.shape))]
        for own in ("labels", "single"):
            differ = labels != theirs[own]
            margin = float(theirs["margin"][differ].max(initial=0))
            within = differ.mean() <= MOST_DIFFERENT and margin < LARGEST_MARGIN
            cells += [f"{differ.sum()} ({differ.mean():.0e})", f"{margin:.4f}", "yes" if within else "no"]
        rows.append([*cells, f"{theirs['seconds']:.1f}", f"{seconds:.1f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("python")
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--spacing", type=float, nargs="+")
    parser.add_argument("--patch", type=int, nargs="+")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    out = given.out or Path(tempfile.mkdtemp())
    folders = [changed(given.results, out, "as planned")]
    if given.spacing or given.patch:
        folders.append(changed(given.results, out, "changed", spacing=given.spacing, patch_size=given.patch))
    rows = []
    for folder in folders:
        for mirror in (False, True):
            rows += compare(folder, given.python, given.cases, folder.parent / "predictions", mirror=mirror)
    header = ["plan, case", "mirroring", "voxels", "differ", "largest margin", "within", "differ from 32-bit sums"]
    notes = (
        "Differ: voxels whose label is not nnU-Net's, and their share; margin: by how much the largest logit of such "
        f"a voxel is above the next; within: at most {MOST_DIFFERENT} of the voxels, every margin below "
        f"{LARGEST_MARGIN}. nnU-Net sums logits in 16 bits; the second three columns are against nnU-Net with sums in "
        "32 bits. Changed plan: "
        f"spacing {given.spacing}, patch {given.patch}."
    )
    header += ["largest margin", "within", "nnU-Net s", "medseg s"]
    write("nnunet_import", "Imported nnU-Net models: label maps against nnU-Net's own", header, rows, notes)


if __name__ == "__main__":
    main()
