"""Losses against MONAI's where the definitions agree, and against closed forms."""

import math

import pytest
import torch
from monai.losses import DiceCELoss
from monai.losses import DiceLoss as MonaiDice

from medseg.losses import LOSSES, build_loss


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(2, 4, 6, 7, 5), torch.randint(0, 4, (2, 6, 7, 5))


@pytest.mark.parametrize("per_batch", [True, False])
@pytest.mark.parametrize("background", [True, False])
def test_equals_monai(batch, per_batch, background):
    logits, target = batch
    shared = {
        "softmax": True, "to_onehot_y": True, "include_background": background, "batch": per_batch,
        "smooth_nr": 1e-5, "smooth_dr": 1e-5,
    }  # fmt: skip
    dice = build_loss("dice", batch=per_batch, background=background)(logits, target)
    torch.testing.assert_close(dice, MonaiDice(**shared)(logits, target[:, None]))
    both = build_loss("ce_dice", batch=per_batch, background=background, ce_weight=0.5)(logits, target)
    expected = DiceCELoss(**shared, lambda_ce=0.5)(logits, target[:, None])
    torch.testing.assert_close(both, expected)


def test_uniform_logits_have_the_cross_entropy_of_a_coin():
    logits = torch.zeros(1, 8, 3, 3)
    assert build_loss("ce")(logits, torch.zeros(1, 3, 3)).item() == pytest.approx(math.log(8))


@pytest.mark.parametrize("name", [entry.name for entry in LOSSES])
def test_a_perfect_prediction_costs_nothing_and_gradients_are_right(name, batch):
    _, target = batch
    sure = 100.0 * torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    assert build_loss(name)(sure, target).item() == pytest.approx(0, abs=1e-5)
    if name != "dice":
        logits = torch.randn(1, 3, 4, requires_grad=True)
        build_loss(name)(logits, torch.randint(0, 3, (1, 4))).backward()
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", [entry.name for entry in LOSSES])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_under_autocast_stay_finite(name, dtype):
    logits = (1e4 * torch.randn(1, 3, 8, 8)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build_loss(name)(logits, torch.randint(0, 3, (1, 8, 8)))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_an_absent_class_that_is_not_predicted_does_not_cost():
    logits = torch.full((1, 3, 4, 4), -50.0)
    logits[:, 0] = 50
    assert build_loss("dice")(logits, torch.zeros(1, 4, 4, dtype=torch.long)).item() == pytest.approx(0, abs=1e-4)
