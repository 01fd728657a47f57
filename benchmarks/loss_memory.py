"""Peak memory and time of cross entropy + Dice, forward and backward, against MONAI's DiceCELoss."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path

import torch
from record import run_apart, write

BATCH, CLASSES, SIZE = 2, 14, 128
ROUNDS = 3

# Sizes are of the process's resident memory: what stood before the loss is subtracted from the peak meanwhile.
CHILD = """
import json, re, sys, time
from pathlib import Path
import torch

library, layout, batch, classes, size, out = sys.argv[1:]
batch, classes, size = int(batch), int(classes), int(size)
if library == "medseg":
    from medseg.losses import build_loss
    loss = build_loss("ce_dice", background=True, batch=False)  # as MONAI's defaults
else:
    from monai.losses import DiceCELoss
    monai_loss = DiceCELoss(softmax=True, to_onehot_y=True)
    loss = lambda logits, target: monai_loss(logits, target[:, None])

def resident_mb(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6

def batch_of(size):
    torch.manual_seed(0)
    logits = torch.randn(batch, classes, size, size, size)
    if layout == "channels_last":
        logits = logits.contiguous(memory_format=torch.channels_last_3d)
    return logits.requires_grad_(), torch.randint(0, classes, (batch, size, size, size))

def step():
    logits.grad = None
    value = loss(logits, target)
    value.backward()
    return value.item()

logits, target = batch_of(16)
step()  # threads and libraries are there
logits, target = batch_of(size)
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = resident_mb("VmRSS")
value = step()
peak = resident_mb("VmHWM") - before
times, work = [], []
for _ in range(7):
    start, start_work = time.perf_counter(), time.process_time()
    step()
    times.append(time.perf_counter() - start)
    work.append(time.process_time() - start_work)
result = {"value": value, "peak_mb": peak, "seconds": times, "cpu_seconds": work}
Path(out).write_text(json.dumps(result))
"""


def measure(library: str, layout: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        run_apart(CHILD, library, layout, BATCH, CLASSES, SIZE, out)
        return json.loads(out.read_text())


def measure_in_turns(layout: str) -> list[dict[str, float]]:
    """Medseg's figures and MONAI's, turn about, so that a busy minute of the machine falls on both."""
    turns = [[measure(library, layout) for library in ("medseg", "MONAI")] for _ in range(ROUNDS)]
    return [
        {
            "value": results[0]["value"],
            "peak_mb": max(result["peak_mb"] for result in results),
            **{
                clock: statistics.median(second for result in results for second in result[clock])
                for clock in ("seconds", "cpu_seconds")
            },
        }
        for results in zip(*turns, strict=True)
    ]


rows = []
for layout in ("contiguous", "channels_last"):
    ours, theirs = measure_in_turns(layout)
    if abs(ours["value"] - theirs["value"]) > 1e-4:
        raise SystemExit(f"the losses differ: {ours['value']} and {theirs['value']}")
    for name, result in (("medseg", ours), ("MONAI", theirs)):
        times = (f"{result[clock]:.2f}" for clock in ("seconds", "cpu_seconds"))
        rows.append((layout, name, f"{result['peak_mb']:.0f}", *times))
    ratios = (ours[key] / theirs[key] for key in ("peak_mb", "seconds", "cpu_seconds"))
    rows.append((layout, "medseg / MONAI", *(f"{ratio:.2f}" for ratio in ratios)))

logits_mb = BATCH * CLASSES * SIZE**3 * 4 / 1e6
write(
    "loss_memory",
    f"Cross entropy + Dice, forward and backward, of {CLASSES} classes, {SIZE}^3 voxels, batch {BATCH}, float32",
    ("logits", "loss", "peak extra MB", "s", "CPU s"),
    rows,
    f"medseg: `ce_dice` with `background: true, batch: false`; MONAI: `DiceCELoss(softmax=True, to_onehot_y=True)`.\n"
    f"The same definition, and the same value to 1e-4. On the CPU, turn about in {ROUNDS} processes each; the highest peak\n"
    f"of one step beyond what was resident before (logits and labels), {logits_mb:.0f} MB of it the gradient, which both\n"
    f"must return; the median time of {7 * ROUNDS} steps, on the clock and on all cores, with {torch.get_num_threads()} thread(s) while other work\n"
    f"kept the machine at a load of {os.getloadavg()[0]:.1f}. Asked for: at most 2/3 of the memory, and no slower.",
)
