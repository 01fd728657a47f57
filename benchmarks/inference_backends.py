"""One tile through nnU-Net's plain 3-D U-Net on the CPU: torch as it is, medseg's `fuse`, and what compiles networks.

    python benchmarks/inference_backends.py [--tile 96] [--rounds 5] [--threads 2]

It runs in an environment of its own beside medseg's:

    python -m venv BACKENDS
    BACKENDS/bin/pip install -e . -c constraints.txt
    BACKENDS/bin/pip install openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2

A backend that is not installed is left out. Backends take turns, round after round, so that other work on the machine
slows all of them alike; the quickest round of each counts.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from record import write
from torch import Tensor, nn

from medseg.device import memory_format, place
from medseg.inference.fused import fuse
from medseg.networks import build_network

CHANNELS = (32, 64, 128, 256, 320, 320)
CLASSES = 25
Run = Callable[[Tensor], Tensor]
CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    made = build_network(
        "unet",
        spatial_dims=3,
        in_channels=1,
        num_classes=CLASSES,
        channels=CHANNELS,
        norm="instance",
        act="leaky_relu",
        downsampling="strided_conv",
        bias=True,
    )
    return made.eval().requires_grad_(False)


def ordered(made: nn.Module) -> Run:
    placed, order = place(made, CPU, 3), memory_format(3)
    return lambda x: placed(x.contiguous(memory_format=order))


def eager_plain(x: Tensor) -> Run:
    return network()


def eager(x: Tensor) -> Run:
    return ordered(network())


def fused(x: Tensor) -> Run:
    return ordered(fuse(network()))


def frozen(x: Tensor) -> Run:
    """TorchScript, frozen; torch's own instance normalisation, since a Python function cannot be traced."""
    traced = torch.jit.trace(plain_norms(network()), x, check_trace=False)
    return torch.jit.optimize_for_inference(torch.jit.freeze(traced))


def compiled(x: Tensor) -> Run:
    return ordered(torch.compile(network()))


def openvino(x: Tensor) -> Run:
    import openvino as ov

    model = ov.convert_model(plain_norms(network()), example_input=x, input=[tuple(x.shape)])
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.compile_model(model, "CPU", threads | {"PERFORMANCE_HINT": "LATENCY"})
    return lambda x: torch.from_numpy(request(x.numpy())[0])


def onnx_runtime(x: Tensor) -> Run:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(plain_norms(network()), (x,), str(path), dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def plain_norms(made: nn.Module) -> nn.Module:
    """Replace medseg's instance normalisation by torch's, which every compiler knows."""
    for module in list(made.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "InstanceNorm":
                norm = nn.InstanceNorm3d(len(child.weight), eps=child.eps, affine=True)
                norm.load_state_dict(copy.deepcopy(child.state_dict()))
                setattr(module, name, norm.eval())
    return made.eval().requires_grad_(False)


BACKENDS: dict[str, Callable[[Tensor], Run]] = {
    "torch, plain order": eager_plain,
    "torch, channels last": eager,
    "medseg (fuse, channels last)": fused,
    "torch.jit frozen, optimised": frozen,
    "torch.compile": compiled,
    "OpenVINO": openvino,
    "ONNX Runtime": onnx_runtime,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tile", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="Parts of the names of backends, separated by commas.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x = torch.randn(1, 1, *[arguments.tile] * 3)
    runs: dict[str, Run] = {}
    notes = []
    made_s, differences, times = {}, {}, {}
    with torch.inference_mode(False), torch.no_grad():
        expected = network()(x)
        for name, make in BACKENDS.items():
            if not any(part in name for part in ("medseg", *arguments.only.split(","))):
                continue
            start = time.perf_counter()
            try:
                runs[name] = make(x)
                found = runs[name](x)
            except Exception as error:  # noqa: BLE001 - a backend that fails is a result
                runs.pop(name, None)
                notes.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
                continue
            made_s[name] = time.perf_counter() - start
            print(f"{name}: {made_s[name]:.1f} s to make ready", flush=True)
            differences[name] = float((found - expected).abs().max())
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run(x)
                times.setdefault(name, []).append(time.perf_counter() - start)
                print(f"{name}: {times[name][-1]:.2f} s", flush=True)
    best = {name: min(values) for name, values in times.items()}
    ours = best["medseg (fuse, channels last)"]
    rows = [
        (name, f"{seconds:.2f}", f"{seconds / ours:.2f}", f"{made_s[name]:.1f}", f"{differences[name]:.0e}")
        for name, seconds in best.items()
    ]
    write(
        "inference_backends",
        f"One {arguments.tile}^3 tile through a 3-D U-Net on the CPU ({arguments.threads} threads)",
        ("backend", "seconds", "times medseg's", "seconds to make ready", "largest difference of a logit"),
        rows,
        f"Channels {', '.join(map(str, CHANNELS))}, {CLASSES} classes, instance normalisation, leaky ReLU. The "
        "difference is to torch in plain order. Logits of torch in channels-last order come back in that order, "
        "where adding them up class by class takes longer; that is not in the figures. A backend is kept where it "
        "is at least 1.3 times as fast as medseg.\n" + "".join(f"\n- {note}" for note in notes),
        arguments=f" --tile {arguments.tile} --rounds {arguments.rounds} --threads {arguments.threads}",
    )


if __name__ == "__main__":
    main()
