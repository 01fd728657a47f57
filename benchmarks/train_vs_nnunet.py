"""medseg against nnU-Net v2 on one split: the hippocampus set, fold 0, 30 minutes of two CPU cores each.

    python benchmarks/train_vs_nnunet.py DATA NNUNET_PYTHON [OUT] [MINUTES]

DATA holds ``hippocampus/`` (Medical Segmentation Decathlon, Task 4). NNUNET_PYTHON is the interpreter of an
environment with ``benchmarks/requirements.txt``. Each half leaves ``OUT/nnunet.json`` or ``OUT/medseg.json``; a half
that is there is not run again. ``--only nnunet`` or ``--only medseg`` runs one half and writes no page.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import write

from medseg.config import load_config
from medseg.data.manifest import Dataset, load_manifest
from medseg.evaluate import evaluate
from medseg.training.folder import CONFIG_FILE
from medseg.training.runlog import METRICS_FILE

SIDE = Path(__file__).parent / "nnunet_side.py"
THREADS = 2
WORKERS = 0  # augmentation processes of nnU-Net: one was no faster (0.44 against 0.46 samples a second)
ASKED_DICE = 0.87
FOLD = 0


def nnunet_environment(out: Path) -> dict[str, str]:
    """Return the environment that nnU-Net's half runs in."""
    folders = {
        name: str((out / name).absolute()) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive", "nnUNet_def_n_proc": str(THREADS)}
    return {**os.environ, **folders, **threads, "CUDA_VISIBLE_DEVICES": ""}


def nnunet(python: str, out: Path, *words: object) -> None:
    """Run a command of nnU-Net's half."""
    line = [python, str(SIDE), *map(str, words)]
    print("$", " ".join(line), flush=True)
    subprocess.run(line, check=True, env=nnunet_environment(out))


def prepare_nnunet(data: Path, python: str, out: Path) -> None:
    """Give nnU-Net the cases and the split, and let it plan and preprocess; done once for a folder."""
    if (out / "nnUNet_preprocessed/Dataset004_Hippocampus/splits_final.json").is_file():
        return
    dataset = load_manifest("hippocampus", data / "hippocampus")
    training, validation = dataset.fold(FOLD)
    described = {
        "labels": {label.name: label.index for label in dataset.manifest.labels},
        "cases": [
            {"id": case.id, "image": str(case.images[0]), "label": str(case.label)}
            for case in (*training, *validation)
        ],
        "train": [case.id for case in training],
        "validation": [case.id for case in validation],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "cases.json").write_text(json.dumps(described))
    nnunet(python, out, "prepare", out / "cases.json")


def validation_folders(dataset: Dataset, out: Path) -> tuple[Path, Path]:
    """Lay out the images and the labels of the validation cases on their native grids."""
    images, labels = out / "images", out / "labels"
    for folder in (images, labels):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for case in dataset.fold(FOLD)[1]:
        assert case.label is not None
        (images / f"{case.id}.nii.gz").symlink_to(case.images[0])
        (labels / f"{case.id}.nii.gz").symlink_to(case.label)
    return images, labels


def dice(predictions: Path, dataset: Dataset, out: Path) -> dict[str, Any]:
    """Measure a folder of label maps; the one function for both programs."""
    _, labels = validation_folders(dataset, out)
    scores = evaluate(predictions, labels, dataset.labels)
    assert not scores.failures, scores.failures
    return {
        "mean": scores.mean_dice,
        "labels": {summary.name: summary.dice for summary in scores.summary},
        "cases": {f"{row.case} {row.name}": row.metrics.dice for row in scores.rows},
    }


def run_nnunet(data: Path, python: str, out: Path, seconds: float) -> dict[str, Any]:
    """Prepare, train and validate nnU-Net; preprocessing and validation are not counted in its time."""
    prepare_nnunet(data, python, out)
    trained = out / "nnunet_train.json"
    if not trained.is_file():
        nnunet(python, out, "train", seconds, WORKERS, trained)
    result: dict[str, Any] = json.loads(trained.read_text())
    result["dice"] = dice(
        Path(result["predictions"]), load_manifest("hippocampus", data / "hippocampus"), out / "validation"
    )
    return result


def medseg(*words: object) -> tuple[float, float]:
    """Run the program; return (wall seconds, CPU seconds)."""
    line = [str(word) for word in words]
    print("$ medseg", " ".join(line), flush=True)
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-m", "medseg", *line], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, cpu


def run_medseg(data: Path, out: Path, minutes: float) -> dict[str, Any]:
    """Train with nothing set but the time, segment the validation images, measure."""
    root, run, masks, trained = (
        data / "hippocampus",
        out / "medseg",
        out / "medseg_masks",
        out / "medseg_train.json",
    )
    if not trained.is_file():
        budget = f"{minutes:g}min"
        times = medseg("train", "--manifest", "hippocampus", "--data-root", root, "--budget", budget, "-o", run)
        trained.write_text(json.dumps(dict(zip(("wall_s", "cpu_s"), times, strict=True)) | steps_of(run)))
    dataset = load_manifest("hippocampus", root)
    images, _ = validation_folders(dataset, out / "validation")
    shutil.rmtree(masks, ignore_errors=True)
    validation_s, _ = medseg("segment", images, "--model", run, "-o", masks)
    scores = dice(masks, dataset, out / "validation")
    return {**json.loads(trained.read_text()), "validation_s": validation_s, "dice": scores}


def steps_of(run: Path) -> dict[str, Any]:
    """Return what a run of medseg took: steps, batch, patch."""
    training = load_config(str(run / CONFIG_FILE)).training
    records = [json.loads(line) for line in (run / METRICS_FILE).open()]
    return {
        "steps": max(record["step"] for record in records),
        "batch": training.batch_size,
        "patch": list(training.patch_size),
    }


def half(path: Path, work: Any, *arguments: object) -> dict[str, Any]:
    """Run one program's half, or read what it left."""
    if not path.is_file():
        path.write_text(json.dumps(work(*arguments), indent=1))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def row(program: str, found: dict[str, Any], minutes: float) -> tuple[object, ...]:
    """Return a program's line of the table."""
    samples = found["steps"] * found["batch"]
    return (
        program,
        f"**{found['dice']['mean']:.4f}**",
        *(f"{value:.4f}" for value in found["dice"]["labels"].values()),
        found["steps"],
        f"{found['batch']} x {'x'.join(map(str, found['patch']))}",
        f"{samples / (60 * minutes):.2f}",
        f"{found['wall_s'] / 60:.1f}",
        f"{found['cpu_s'] / 60:.1f}",
        f"{found['validation_s']:.0f}",
    )


def time_of(theirs: dict[str, Any], minutes: float) -> str:
    """Say how nnU-Net's time was counted; a run of before `nnunet_side.Budget` had prices counts all CPU time."""
    until = (
        f"It trains until {minutes:g} minutes of wall clock are over and {minutes * THREADS:g} CPU minutes are used"
    )
    if "step_cpu_s" not in theirs:
        return f"{until}, whichever is later. Where its wall time is longer, other programs used the machine too."
    return f"""{until}, whichever is later, where each step counts as the cheapest tenth of its
steps, {theirs["step_cpu_s"]:.1f} CPU seconds: other programs on the machine, which lengthen its wall and CPU times in
the table, take no steps from it."""


def write_page(ours: dict[str, Any], theirs: dict[str, Any], minutes: float) -> None:
    """Write the results page."""
    labels = list(ours["dice"]["labels"])
    lead = ours["dice"]["mean"] - theirs["dice"]["mean"]
    pairs = [(value, theirs["dice"]["cases"][name]) for name, value in ours["dice"]["cases"].items()]
    ahead = sum(mine > other for mine, other in pairs)
    header = (
        "program", "mean Dice", *labels, "steps", "batch x patch", "samples/s", "wall min", "CPU min",
        "segmenting, s",
    )  # fmt: skip
    notes = f"""
medseg leads by {lead:+.4f} in mean Dice (asked: ahead, and at least {ASKED_DICE}), and in {ahead} of {len(pairs)} pairs
of case and label. Both are measured by `medseg.evaluate` on the label maps of fold 0's validation cases, on the native
grids; the other four folds train.

Commands: `medseg train --manifest hippocampus --data-root DATA/hippocampus --budget {minutes:g}min -o RUN`, then
`medseg segment VALIDATION_IMAGES --model RUN`; for nnU-Net `nnunet_side.py prepare`, then `nnunet_side.py train`.

medseg's time is the wall clock of the whole command: start, measuring, planning, preprocessing, training, its own
validations. nnU-Net's is its training steps with reading and augmentation, and nothing else: planning,
preprocessing, pseudo-Dice and checkpoints are not counted. {time_of(theirs, minutes)} Its plan, network, loss,
augmentation, SGD with poly learning rate and mirrored inference are its own; the learning rate follows the time instead
of 1000 epochs, which take days on two cores. samples/s: patches trained on by second of the {minutes:g} minutes;
medseg's share them with all else that the command does."""
    title = f"medseg against nnU-Net v2: hippocampus, fold 0, {minutes:g} minutes of two CPU cores each"
    rows = [row("medseg", ours, minutes), row("nnU-Net v2", theirs, minutes)]
    write("train_vs_nnunet", title, header, rows, notes, arguments=" DATA NNUNET_PYTHON OUT")


def main(data: Path, python: str, out: Path, minutes: float, only: str | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    halves = {}
    if only != "medseg":
        halves["nnunet"] = half(out / "nnunet.json", run_nnunet, data, python, out, minutes * 60)
    if only != "nnunet":
        halves["medseg"] = half(out / "medseg.json", run_medseg, data, out, minutes)
    if only is None:
        write_page(halves["medseg"], halves["nnunet"], minutes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("python", metavar="NNUNET_PYTHON")
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/train_vs_nnunet"))
    parser.add_argument("minutes", type=float, nargs="?", default=30)
    parser.add_argument("--only", choices=("nnunet", "medseg"))
    main(**vars(parser.parse_args()))
