"""Instance normalisation in channels-last order, against torch's own in float64."""

import pytest
import torch
from torch.nn import functional as F

from medseg.networks.instance_norm import InstanceNorm

ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}
SHAPES = [(2, 8, 13, 17), (1, 3, 1, 5), (2, 8, 6, 7, 9), (3, 2, 1, 1, 4)]


def made(shape: tuple[int, ...], mean: float) -> tuple[InstanceNorm, torch.Tensor]:
    draw = torch.Generator().manual_seed(sum(shape))
    norm = InstanceNorm(shape[1])
    with torch.no_grad():
        norm.weight.copy_(torch.rand(shape[1], generator=draw) + 0.5)
        norm.bias.copy_(torch.randn(shape[1], generator=draw))
    x = (torch.randn(shape, generator=draw) + mean).to(memory_format=ORDERS[len(shape)])
    return norm, x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_value_and_gradients_are_those_of_torch_in_float64(shape: tuple[int, ...], mean: float) -> None:
    norm, x = made(shape, mean)
    exact = [t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias)]
    expected = F.instance_norm(exact[0], weight=exact[1], bias=exact[2], eps=norm.eps)
    direction = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (expected * direction).sum().backward()
    x.requires_grad_()
    found = norm(x)
    (found * direction).sum().backward()
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-4)
    for mine, theirs in zip((x, norm.weight, norm.bias), exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shape", SHAPES[:3:2])
def test_the_order_of_the_features_is_kept(shape: tuple[int, ...]) -> None:
    norm, x = made(shape, 0)
    order = ORDERS[len(shape)]
    x.requires_grad_()
    y = norm(x)
    y.backward(torch.randn(shape).to(memory_format=order))
    assert y.is_contiguous(memory_format=order)
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=order)


def test_features_in_plain_order_stay_in_it() -> None:
    norm, x = made((2, 8, 6, 7, 9), 0)
    assert norm(x.contiguous()).is_contiguous()
    torch.testing.assert_close(norm(x.contiguous()), norm(x), atol=1e-5, rtol=1e-5)


def test_what_is_not_finite_stays_so() -> None:
    norm, x = made((1, 4, 3, 4, 5), 0)
    x[0, 1, 0, 0, 0] = torch.nan
    y = norm(x)
    assert y[0, 1].isnan().all()
    assert y[0, [0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_without_gradients_it_is_the_same_in_place_or_not(shape: tuple[int, ...], mean: float) -> None:
    norm, x = made(shape, mean)
    exact = F.instance_norm(x.double(), weight=norm.weight.double(), bias=norm.bias.double(), eps=norm.eps)
    before = x.clone(memory_format=torch.preserve_format)
    with torch.inference_mode():
        found = norm(x)
        assert torch.equal(x, before)
        norm.inplace = True
        again = norm(x)
    assert again.data_ptr() == x.data_ptr()
    assert torch.equal(again, found)
    assert found.is_contiguous(memory_format=ORDERS[len(shape)])
    torch.testing.assert_close(found.double(), exact.detach(), atol=2e-4, rtol=1e-4)


def test_training_does_not_overwrite_its_features() -> None:
    norm, x = made((2, 8, 6, 7, 9), 0)
    norm.inplace = True
    before = x.clone()
    norm(x)
    assert torch.equal(x, before)
