"""A whole 3-D U-Net from preprocessed CT to native labels: medseg, nnU-Net v2 and MONAI with the same weights.

    python benchmarks/inference_net.py NNUNET_PYTHON [--quick]

NNUNET_PYTHON is the interpreter of an environment with ``benchmarks/requirements.txt``. The network is nnU-Net's plain
U-Net of six stages, 32 to 320 channels, with random weights that nnU-Net draws; its labels mean nothing, but they must
be the same. The image is the example CT at 3 mm, normalised; labels are wanted at 1.5 mm. Folder of the data:
MEDSEG_DATA, or ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from inference_engine import MEDSEG, MONAI, MONAI_EXACT, NNUNET, ROOT, TAIL, THREADS, by
from record import run_apart, write

CLASSES = 25
TILE = 64
DATA = Path(os.environ.get("MEDSEG_DATA", ROOT.parent / "shared" / "data"))

HEAD = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
torch.set_num_threads({threads})
folder, native, tile, out = Path(sys.argv[1]), {native}, ({tile},) * 3, Path(sys.argv[2])
image, classes = torch.from_numpy(np.load(folder / "image.npy")), {classes}
"""
THEIR_NETWORK = """
from dynamic_network_architectures.architectures.unet import PlainConvUNet
torch.manual_seed(0)
network = PlainConvUNet(
    1, 6, (32, 64, 128, 256, 320, 320), torch.nn.Conv3d, 3, (1, 2, 2, 2, 2, 2), 2, classes, 2, True,
    torch.nn.InstanceNorm3d, {{"eps": 1e-5, "affine": True}}, nonlin=torch.nn.LeakyReLU,
    nonlin_kwargs={{"inplace": True}},
).eval().requires_grad_(False)
"""
DRAW = "torch.save(network.state_dict(), folder / 'weights.pt'); sys.exit()\n"
OUR_NETWORK = """
sys.path.insert(0, {root!r})
from medseg.model import NetworkSpec
from medseg.nnunet.names import weights_of
fields = {{
    "channels": (32, 64, 128, 256, 320, 320), "norm": "instance", "act": "leaky_relu",
    "downsampling": "strided_conv", "bias": True, "deep_supervision": True,
}}
spec = NetworkSpec(name="unet", spatial_dims=3, in_channels=1, num_classes=classes, fields=fields)
network = spec.build().eval().requires_grad_(False)
state = torch.load(folder / "weights.pt", weights_only=True)
network.load_state_dict(weights_of(folder, state, spec))
"""
READY = """
from medseg.device import memory_format, place
from medseg.inference.fused import fuse
ready = place(fuse(network), torch.device("cpu"), 3)
network = lambda x: ready(x.contiguous(memory_format=memory_format(3)))
"""


def prepare(folder: Path, quick: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Write the image on the network's grid; return its shape and the native one."""
    values = nib.load(DATA / "ct" / "example_ct.nii.gz").get_fdata(dtype=np.float32)
    if quick:
        values = values[20:100, 10:90, 16:96]
    values = (values.clip(-1000, 1000) - values.mean()) / values.std()
    np.save(folder / "image.npy", np.ascontiguousarray(values[None], dtype=np.float32))
    return values.shape, tuple(2 * n for n in values.shape)


def run(folder: Path, name: str, body: str, native: tuple[int, ...], python: str) -> dict[str, object]:
    """Run one recipe in a process of its own; return its seconds, peak and labels."""
    out = folder / f"{name}.npy"
    code = (HEAD + body + TAIL).format(threads=THREADS, native=native, tile=TILE, root=str(ROOT), classes=CLASSES)
    _, peak = run_apart(code, folder, out, python=python)
    if not out.exists():
        return {}
    found = {"s": json.loads(out.with_suffix(".json").read_text()), "GB": peak, "labels": np.load(out)}
    print(name, f"{found['s']:.1f} s, {peak:.2f} GB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nnunet_python")
    parser.add_argument("--quick", action="store_true", help="a part of the image, to see that it runs")
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(THREADS), "nnUNet_def_n_proc": str(THREADS)}
    os.environ |= dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), tempfile.gettempdir())
    recipes = {
        "medseg": (OUR_NETWORK + READY + MEDSEG, sys.executable),
        "nnU-Net v2": (THEIR_NETWORK + NNUNET, asked.nnunet_python),
        "MONAI: softmax, interpolate, argmax": (OUR_NETWORK + MONAI + MONAI_EXACT, sys.executable),
    }
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        shape, native = prepare(folder, asked.quick)
        run(folder, "weights", THEIR_NETWORK + DRAW, native, asked.nnunet_python)
        ours: dict[str, object] = {}
        for name, (body, python) in recipes.items():
            environment = {"THP_MEM_ALLOC_ENABLE": "1"} if name == "medseg" else {}  # as medseg's command sets it
            os.environ |= environment
            found = run(folder, name.split(":")[0].replace(" ", "_"), body, native, python)
            for key in environment:
                del os.environ[key]
            ours = ours or found
            same = float((found["labels"] == ours["labels"]).mean())
            figures = (f"{found['s']:.1f}", f"{found['GB']:.2f}", f"{found['s'] / ours['s']:.2f}")
            rows.append((name, *figures, f"{1 - same:.1e}", len(np.unique(found["labels"]))))
    leave = (lambda *page, **_: print(*page, sep="\n")) if asked.quick else write
    leave(
        "inference_net",
        "A 3-D U-Net from preprocessed CT to native labels",
        ("recipe", "s", "peak GB", "s / medseg", "share of labels that differ", "labels that occur"),
        rows,
        f"{by(shape)} at 3 mm -> {by(native)} at 1.5 mm, {CLASSES} classes, tiles of {TILE}^3 at overlap 0.5, no "
        f"mirroring, {THREADS} threads, one run each; seconds without imports and weights, peak of the whole process. "
        "torch asks for large pages in medseg alone, as its command does. nnU-Net sums logits in 16 bits; MONAI "
        "interpolates probabilities and places its tiles otherwise: so labels differ where two classes are nearly as "
        "likely, which with random weights they often are.",
        arguments=" NNUNET_PYTHON",
    )


if __name__ == "__main__":
    main()
