"""Every network on real input at equal CPU time: the hippocampus set, fold 0, in 3-D and in 2-D.

    python benchmarks/networks.py DATA [MINUTES] [OUT]

DATA holds ``hippocampus/`` (Medical Segmentation Decathlon, Task 4). Each 3-D network has MINUTES of CPU time for
its training steps, each 2-D one half of that, whatever its preprocessing and validation take. It runs on one thread, and the clock of its budget is
the CPU time of its process, so that what else the machine does takes nothing from it. Runs that are in OUT already
are not run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from record import write

NETWORKS = (
    "fcn32s", "fcn16s", "fcn8s", "unet", "attention_unet", "resunet", "deeplabv1", "deeplabv2", "deeplabv3",
    "deeplabv3plus",
)  # fmt: skip
CONFIG = {"unet": "hippocampus_unet3d_cpu"}  # the others: hippocampus_NETWORK_3d_cpu
AT_ONCE = 2
PLANE = {"patch_size": [32, 48], "batch_size": 32}
VGG = {"backbone": "vgg16", "norm": "batch", "width_multiplier": 0.25}


def jobs() -> list[tuple[str, int]]:
    """(network, dimensions)."""
    return [(name, dims) for dims in (3, 2) for name in NETWORKS]


class Clock:
    """Seconds of CPU time, standing still in what is `stopped`."""

    def __init__(self) -> None:
        self.left_out = time.process_time()

    def __call__(self) -> float:
        return time.process_time() - self.left_out

    def stopped(self, work: Callable) -> Callable:
        def timed(*arguments: object, **named: object) -> object:
            before = time.process_time()
            try:
                return work(*arguments, **named)
            finally:
                self.left_out += time.process_time() - before

        return timed


def one(name: str, dims: int, minutes: float, data: Path, out: Path) -> None:
    """Train one network and leave its figures in OUT."""
    import torch

    import medseg.train
    import medseg.training.run
    import medseg.training.schedule
    from medseg.config import ExperimentConfig, load_config
    from medseg.data.manifest import load_manifest
    from medseg.training.checkpoint import CHECKPOINT_FILE, read_state
    from medseg.training.schedule import Pace

    torch.set_num_threads(1)
    clock = Clock()
    medseg.training.schedule.time = SimpleNamespace(monotonic=clock)
    medseg.training.run.Pace = partial(Pace, _start=0.0)
    medseg.training.run.build_store = clock.stopped(medseg.training.run.build_store)
    medseg.training.run._measure = clock.stopped(medseg.training.run._measure)
    medseg.train._wants_validation = lambda _: False  # but for the last one, which no time is kept for
    Pace.reserve_s = property(lambda _: 0.0, lambda *_: None)
    medseg.train.validate = clock.stopped(medseg.train.validate)
    medseg.train.validate_best = clock.stopped(medseg.train.validate_best)

    class Quiet:
        def preparing(self, *_: object) -> None: ...
        def stepped(self, *_: object) -> None: ...
        def validated(self, *_: object) -> None: ...

    tree = load_config(CONFIG.get(name, f"hippocampus_{name}_3d_cpu")).model_dump()
    tree["inference"] |= {"overlap": 0.25, "mirror_axes": ()}
    if dims == 2:
        tree["training"] |= PLANE
        tree["network"] |= VGG if name.startswith("fcn") else {}
    config = ExperimentConfig.model_validate(tree)
    dataset = load_manifest("hippocampus", data / "hippocampus")
    run = out / label(name, dims)
    result = medseg.train.train(
        config, dataset, run, Quiet(), device="cpu", budget_s=60 * minutes_of(minutes, dims)
    )
    state = read_state(run / CHECKPOINT_FILE)
    network = config.network_spec(1, 3).build()
    with (run / "metrics.jsonl").open() as file:
        lines = [json.loads(line) for line in file]
    stepping = [line for line in lines if "loss" in line]
    figures = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": state.step,
        "patches": state.step * config.training.batch_size,
        "seconds_per_step": (stepping[1]["elapsed_s"] - stepping[0]["elapsed_s"]) / config.training.steps_per_epoch
        if len(stepping) > 1
        else (state.spent_s - state.setup_s) / state.step,
        "dice": result.dice,
        "cpu_minutes": time.process_time() / 60,
    }
    (out / f"{label(name, dims)}.json").write_text(json.dumps(figures))


def minutes_of(minutes: float, dims: int) -> float:
    return minutes if dims == 3 else minutes / 2


def label(name: str, dims: int) -> str:
    return f"{name}_{dims}d"


def main(data: Path, minutes: float, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)

    def run(job: tuple[str, int]) -> None:
        if not (out / f"{label(*job)}.json").is_file():
            words = [sys.executable, __file__, "--one", *map(str, job), str(minutes), str(data), str(out)]
            subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        print(label(*job), (out / f"{label(*job)}.json").read_text(), flush=True)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, jobs()))
    report(minutes, out)


def report(minutes: float, out: Path) -> None:
    """Write the table of the runs that are in OUT."""
    rows = []
    for name, dims in jobs():
        file = out / f"{label(name, dims)}.json"
        if not file.is_file():
            continue
        found = json.loads(file.read_text())
        anterior, posterior = found["dice"].values()
        rows.append(
            (
                f"`{name}`",
                f"{dims}-D",
                f"{found['parameters'] / 1e6:.2f}",
                found["steps"],
                f"{found['seconds_per_step']:.2f}",
                f"{anterior:.3f}",
                f"{posterior:.3f}",
                f"**{(anterior + posterior) / 2:.3f}**",
            )
        )
    notes = f"""
Each 3-D network had {minutes:g} minutes of CPU time on one thread for its training steps, each 2-D one half of
that; the Dice is the mean over the whole validation volumes of fold 0 on their own grids. Tiles overlap by a quarter
and are not mirrored. A step is 4 patches of 32x48x32 voxels in 3-D and 32 of 32x48 in 2-D. The 3-D networks are those of `configs/hippocampus_*3d_cpu.yaml`; the
2-D ones have the same fields, but for the FCNs, whose backbone is VGG16 at a quarter of its width with batch
normalisation. These are small networks for a small organ at 1 mm: a network that sees one place for 8 voxels or more
cannot draw its border well, whatever it is worth on images of 512x512 pixels."""
    header = (
        "network", "", "million parameters", "steps", "s per step", "anterior", "posterior", "mean Dice",
    )  # fmt: skip
    write(
        "networks",
        f"Every network on the hippocampus at {minutes:g} CPU minutes",
        header,
        rows,
        notes,
        arguments=f" DATA {minutes:g}",
    )


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        name, dims, minutes, data, out = sys.argv[2:]
        one(name, int(dims), float(minutes), Path(data), Path(out))
    else:
        main(
            Path(sys.argv[1]),
            float(sys.argv[2]) if len(sys.argv) > 2 else 10.0,
            Path(sys.argv[3] if len(sys.argv) > 3 else "runs/benchmark_networks"),
        )
