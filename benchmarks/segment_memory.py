"""Time and peak memory of segmenting one 512x512x300 CT with a network of one layer, against MONAI's recipe."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from record import run_apart, write

from medseg.nifti import write_nifti
from medseg.volume import Volume

SHAPE, SPACING = (512, 512, 300), (0.8, 0.8, 2.0)

OURS = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {root!r})
import medseg
from tests.builders import tiny_package
package = tiny_package("CT")
data = package.model_dump()
data["preprocessing"] = {{
    "spacing_mm": {spacing},
    "intensity": ({{"kind": "ct", "clip_hu": (-1000, 1000), "mean_hu": 0, "std_hu": 300}},),
}}
data["inference"] = {{"tile_size": (96, 96, 96)}}
package = type(package).model_validate(data)
torch.manual_seed(0)
network = torch.nn.Conv3d(1, 3, 3, padding=1)
segmenter = medseg.Segmenter(package, [network], torch.device("cpu"))
labels = segmenter.segment(medseg.read_nifti(Path(sys.argv[1])))
medseg.write_nifti(Path(sys.argv[2]), labels)
"""

MONAI = """
import sys, torch
from monai.inferers import sliding_window_inference
from monai.transforms import (AsDiscrete, Compose, LoadImage, Orientation, SaveImage, ScaleIntensityRange, Spacing)
torch.manual_seed(0)
network = torch.nn.Conv3d(1, 3, 3, padding=1)
steps = Compose([LoadImage(ensure_channel_first=True), Orientation("RAS", labels=None), Spacing({spacing}),
                 ScaleIntensityRange(-1000, 1000, -3.33, 3.33, clip=True)])
with torch.inference_mode():
    image = steps(sys.argv[1])
    logits = sliding_window_inference(image[None], (96, 96, 96), 1, network, overlap=0.5, mode="gaussian")[0]
    native = torch.nn.functional.interpolate(logits[None].as_tensor(), {shape}, mode="trilinear")[0]
    labels = native.argmax(0, keepdim=True).to(torch.uint8)
    SaveImage(output_dir=sys.argv[2], print_log=False)(labels)
"""

rows = []
with tempfile.TemporaryDirectory() as folder:
    scan = Path(folder) / "scan.nii.gz"
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE[::-1], dtype=np.int16).T
    write_nifti(scan, Volume(array, np.diag([*SPACING, 1.0])))
    root = str(Path(__file__).resolve().parents[1])
    paths = {"medseg": (OURS, Path(folder) / "ours.nii.gz"), "MONAI": (MONAI, Path(folder) / "monai")}
    for name, (code, out) in paths.items():
        seconds, peak_gb = run_apart(code.format(root=root, spacing=SPACING, shape=SHAPE), scan, out)
        rows.append((name, f"{seconds:.0f}", f"{peak_gb:.2f}"))
write(
    "segment_memory",
    "Segmenting one 512x512x300 CT with a network of one layer",
    ("recipe", "s", "peak GB"),
    rows,
    "Whole processes, one run each, imports, reading and writing included; three classes, tiles of 96^3, overlap 0.5, at\n"
    "the native spacing. MONAI: LoadImage, Orientation, Spacing, sliding_window_inference, interpolate, argmax, SaveImage.\n"
    "No claim is made on the time, most of which is the convolution's. Asked for: under 3 GB.",
)
