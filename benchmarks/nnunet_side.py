"""nnU-Net v2's half of the training benchmarks; it runs in nnU-Net's environment (see requirements.txt).

    python benchmarks/nnunet_side.py prepare CASES.json           # raw folder, plan, preprocessed cases, split
    python benchmarks/nnunet_side.py train SECONDS WORKERS OUT    # train for a time, then validate
    python benchmarks/nnunet_side.py rate STEPS BATCH OUT.json    # samples per second, loop and bare step

nnU-Net reads its three folders from the environment when it is imported: ``nnUNet_raw``, ``nnUNet_preprocessed`` and
``nnUNet_results``. Everything that trains is nnU-Net's own: plan, network, loss, augmentation, optimiser, inference
with mirroring. Only the schedule is other: its thousand epochs take days on a CPU, so the polynomial learning rate
follows the share of the given time that is used, and training stops when all is used.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiments,
    preprocess,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

RAW, PREPROCESSED, AUGMENTERS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_n_proc_DA"
ID, NAME = 4, "Dataset004_Hippocampus"
CONFIGURATION = "3d_fullres"
THREADS = 2
SAVE_EVERY = 5  # steps
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children, those at work included."""
    total = sum(os.times()[:4])
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15]) / TICKS
    return total


class Budget:
    """A time: all of it is used when both the wall clock and the cost of the steps say so.

    On a machine of its own, the wall clock decides. Where other programs run too, a step waits for them, and costs
    more CPU time besides, since they take turns with it in the caches. Hence each step is charged what the cheapest
    tenth of the steps cost: nobody's load takes much away from the training.

    Attributes:
        costs: CPU seconds of each step.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started, self.last = time.perf_counter(), cpu_seconds()
        self.wall_before = self.cpu = 0.0
        self.costs: list[float] = []

    def wall(self) -> float:
        """Return the wall-clock seconds, those of before a stop included."""
        return self.wall_before + time.perf_counter() - self.started

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"wall": self.wall(), "cpu": self.cpu, "costs": self.costs}))

    def load(self, path: Path) -> None:
        saved = json.loads(path.read_text())
        self.wall_before, self.cpu, self.costs = saved["wall"], saved["cpu"], saved["costs"]

    def charge(self) -> None:
        """Count a step that was just taken."""
        before, self.last = self.last, cpu_seconds()
        self.costs.append(self.last - before)
        self.cpu += self.costs[-1]

    def price(self) -> float:
        """Return the CPU seconds that a step is charged."""
        cheap = sorted(self.costs)[: max(1, len(self.costs) // 10)]
        return statistics.mean(cheap) if cheap else 0.0

    def share(self) -> float:
        """Return how much of the budget is used, 0 to 1."""
        return min(self.wall() / self.seconds, len(self.costs) * self.price() / (self.seconds * THREADS), 1.0)


class TimedTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a schedule that follows a time instead of a number of epochs."""

    def train_for(self, seconds: float) -> dict[str, object]:
        """Train until the time is used, or go on with a training that was cut off.

        There are no epochs, hence no time goes to pseudo-Dice.

        Args:
            seconds: The wall-clock time; the CPU time, as `Budget` counts it, is ``THREADS`` times as much.

        Returns:
            What was done in the time.
        """
        self.on_train_start()
        budget = Budget(seconds)
        times, weights = Path(self.output_folder) / "times.json", Path(self.output_folder) / "checkpoint_latest.pth"
        if times.is_file() and weights.is_file():
            self.load_checkpoint(str(weights))
            self.current_epoch = 0
            budget.load(times)
        self.network.train()
        while (share := budget.share()) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - share) ** 0.9
            loss = float(self.train_step(next(self.dataloader_train))["loss"])
            budget.charge()
            step = len(budget.costs)
            print(f"step {step}, share {share:.3f}, loss {loss:.4f}, CPU {budget.costs[-1]:.1f} s", flush=True)
            if step % SAVE_EVERY == 0:
                self.save_checkpoint(str(weights))
                budget.save(times)
        wall, steps = budget.wall(), len(budget.costs)
        self.on_train_end()
        return {
            "steps": steps,
            "batch": self.batch_size,
            "patch": list(self.configuration_manager.patch_size),
            "wall_s": wall,
            "cpu_s": budget.cpu,
            "step_cpu_s": budget.price(),
        }


def new_trainer(batch: int | None = None) -> TimedTrainer:
    """Build the trainer of the prepared data set, with a batch size in place of the plan's."""
    folder = Path(os.environ[PREPROCESSED]) / NAME
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    if batch is not None:
        plans["configurations"][CONFIGURATION]["batch_size"] = batch
    dataset = json.loads((folder / "dataset.json").read_text())
    plans["continue_training"] = False
    return TimedTrainer(plans, CONFIGURATION, 0, dataset, torch.device("cpu"))


def prepare(cases: Path) -> None:
    """Write the raw folder and the split, then let nnU-Net plan and preprocess."""
    described = json.loads(cases.read_text())
    raw = Path(os.environ[RAW]) / NAME
    for kind in ("imagesTr", "labelsTr"):
        (raw / kind).mkdir(parents=True, exist_ok=True)
    for case in described["cases"]:
        for link, target in (
            (raw / "imagesTr" / f"{case['id']}_0000.nii.gz", case["image"]),
            (raw / "labelsTr" / f"{case['id']}.nii.gz", case["label"]),
        ):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **described["labels"]},
        "numTraining": len(described["cases"]),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    extract_fingerprints([ID], num_processes=THREADS, show_progress_bar=False)
    plan_experiments([ID])
    preprocess([ID], configurations=(CONFIGURATION,), num_processes=(THREADS,), show_progress_bar=False)
    split = Path(os.environ[PREPROCESSED]) / NAME / "splits_final.json"
    split.write_text(json.dumps([{"train": described["train"], "val": described["validation"]}]))


def loop_rate(trainer: TimedTrainer, steps: int) -> float:
    """Return the samples per second of nnU-Net's loop, reading and augmentation included."""
    trainer.network.train()
    batches = trainer.dataloader_train
    for _ in range(2):
        trainer.train_step(next(batches))
    started = time.perf_counter()
    for _ in range(steps):
        trainer.train_step(next(batches))
    return steps * trainer.batch_size / (time.perf_counter() - started)


def step_rate(trainer: TimedTrainer, steps: int) -> float:
    """Return the samples per second of the bare step: one batch, over and over."""
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    started = time.perf_counter()
    for _ in range(steps):
        trainer.train_step(batch)
    return steps * trainer.batch_size / (time.perf_counter() - started)


def rates(steps: int, batch: int) -> dict[str, float]:
    """Measure the loop with zero and one augmentation process, and the bare step when no process augments."""
    found = {}
    for workers in (0, 1):
        os.environ[AUGMENTERS] = str(workers)
        trainer = new_trainer(batch)
        trainer.disable_checkpointing = True
        trainer.on_train_start()
        found[f"loop_{workers}"] = loop_rate(trainer, steps)
        found["parameters"] = sum(parameter.numel() for parameter in trainer.network.parameters())
        if workers == 0:
            found["step"] = step_rate(trainer, steps)
        trainer.on_train_end()
    return found


def train(seconds: float, workers: int, out: Path) -> dict[str, object]:
    """Train with a number of augmentation processes, then validate as nnU-Net does."""
    os.environ[AUGMENTERS] = str(workers)
    trainer = new_trainer()
    trained = out.with_suffix(".trained.json")
    if trained.is_file():  # cut off while validating
        trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    else:
        trained.write_text(json.dumps({**trainer.train_for(seconds), "workers": workers}))
    started = time.perf_counter()
    trainer.perform_actual_validation()
    validation = {
        "validation_s": time.perf_counter() - started,
        "predictions": str(Path(trainer.output_folder) / "validation"),
    }
    return {**json.loads(trained.read_text()), **validation}


def main(command: str, *arguments: str) -> None:
    torch.set_num_threads(THREADS)
    if command == "prepare":
        prepare(Path(arguments[0]))
        return
    out = Path(arguments[-1])
    if command == "train":
        result = train(float(arguments[0]), int(arguments[1]), out)
    else:
        result = rates(int(arguments[0]), int(arguments[1]))
    out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
