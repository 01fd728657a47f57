"""The CRF loss against a double loop and a dense matrix in float64, its gradient, and what it ignores."""

import itertools
import math

import pytest
import torch

from medseg.crf import CRF
from medseg.errors import UsageError
from medseg.losses import build_loss
from medseg.losses.energy import crf_loss

SHAPES = [(8,), (4, 5), (3, 4, 3)]
SPACINGS = {1: (1.5,), 2: (1.0, 0.7), 3: (2.0, 1.0, 0.5)}
KERNELS = {
    "bilateral_weight": 1.3, "bilateral_sigma_mm": 2.0, "intensity_sigma": 0.8, "spatial_weight": 0.4,
    "spatial_sigma_mm": 1.2, "normalize": False,
}  # fmt: skip
FULL = 100.0


def case(shape, samples=2, classes=3):
    generator = torch.Generator().manual_seed(len(shape))
    options = {"generator": generator, "dtype": torch.float64}
    logits = torch.randn(samples, classes, *shape, **options)
    valid = torch.rand(samples, *shape, **options) > 0.3
    return logits, torch.randn(samples, 2, *shape, **options), valid


def double_loop(logits, image, spacing, valid):
    """Mean over valid voxels of sum_j k_ij (1 - p_i . p_j), word by word."""
    p, total = logits.softmax(1), 0.0
    for b in range(len(p)):
        for i, j in itertools.permutations(itertools.product(*map(range, p.shape[2:])), 2):
            if valid[b][i] and valid[b][j]:
                square = sum(((x - y) * step) ** 2 for x, y, step in zip(i, j, spacing, strict=True))
                at_i, at_j = (b, slice(None), *i), (b, slice(None), *j)
                contrast = ((image[at_i] - image[at_j]) ** 2).sum().item()
                k = 1.3 * math.exp(-square / 8 - contrast / 1.28) + 0.4 * math.exp(-square / 2.88)
                total += k * (1 - (p[at_i] * p[at_j]).sum().item())
    return total / valid.sum().item()


def dense(logits, image, spacing, valid):
    """The same by full matrices, differentiable by autograd."""
    shape = logits.shape[2:]
    index = torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).double()
    square = torch.cdist(index * torch.tensor(spacing), index * torch.tensor(spacing)) ** 2
    p = logits.softmax(1).flatten(2)
    values = image.flatten(2).transpose(1, 2)
    contrast = (values[:, :, None] - values[:, None]).square().sum(-1)
    k = 1.3 * torch.exp(-square / 8 - contrast / 1.28) + 0.4 * torch.exp(-square / 2.88)
    m = valid.flatten(1).double()
    k = k * m[:, :, None] * m[:, None] * (1 - torch.eye(len(index)))
    return (k * (1 - p.transpose(1, 2) @ p)).sum() / m.sum()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_double_loop_is_dense_matrix_is_windowed_at_full_radius(shape, masked):
    logits, image, valid = case(shape)
    spacing = SPACINGS[len(shape)]
    valid = valid if masked else torch.ones_like(valid)
    found = []
    for function in (
        lambda x: crf_loss(
            x, image, CRF(**KERNELS, radius_mm=FULL), spacing_mm=spacing, valid=valid if masked else None
        ),
        lambda x: dense(x, image, spacing, valid),
    ):
        leaf = logits.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*found)
    assert found[0][0].item() == pytest.approx(double_loop(logits, image, spacing, valid), rel=1e-12)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("radius", [2.0, FULL])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_right(shape, radius, masked):
    logits, image, valid = case(shape, samples=1)
    crf = CRF(**{**KERNELS, "normalize": True}, radius_mm=radius)
    assert torch.autograd.gradcheck(
        lambda x: crf_loss(x, image, crf, spacing_mm=SPACINGS[len(shape)], valid=valid if masked else None),
        logits.requires_grad_(),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_constant_labels_cost_exactly_nothing(dtype, shape):
    logits, image, valid = case(shape)
    logits = torch.zeros_like(logits)
    logits[:, 1] = 1000
    for mask in (None, valid):
        assert crf_loss(logits.to(dtype), image, CRF(), valid=mask) == 0


def test_different_labels_cost_less_where_the_image_has_an_edge():
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0, :, :4], logits[:, 1, :, 4:] = 20, 20
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    crf = CRF()
    at_edge, elsewhere = crf_loss(logits, edge, crf), crf_loss(logits, edge.roll(2, 3), crf)
    assert at_edge < 0.5 * elsewhere


def test_the_loss_is_the_unary_plus_lambda_times_the_energy_of_what_is_not_ignored():
    logits, image, valid = case((3, 4, 5))
    target = torch.where(valid, torch.randint(0, 3, valid.shape), 255)
    crf = CRF(bilateral_weight=1.0, spatial_weight=0.3, radius_mm=2.0)
    energy = crf_loss(logits, image, crf, spacing_mm=(3.0, 1.0, 1.0), valid=valid)
    for name in ("ce", "ce_dice"):
        found = build_loss(
            f"{name}_crf", crf_weight=0.3, radius_mm=2.0, spacing_mm=(3.0, 1.0, 1.0), ignore_index=255
        )(logits, target, image)
        torch.testing.assert_close(found, build_loss(name, ignore_index=255)(logits, target) + 0.3 * energy)


def test_the_image_has_no_gradient_and_memory_does_not_grow_with_the_window():
    logits, image, _ = case((6, 7))
    kept = []
    for radius in (1.0, 3.0):
        leaf = logits.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            crf_loss(leaf, image.clone().requires_grad_(), CRF(radius_mm=radius)).backward()
    assert len(kept) == 4
    assert max(kept) == logits.numel()


def test_the_scale_of_a_gradient_scaler_is_applied_before_rounding_to_half_precision():
    logits, image, _ = case((60, 60), samples=1)
    half = logits.half().requires_grad_()
    full = half.detach().float().requires_grad_()
    for leaf in (half, full):
        crf_loss(leaf, image, CRF(bilateral_weight=0.01, spatial_weight=0.01)).mul(65536.0).backward()
    torch.testing.assert_close(half.grad, full.grad.half())


def test_without_an_image_the_remedy_is_named():
    with pytest.raises(UsageError, match=r"call the loss with \(logits, target, image\)"):
        build_loss("ce_crf")(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(UsageError, match="pass the image as the network saw it"):
        build_loss("ce_crf")(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4), torch.zeros(1, 1, 5, 4))
