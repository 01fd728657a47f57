"""Which device and which precision, on a machine that may or may not have CUDA."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.device import autocast, memory_format, pick_device, pick_precision, place
from medseg.errors import DeviceError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def cards(monkeypatch: pytest.MonkeyPatch, count: int, compute_capability: int = 8) -> None:
    """Let torch report a number of CUDA devices."""

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return compute_capability >= 8 or including_emulation

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)


def test_auto_takes_cuda_where_it_is_there(monkeypatch):
    cards(monkeypatch, 1)
    assert pick_device() == pick_device("auto") == CUDA
    cards(monkeypatch, 0)
    assert pick_device() == CPU


def test_devices_by_name(monkeypatch):
    cards(monkeypatch, 12)
    assert pick_device("cpu") == CPU
    assert pick_device("cuda") == CUDA
    for name, number in [("cuda:0", 0), ("cuda:1", 1), ("cuda:11", 11), ("cuda:01", 1)]:
        assert pick_device(name) == torch.device("cuda", number)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:2", 2)])
def test_a_device_that_is_not_there_is_refused_with_a_remedy(monkeypatch, name, count):
    cards(monkeypatch, count)
    with pytest.raises(DeviceError, match="use --device cpu, or check the driver") as caught:
        pick_device(name)
    assert caught.value.found == f"{count} CUDA device(s)"
    assert name in caught.value.where
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    "name",
    ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "cuda:\u00b2", "cuda:1.5", "cuda:0:0", "CUDA", "cpu:0", "cuda:0\n"],
)
def test_what_is_no_device_is_refused(monkeypatch, name):
    cards(monkeypatch, 4)
    with pytest.raises(DeviceError, match="auto, cpu, cuda or cuda:N"):
        pick_device(name)


def test_precision(monkeypatch):
    assert pick_precision("auto", CPU) == "fp32"
    cards(monkeypatch, 1, compute_capability=9)
    assert pick_precision("auto", CUDA) == "bf16"
    cards(monkeypatch, 1, compute_capability=7)  # such cards only emulate bf16, which is slow
    assert pick_precision("auto", CUDA) == "fp16"
    for asked in ("fp32", "bf16", "fp16"):
        assert pick_precision(asked, CPU) == pick_precision(asked, CUDA) == asked


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_autocast_computes_in_the_precision(precision, dtype):
    a = torch.ones(2, 2)
    with autocast(precision, CPU):
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32


def test_fp32_turns_an_outer_autocast_off():
    a = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), autocast("fp32", CPU):
        assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(("dims", "convolution"), [(2, nn.Conv2d), (3, nn.Conv3d)])
def test_weights_are_channels_last_and_compute_the_same(dims, convolution):
    torch.manual_seed(0)
    network = convolution(3, 4, 3, padding=1)
    x = torch.randn(1, 3, *[6] * dims)
    expected = network(x)
    placed = place(network, CPU, dims)
    assert placed.weight.is_contiguous(memory_format=memory_format(dims))
    assert not placed.weight.is_contiguous()
    torch.testing.assert_close(placed(x.contiguous(memory_format=memory_format(dims))), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_runs_on_the_card():
    network = place(nn.Conv3d(1, 2, 3), pick_device("cuda"), 3)
    with autocast("auto", CUDA):
        out = network(torch.zeros(1, 1, 4, 4, 4, device="cuda"))
    assert out.dtype in (torch.bfloat16, torch.float16)
