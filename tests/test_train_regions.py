"""Training on nested regions, with voxels that nobody judged and cases that lack a channel, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg import load_model
from medseg.config import ExperimentConfig
from medseg.data.folds import patient_folds
from medseg.data.manifest import Dataset, Manifest, load_manifest, save_manifest
from medseg.errors import UsageError
from medseg.model import load_package
from medseg.nifti import read_nifti, write_nifti
from medseg.train import train
from medseg.volume import Volume
from tests.builders import Silent, tiny_config

IGNORED, SIZE = 9, 16
AFFINE = np.diag([1.5, 1.5, 2.0, 1.0])


def case_arrays(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """A ball with a core: channel 0 shows the ball, channel 1 the core; the judged part is all but one slab."""
    rng = np.random.default_rng(seed)
    index = np.indices((SIZE, SIZE, SIZE))
    centre = rng.integers(6, 10, 3)[:, None, None, None]
    distance = ((index - centre) ** 2).sum(0)
    labels = np.where(distance < 10, 4, np.where(distance < 30, 1, 0)).astype(np.uint8)
    images = [80.0 * (labels > 0) + 60 * (labels == 4), 30.0 * (labels > 0) + 120 * (labels == 4)]
    images = [(image + rng.normal(0, 10, labels.shape)).astype(np.float32) for image in images]
    reference = labels.copy()
    reference[:, :, :4] = IGNORED
    return images, reference


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("nested")
    names = [f"case_{number}" for number in range(6)]
    entries = []
    for number, name in enumerate(names):
        images, reference = case_arrays(number)
        files = []
        for channel, array in enumerate(images):
            missing = number % 3 == channel + 1  # in a third of the cases each
            files.append(None if missing else f"{name}_{channel}.nii.gz")
            if not missing:
                write_nifti(folder / f"{name}_{channel}.nii.gz", Volume(np.asfortranarray(array), AFFINE))
        write_nifti(folder / f"{name}.nii.gz", Volume(np.asfortranarray(reference), AFFINE))
        entries.append({"id": name, "images": files, "label": f"{name}.nii.gz"})
    manifest = Manifest.model_validate(
        {
            "name": "nested",
            "root": ".",
            "channels": [{"name": "T1", "modality": "MR"}, {"name": "T2", "modality": "MR"}],
            "labels": [{"index": 1, "name": "rim"}, {"index": 4, "name": "core"}],
            "regions": [{"name": "whole", "labels": [1, 4]}, {"name": "core", "labels": [4]}],
            "ignore_value": IGNORED,
            "cases": entries,
            "splits": {"seed": 0, "folds": dict(enumerate(patient_folds(names, 3, 0)))},
        }
    )
    save_manifest(folder / "nested.yaml", manifest)
    return load_manifest(folder / "nested.yaml")


def config(**training) -> ExperimentConfig:
    facts = tiny_config(epochs=12, steps_per_epoch=8, batch_size=4, optimizer={"learning_rate": 1e-2}).model_dump()
    facts["preprocessing"] |= {"channel_flags": True}
    facts["training"] |= training
    return ExperimentConfig.model_validate(facts)


def dice_by_hand(predicted: np.ndarray, reference: np.ndarray, values: tuple[int, ...]) -> float:
    judged = reference != IGNORED
    p, r = np.isin(predicted, values) & judged, np.isin(reference, values) & judged
    return 2 * (p & r).sum() / (p.sum() + r.sum())


def test_regions_are_learnt_around_what_is_missing_and_what_nobody_judged(dataset, tmp_path: Path):
    result = train(config(channel_dropout=0.2), dataset, tmp_path / "run", Silent())
    package = load_package(result.model)
    assert [(region.name, region.labels, region.paint) for region in package.regions] == [
        ("whole", (1, 4), 1), ("core", (4,), 4),
    ]  # fmt: skip
    assert (package.network.in_channels, package.network.num_classes, package.ignore_value) == (4, 2, IGNORED)
    model, (_, validation) = load_model(result.model), dataset.fold(0)
    scores: dict[str, list[float]] = {"whole": [], "core": []}
    for case in validation:
        images = [None if path is None else read_nifti(path) for path in case.images]
        predicted = model.segment(images).array
        assert set(np.unique(predicted)) <= {0, 1, 4}
        for name, values in (("whole", (1, 4)), ("core", (4,))):
            scores[name].append(dice_by_hand(predicted, read_nifti(case.label).array, values))
    assert result.dice == pytest.approx({name: np.mean(values) for name, values in scores.items()}, abs=1e-6)
    assert min(result.dice.values()) > 0.8
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("dice/whole" in line and "dice/core" in line for line in lines)
    whole, _ = case_arrays(7)
    both = [Volume(np.asfortranarray(array), AFFINE) for array in whole]
    for given in (both, [both[0], None], [None, both[1]]):
        drawn = model.segment(given).array
        assert 200 < (drawn > 0).sum() < 900  # the ball has 485 voxels or so, whichever channel shows it


def test_the_network_must_be_told_of_missing_channels(dataset, tmp_path: Path):
    with pytest.raises(UsageError, match=r"preprocessing.channel_flags: expected true"):
        train(tiny_config(), dataset, tmp_path / "run", Silent())
    with pytest.raises(ValueError, match="channel_dropout needs preprocessing.channel_flags"):
        tiny_config(channel_dropout=0.2)
