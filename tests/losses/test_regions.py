"""Losses of regions against torch's binary cross entropy and MONAI's Dice of sigmoids."""

import pytest
import torch
from monai.losses import DiceLoss as MonaiDice
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.losses import DeepSupervision, RegionLoss, build_loss, build_region_loss

MEMBERS = ((1, 2, 3), (2, 3), (3,))
IGNORE = 4


@pytest.fixture(params=[(6, 7), (4, 5, 6)], ids=["2d", "3d"])
def batch(request):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 3, *request.param, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (2, *request.param), generator=generator)
    target[0][target[0] == 3] = 1  # a region that one sample has not
    return logits, target


def truth_of(target):
    """Return (B, R, *spatial) by comparing with every class of every region."""
    return torch.stack([sum((target == c) for c in classes) for classes in MEMBERS], dim=1).double()


def assert_same(ours, theirs, logits):
    found = []
    for function in (ours, theirs):
        leaf = logits.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*found)


def test_cross_entropy_is_torchs_binary_one(batch):
    logits, target = batch
    ours = RegionLoss(build_loss("ce"), MEMBERS)
    theirs = F.binary_cross_entropy_with_logits
    assert_same(lambda x: ours(x, target), lambda x: theirs(x, truth_of(target)), logits)


def test_ignored_voxels_take_no_part_in_the_cross_entropy(batch):
    logits, target = batch
    target[:, 1] = IGNORE
    ours = build_region_loss("ce", MEMBERS, IGNORE)
    valid = (target != IGNORE)[:, None].expand(logits.shape)

    def theirs(x):
        return F.binary_cross_entropy_with_logits(x[valid], truth_of(target)[valid])

    assert_same(lambda x: ours(x, target), theirs, logits)


@pytest.mark.parametrize("per_batch", [True, False])
@pytest.mark.parametrize("ignored", [True, False])
def test_dice_is_monais_of_sigmoids(batch, per_batch, ignored):
    logits, target = batch
    if ignored:
        target[:, 1] = IGNORE
    ours = build_region_loss("dice", MEMBERS, IGNORE if ignored else None, batch=per_batch)
    theirs = MonaiDice(sigmoid=True, batch=per_batch, smooth_nr=1e-5, smooth_dr=1e-5)
    # a logit of minus infinity adds nothing to overlap, mass and truth, which is what ignoring is
    drop = (target == IGNORE)[:, None]
    assert_same(
        lambda x: ours(x, target), lambda x: theirs(x.masked_fill(drop, -torch.inf), truth_of(target)), logits
    )


def test_a_sum_of_terms_is_the_sum_of_the_terms_of_regions(batch):
    logits, target = batch
    both = RegionLoss(build_loss("ce_dice"), MEMBERS)(logits, target)
    apart = sum(RegionLoss(build_loss(name), MEMBERS)(logits, target) for name in ("ce", "dice"))
    torch.testing.assert_close(both, apart)


def test_each_region_is_learnt_by_itself(batch):
    logits, target = batch
    alone = [RegionLoss(build_loss("dice"), [classes]) for classes in MEMBERS]
    terms = [loss(logits[:, n : n + 1], target) for n, loss in enumerate(alone)]
    torch.testing.assert_close(RegionLoss(build_loss("dice"), MEMBERS)(logits, target), sum(terms) / 3)


def test_deep_supervision_weighs_the_levels_and_leaves_the_crf_to_the_finest():
    torch.manual_seed(0)
    target, image = torch.randint(0, 4, (1, 6, 6)), torch.randn(1, 1, 6, 6)
    levels = [torch.randn(1, 3, 6, 6), torch.randn(1, 3, 3, 3)]
    loss, unary = RegionLoss(build_loss("ce_crf"), MEMBERS), RegionLoss(build_loss("ce"), MEMBERS)
    expected = (2 * loss(levels[0], target, image) + unary(levels[1], target[:, 1::2, 1::2])) / 3
    torch.testing.assert_close(DeepSupervision(loss)(levels, target, image), expected)
    assert not torch.isclose(loss(levels[0], target, image), unary(levels[0], target))


def test_half_precision_logits_and_small_integer_targets(batch):
    logits, target = batch
    exact = RegionLoss(build_loss("ce_dice"), MEMBERS)(logits, target)
    found = RegionLoss(build_loss("ce_dice"), MEMBERS)(logits.bfloat16(), target.to(torch.uint8))
    assert found.item() == pytest.approx(exact.item(), rel=1e-2)


def test_what_does_not_fit(batch):
    logits, target = batch
    with pytest.raises(UsageError, match="one channel for each of 2 regions, found 3"):
        RegionLoss(build_loss("ce"), MEMBERS[:2])(logits, target)
    for members in ((), ((1,), ())):
        with pytest.raises(UsageError, match="each of at least one class"):
            RegionLoss(build_loss("ce"), members)
