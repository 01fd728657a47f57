"""The ladder of memory, with a network that says that memory is out until it is asked for little enough."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.batch.direct import Outcome
from medseg.cli.few import print_outcomes
from medseg.errors import ModelError, OutOfMemoryError, is_out_of_memory
from medseg.findings import FindingCode
from medseg.inference.ladder import ON_CPU, ON_HOST, ONE_TILE, rungs, segment_on_ladder, smaller_tiles
from medseg.inference.scope import Scope
from medseg.inference.tiles import SlidingWindow, TileEngine
from medseg.labels import AS_PLANNED
from medseg.nifti import write_nifti
from medseg.segment import segment_study
from medseg.segmenter import Segmenter
from medseg.study import nifti_study
from tests.builders import tiny_case, tiny_package

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Pointwise(torch.nn.Module):
    """Three classes by the value of each voxel; needs as many bytes as it sees voxels."""

    multiple = (2, 2, 2)

    def __init__(self, most_voxels: float = np.inf, error: Exception | None = None) -> None:
        super().__init__()
        self.most_voxels, self.error, self.seen = most_voxels, error or RuntimeError("out of memory"), []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        if x.numel() > self.most_voxels:
            raise self.error
        return torch.cat((torch.zeros_like(x), x - 0.2, 2 * x - 2.0), dim=1)


def segmenter(network: torch.nn.Module, batch: int = 2) -> Segmenter:
    return Segmenter(tiny_package(), [network], CPU, window=SlidingWindow(tile_size=(16, 16, 16), batch_size=batch))


IMAGE = tiny_case(0, size=24)[0]
EXPECTED = segmenter(Pointwise()).segment(IMAGE)


def test_a_study_that_fits_runs_as_planned():
    assert EXPECTED.rung == AS_PLANNED == "as planned"
    assert EXPECTED.volume.findings == ()
    assert set(np.unique(EXPECTED.array)) == {0, 1, 3}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
    ],
)
def test_one_tile_at_a_time_gives_the_same_labels(error):
    network = Pointwise(16**3, error)
    got = segmenter(network).segment(IMAGE)
    assert got.rung == ONE_TILE
    assert got.volume.findings == ()
    assert np.array_equal(got.array, EXPECTED.array)
    assert [shape[0] for shape in network.seen[:2]] == [2, 1]


def test_smaller_tiles_are_said():
    model = segmenter(Pointwise(16 * 16 * 8))
    got = model.segment(IMAGE)
    assert got.rung == "tiles of 8 x 16 x 16"
    assert [finding.code for finding in got.volume.findings] == [FindingCode.SMALLER_TILES]
    assert (got.array == EXPECTED.array).mean() > 0.999  # the network looks at one voxel: ties aside the same


def test_a_rung_that_is_not_as_planned_is_printed(tmp_path, capsys):
    write_nifti(tmp_path / "a.nii.gz", IMAGE)
    study, network = nifti_study((tmp_path / "a.nii.gz",)), Pointwise(16**3)
    for said in (True, False):
        result = segment_study(segmenter(network), study, tmp_path / "out")
        print_outcomes([Outcome(study, result, None)])
        assert (f"a.nii.gz: to fit into memory: {ONE_TILE}" in capsys.readouterr().out) is said
        network.most_voxels = np.inf


def test_the_next_study_begins_at_the_top():
    network = Pointwise(16**3)
    model = segmenter(network)
    assert model.segment(IMAGE).rung == ONE_TILE
    network.most_voxels = np.inf
    assert model.segment(IMAGE).rung == AS_PLANNED


def test_when_nothing_fits_the_error_is_raised():
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        segmenter(Pointwise(1)).segment(IMAGE)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_caught():
    network = Pointwise(1, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        segmenter(network).segment(IMAGE)
    assert len(network.seen) == 1
    assert not is_out_of_memory(ValueError("out of memory"))


def test_what_failed_is_freed_before_the_next_rung():
    counts, refs = [], []

    def attempt(rung):
        counts.append(sum(ref() is not None for ref in refs))
        big = torch.zeros(10)
        refs.append(weakref.ref(big))
        if rung < 2:
            raise MemoryError
        return big

    _, rung = segment_on_ladder(attempt, [0, 1, 2])
    assert counts == [0, 0, 0]
    assert rung == 2


def engine(device=CPU, tile=(32, 32, 16), batch=4) -> TileEngine:
    return TileEngine(lambda x: x, tile, SlidingWindow(batch_size=batch), 3, device=device)


def test_rungs_of_a_gpu_end_on_the_cpu():
    steps = rungs(engine(CUDA), (8, 8, 8))
    names = ["as planned", ONE_TILE, ON_HOST, "tiles of 16 x 32 x 16", "tiles of 16 x 16 x 16"]
    assert [step.name for step in steps] == [
        *names,
        ON_CPU,
        "tiles of 16 x 32 x 16 on the CPU",
        "tiles of 16 x 16 x 16 on the CPU",
    ]
    assert [step.batch_size for step in steps] == [4] + [1] * 7
    assert [step.accumulate_on.type for step in steps] == ["cuda"] * 2 + ["cpu"] * 6
    assert [step.device.type for step in steps] == ["cuda"] * 5 + ["cpu"] * 3
    assert [bool(step.findings) for step in steps] == [False] * 3 + [True] * 2 + [False] + [True] * 2


def test_rungs_of_a_cpu():
    assert [step.name for step in rungs(engine(batch=1), (16, 16, 8))] == [AS_PLANNED]
    assert [step.name for step in rungs(engine(batch=2), (16, 16, 8))] == [AS_PLANNED, ONE_TILE]


@pytest.mark.parametrize("multiple", [(4, 8, 2), (4, 8, 8), (16, 16, 4), (1, 1, 1), (32, 32)])
def test_smaller_tiles_fit_the_network(multiple):
    tile = (64, 96, 1 if len(multiple) == 2 else 24)
    before = tile
    tiles = smaller_tiles(tile, multiple)
    for found in tiles:
        assert all(n % m == 0 for n, m in zip(found, multiple, strict=False))
        assert all(2 * m <= n <= b for n, m, b in zip(found, multiple, before, strict=False))
        assert 0.3 < np.prod(found) / np.prod(before) < 1
        before = found
    assert tiles[-1] == tuple(2 * m for m in (*multiple, 0.5)[:3])


def test_memory_that_is_limited_begins_further_down():
    model = segmenter(Pointwise(), batch=64)
    flights = model.preflight(IMAGE.grid)
    model.scope = Scope(memory_bytes=flights.needs.host_bytes - 1)
    got = model.segment(IMAGE)
    assert got.rung == ONE_TILE
    assert np.array_equal(got.array, EXPECTED.array)


def test_memory_that_nothing_fits_is_refused_before_it_runs():
    network = Pointwise()
    model = segmenter(network)
    model.scope = Scope(memory_bytes=1000)
    with pytest.raises(OutOfMemoryError, match="expected a study that fits into 0.00 GB"):
        model.segment(IMAGE)
    assert network.seen == []
    assert not model.preflight(IMAGE.grid).fits


def test_logits_that_are_no_numbers_are_refused():
    class Spoilt(Pointwise):
        def forward(self, x):
            return super().forward(x) * np.nan

    with pytest.raises(ModelError, match="the network's logits: expected finite values, found NaN"):
        segmenter(Spoilt()).segment(IMAGE)


def test_sums_that_16_bits_do_not_hold_are_made_in_32():
    class Large(Pointwise):
        def forward(self, x):
            return super().forward(x) * 1e5

    class Half(Segmenter):
        def engine(self, *given):
            return replace(super().engine(*given), sums=torch.float16)

    network, window = Large(), SlidingWindow(tile_size=(16, 16, 16))
    got = Half(tiny_package(), [network], CPU, window=window).segment(IMAGE)
    once = Large()
    assert np.array_equal(got.array, segmenter(once, batch=1).segment(IMAGE).array)
    assert len(network.seen) > len(once.seen)
    assert np.unique(got.array).tolist() == [0, 1, 3]


def test_a_move_that_fails_spoils_no_later_study(monkeypatch):
    """A segmenter at home on a device whose memory is full: networks come and go, whole or not at all."""
    home, moves = torch.device("meta"), []

    def move(network, device, dims, **_):
        moves.append((network.name, device.type))
        if device == home and network.name == "b" and len(moves) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return network

    class Named(Pointwise):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            if x.is_meta:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    monkeypatch.setattr("medseg.segmenter.place", move)
    monkeypatch.setattr("medseg.segmenter.autocast", lambda precision, device: nullcontext())
    model = Segmenter(tiny_package(), [Named("a"), Named("b")], home, precision="fp32")
    assert moves == [("a", "meta"), ("b", "meta")]
    first = model.segment(IMAGE)
    assert moves[2:] == [("a", "cpu"), ("b", "cpu")]
    second = model.segment(IMAGE)
    assert moves[4:6] == [("a", "meta"), ("b", "meta")]  # going home is an attempt like any other
    assert moves[-2:] == [("a", "cpu"), ("b", "cpu")]
    for got in (first, second):
        assert got.rung == ON_CPU
        assert np.array_equal(got.array, EXPECTED.array)
    assert model.device == home


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_networks_come_back_from_the_cpu():
    class OnlyOnTheHost(Pointwise):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            if x.is_cuda:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().forward(x) * self.weight

    network = OnlyOnTheHost()
    model = Segmenter(tiny_package(), [network], CUDA)
    got = model.segment(IMAGE)
    assert got.rung == ON_CPU
    assert np.array_equal(got.array, EXPECTED.array)
    network.forward = super(OnlyOnTheHost, network).forward
    assert model.segment(IMAGE).rung == AS_PLANNED
    assert network.weight.is_cuda
    assert model.device == CUDA


def test_the_page_on_segmenting_names_every_rung_and_finding():
    page = (Path(__file__).parents[2] / "docs" / "segmenting.md").read_text(encoding="utf-8")
    names = (AS_PLANNED, ONE_TILE, ON_HOST, ON_CPU, FindingCode.SMALLER_TILES.value, FindingCode.NO_REGION.value)
    assert all(f"`{name}`" in page for name in names)
