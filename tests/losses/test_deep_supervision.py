"""Deep supervision against a sum by hand."""

import pytest
import torch

from medseg.errors import UsageError
from medseg.losses import DeepSupervision, build_loss
from medseg.losses.deep_supervision import nearest


def test_the_sum_is_that_by_hand():
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 8, 6, 4))
    levels = [torch.randn(2, 3, *size, requires_grad=True) for size in ((8, 6, 4), (4, 3, 4), (2, 2, 2))]
    coarse = target[:, 1::2, 1::2]  # floor((k + 1/2) 2) = 2k + 1
    coarsest = target[:, [2, 6]][:, :, [1, 4]][:, :, :, [1, 3]]
    loss = build_loss("ce_dice", class_weights=(1.0, 2.0, 3.0))
    expected = (4 * loss(levels[0], target) + 2 * loss(levels[1], coarse) + loss(levels[2], coarsest)) / 7
    found = DeepSupervision(loss)(levels, target)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(level.grad.any() for level in levels)


@pytest.mark.parametrize("name", ["ce_dice", "ce_dice_crf"])
def test_one_tensor_passes_straight_through(name):
    torch.manual_seed(0)
    logits, target, image = torch.randn(1, 3, 6, 6), torch.randint(0, 3, (1, 6, 6)), torch.randn(1, 1, 6, 6)
    loss = build_loss(name)
    for levels in (logits, [logits], (logits,)):
        assert DeepSupervision(loss)(levels, target, image) == loss(logits, target, image)


def test_a_crf_counts_on_the_finest_level_only():
    torch.manual_seed(0)
    target, image = torch.randint(0, 3, (1, 6, 6)), torch.randn(1, 1, 6, 6)
    levels = [torch.randn(1, 3, 6, 6), torch.randn(1, 3, 1, 1)]
    loss, unary = build_loss("ce_crf"), build_loss("ce")
    expected = (2 * loss(levels[0], target, image) + unary(levels[1], target[:, 3:4, 3:4])) / 3
    torch.testing.assert_close(DeepSupervision(loss)(levels, target, image), expected)
    with pytest.raises(UsageError, match="image"):
        DeepSupervision(loss)(levels, target)


@pytest.mark.parametrize(("fine", "coarse"), [(7, 3), (8, 2), (5, 5), (9, 4), (1, 1), (3, 6), (10, 7)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_nearest_voxels_are_those_below_the_coarse_centres(fine, coarse, dtype):
    target = torch.arange(fine, dtype=dtype)[None]
    expected = [int((k + 0.5) * fine / coarse) for k in range(coarse)]
    found = nearest(target, (coarse,))
    assert found.dtype == dtype
    assert found[0].tolist() == expected


def test_no_levels_or_levels_of_other_axes_are_refused():
    loss = DeepSupervision(build_loss("ce"))
    with pytest.raises(UsageError, match="at least the finest"):
        loss([], torch.zeros(1, 4, 4))
    with pytest.raises(UsageError, match="2 spatial axes"):
        loss([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2, 2)], torch.zeros(1, 4, 4))


@pytest.mark.parametrize(("length", "stride"), [(17, 16), (20, 8), (5, 2), (6, 4), (9, 3), (16, 4), (3, 4)])
def test_with_strides_each_coarse_voxel_takes_the_middle_of_those_it_covers(length, stride):
    """The image is padded at its far end to whole coarse voxels: these start at multiples of the stride."""
    target = torch.arange(length)[None]
    covered = [range(k * stride, (k + 1) * stride) for k in range(-(-length // stride))]
    expected = [min(places[stride // 2], length - 1) for places in covered]
    assert nearest(target, (len(covered),), (stride,)).tolist() == [expected]


def test_the_strides_are_those_of_each_output():
    torch.manual_seed(0)
    target = torch.randint(0, 3, (1, 17, 6))
    levels = [torch.randn(1, 3, 17, 6), torch.randn(1, 3, 2, 6)]
    loss = build_loss("ce")
    expected = (2 * loss(levels[0], target) + loss(levels[1], target[:, [8, 16]])) / 3
    torch.testing.assert_close(DeepSupervision(loss, ((1, 1), (16, 1)))(levels, target), expected)
