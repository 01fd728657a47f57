"""Losses against MONAI's and torch's where the definitions agree.

Where they do not, the tests say so or turn it round: MONAI multiplies the terms of classes by weights and
divides by the number of classes, medseg by the sum of the weights. MONAI's focal loss divides by the number of
classes too, and without the background it takes the softmax of the other classes alone; its DiceFocalLoss joins
a softmax Dice to a focal loss of sigmoids, medseg's has the softmax in both. Its generalised Dice knows no
weights of classes. Torch's cross entropy of nothing is NaN, medseg's 0.
"""

import pytest
import torch
from monai.losses import DiceCELoss, FocalLoss, GeneralizedDiceLoss
from monai.losses import DiceLoss as MonaiDice
from monai.losses import TverskyLoss as MonaiTversky
from torch.nn import functional as F

from medseg.losses import build_loss

CLASSES = 4
WEIGHTS = (0.5, 1.0, 2.0, 3.0)


@pytest.fixture(params=[(6, 7), (4, 5, 6)], ids=["2d", "3d"])
def batch(request):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, CLASSES, *request.param, generator=generator, dtype=torch.float64)
    target = torch.randint(0, CLASSES, (2, *request.param), generator=generator)
    target[0][target[0] == 3] = 1  # a class that one sample has not
    return logits, target


def assert_same(ours, theirs, logits):
    """Compare values and gradients of two functions of the logits."""
    found = []
    for function in (ours, theirs):
        leaf = logits.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*found)


def monai_options(per_batch, background, smooth=1e-5):
    return {
        "softmax": True, "to_onehot_y": True, "include_background": background, "batch": per_batch,
        "smooth_nr": smooth, "smooth_dr": smooth,
    }  # fmt: skip


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("ignore_index", [None, 0, 2])
def test_cross_entropy_is_torchs(batch, weights, ignore_index):
    logits, target = batch
    options = {
        "weight": None if weights is None else torch.tensor(weights, dtype=logits.dtype),
        "ignore_index": -100 if ignore_index is None else ignore_index,
    }
    loss = build_loss("ce", class_weights=weights, ignore_index=ignore_index)
    assert_same(lambda x: loss(x, target), lambda x: F.cross_entropy(x, target, **options), logits)


@pytest.mark.parametrize("per_batch", [True, False])
@pytest.mark.parametrize("background", [True, False])
class TestMonai:
    def test_dice(self, batch, per_batch, background):
        logits, target = batch
        ours = build_loss("dice", batch=per_batch, background=background)
        theirs = MonaiDice(**monai_options(per_batch, background))
        assert_same(lambda x: ours(x, target), lambda x: theirs(x, target[:, None]), logits)

    def test_dice_with_ignored_voxels(self, batch, per_batch, background):
        logits, target = batch
        target[:, 0] = 255
        ours = build_loss("dice", batch=per_batch, background=background, ignore_index=255)
        theirs = MonaiDice(**monai_options(per_batch, background), ignore_index=255)
        assert_same(lambda x: ours(x, target), lambda x: theirs(x, target[:, None]), logits)

    def test_dice_with_class_weights(self, batch, per_batch, background):
        logits, target = batch
        used = WEIGHTS if background else WEIGHTS[1:]
        ours = build_loss("dice", batch=per_batch, background=background, class_weights=WEIGHTS)
        mean_is_one = [weight * len(used) / sum(used) for weight in used]
        theirs = MonaiDice(**monai_options(per_batch, background), weight=mean_is_one)
        assert_same(lambda x: ours(x, target), lambda x: theirs(x, target[:, None]), logits)

    def test_ce_dice(self, batch, per_batch, background):
        logits, target = batch
        ours = build_loss("ce_dice", batch=per_batch, background=background, ce_weight=0.5, dice_weight=2)
        theirs = DiceCELoss(**monai_options(per_batch, background), lambda_ce=0.5, lambda_dice=2)
        assert_same(lambda x: ours(x, target), lambda x: theirs(x, target[:, None]), logits)

    def test_dice_focal(self, batch, per_batch, background):
        logits, target = batch
        dice = MonaiDice(**monai_options(per_batch, background))
        focal = FocalLoss(to_onehot_y=True, gamma=2, use_softmax=True)
        ours = build_loss("dice_focal", batch=per_batch, background=background, focal_weight=0.7, dice_weight=2)

        def theirs(x):
            return 2 * dice(x, target[:, None]) + 0.7 * CLASSES * focal(x, target[:, None])

        assert_same(lambda x: ours(x, target), theirs, logits.float())  # MONAI's focal loss computes in float32

    def test_tversky(self, batch, per_batch, background):
        logits, target = batch
        ours = build_loss("tversky", batch=per_batch, background=background, alpha=0.2, beta=0.9, ignore_index=1)
        theirs = MonaiTversky(**monai_options(per_batch, background), alpha=0.2, beta=0.9, ignore_index=1)
        assert_same(lambda x: ours(x, target), lambda x: theirs(x, target[:, None]), logits)

    @pytest.mark.parametrize("smooth", [0.0, 1e-12, 1e-5, 0.1])
    def test_generalized_dice(self, batch, per_batch, background, smooth):
        logits, target = batch
        ours = build_loss("generalized_dice", batch=per_batch, background=background, smooth=smooth)
        theirs = GeneralizedDiceLoss(**monai_options(per_batch, background, smooth))
        # MONAI's weights of the classes are float32.
        torch.testing.assert_close(ours(logits, target).float(), theirs(logits, target[:, None]).float())


def test_focal_loss_without_focus_is_cross_entropy(batch):
    logits, target = batch
    focal = build_loss("dice_focal", dice_weight=0, gamma=0, class_weights=WEIGHTS, ignore_index=1)
    ce = build_loss("ce", class_weights=WEIGHTS, ignore_index=1)
    assert_same(lambda x: focal(x, target), lambda x: ce(x, target), logits)


def test_tversky_with_halves_is_dice(batch):
    logits, target = batch
    tversky = build_loss("tversky", alpha=0.5, beta=0.5, smooth=0.5, class_weights=WEIGHTS, batch=False)
    dice = build_loss("dice", smooth=1.0, class_weights=WEIGHTS, batch=False)
    assert_same(lambda x: tversky(x, target), lambda x: dice(x, target), logits)


def test_generalized_dice_keeps_its_scale_in_large_volumes():
    """With smooth 1e-5, classes of 10^5 voxels and more would all but vanish beside it."""
    target = (torch.arange(600_000) % 2)[None]
    logits = torch.zeros(1, 2, 600_000)
    assert build_loss("generalized_dice", background=True)(logits, target).item() == pytest.approx(0.5, rel=1e-4)
