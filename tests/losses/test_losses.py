"""What holds for every loss by name: right gradients, finite values, ignored voxels, weights, errors."""

import math

import pytest
import torch
from pydantic import ValidationError

from medseg.errors import UsageError
from medseg.losses import LOSSES, build_loss

NAMES = [entry.name for entry in LOSSES]
REGIONAL = [name for name in NAMES if "batch" in LOSSES[name].fields.model_fields]
WITHOUT_IMAGE = [name for name in NAMES if "crf" not in name]
WINDOW = {"radius_mm": 1.0}


def build(name, **fields):
    """Build a loss, one of a CRF with a small window; leave out fields that it has not."""
    known = LOSSES[name].fields.model_fields
    return build_loss(name, **{field: value for field, value in {**WINDOW, **fields}.items() if field in known})


def batch_of(*spatial, classes=3, samples=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(samples, classes, *spatial, generator=generator, dtype=dtype)
    target = torch.randint(0, classes, (samples, *spatial), generator=generator)
    return logits, target, torch.randn(samples, 1, *spatial, generator=generator)


def test_these_are_the_names():
    assert set(NAMES) == {
        "ce", "dice", "ce_dice", "ce_logdice", "ce_crf", "ce_dice_crf", "dice_focal", "tversky", "generalized_dice",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spatial", [(2, 3), (2, 2, 2)], ids=["2d", "3d"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"class_weights": (0.5, 1.0, 2.0), "ignore_index": 1, "background": True, "smooth": 0.1},
        {"batch": False, "ignore_index": 255, "class_weights": (1.0, 0.0, 3.0)},
    ],
    ids=["default", "weighted", "samples"],
)
def test_gradients_are_right(name, spatial, fields):
    logits, target, image = batch_of(*spatial)
    target[0].flatten()[:2] = fields.get("ignore_index", 0)
    loss = build(name, **fields)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, image), logits.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_both_memory_layouts_give_the_same_and_keep_theirs(name):
    logits, target, image = batch_of(4, 5, 6)
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last_3d):
        leaf = logits.detach().contiguous(memory_format=memory_format).requires_grad_()
        (gradient,) = torch.autograd.grad(build(name)(leaf, target, image), leaf)
        assert gradient.is_contiguous(memory_format=memory_format)
        found.append(gradient.contiguous())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_prediction_costs_nothing(name):
    _, target, _ = batch_of(5, 6, classes=4)
    target[:] = 1 if "crf" in name else target  # borders cost a CRF something
    sure = 100.0 * torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    assert build(name)(sure, target, torch.zeros(2, 1, 5, 6)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e3, 6e4])
def test_half_precision_is_finite_and_equals_float32_of_the_same_logits(name, dtype, scale):
    logits, target, image = batch_of(8, 8, dtype=torch.float32)
    half = logits.clamp(-1, 1).mul(scale).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build(name)(half, target, image.to(dtype))
        loss.backward()
    expected = build(name)(full, target, image.to(dtype).float())
    expected.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == dtype
    assert torch.isfinite(loss)
    assert torch.isfinite(half.grad).all()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(half.grad, full.grad.to(dtype))


def test_double_precision_stays_double():
    logits, target, image = batch_of(4, 4)
    for name in NAMES:
        assert build(name)(logits, target, image).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("smooth", [0.0, 1e-5])
@pytest.mark.parametrize(("per_batch", "scale"), [(True, 1e3), (False, 1.0)])
@pytest.mark.parametrize("case", ["background only", "one sample empty", "all ignored", "one sample ignored"])
def test_empty_truth_is_finite(name, smooth, per_batch, case, scale):
    logits, target, image = batch_of(4, 5, dtype=torch.float32)
    target[0 if "one" in case else slice(None)] = 0 if case in ("background only", "one sample empty") else 255
    smooth = smooth or (1e-9 if name == "ce_logdice" else 0.0)
    leaf = (scale * logits).requires_grad_()
    loss = build(name, smooth=smooth, batch=per_batch, ignore_index=255)(leaf, target, image)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(leaf.grad).all()
    assert not leaf.grad[target.unsqueeze(1).expand_as(leaf) == 255].any()
    if case == "all ignored" and name in ("ce", "ce_logdice", "ce_crf"):
        assert loss == 0


@pytest.mark.parametrize("name", WITHOUT_IMAGE)
@pytest.mark.parametrize("ignored", [1, 255, -1])
def test_ignored_voxels_might_as_well_not_be_there(name, ignored):
    logits, target, _ = batch_of(6, 7, samples=1)
    target[0, :2, 3:] = ignored
    keep = target[0] != ignored
    loss = build(name, ignore_index=ignored, class_weights=(1.0, 2.0, 3.0))
    without = build(name, class_weights=(1.0, 2.0, 3.0))
    leaf, cut = logits.clone().requires_grad_(), logits[:, :, keep].clone().requires_grad_()
    loss(leaf, target).backward()
    without(cut, target[:, keep]).backward()
    torch.testing.assert_close(loss(leaf, target), without(cut, target[:, keep]))
    torch.testing.assert_close(leaf.grad[:, :, keep], cut.grad)
    assert not leaf.grad[:, :, ~keep].any()


@pytest.mark.parametrize(
    "name", sorted(set(WITHOUT_IMAGE) & set(REGIONAL) - {"ce_dice", "ce_logdice", "dice_focal"})
)
def test_a_loss_of_samples_is_the_mean_of_theirs(name):
    logits, target, _ = batch_of(6, 7)
    each = [build(name)(logits[n : n + 1], target[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(build(name, batch=False)(logits, target), sum(each) / 2)
    assert build(name)(logits, target) != pytest.approx(sum(each).item() / 2, rel=1e-6)


@pytest.mark.parametrize("name", sorted(set(WITHOUT_IMAGE) & set(REGIONAL)))
def test_only_ratios_of_class_weights_matter(name):
    logits, target, _ = batch_of(6, 7)
    one, ten = (build(name, class_weights=tuple(f * w for w in (1, 2, 5)))(logits, target) for f in (1, 10))
    assert one == pytest.approx(ten.item(), rel=1e-7)
    assert one != pytest.approx(build(name)(logits, target).item(), rel=1e-3)


def test_uniform_logits_have_the_cross_entropy_of_a_die():
    logits = torch.zeros(1, 8, 3, 3)
    assert build("ce")(logits, torch.zeros(1, 3, 3)).item() == pytest.approx(math.log(8))
    focal = build("dice_focal", dice_weight=0.0, gamma=3.0)(logits, torch.zeros(1, 3, 3))
    assert focal.item() == pytest.approx(math.log(8) * (7 / 8) ** 3)


def test_an_absent_class_that_is_not_predicted_does_not_cost():
    logits = torch.full((1, 3, 4, 4), -50.0)
    logits[:, 0] = 50
    assert build("dice")(logits, torch.zeros(1, 4, 4, dtype=torch.long)).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_number_of_weights_is_refused_with_both_numbers(name):
    logits, target, image = batch_of(4, 4)
    with pytest.raises(UsageError, match="expected 3 weights.*found 2 weights") as caught:
        build(name, class_weights=(1.0, 2.0))(logits, target, image)
    assert caught.value.where == "loss.class_weights"


BAD = [
    ("class_weights", (1.0, -1.0, 1.0)), ("class_weights", (0.0, 0.0, 0.0)), ("class_weights", ()),
    ("class_weights", (1.0, math.nan, 1.0)), ("smooth", -1e-5), ("smooth", math.nan), ("ce_weight", -1.0),
    ("dice_weight", -1.0), ("focal_weight", math.inf), ("gamma", -0.5), ("alpha", -0.1), ("beta", -0.1),
    ("crf_weight", -1.0), ("bilateral_weight", -1.0), ("bilateral_sigma_mm", 0.0), ("intensity_sigma", 0.0),
    ("spatial_weight", -1.0), ("spatial_sigma_mm", -1.0), ("radius_mm", 0.0), ("radius_mm", math.inf),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD)
def test_wrong_numbers_are_refused_by_the_name_of_the_field(field, value):
    having = [name for name in NAMES if field in LOSSES[name].fields.model_fields]
    assert having
    for name in having:
        with pytest.raises(UsageError) as caught:
            build(name, **{field: value})
        assert caught.value.where == f"loss.{field}"


def test_a_logarithm_of_nothing_is_refused_and_so_are_two_blind_eyes():
    with pytest.raises(UsageError, match="above 0"):
        build("ce_logdice", smooth=0.0)
    with pytest.raises(UsageError, match="where alpha is 0"):
        build("tversky", alpha=0.0, beta=0.0)


@pytest.mark.parametrize("name", sorted(set(WITHOUT_IMAGE) & set(REGIONAL)))
def test_a_background_alone_is_no_region(name):
    with pytest.raises(UsageError, match="background: true"):
        build(name)(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))


def test_fields_are_typed_by_the_signatures():
    fields = LOSSES["ce_dice_crf"].fields(name="ce_dice_crf", spacing_mm=[5, 1, 1], class_weights=[1, 2])
    assert fields.spacing_mm == (5.0, 1.0, 1.0)
    build_loss(**fields.model_dump())
    for wrong in ({"smooth": "much"}, {"ignore_index": 1.5}, {"batches": True}):
        with pytest.raises(ValidationError):
            LOSSES["ce_dice"].fields(name="ce_dice", **wrong)
