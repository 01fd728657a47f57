"""Writing an RTSTRUCT: medseg against rt-utils.

    python benchmarks/rtstruct.py RT_PYTHON

RT_PYTHON is the interpreter of an environment with ``benchmarks/requirements-rtstruct.txt``.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from record import run_apart, write
from scipy import ndimage

from medseg.dicom.write import write_series
from medseg.volume import Volume

SHAPE, SPACING_MM, LABELS, RUNS = (512, 512, 300), (0.8, 0.8, 2.0), 20, 3

OURS = """
import json, sys, time
from pathlib import Path
import numpy as np
from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.origin import read_origin
from medseg.dicom.output_options import RtstructOptions
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.rtstruct import make_structure_set
from medseg.dicom.scan import scan_pile
from medseg.dicom.stack import stack_series
from medseg.labels import LabelMap, LabelSet
from medseg.maker import Maker
from medseg.volume import Volume
folder, count, holes = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
start = time.process_time()
(series,) = scan_pile(folder / "series").series
with quiet_pydicom():
    origin = read_origin(stack_series(series, Policies()))
array = np.load(folder / "labels.npy")
labels = LabelMap(Volume(array, origin.grid.affine), LabelSet.from_names({k: f"organ {k}" for k in range(1, count + 1)}))
ready = time.process_time()
made = make_structure_set(origin, labels, Identity(origin, Maker("m", "0" * 64), "rt"), RtstructOptions(holes=holes))
save_object(made.dataset, folder / f"medseg_{holes}.dcm")
json.dump([ready - start, time.process_time() - ready], open(folder / "times.json", "w"))
"""
PEER = """
import json, sys, time, warnings
from pathlib import Path
import numpy as np
from rt_utils import RTStructBuilder
warnings.simplefilter("ignore")
folder, count, pin = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "pin hole"
start = time.process_time()
made = RTStructBuilder.create_new(str(folder / "series"))
array = np.load(folder / "labels.npy").transpose(1, 0, 2)  # rows, columns, slices
ready = time.process_time()
for value in range(1, count + 1):
    made.add_roi(array == value, name=f"organ {value}", use_pin_hole=pin)
made.save(str(folder / "peer.dcm"))
json.dump([ready - start, time.process_time() - ready], open(folder / "times.json", "w"))
"""


def organs() -> np.ndarray:
    """Twenty lumpy shells and ellipsoids, some of which overlap others: (i, j, k)."""
    rng = np.random.default_rng(0)
    array = np.zeros(SHAPE, dtype=np.uint8, order="F")
    noise = ndimage.zoom(rng.standard_normal((43, 43, 38)), (12, 12, 8), order=1)[:512, :512, :300]
    for value in range(1, LABELS + 1):
        middle, radii = rng.uniform(0.2, 0.8, 3) * SHAPE, rng.uniform((30, 30, 60), (90, 90, 140))
        low = np.maximum(middle - 1.5 * radii, 0).astype(int)
        box = tuple(
            slice(a, b) for a, b in zip(low, np.minimum(middle + 1.5 * radii, SHAPE).astype(int), strict=True)
        )
        axes = [
            ((np.arange(part.start, part.stop) - m) / r) ** 2 for part, m, r in zip(box, middle, radii, strict=True)
        ]
        far = np.sqrt(axes[0][:, None, None] + axes[1][:, None] + axes[2]) + 0.15 * noise[box]
        inside = far < 1 if value % 4 else (far < 1) & (far > 0.7)
        array[box][inside] = value
    return array


def measure(script: str, folder: Path, python: str, way: str) -> tuple[list[float], float]:
    _, peak = run_apart(script, folder, LABELS, way, python=python)
    return json.loads((folder / "times.json").read_text()), peak


def main(peer_python: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        array = organs()
        np.save(folder / "labels.npy", array)
        image = np.asfortranarray(array.astype(np.int16) * 10)
        affine = np.diag([*SPACING_MM, 1.0])
        write_series(Volume(image, affine, modality="CT"), folder / "series", identity="benchmark")
        ways = {
            "medseg, holes by XOR": (OURS, sys.executable, "xor", "medseg_xor.dcm"),
            "medseg, keyholes": (OURS, sys.executable, "keyhole", "medseg_keyhole.dcm"),
            "rt-utils": (PEER, peer_python, "", "peer.dcm"),
        }
        results: dict[str, list[tuple[list[float], float]]] = {way: [] for way in ways}
        for _ in range(RUNS):
            for way, (script, python, option, _) in ways.items():
                results[way].append(measure(script, folder, python, option))
        sizes = {way: (folder / ways[way][3]).stat().st_size / 1e6 for way in ways}
    median = {way: statistics.median(times[1] for times, _ in runs) for way, runs in results.items()}
    rows = [
        (
            way,
            f"{statistics.median(times[0] for times, _ in runs):.1f}",
            f"{median[way]:.1f}",
            f"{median['rt-utils'] / median[way]:.1f}",
            f"{statistics.median(peak for _, peak in runs):.2f}",
            f"{sizes[way]:.0f}",
        )
        for way, runs in results.items()
    ]
    write(
        "rtstruct",
        f"An RTSTRUCT of {LABELS} labels on {SHAPE[2]} slices of {SHAPE[0]} x {SHAPE[1]}",
        ("writer", "series read, CPU s", "made and written, CPU s", "rt-utils / it", "peak GB", "file MB"),
        rows,
        f"Medians of {RUNS} runs, one after the other in turn, each a process of its own with one thread; processor time, as "
        "the machine had other work. Both have the same label map "
        f"of lumpy shells and ellipsoids ({(array > 0).mean():.0%} of the voxels); a mask for each label is made within "
        "the time of rt-utils, which takes nothing else. rt-utils reads the pixels of the series, too; it draws "
        "through the centres of the outermost voxels, medseg half a voxel further out.",
        arguments=" RT_PYTHON",
    )


if __name__ == "__main__":
    main(sys.argv[1])
