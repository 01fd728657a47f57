"""-log Dice against its closed form, and where Dice loses its gradient."""

import numpy as np
import pytest
import torch

from medseg.losses import build_loss


def test_value_and_gradient_are_those_of_the_closed_form():
    """d(-log D_c)/dp_ci = 1 / (den_c + s) - 2 g_ci / (num_c + s), taken through the softmax by hand, in numpy."""
    rng = np.random.default_rng(0)
    classes, voxels, smooth = 4, 30, 1e-3
    z, truth = rng.normal(size=(classes, voxels)), rng.integers(0, 3, voxels)  # class 3 is absent
    p = np.exp(z) / np.exp(z).sum(0)
    g = (truth == np.arange(classes)[:, None]).astype(float)
    num, den = 2 * (p * g).sum(1) + smooth, p.sum(1) + g.sum(1) + smooth
    present = np.array([0, 1, 1, 0.0])  # neither the background nor what is absent
    value = (present * -np.log(num / den)).sum() / 2
    by_p = (present / 2)[:, None] * (1 / den[:, None] - 2 * g / num[:, None])
    by_z = p * (by_p - (p * by_p).sum(0))

    logits = torch.tensor(z)[None].requires_grad_()
    loss = build_loss("ce_logdice", ce_weight=0, smooth=smooth)(logits, torch.tensor(truth)[None])
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(logits.grad[0].numpy(), by_z, rtol=1e-10, atol=1e-15)


def test_of_two_classes_it_is_minus_the_logarithm_of_one_minus_the_dice_loss():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 5, 6, dtype=torch.float64), torch.randint(0, 2, (2, 5, 6))
    dice = build_loss("dice")(logits, target)
    both = build_loss("ce_logdice")(logits, target)
    torch.testing.assert_close(both, build_loss("ce")(logits, target) - torch.log(1 - dice))


def test_absent_classes_do_not_count():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 4, 6, 6, dtype=torch.float64), torch.randint(0, 2, (1, 6, 6))
    merged = torch.cat((logits[:, :2], logits[:, 2:].logsumexp(1, keepdim=True)), 1)  # the absent ones as one
    first, second = (build_loss("ce_logdice", ce_weight=0)(x, target) for x in (logits, merged))
    torch.testing.assert_close(first, second)


def test_samples_count_for_the_classes_that_they_have():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.randint(0, 3, (2, 6, 6))
    target[0][target[0] == 2] = 0
    costs = []
    for sample, label in ((0, 1), (1, 1), (1, 2)):
        p, g = logits[sample].softmax(0)[label], (target[sample] == label).double()
        costs.append(-torch.log((2 * (p * g).sum() + 1e-5) / (p.sum() + g.sum() + 1e-5)))
    loss = build_loss("ce_logdice", ce_weight=0, batch=False)(logits, target)
    torch.testing.assert_close(loss, sum(costs) / 3)


def test_a_structure_that_is_missed_pulls_far_harder_than_with_dice():
    target = torch.zeros(1, 1000, dtype=torch.long)
    target[0, :3] = 1
    pulls = {}
    for name in ("dice", "ce_logdice"):
        logits = torch.stack((torch.full((1000,), 8.0), torch.zeros(1000)))[None].requires_grad_()
        build_loss(name, **({"ce_weight": 0} if name == "ce_logdice" else {}))(logits, target).backward()
        pulls[name] = -logits.grad[0, 1, :3].sum().item()
    assert pulls["ce_logdice"] > 100 * pulls["dice"] > 0
