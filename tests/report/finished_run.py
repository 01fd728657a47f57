"""A run folder as training leaves it, made without training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.data.manifest import Dataset
from medseg.environment import write_environment
from medseg.evaluate import evaluate
from medseg.labels import LabelMap
from medseg.nifti import read_nifti, write_nifti
from medseg.yamlfile import dump_yaml
from tests.builders import LABELS, save_tiny_model, tiny_config

PLAN = {
    "reasons": [{"what": "training.patch_size", "value": [32, 48, 32], "why": "half of what 8 GB hold <here>"}],
    "fingerprint": {"cases": 4, "median_spacing_mm": [1.5, 1.5, 2.0]},
}
TIMINGS = {
    "measuring_s": 1.0,
    "storing_s": 2.0,
    "training_s": 60.0,
    "validation_s": 20.0,
    "final_validation_s": 17.0,
}


def finished_run(folder: Path, dataset: Dataset, fold: int = 0, **config: object) -> Path:
    """Write a run: every case shifted by its number of voxels is the prediction of it."""
    folder.mkdir(parents=True)
    tree = tiny_config().model_dump(mode="json") | config
    tree["data"] = {"manifest": "/home/alice/secret/tiny.yaml", "root": "/home/alice/secret", "fold": fold}
    dump_yaml(folder / "config.yaml", tree)
    _, validation = dataset.fold(fold)
    references = folder / "references"
    for number, case in enumerate(validation):
        reference = read_nifti(case.label)
        shifted = np.asfortranarray(np.roll(reference.array, number + 1, axis=0))
        write_nifti(references / f"{case.id}.nii.gz", LabelMap(reference, LABELS))
        moved = LabelMap(replace(reference, array=shifted), LABELS)
        write_nifti(folder / "validation" / f"{case.id}.nii.gz", moved)
    evaluate(folder / "validation", references, LABELS).write_csv(folder / "validation" / "scores.csv")
    write_metrics(folder)
    save_tiny_model(folder / "model")
    write_environment(folder)
    (folder / "plan.json").write_text(json.dumps(PLAN))
    (folder / "timings.json").write_text(json.dumps(TIMINGS))
    return folder


def write_metrics(folder: Path) -> None:
    """Write six epochs, one without a loss, and two validations."""
    records: list[dict[str, float | None]] = [
        {
            "step": 4 * epoch,
            "loss": None if epoch == 3 else 1.0 / epoch,
            "learning_rate": 1e-3 / epoch,
            "elapsed_s": 10.0 * epoch,
            "waiting_share": 0.025,
            "skipped_steps": 1 if epoch > 2 else 0,
        }
        for epoch in range(1, 7)
    ]
    records += [{"step": step, "dice": 0.5, "dice/ball": 0.4, "dice/box": 0.6} for step in (4, 24)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
