"""A training step on random numbers in a process of its own: what memory and time it really takes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import torch
from torch import nn

from medseg.config import ExperimentConfig
from medseg.device import autocast, memory_format, pick_device, place
from medseg.errors import TrainingError, is_out_of_memory
from medseg.labels import LabelSet
from medseg.regions import LabelScheme, Region
from medseg.training.schedule import make_optimizer

if sys.platform != "win32":
    import resource


@dataclass(frozen=True)
class StepCost:
    """What a step takes.

    Attributes:
        peak_bytes: Of the process, or on the GPU.
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
    seconds = 0.0
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        for _ in range(training.accumulate):
            _backward(network, loss, x, target, config)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return StepCost(_peak_bytes(device), seconds)


def _backward(
    network: nn.Module, loss: nn.Module, x: torch.Tensor, target: torch.Tensor, config: ExperimentConfig
) -> None:
    with autocast(config.training.precision, x.device):
        logits = network(
            x.contiguous(
                memory_format=memory_format(config.spatial_dims, channels_last=config.training.channels_last)
            )
        )
    loss(logits, target, x[:, : x.shape[1]]).backward()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _peak_resident_bytes()


def _peak_resident_bytes() -> int:
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
