"""Run folders as training leaves them: networks that learnt nothing, scores and label maps as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from medseg.data.manifest import Dataset
from medseg.evaluation import Evaluation, Row
from medseg.metrics import LabelMetrics
from medseg.nifti import read_nifti, write_nifti
from medseg.training.folder import data_digest
from medseg.volume import Volume
from medseg.yamlfile import dump_yaml
from tests.builders import LABELS, tiny_config, tiny_package

Draw = Callable[[str, np.ndarray], np.ndarray]
Scores = Mapping[tuple[str, str], tuple[float, float]]


def the_reference(_case: str, reference: np.ndarray) -> np.ndarray:
    """A perfect label map."""
    return reference


def write_run(folder: Path, dataset: Dataset, scores: Scores, *, seed: int, draw: Draw = the_reference, **package):
    """Write a cross-validation.

    Args:
        folder: Of the run.
        dataset: Its data; one fold each is written.
        scores: {(case, label): (Dice, surface Dice)}.
        seed: Of the weights.
        draw: Makes a label map of a reference.
        package: As for `tiny_package`; ``update`` changes fields of the package.
    """
    for number in dataset.folds:
        write_fold(
            folder / f"fold_{number}", dataset, number, scores, seed=seed * 100 + number, draw=draw, **package
        )


def write_fold(folder, dataset, number, scores, *, seed, draw=the_reference, update=None, **package):
    training, validation = dataset.fold(number)
    torch.manual_seed(seed)
    model = tiny_package(**package)
    facts = {
        "folds": (number,),
        "data_sha256": data_digest(training, dataset.scheme),
        "training_cases": len(training),
    }
    model = model.model_copy(update={"provenance": model.provenance.model_copy(update=facts), **(update or {})})
    model.save(folder / "model", {f"fold_{number}": model.network.build().state_dict()})
    config = tiny_config().model_dump(mode="json")
    config["data"] |= {"manifest": str(dataset.root / "tiny.yaml"), "fold": number}
    dump_yaml(folder / "config.yaml", config)
    rows = []
    for case in sorted(validation, key=lambda case: case.id):
        label = read_nifti(case.label)
        drawn = np.asfortranarray(draw(case.id, label.array.copy()))
        write_nifti(folder / "validation" / f"{case.id}.nii.gz", Volume(drawn.astype(np.uint8), label.affine))
        rows += [_row(case.id, label, scores[case.id, label.name]) for label in LABELS]
    Evaluation(tuple(rows), (), 1.0).write_csv(folder / "validation" / "scores.csv")


def _row(case, label, figures):
    dice, surface_dice = figures
    return Row(case, label.index, label.name, LabelMetrics(dice, surface_dice, 1.0, 1.0, 1.0, 1.0, 0.0))
