"""What is known of a study before it runs, against what really runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medseg.cli import app
from medseg.data.preprocessing import Preprocessing
from medseg.data.transforms import build_transforms, prepare
from medseg.inference.forward import forward_cost
from medseg.inference.headers import study_grid
from medseg.inference.ladder import ON_CPU, rungs
from medseg.inference.needs import Method, Work
from medseg.inference.preflight import first_fitting, flops_per_second, network_grid, rungs_that_fit
from medseg.inference.scope import RegionOfInterest, Scope
from medseg.inference.tiles import SlidingWindow, TileEngine
from medseg.model import NetworkSpec
from medseg.nifti import write_nifti
from medseg.segmenter import Segmenter
from medseg.study import nifti_study
from medseg.volume import Volume
from tests.builders import save_tiny_model, tiny_case, tiny_package

SHEARED = np.array([[0.8, 0, 0, 3], [0, 0.9, -0.8, 0], [0, 0, 2.0, 9], [0, 0, 0, 1.0]])
OBLIQUE = np.array([[0, -0.8, 1.2, 3], [0, -0.6, -1.6, 0], [-1.1, 0, 0, 9], [0, 0, 0, 1.0]])
LPI = np.array([[0, 0, -2.5, 0], [-0.8, 0, 0, 0], [0, -1.2, 0, 0], [0, 0, 0, 1.0]])
WITHIN = 1.5
PLAIN = {"shape": (128, 128, 96), "classes": 8, "channels": (4, 4), "spacing_mm": 1.0, "tile": (32, 32, 32)}


@pytest.mark.parametrize(
    "fields",
    [
        {"spacing_mm": (1.5, 1.5, 2.0)},
        {"spacing_mm": ("keep", 2.0, "keep")},
        {"spacing_mm": (1.0, 1.0, 1.0), "spline": {}},
        {"spacing_mm": (1.5, 1.1, 2.0), "orientation": "stored", "axes": (2, 1, 0), "spline": {}},
        {"spacing_mm": (1.5, 1.1, 2.0), "axes": (1, 2, 0)},
    ],
)
@pytest.mark.parametrize("affine", [LPI, np.diag([1.0, 1.3, 3.0, 1.0]), SHEARED, OBLIQUE])
def test_the_networks_grid_is_that_of_the_preprocessing(fields, affine):
    rules = Preprocessing.model_validate({"intensity": ({"kind": "zscore"},)} | fields)
    image = Volume(np.random.default_rng(0).normal(size=(21, 18, 25)).astype(np.float32), affine)
    prepared = prepare(build_transforms(rules, 1), [image])
    assert network_grid(rules, image.grid).difference(prepared.grid) is None


def test_tiles_are_those_that_run():
    model = Segmenter(tiny_package(), [tiny_package().network.build()], torch.device("cpu"))
    image = tiny_case(0, size=30)[0]
    told = []
    model.segment(image, lambda done, total: told.append((done, total)))
    flight = model.preflight(image.grid)
    assert told[-1] == (flight.tiles, flight.tiles)
    assert flight.fits
    assert flight.seconds > 0


def test_the_cost_of_a_forward_pass_by_hand():
    """Two operations for each product of a convolution, counted by hooks on a network that really runs."""
    spec = NetworkSpec(name="unet", spatial_dims=3, in_channels=1, num_classes=3, fields={"channels": (4, 8)})
    counted = []
    network = spec.build().eval()

    def count(module, given, out):
        kernel = int(np.prod(module.kernel_size))
        voxels = (
            given[0].shape[2:].numel() if isinstance(module, torch.nn.ConvTranspose3d) else out.shape[2:].numel()
        )
        counted.append(2 * module.in_channels * module.out_channels * kernel * voxels)

    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 1, 16, 16, 16))
    one, two = (forward_cost(spec, (n, 16, 16, 16), "cpu", "fp32") for n in (1, 2))
    assert one.flops == sum(counted)
    assert two.flops == 2 * one.flops
    assert two.peak_bytes == pytest.approx(2 * one.peak_bytes, rel=0.05)
    finest = 16**3 * 4
    assert 4 * 2 * finest < one.peak_bytes < 4 * 12 * finest


def test_the_rate_of_this_machine():
    assert 1e7 < flops_per_second("cpu", 3) < 1e14


RUNS = {
    "the image": {
        "shape": (320, 320, 160),
        "classes": 3,
        "channels": (4, 8),
        "spacing_mm": 4.0,
        "tile": (48, 48, 48),
    },
    "the classes": {
        "shape": (96, 96, 64),
        "classes": 64,
        "channels": (4, 4),
        "spacing_mm": 1.0,
        "tile": (48, 48, 64),
    },
    "the network": {
        "shape": (64, 64, 64),
        "classes": 3,
        "channels": (32, 32),
        "spacing_mm": 1.0,
        "tile": (64, 64, 64),
    },
    "a CRF": PLAIN | {"crf": True},
    "a region": PLAIN | {"crf": True, "coarse_spacing_mm": 4.0},
    "probabilities": PLAIN | {"probabilities": True},
    "sheared probabilities": PLAIN | {"probabilities": True, "sheared": True, "shape": (96, 96, 48), "classes": 16},
}


@pytest.fixture(scope="module")
def peaks():
    """Bytes estimated and taken, of all runs one after the other in a process whose buffers go back when freed."""
    command = [sys.executable, "-m", "tests.peak_of_a_run", json.dumps(list(RUNS.values()))]
    malloc = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | malloc)
    assert run.returncode == 0, run.stderr
    return dict(zip(RUNS, map(json.loads, run.stdout.splitlines()), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", RUNS)
def test_memory_is_that_of_a_real_run(peaks, name):
    """Where the image, the sums of many classes, or the network's features take the most."""
    found = peaks[name]
    assert 1 / WITHIN < found["estimated"] / found["taken"] < WITHIN, found


def test_the_grid_of_a_file_is_that_of_its_image(tmp_path):
    volume = tiny_case(0)[0]
    write_nifti(tmp_path / "a.nii.gz", volume)
    grid, image_bytes = study_grid(nifti_study((tmp_path / "a.nii.gz",)))
    assert grid.difference(volume.grid) is None
    assert image_bytes == volume.array.itemsize == 4


def test_what_runs_before_takes_its_share():
    tiny = tiny_package()
    model, first = (Segmenter(tiny, [tiny.network.build()], torch.device("cpu")) for _ in range(2))
    image = tiny_case(0, size=30)[0]
    alone = model.preflight(image.grid)
    model.scope = Scope(RegionOfInterest(first))
    both = model.preflight(image.grid)
    assert both.seconds == pytest.approx(2 * alone.seconds)
    assert both.needs == alone.needs
    first.window = SlidingWindow(batch_size=64)
    larger = first.preflight(image.grid)
    assert model.preflight(image.grid).needs.host == larger.needs.host
    assert larger.needs.host_bytes > alone.needs.host_bytes
    first.scope = Scope(memory_bytes=1)
    assert not model.preflight(image.grid).fits


def test_each_rung_is_held_against_the_memory_of_its_device(monkeypatch):
    """A GPU with too little, and a host with enough: the dry run and the run choose the same."""
    free = {"cuda": 1, "cpu": None}
    monkeypatch.setattr("medseg.inference.preflight.free_bytes", lambda device: free[device.type])
    package, image = tiny_package(), tiny_case(0, size=30)[0]
    work = Work(image.grid, network_grid(package.preprocessing, image.grid))
    engine = TileEngine(lambda x: x, (16, 16, 16), SlidingWindow(), 3, device=torch.device("cuda"))
    steps = rungs(engine, (2, 2, 2))
    method = Method(package, SlidingWindow(), "fp32")
    for memory_bytes in (None, 1):
        fit = first_fitting(steps, work, method, memory_bytes)
        assert (steps[fit.place].name, fit.fits, fit.limit_bytes) == (ON_CPU, True, None)
    assert rungs_that_fit(steps, work, method, 1)[0].name == ON_CPU


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_nifti(tmp_path / "scan.nii.gz", tiny_case(0, size=30)[0])
    whole = (tmp_path / "scan.nii.gz").read_bytes()
    (tmp_path / "damaged.nii.gz").write_bytes(whole[:20] + bytes(200) + whole[220:])
    arguments = ["segment", str(tmp_path / "damaged.nii.gz"), str(tmp_path / "scan.nii.gz"), "--dry-run"]
    arguments += ["-m", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for said in ("30 x 28 x 26", "16 x 16 x 16", "as planned", "fits", "damaged"):
        assert said in result.output
    assert not (tmp_path / "out").exists()
    less = CliRunner().invoke(app, [*arguments, "--memory", "0.1MB"])
    assert "no: " in less.output
