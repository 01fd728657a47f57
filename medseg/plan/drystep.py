"""A training step on random numbers in a process of its own: what memory and time it really takes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medseg.config import ExperimentConfig
from medseg.device import autocast, memory_format, pick_device, place
from medseg.errors import TrainingError, is_out_of_memory
from medseg.labels import LabelSet
from medseg.networks.slices import centre_slices
from medseg.regions import LabelScheme, Region
from medseg.training.schedule import make_optimizer

if sys.platform != "win32":
    import resource


@dataclass(frozen=True)
class StepCost:
    """What a step takes.

    Attributes:
        peak_bytes: Beside what the process takes without it; on a GPU those of torch's tensors.
        seconds: Of one step.
    """

    peak_bytes: int
    seconds: float


NO_FIT = StepCost(2**62, 0.0)


def dry_step(config: ExperimentConfig, *, channels: int, scheme: LabelScheme, device: str) -> StepCost | None:
    """Measure one training step of a configuration.

    Args:
        config: Complete.
        channels: Image channels.
        scheme: What is learnt of the labels.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        What it takes, `NO_FIT` where memory ran out; None where the system does not tell.

    Raises:
        TrainingError: The step fails for another reason.
    """
    if sys.platform == "win32":
        return None
    facts = {
        "config": config.model_dump(mode="json"),
        "channels": channels,
        "labels": scheme.labels.model_dump(mode="json"),
        "regions": [region.model_dump(mode="json") for region in scheme.regions],
        "device": device,
    }
    child = subprocess.run(
        [sys.executable, "-m", "medseg.plan.drystep"],
        input=json.dumps(facts),
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode == -signal.SIGKILL:  # the kernel's answer to too much memory
        return NO_FIT
    if child.returncode:
        raise TrainingError(
            "the dry step",
            expected="a training step on random numbers",
            found=(child.stderr.strip().splitlines() or ["no message"])[-1],
            remedy="correct the configuration; medseg train --no-dry-run leaves the dry step out",
        )
    return StepCost(**json.loads(child.stdout.splitlines()[-1]))


def _measure(config: ExperimentConfig, channels: int, scheme: LabelScheme, device: torch.device) -> StepCost:
    before = 0 if device.type == "cuda" else _resident_bytes("VmRSS")
    torch.manual_seed(0)
    dims, training = config.spatial_dims, config.training
    spec = config.network_spec(channels, scheme.outputs, spacing_mm=config.spacing_mm)
    network = place(spec.build(), device, dims, channels_last=training.channels_last).train()
    loss = config.build_loss(config.spacing_mm, scheme=scheme)
    chosen = training.optimizer
    optimizer = make_optimizer(network, chosen.name, 0.0, weight_decay=0.0, momentum=chosen.momentum)
    at_once = training.batch_size // training.accumulate
    x = torch.randn(at_once, spec.in_channels * spec.slices, *training.patch_size, device=device)
    target = torch.randint(0, len(scheme.labels) + 1, (at_once, *training.patch_size), device=device)
    seen = centre_slices(x, spec.slices)[:, :channels]
    seconds = 0.0
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        for _ in range(training.accumulate):
            _backward(network, loss, x, target, config, seen)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return StepCost(_peak_bytes(device) - before, seconds)


def _backward(
    network: nn.Module,
    loss: nn.Module,
    x: torch.Tensor,
    target: torch.Tensor,
    config: ExperimentConfig,
    seen: torch.Tensor,
) -> None:
    order = memory_format(config.spatial_dims, channels_last=config.training.channels_last)
    with autocast(config.training.precision, x.device):
        logits = network(x.contiguous(memory_format=order))
    loss(logits, target, seen).backward()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _resident_bytes("VmHWM")


def _resident_bytes(what: str) -> int:
    """Return what Linux calls VmRSS, the memory of this process now, or VmHWM, its highest; elsewhere the highest.

    The highest of `resource` may be that of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _main() -> None:
    facts = json.load(sys.stdin)
    config = ExperimentConfig.model_validate(facts["config"])
    regions = tuple(Region.model_validate(region) for region in facts["regions"])
    scheme = LabelScheme(LabelSet.model_validate(facts["labels"]), regions)
    try:
        cost = _measure(config, facts["channels"], scheme, pick_device(facts["device"]))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        cost = NO_FIT
    sys.stdout.write(json.dumps(cost.__dict__) + "\n")


if __name__ == "__main__":
    _main()
