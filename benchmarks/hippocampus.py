"""The main job on real input: 20 minutes of training on the hippocampus set, then two real DICOM series.

    python benchmarks/hippocampus.py DATA CT_MODEL [OUT]

DATA holds ``hippocampus/`` (Medical Segmentation Decathlon, Task 4), ``mr_study/13_HCropVolume`` and
``ct/example_ct_dicom``. CT_MODEL is the model that ``medseg demo`` trained.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from record import write

from medseg.data.manifest import load_manifest
from medseg.evaluate import evaluate
from medseg.reading import read_volumes
from medseg.training.runlog import METRICS_FILE

BUDGET = "20min"
CONFIG = "hippocampus_unet3d_cpu"


def medseg(*words: object) -> None:
    line = [str(word) for word in words]
    print("$ medseg", " ".join(line), flush=True)
    subprocess.run([sys.executable, "-m", "medseg", *line], check=True)


def worst_millimetres(label_map: Path, series: Path) -> tuple[str, float]:
    """Compare a label map's voxel positions with each slice's own tags (PS3.3 C.7.6.2.1.1), at every corner.

    The pixels of each slice must be the values that were segmented at these positions, too.
    """
    image, (volume,) = nib.load(label_map), read_volumes(series)
    headers = [pydicom.dcmread(file) for file in sorted(series.iterdir())]
    worst, slices = 0.0, set()
    for header in headers:
        slope, intercept = header.get("RescaleSlope", 1) or 1, header.get("RescaleIntercept", 0) or 0
        pixels = header.pixel_array * float(slope) + float(intercept)
        row, column = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
        down, right = (float(value) for value in header.PixelSpacing)
        origin = np.array(header.ImagePositionPatient, dtype=float)
        for i in (0, header.Columns - 1):
            for j in (0, header.Rows - 1):
                lps = origin + row * right * i + column * down * j
                index = np.linalg.inv(image.affine) @ [-lps[0], -lps[1], lps[2], 1]
                nearest = np.rint(index[:3])
                worst = max(worst, float(np.abs(image.affine[:3, :3] @ (index[:3] - nearest)).max()))
                slices.add(int(nearest[2]))
                assert np.isin(nearest[:2], (0, image.shape[0] - 1, image.shape[1] - 1)).all()
        plane = np.rint(np.linalg.inv(image.affine) @ [-origin[0], -origin[1], origin[2], 1])[2]
        assert np.array_equal(volume.array[:, :, int(plane)], pixels.T), "the slice's own pixels"
    assert slices == set(range(image.shape[2])), "every slice has a plane, every plane a slice"
    return "x".join(map(str, image.shape)), worst


def main(data: Path, ct_model: Path, out: Path) -> None:
    run = out / "run"
    if not (run / "model").is_dir():  # a run that is there already is measured again, not trained again
        medseg("train", CONFIG, "--data-root", data / "hippocampus", "--budget", BUDGET, "-o", run)
    minutes = max(json.loads(line).get("elapsed_s", 0) for line in (run / METRICS_FILE).open()) / 60

    dataset = load_manifest("hippocampus", data / "hippocampus")
    _, validation = dataset.fold(0)
    for kind in ("images", "labels"):
        shutil.rmtree(out / kind, ignore_errors=True)
        (out / kind).mkdir(parents=True)
    for case in validation:
        (out / "images" / f"{case.id}.nii.gz").symlink_to(case.images[0])
        (out / "labels" / f"{case.id}.nii.gz").symlink_to(case.label)
    medseg("segment", out / "images", "--model", run, "-o", out / "masks")
    scores = evaluate(out / "masks", out / "labels", dataset.labels)

    geometry = []
    for name, model in (("mr_study/13_HCropVolume", run), ("ct/example_ct_dicom", ct_model)):
        target = out / f"{Path(name).name}.nii.gz"
        medseg("segment", data / name, "--model", model, "-o", target)
        shape, worst = worst_millimetres(target, data / name)
        geometry.append(f"| `{name}` | {shape} | {worst:.1e} |")

    rows = [
        (s.name, s.cases, f"{s.dice:.4f}", f"{s.surface_dice:.4f}", f"{s.hd95_mm:.2f}", f"{s.assd_mm:.3f}")
        for s in scores.summary
    ]
    rows.append(("**mean**", len(scores.cases), f"**{scores.mean_dice:.4f}**", "", "", ""))
    commands = f"""
Commands:

```
medseg train {CONFIG} --data-root DATA/hippocampus --budget {BUDGET} -o RUN      # the last step after {minutes:.1f} min
medseg segment VALIDATION_IMAGES --model RUN -o MASKS
medseg evaluate MASKS VALIDATION_LABELS --labels RUN/model
medseg segment DATA/mr_study/13_HCropVolume --model RUN -o 13_HCropVolume.nii.gz
medseg segment DATA/ct/example_ct_dicom --model medseg_demo/run -o example_ct_dicom.nii.gz
```

Asked for: a mean of at least 0.85; validation is fold 0 of `data_manifests/hippocampus.yaml`, the other four folds
train. The label maps of two real DICOM series against every slice's own position and orientation, at all four corners
(asked for: 1e-3 mm):

| series | label map | largest distance, mm |
|---|---|---|
{chr(10).join(geometry)}

The CT model was trained on synthetic torsos: its mask of a real CT shows that the path works, not that the organs are
right."""
    header = ("label", "cases", "Dice", "surface Dice at 1 mm", "HD95 mm", "ASSD mm")
    write(
        "hippocampus",
        "Hippocampus in 20 minutes on two CPU cores, and two real DICOM series",
        header,
        rows,
        commands,
        arguments=" DATA medseg_demo/run OUT",
    )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        Path(sys.argv[3] if len(sys.argv) > 3 else "runs/benchmark_hippocampus"),
    )
