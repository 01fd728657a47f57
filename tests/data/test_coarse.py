"""The first stage's label map on its way to the network, against masks made with numpy."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.data.augment import Augmentation, Draw, augment
from medseg.data.coarse import one_hot, read_coarse, with_masks
from medseg.data.loader import PatchLoader
from medseg.data.manifest import Case
from medseg.data.preprocessing import Preprocessing
from medseg.data.sampler import PatchSampler
from medseg.data.store import build_store
from medseg.data.transforms import build_transforms, prepare
from medseg.errors import GridError
from medseg.labels import LabelMap
from medseg.networks.slices import stack_slices
from medseg.nifti import read_nifti, write_nifti
from medseg.volume import Volume
from tests.builders import LABELS, tiny_case

VALUES = (1, 3)
CPU = torch.device("cpu")


def preprocessing(**fields) -> Preprocessing:
    facts = {"spacing_mm": (1.5, 1.5, 2.0), "intensity": ({"kind": "zscore"},), "coarse_labels": VALUES}
    return Preprocessing.model_validate(facts | fields)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A case whose first stage drew the truth."""
    image, label = tiny_case(0)
    paths = [tmp_path / f"{name}.nii.gz" for name in ("image", "label", "coarse")]
    for path, content in zip(paths, (image, label, label), strict=True):
        write_nifti(path, content)
    return Case("case", "patient", (paths[0],), paths[1], coarse=paths[2])


def masks_of(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([labels == value for value in VALUES]).astype(np.float32))


def test_one_mask_a_label_in_the_order_of_the_values():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3, 7], (2, 1, 4, 5, 6))
    found = one_hot(torch.from_numpy(labels).float(), VALUES)
    expected = np.concatenate([labels == 1, labels == 3], axis=1)
    np.testing.assert_array_equal(found.numpy(), expected)
    np.testing.assert_array_equal(one_hot(torch.from_numpy(labels).float(), (3, 1)).numpy(), expected[:, ::-1])
    assert not one_hot(torch.zeros(1, 1, 4, 4, 4), VALUES).any()  # a first stage may find nothing


def test_masks_of_slices_stand_side_by_side_as_those_of_channels_do():
    volume = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 3], (2, 3, 6, 6, 5))).float()
    by_volume = stack_slices(with_masks(volume, VALUES))
    assert torch.equal(with_masks(stack_slices(volume), VALUES, slices=5), by_volume)
    assert with_masks(volume, ()) is volume


@pytest.mark.parametrize("mm", [1.5, 1.1, 3.0])
def test_labels_are_resampled_to_the_nearest_as_the_reference_is_and_change_no_crop(case: Case, mm: float):
    image, label = read_nifti(case.images[0]), read_nifti(case.label)
    rules = preprocessing(spacing_mm=(mm, mm, 2.0), crop_above=20.0)
    found = prepare(build_transforms(rules, 1), [image], label, read_coarse(case))
    plain = prepare(build_transforms(rules, 1), [image], label)
    assert found.coarse is not None
    assert found.image.shape == plain.image.shape
    assert torch.equal(found.coarse, plain.label)
    assert torch.equal(found.image, plain.image)
    assert found.present is None
    assert set(found.coarse.unique().tolist()) == {0, 1, 3}


def test_a_map_on_another_grid_is_refused(case: Case):
    shifted = Volume(read_coarse(case).array, np.diag([1.5, 1.5, 2.1, 1.0]))
    with pytest.raises(GridError):
        prepare(build_transforms(preprocessing(), 1), [read_nifti(case.images[0])], None, shifted)


def stored(case: Case, folder: Path):
    return build_store(folder, [case], preprocessing(), LABELS)[0]


def test_the_store_keeps_one_byte_a_voxel_and_gives_the_true_masks(case: Case, tmp_path: Path):
    kept, plain = stored(case, tmp_path / "store"), stored(replace(case, coarse=None), tmp_path / "store")
    assert kept.folder != plain.folder
    truth = read_nifti(case.label).array
    assert (kept.folder / "coarse.npy").stat().st_size == truth.size + 128
    seen = with_masks(kept.patch((0, 0, 0), kept.shape)[0][None], VALUES)[0]
    assert torch.equal(seen[1:], masks_of(truth))
    assert torch.equal(seen[:1], plain.patch((0, 0, 0), kept.shape)[0])
    outside = with_masks(kept.patch((-3, 2, 8), (16, 16, 16))[0][None], VALUES)[0]  # sticks out on two sides
    padded = np.pad(truth, ((3, 0), (0, 0), (0, 8)))[0:16, 2:18, 8:24]
    assert torch.equal(outside[1:], masks_of(padded))
    np.testing.assert_array_equal(kept.whole().coarse.numpy(), truth)
    (kept.folder / "coarse.npy").unlink()
    assert not kept.is_whole
    assert stored(case, tmp_path / "store").is_whole


def test_a_changed_map_is_stored_anew_and_an_empty_one_is_legal(case: Case, tmp_path: Path):
    before = stored(case, tmp_path / "store").folder
    label = read_nifti(case.label)
    empty = LabelMap(Volume(np.zeros_like(label.array, order="F"), label.affine), LABELS)
    write_nifti(case.coarse, empty)
    os.utime(case.coarse, ns=(1, 1))
    after = stored(case, tmp_path / "store")
    assert after.folder != before
    assert not with_masks(after.patch((0, 0, 0), after.shape)[0][None], VALUES)[0, 1:].any()


@pytest.mark.parametrize("patch", [(12, 12, 12), (12, 12, 1)])
@pytest.mark.parametrize("flags", [False, True])
def test_intensities_are_changed_and_masks_are_not(case: Case, tmp_path: Path, patch, flags: bool):
    slices = 1 if patch[2] > 1 else 3
    sampler = PatchSampler([stored(case, tmp_path / "store")], patch, 1.0, 0, slices)
    always = {f"{change}_probability": 1.0 for change in ("noise", "gamma", "brightness", "blur")}
    only_intensities = Augmentation(preset="none", **always, channel_probability=1.0)
    loader = PatchLoader(sampler, only_intensities, 2, 4, CPU, workers=0, channel_flags=flags, coarse_labels=VALUES)
    image, _ = next(loader.batches(0))
    raw, _ = sampler.batch(0, 0, 2)
    truth = with_masks(raw, VALUES)
    truth = stack_slices(truth) if slices > 1 else truth
    assert image.shape[1] == (1 + flags + 2) * slices
    assert torch.equal(image[:, -2 * slices :], truth[:, slices:])
    assert (image[:, :slices] != truth[:, :slices]).float().mean() > 0.9
    assert not flags or (image[:, slices : 2 * slices] == 1).all()


def test_masks_move_with_the_image_and_the_reference():
    labels = torch.from_numpy(np.random.default_rng(1).choice([0, 1, 3], (1, 8, 8, 8)))
    image = with_masks(torch.stack((torch.randn(1, 8, 8, 8), labels.float()), dim=1), VALUES)
    turned = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    moved, reference = augment(image, labels.clone(), [Draw(flips=(2,), matrix=turned, noise_std=1.0)], masks=2)
    torch.testing.assert_close(moved[:, 1:], masks_of(reference[0].numpy())[None], atol=1e-5, rtol=0)
    assert not torch.equal(reference, labels)


def test_network_channels_count_flags_of_images_only():
    assert preprocessing().network_channels(1) == 3
    assert preprocessing(channel_flags=True).network_channels(2) == 6
    assert preprocessing(coarse_labels=()).network_channels(2) == 2
