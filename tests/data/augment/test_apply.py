"""`augment` on batches: each patch for itself, image and label together, on any layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg.data.augment import Augmentation, Draw, augment, draw
from medseg.data.augment.intensity import change_gamma
from medseg.data.augment.separable import blur, lower_resolution

EVERYTHING = (
    "rotation", "scaling", "elastic", "bias", "noise", "blur", "brightness", "contrast", "low_resolution",
    "inverted_gamma", "gamma",
)  # fmt: skip


def everything(dims: int = 3) -> Augmentation:
    return Augmentation(flip_axes=tuple(range(dims)), **{f"{name}_probability": 1.0 for name in EVERYTHING})


def batch(*spatial: int, channels: int = 2, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(count, channels, *spatial, generator=generator)
    return image, torch.randint(0, 5, (count, *spatial), generator=generator)


def changed(image: torch.Tensor, label: torch.Tensor, *draws: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    return augment(image.clone(), label.clone(), draws)


def some_draws(spatial, channels: int = 2, count: int = 3, **changes) -> list[Draw]:
    shape, mm = (channels, *spatial), (1.0,) * len(spatial)
    return [replace(draw(everything(len(spatial)), shape, mm, (0, 1, n)), **changes) for n in range(count)]


@pytest.mark.parametrize("spatial", [(7, 6), (7, 6, 5)])
def test_nothing_drawn_changes_not_a_bit(spatial):
    image, label = batch(*spatial)
    image[0, 0].flatten()[:3] = torch.tensor([0.0, -0.0, 1e-38])
    new_image, new_label = changed(image, label, Draw(), Draw(), Draw())
    assert torch.equal(new_image.view(torch.int32), image.view(torch.int32))
    assert torch.equal(new_label, label)


def test_the_batch_is_overwritten():
    image, label = batch(8, 7, 6)
    new_image, new_label = augment(image, label, some_draws((8, 7, 6)))
    assert new_image is image
    assert new_label is label


def test_one_patch_of_a_batch_does_not_touch_the_others():
    image, label = batch(8, 7, 6)
    strong = some_draws((8, 7, 6))[0]
    new_image, new_label = changed(image, label, Draw(), strong, Draw())
    for untouched in (0, 2):
        assert torch.equal(new_image[untouched], image[untouched])
        assert torch.equal(new_label[untouched], label[untouched])
    alone = changed(image[1:2], label[1:2], strong)
    assert torch.equal(new_image[1], alone[0][0])
    assert torch.equal(new_label[1], alone[1][0])
    assert not torch.equal(new_image[1], image[1])
    assert not torch.equal(new_label[1], label[1])


def test_a_draw_for_each_patch_is_needed():
    with pytest.raises(ValueError, match="shorter"):
        changed(*batch(6, 6), Draw())


@pytest.mark.parametrize("flips", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_image_and_label_are_flipped_together(flips):
    image, label = batch(6, 5, 4)
    image[:, 1] = label
    new_image, new_label = changed(image, label, *[Draw(flips=flips)] * 3)
    np.testing.assert_array_equal(new_label, np.flip(label.numpy(), [axis + 1 for axis in flips]))
    np.testing.assert_array_equal(new_image, np.flip(image.numpy(), [axis + 2 for axis in flips]))
    assert torch.equal(new_image[:, 1].long(), new_label)


@pytest.mark.parametrize("part", ["matrix", "elastic"])
@pytest.mark.parametrize("flips", [(0,), (1, 2), (0, 1, 2)])
def test_flips_come_after_the_rest_of_the_geometry(part, flips):
    image, label = batch(8, 7, 6, count=1)
    d = some_draws((8, 7, 6))[0]
    geometry = Draw(matrix=d.matrix, elastic=d.elastic if part == "elastic" else None)
    straight = changed(image, label, geometry)
    flipped = changed(image, label, replace(geometry, flips=flips))
    torch.testing.assert_close(flipped[0], straight[0].flip([a + 2 for a in flips]), atol=1e-4, rtol=0)
    share = (flipped[1] != straight[1].flip([a + 1 for a in flips])).float().mean()
    assert share < 0.01  # but for ties


def test_a_label_goes_where_the_image_goes():
    label = torch.zeros(1, 24, 24, 24, dtype=torch.int64)
    label[:, 6:16, 8:19, 5:14] = 1
    a = Augmentation(flip_axes=(0, 1), elastic_probability=1, rotation_probability=1, scaling_probability=1)
    for index in range(6):
        d = draw(a, (1, 24, 24, 24), (1.0, 1.0, 1.0), (3, 0, index))
        geometry = Draw(flips=d.flips, matrix=d.matrix, elastic=d.elastic)
        image, classes = changed(label[:, None].float(), label, geometry)
        clear = (image[:, 0] - 0.5).abs() > 0.45
        assert torch.equal((image[:, 0] > 0.5)[clear].long(), classes[clear])
        assert 0.4 < clear.float().mean() < 1


def test_intensity_changes_are_of_their_channel_and_in_order():
    image, label = batch(9, 8, 7, channels=2, count=1)
    d = Draw(
        blur=((0.0, 0.0, 0.0), (0.5, 0.8, 1.0)),
        brightness=(1.2, 0.8),
        low_resolution=((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),
        inverted_gamma=(1.3, 0.8),
        gamma=(0.9, 1.1),
    )
    new_image, new_label = changed(image, label, d)
    assert torch.equal(new_label, label)
    first, second = image[0, :1].clone() * 1.2, blur(image[0, 1:], (0.5, 0.8, 1.0)) * 0.8
    first = lower_resolution(first, (0.5, 0.5, 0.5))
    for x, inverted, gamma in ((first, 1.3, 0.9), (second, 0.8, 1.1)):
        change_gamma(x, inverted, inverted=True)
        change_gamma(x, gamma)
    torch.testing.assert_close(new_image[0], torch.cat([first, second]), atol=1e-5, rtol=0)


def test_slices_of_one_channel_change_alike():
    image, label = batch(9, 8, channels=6, count=1)  # two channels of three slices each
    d = replace(Draw(), gamma=(0.8, 1.3), contrast=(1.2, 0.7), blur=((0.5, 0.6), (0.0, 0.0)))
    together, _ = changed(image, label, d)
    volumes = image.unflatten(1, (2, 3)).clone()
    for volume, sigmas, contrast, gamma in zip(volumes[0], d.blur, d.contrast, d.gamma, strict=True):
        for plane in volume:
            plane.copy_(blur(plane[None], sigmas)[0])
        old = volume.clone()
        volume.copy_(((old - old.mean()) * contrast + old.mean()).clamp(old.min(), old.max()))
        change_gamma(volume, gamma)
    torch.testing.assert_close(together[0], volumes[0].flatten(0, 1), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="zip"):
        changed(*batch(9, 8, channels=7, count=1), d)


@pytest.mark.parametrize("spatial", [(16, 12), (16, 12, 8), (5, 4, 1)])
def test_everything_at_once_is_finite_and_the_same_again(spatial):
    image, label = batch(*spatial)
    draws = some_draws(spatial)
    one, two = (changed(image, label, *draws) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert one[0].isfinite().all()
    assert one[0].shape == image.shape
    assert set(one[1].unique().tolist()) <= set(range(5))
    assert not torch.equal(one[0], image)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.25])
def test_a_constant_channel_beside_others_gives_no_nan(value):
    image, label = batch(10, 9, 8, count=8)
    image[:, 1] = value
    draws = [replace(d, noise_std=0.0) for d in some_draws((10, 9, 8), count=8)]
    new_image, _ = changed(image, label, *draws)
    assert new_image.isfinite().all()
    for patch, d in zip(new_image, draws, strict=True):
        torch.testing.assert_close(patch[1], torch.full_like(patch[1], value * d.brightness[1]))


def test_channels_last_in_memory_gives_the_same():
    image, label = batch(8, 7, 6)
    draws = some_draws((8, 7, 6))
    plain = changed(image, label, *draws)
    other = augment(image.clone().to(memory_format=torch.channels_last_3d), label.clone(), draws)
    torch.testing.assert_close(other[0], plain[0], atol=1e-5, rtol=0)
    assert torch.equal(other[1], plain[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("spatial", [(33, 26), (24, 20, 17)])
def test_a_gpu_gives_what_the_cpu_gives(spatial):
    image, label = batch(*spatial)
    draws = some_draws(spatial, noise_std=0.0)  # the noise of a device is its own
    there = augment(image.cuda(), label.cuda(), draws)
    here = changed(image, label, *draws)
    assert there[0].is_cuda
    torch.testing.assert_close(there[0].cpu(), here[0], atol=2e-3, rtol=0)
    assert (there[1].cpu() != here[1]).float().mean() < 1e-3
