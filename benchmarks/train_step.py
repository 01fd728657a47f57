"""Training rate on the CPU, medseg against nnU-Net v2: the same network, patch and batch, two threads each.

    python benchmarks/train_step.py DATA NNUNET_PYTHON [OUT] [--batch N] [--repetitions N]
    python benchmarks/train_step.py DATA none OUT --device cuda --batch 64     # medseg's loop against its bare step

DATA holds ``hippocampus/`` (Medical Segmentation Decathlon, Task 4). NNUNET_PYTHON is the interpreter of an
environment with ``benchmarks/requirements.txt``. The network and the patch are those of nnU-Net's plan for the set.
The programs take turns, each in a process of its own. What a GPU gives is left in ``OUT/cuda.json``, and the page has it
where that file lies in OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import write
from train_vs_nnunet import THREADS, nnunet, prepare_nnunet

from medseg.training.runlog import METRICS_FILE
from medseg.yamlfile import dump_yaml, read_mapping

ASKED, ASKED_CUDA = 2.0, 0.9
WARM_UP = 5
STEPS = {"cpu": 20, "cuda": 200}
CHANNELS, PATCH = [32, 64, 128, 256], [40, 56, 40]  # of nnU-Net's plan for the set
CUDA_FILE = "cuda.json"
MANIFESTS = Path(__file__).parent.parent / "data_manifests"


def check_plan(out: Path) -> None:
    """Stop where nnU-Net plans another network or patch than the one that medseg is given."""
    file = out / "nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans.json"
    plan = json.loads(file.read_text())["configurations"]["3d_fullres"]
    assert plan["architecture"]["arch_kwargs"]["features_per_stage"] == CHANNELS
    assert plan["patch_size"] == PATCH


def write_manifest(out: Path) -> Path:
    """Write a manifest of which one case validates: validation is not what is measured."""
    manifest = read_mapping(MANIFESTS / "hippocampus.yaml")
    first, *rest = [case for fold in manifest["splits"]["folds"].values() for case in fold]
    manifest["splits"]["folds"] = {0: [first], 1: rest}
    shutil.copy(MANIFESTS / manifest["cases_csv"], out)
    path = out / "one_validates.yaml"
    dump_yaml(path, manifest)
    return path


def write_config(out: Path, device: str, batch: int) -> Path:
    """Write a training YAML with the network, the patch and the optimiser of nnU-Net's plan."""
    config = {
        "name": "train_step",
        "data": {"manifest": str(write_manifest(out)), "fold": 0, "store": str(out / "store")},
        "preprocessing": {"spacing_mm": [1.0, 1.0, 1.0], "intensity": [{"kind": "zscore"}]},
        "network": {
            "name": "unet",
            "channels": CHANNELS,
            "norm": "instance",
            "act": "leaky_relu",
            "downsampling": "strided_conv",
            "bias": True,
            "deep_supervision": True,
        },
        "loss": {"name": "ce_dice"},
        "training": {
            "patch_size": PATCH,
            "batch_size": batch,
            "epochs": 2,
            "steps_per_epoch": STEPS[device],
            "validate_every": 1000,
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.01,
                "weight_decay": 3e-5,
                "schedule": "poly",
                "warmup": 0,
            },
            "augmentation": {"flip_axes": [0, 1, 2]},
        },
    }
    path = out / "train_step.yaml"
    dump_yaml(path, config)
    return path


def threads() -> dict[str, str]:
    """Return the environment of medseg's processes; nnU-Net's has the same threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive"}


def medseg_loop(config: Path, data: Path, run: Path, device: str) -> float:
    """Train with ``medseg train`` and return the samples per second that its metrics tell of the second epoch."""
    words = ["train", config, "--data-root", data / "hippocampus", "--device", device, "-o", run]
    line = [sys.executable, "-m", "medseg", *map(str, words)]
    subprocess.run(line, check=True, env=threads(), stdout=subprocess.DEVNULL)
    records = [json.loads(line) for line in (run / METRICS_FILE).open()]
    return [record["patches_per_s"] for record in records if "patches_per_s" in record][-1]


def medseg_step(config: str, data: str, run: str, device: str, result: str) -> None:
    """Measure the bare step on one batch; runs in a process of its own."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from medseg.config import load_config
    from medseg.data.manifest import load_manifest
    from medseg.training.run import Nobody
    from medseg.training.setup import set_up
    from medseg.training.step import take_step

    experiment = load_config(config)
    dataset = load_manifest(experiment.data.manifest, Path(data) / "hippocampus")
    training = set_up(experiment, dataset, Path(run), Nobody(), device=device, budget_s=None, resume=False)
    image, label = next(iter(training.data.loader.batches(0)))

    def steps(number: int) -> float:
        started = time.perf_counter()
        for _ in range(number):
            take_step(training, image, label, 0.0)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    steps(WARM_UP)
    rate = STEPS[device] * len(image) / steps(STEPS[device])
    with FlopCounterMode(display=False) as counted:
        take_step(training, image, label, 0.0)
    bound = matrix_rate(device) / counted.get_total_flops() * len(image)
    parameters = sum(parameter.numel() for parameter in training.network.parameters())
    Path(result).write_text(json.dumps({"step": rate, "bound": bound, "parameters": parameters}))


def matrix_rate(device: str) -> float:
    """Return the floating-point operations a second of a product of two large float32 matrices, the best of ten."""
    import torch

    size, times = 2048, []
    a = torch.randn(size, size, device=device)
    for _ in range(10):
        started = time.perf_counter()
        float((a @ a)[0, 0])
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def measure_medseg(config: Path, data: Path, out: Path, device: str, batch: int) -> dict[str, float]:
    for folder in ("loop", "step"):
        shutil.rmtree(out / folder, ignore_errors=True)
    loop = medseg_loop(config, data, out / "loop", device)
    result = out / "medseg_step.json"
    words = [__file__, "--bare", *map(str, (config, data, out / "step", device, result))]
    subprocess.run([sys.executable, *words], check=True, env=threads())
    return {"loop": loop, **json.loads(result.read_text())}


def measure_nnunet(python: str, out: Path, batch: int) -> dict[str, float]:
    """Measure nnU-Net; of its loops with no and with one augmentation process the faster counts."""
    result = out / "nnunet_rates.json"
    nnunet(python, out, "rate", STEPS["cpu"], batch, result)
    found = json.loads(result.read_text())
    return {"loop": max(found["loop_0"], found["loop_1"]), **found}


def middle(found: list[dict[str, float]], key: str) -> float:
    return statistics.median(one[key] for one in found)


def cuda_sentence(out: Path) -> str:
    """Say what was measured on a GPU, where it was."""
    if not (out / CUDA_FILE).is_file():
        return ""
    found = json.loads((out / CUDA_FILE).read_text())
    share = found["loop"] / found["step"]
    return f"""

On one {found["gpu"]}, {found["batch"]} patches a step: medseg's loop {found["loop"]:.0f} samples/s, its bare step
{found["step"]:.0f}, which is {100 * share:.0f} % (asked: {100 * ASKED_CUDA:.0f} %)."""


def write_page(batch: int, ours: list[dict[str, float]], theirs: list[dict[str, float]], gpu: str) -> None:
    """Write the results page: medians, and the spread of the repetitions."""
    rows = []
    for name, found in (("medseg", ours), ("nnU-Net v2", theirs)):
        loop, step = middle(found, "loop"), middle(found, "step")
        spread = f"{min(one['loop'] for one in found):.2f} to {max(one['loop'] for one in found):.2f}"
        rows.append((name, f"**{loop:.2f}**", spread, f"{step:.2f}", f"{100 * loop / step:.0f} %"))
    notes = f"""
medseg's loop is {middle(ours, "loop") / middle(theirs, "loop"):.2f} times as fast (asked: {ASKED:g}), its bare step
{middle(ours, "step") / middle(theirs, "step"):.2f} times. A step that were nothing but the operations of its convolutions,
at the rate of a large matrix product on these threads, would give {middle(ours, "bound"):.2f} samples/s, which is
{middle(ours, "bound") / middle(theirs, "step"):.2f} times nnU-Net's: in float32, and with convolutions computed directly,
there is no more to be had here.

Both train the U-Net of nnU-Net's plan for the hippocampus set (channels {CHANNELS}, instance normalisation, leaky ReLU,
deep supervision; {int(ours[0]["parameters"]):,} parameters in both) on {batch} patches of {"x".join(map(str, PATCH))}
voxels a step, in float32, with two threads. The loop is `medseg train`, timed by its own metrics.jsonl, and nnU-Net's
trainer: reading and augmentation included, validation and checkpoints left out. The bare step takes one batch over and over. Medians of
{len(ours)} repetitions of {STEPS["cpu"]} steps, the programs taking turns. nnU-Net trains with no or with one process
that augments: {middle(theirs, "loop_0"):.2f} and {middle(theirs, "loop_1"):.2f} samples/s; the faster counts each
time.{gpu}"""
    header = ("program", "loop, samples/s", "of the repetitions", "bare step, samples/s", "loop/step")
    write(
        "train_step", "Training rate on two CPU threads", header, rows, notes, arguments=" DATA NNUNET_PYTHON OUT"
    )


def measure_cuda(data: Path, out: Path, batch: int, repetitions: int) -> None:
    """Measure medseg alone on a GPU and leave its medians in OUT."""
    import torch

    config = write_config(out, "cuda", batch)
    found = [measure_medseg(config, data, out, "cuda", batch) for _ in range(repetitions)]
    medians = {key: middle(found, key) for key in ("loop", "step")}
    described = medians | {"batch": batch, "gpu": torch.cuda.get_device_name(), "repetitions": found}
    (out / CUDA_FILE).write_text(json.dumps(described, indent=1))
    print(described)


def measure_cpu(data: Path, python: str, out: Path, batch: int, repetitions: int) -> None:
    """Measure both programs in turns and write the page."""
    prepare_nnunet(data, python, out)
    check_plan(out)
    config = write_config(out, "cpu", batch)
    ours, theirs = [], []
    for _ in range(repetitions):
        theirs.append(measure_nnunet(python, out, batch))
        ours.append(measure_medseg(config, data, out, "cpu", batch))
        print(ours[-1], theirs[-1], flush=True)
        assert ours[-1]["parameters"] == theirs[-1]["parameters"], "the same network"
    write_page(batch, ours, theirs, cuda_sentence(out))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        medseg_step(*sys.argv[2:])
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("python", metavar="NNUNET_PYTHON")
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/train_step"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.device == "cuda":
        measure_cuda(chosen.data, chosen.out, chosen.batch, chosen.repetitions)
    else:
        measure_cpu(chosen.data, chosen.python, chosen.out, chosen.batch, chosen.repetitions)
