"""The tables of sums against one-hot arithmetic, in both memory layouts and for any cut into chunks."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from medseg.errors import UsageError
from medseg.losses import sums
from medseg.losses.sums import class_sums

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def one_hot_sums(logits, target, ignore_index=None, gamma=0.0):
    """The definition, with all the tensors that the implementation does without."""
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    truth = F.one_hot(torch.where(valid, target, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
    p = logits.softmax(1)
    space = tuple(range(2, logits.ndim))
    surprise = -((1 - p) ** gamma) * p.log()
    return (
        (p * truth).sum(space), (p * valid[:, None]).sum(space), truth.sum(space).to(p.dtype),
        (surprise * truth).sum(space),
    )  # fmt: skip


def batch_of(*spatial, classes=4, samples=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(spatial))
    logits = 2 * torch.randn(samples, classes, *spatial, generator=generator, dtype=dtype)
    return logits, torch.randint(0, classes, (samples, *spatial), generator=generator)


@pytest.mark.parametrize("chunk", [1, 37, 100, 1 << 20])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("ignore_index", [None, 2])
@pytest.mark.parametrize("spatial", [(11,), (5, 6), (3, 4, 5)])
def test_sums_and_gradient_are_those_of_one_hot_arithmetic(spatial, ignore_index, gamma, chunk, monkeypatch):
    monkeypatch.setattr(sums, "_CHUNK_CPU", chunk)
    logits, target = batch_of(*spatial)
    factors = torch.randn(4, *logits.shape[:2], dtype=torch.float64)
    results = []
    for function in (class_sums, one_hot_sums):
        leaf = logits.clone().requires_grad_()
        tables = function(leaf, target, ignore_index=ignore_index, gamma=gamma)
        torch.stack(tuple(tables)).mul(factors).sum().backward()
        results.append((torch.stack(tuple(tables)).detach(), leaf.grad))
    torch.testing.assert_close(*results)


def test_the_way_of_a_gpu_and_that_of_a_cpu_are_the_same(monkeypatch):
    logits, target = batch_of(5, 6)
    target[0, :2] = 9
    expected = one_hot_sums(logits, target, ignore_index=9)
    torch.testing.assert_close(tuple(class_sums(logits, target, ignore_index=9)), expected)
    monkeypatch.setattr(sums, "_histograms", sums._masked_sums)
    torch.testing.assert_close(tuple(class_sums(logits, target, ignore_index=9)), expected)


def test_float32_sums_over_many_voxels_do_not_drift(monkeypatch):
    monkeypatch.setattr(sums, "_CHUNK_CPU", 1 << 24)
    logits = torch.zeros(1, 2, 1 << 20)
    logits[:, 0] = 7
    target = torch.zeros(1, 1 << 20, dtype=torch.long)
    single, double = class_sums(logits, target)[:3], class_sums(logits.double(), target)[:3]
    torch.testing.assert_close(tuple(table.double() for table in single), double, rtol=1e-6, atol=0)


@pytest.mark.parametrize("spatial", [(5, 6), (3, 4, 5)])
@pytest.mark.parametrize("ignore_index", [None, 0])
def test_channels_last_logits_give_the_same_and_a_gradient_of_their_layout(spatial, ignore_index):
    logits, target = batch_of(*spatial)
    found = []
    for memory_format in (torch.contiguous_format, FORMATS[logits.ndim]):
        leaf = logits.detach().contiguous(memory_format=memory_format).requires_grad_()
        tables = class_sums(leaf, target, ignore_index=ignore_index)
        (gradient,) = torch.autograd.grad(torch.stack(tuple(tables)).square().sum(), leaf)
        assert gradient.is_contiguous(memory_format=memory_format)  # as it comes; a leaf's grad would be rearranged
        found.append((*tables, gradient.contiguous()))
    torch.testing.assert_close(*found)


def test_a_cropped_view_of_logits_is_read_right():
    logits, target = batch_of(6, 7, 8)
    crop = (slice(None), slice(None), slice(1, 5), slice(0, 6), slice(2, 7))
    leaf = logits.clone().requires_grad_()
    torch.stack(tuple(class_sums(leaf[crop], target[:, 1:5, 0:6, 2:7]))).square().sum().backward()
    other = logits[crop].clone().requires_grad_()
    torch.stack(tuple(class_sums(other, target[:, 1:5, 0:6, 2:7]))).square().sum().backward()
    torch.testing.assert_close(leaf.grad[crop], other.grad)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_may_be_of_any_integer_type(dtype):
    logits, target = batch_of(5, 6)
    target[0, 0] = 255 if dtype == torch.uint8 else -1
    ignored = int(target[0, 0, 0])
    expected = class_sums(logits, target, ignore_index=ignored)
    torch.testing.assert_close(class_sums(logits, target.to(dtype), ignore_index=ignored), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("truth", [0, 1])
def test_sure_voxels_have_a_finite_surprise_and_gradient(gamma, truth):
    leaf = torch.tensor([[[1000.0], [-1000.0]]], requires_grad=True)
    surprise = class_sums(leaf, torch.tensor([[truth]]), gamma=gamma).surprise.sum()
    surprise.backward()
    assert surprise == 2000 * truth
    assert leaf.grad.flatten().tolist() == [truth, -truth]


def test_a_label_that_is_no_class_and_not_ignored_is_refused_by_torch():
    logits, target = batch_of(5, 6)
    target[0, 0, 0] = 9
    with pytest.raises(RuntimeError, match="index 9 is out of bounds"):
        class_sums(logits, target)


class Largest(TorchDispatchMode):
    """Collects the storages of floating tensors of at least so many elements that operations return."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.storages = elements, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= self.elements:
                self.storages.add(tensor.untyped_storage().data_ptr())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_the_only_tensor_of_the_size_of_the_logits(dtype, monkeypatch):
    monkeypatch.setattr(sums, "_CHUNK_CPU", 1000)
    logits, target = batch_of(16, 8, 8, samples=1, dtype=torch.float32)
    leaf = logits.to(dtype).requires_grad_()
    with Largest(target.numel() * 2) as seen:
        torch.stack(tuple(class_sums(leaf, target, ignore_index=0))).sum().backward()
    assert seen.storages <= {leaf.data_ptr(), leaf.grad.data_ptr()}
    with Largest(target.numel() * 2) as seen:  # the check sees what it should
        logits.softmax(1)
    assert len(seen.storages) == 1


@pytest.mark.parametrize(
    ("shape", "target"), [((2, 3, 4), (2, 1, 4)), ((2, 3, 4, 5), (2, 4, 4)), ((2, 3, 4), (1, 4)), ((2, 3), (2,))]
)
def test_shapes_that_do_not_belong_together_are_refused(shape, target):
    with pytest.raises(UsageError, match="pass indices without a channel axis"):
        class_sums(torch.zeros(shape), torch.zeros(target, dtype=torch.long))
