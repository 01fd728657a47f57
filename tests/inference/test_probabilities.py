"""Probabilities in a file against the whole logits interpolated by scipy, and what becomes of the file."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from typer.testing import CliRunner

from medseg.batch.job import job_of
from medseg.batch.network import StudyNetwork
from medseg.batch.worker import StudyWriter
from medseg.cli import app
from medseg.data.resample import GridMap
from medseg.data.transforms import Prepared
from medseg.errors import InputError, StorageError, UsageError
from medseg.inference.labelling import label_on_grid, last_regions, winners
from medseg.inference.probabilities import saving_probabilities, shifted
from medseg.inference.saved import probabilities_path, read_probabilities
from medseg.inference.tiles import SlidingWindow, TileEngine
from medseg.loading import InferenceOptions
from medseg.model import ModelPackage
from medseg.nifti import read_nifti, write_nifti
from medseg.segmenter import Segmenter
from medseg.study import nifti_study
from medseg.volume import Grid, Volume
from tests.builders import save_tiny_model, tiny_package

torch.manual_seed(0)
NETWORK = torch.nn.Conv3d(1, 3, 5, padding=2).requires_grad_(False)
NETWORK.weight.mul_(6)
IMAGE = torch.randn(1, 21, 18, 25)
SOURCE = Grid((21, 18, 25), np.array([[2, 0, 0, -20], [0, 2, 0, 5], [0, 0, 2, 60], [0, 0, 0, 1.0]]))
NATIVE = {
    "finer, flipped, permuted": [[0, -0.9, 0, 18], [0, 0, 1.7, 6], [1.1, 0, 0, 63], [0, 0, 0, 1]],
    "larger than the image": [[1.5, 0, 0, -30], [0, 1.5, 0, -4], [0, 0, 3, 40], [0, 0, 0, 1]],
    "rotated": [[0.8, 0.6, 0, -15], [-0.6, 0.8, 0, 20], [0, 0, 2, 60], [0, 0, 0, 1]],
}
TIE = 2 * 2**-11  # float16 keeps 11 bits: closer probabilities may become equal


def package(regions: bool = False) -> ModelPackage:
    facts = tiny_package().model_dump() | {"weights_sha256": {"fold_0-ab.safetensors": "ab12"}}
    if regions:
        facts["regions"] = ({"name": "both", "labels": (1, 3), "paint": 1}, {"name": "box", "labels": (3,)})
        facts["network"] = facts["network"] | {"num_classes": 2}
    return ModelPackage.model_validate(facts)


def save(target: Path, native: Grid, regions: bool = False) -> np.ndarray:
    channels = 2 if regions else 3
    predict = lambda tiles: NETWORK(tiles)[:, :channels]
    engine = TileEngine(predict, (8, 10, 12), SlidingWindow(), 3, regions=regions)
    choose, values = (last_regions, [0, 1, 3]) if regions else (winners, [0, 1, 3])
    with saving_probabilities(target, package(regions), native) as sink:
        return label_on_grid(
            engine, Prepared(IMAGE, SOURCE), native, np.array(values, np.uint8), choose=choose, sink=sink
        )


def expected_logits(native: Grid, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (K, *native) in float64, and which voxels lie within the image."""
    engine = TileEngine(NETWORK, (8, 10, 12), SlidingWindow(), 3)
    whole = torch.cat([slab.logits for slab in engine.slabs(IMAGE)], dim=-1).double().numpy()[:channels]
    matrix = GridMap(SOURCE, native).matrix
    at = matrix[:3, :3] @ np.indices(native.shape).reshape(3, -1) + matrix[:3, 3:]
    inside = ((at >= -0.5) & (at <= np.array(SOURCE.shape)[:, None] - 0.5)).all(axis=0)
    logits = np.stack([map_coordinates(c, at, order=1, mode="nearest") for c in whole])
    return logits.reshape(channels, *native.shape), inside.reshape(native.shape)


@pytest.mark.parametrize("kind", NATIVE)
def test_they_are_the_softmax_of_interpolated_logits(kind, tmp_path):
    native = Grid((30, 26, 34), np.array(NATIVE[kind]))
    labels = save(tmp_path / "a.h5", native)
    found = read_probabilities(tmp_path / "a.h5")
    assert found.names == ("background", "ball", "box")
    assert not found.regions
    assert found.grid.difference(native) is None
    assert (found.model, found.weights_sha256) == ("tiny", ("ab12",))
    got = found.read()
    assert got.dtype == np.float16
    logits, inside = expected_logits(native, 3)
    exact = np.exp(logits - logits.max(0)) / np.exp(logits - logits.max(0)).sum(0)
    np.testing.assert_allclose(got[:, inside], exact[:, inside], rtol=1e-3, atol=1e-4)
    assert (~inside).any() or kind == "finer, flipped, permuted"
    assert (got[0][~inside] == 1).all()
    assert (got[1:, ~inside] == 0).all()
    two = np.sort(got.astype(np.float64), axis=0)
    sure = two[-1] - two[-2] > TIE
    assert sure.mean() > 0.98
    assert (np.array([0, 1, 3])[got.argmax(0)][sure] == labels[sure]).all()


@pytest.mark.parametrize("kind", NATIVE)
def test_those_of_regions_are_the_sigmoid(kind, tmp_path):
    native = Grid((30, 26, 34), np.array(NATIVE[kind]))
    labels = save(tmp_path / "a.h5", native, regions=True)
    found = read_probabilities(tmp_path / "a.h5")
    assert (found.names, found.regions) == (("both", "box"), True)
    got = found.read()
    logits, inside = expected_logits(native, 2)
    np.testing.assert_allclose(got[:, inside], 1 / (1 + np.exp(-logits[:, inside])), rtol=1e-3, atol=1e-4)
    assert (got[:, ~inside] < 1e-4).all()
    both, box = got > 0.5
    sure = (np.abs(got - 0.5) > TIE).all(axis=0)
    assert (np.where(box, 3, np.where(both, 1, 0))[sure] == labels[sure]).all()


def test_a_part_of_one_channel(tmp_path):
    save(tmp_path / "a.h5", SOURCE)
    found, place = read_probabilities(tmp_path / "a.h5"), (slice(2, 9), slice(None), slice(5, 6))
    assert np.array_equal(found.read("box", place), found.read()[2, 2:9, :, 5:6])
    with pytest.raises(InputError, match="expected background, ball, box, found liver"):
        found.read("liver")


def volume() -> Volume:
    array = np.random.default_rng(0).normal(50, 20, (16, 20, 18)).astype(np.float32)
    return Volume(np.asfortranarray(array), np.diag([1.5, 1.5, 2.0, 1.0]), modality="MR")


def test_the_segmenter_writes_them_and_the_same_bytes_again(tmp_path):
    model = Segmenter(package(), [package().network.build().eval()], torch.device("cpu"))
    plain = model.segment(volume())
    labels = model.segment(volume(), probabilities=tmp_path / "a.h5")
    model.segment(volume(), probabilities=tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    got = read_probabilities(tmp_path / "a.h5").read().astype(np.float64)
    np.testing.assert_allclose(got.sum(axis=0), 1, atol=2e-3)
    two = np.sort(got, axis=0)
    sure = two[-1] - two[-2] > TIE
    assert (np.array([0, 1, 3])[got.argmax(0)][sure] == labels.array[sure]).all()
    assert (plain.array != labels.array).mean() < 1e-3  # but for rounding
    assert len(np.unique(labels.array)) > 1


def test_the_places_of_a_box_are_those_of_the_image():
    seen = []
    put = shifted(lambda place, logits: seen.append(place), (slice(3, 9), slice(0, 5), slice(7, 8)))
    put((slice(0, 2), slice(1, 5), slice(0, 1)), torch.zeros(1))
    assert seen == [(slice(3, 5), slice(1, 5), slice(7, 8))]
    assert shifted(None, (slice(3, 9),) * 3) is None


FILL = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
from medseg.inference.probabilities import saving_probabilities
from medseg.volume import Grid
from tests.inference.test_probabilities import package

for depth in (128, 640):
    with saving_probabilities(Path(sys.argv[1]), package(), Grid((256, 256, depth), np.eye(4))) as sink:
        for k in range(0, depth, 4):
            logits = torch.zeros(3, 256, 256, 4)
            logits[1, 20:160, 20:160] = 50
            logits[0, 160:] = 50
            sink((slice(0, 256), slice(0, 256), slice(k, k + 4)), logits)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_volume_and_certain_voxels_cost_next_to_nothing(tmp_path):
    command = [sys.executable, "-c", FILL, str(tmp_path / "a.h5")]
    # what is freed goes back to the system at once: the peak is that of what is in use
    returned = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | returned)
    small, large = map(int, run.stdout.split())
    whole = 2 * 3 * 256 * 256 * 640
    assert (large - small) * 1024 < whole / 8
    assert (tmp_path / "a.h5").stat().st_size < whole / 30


def test_chunks_are_thin_along_the_axis_that_blocks_come_along(tmp_path):
    for affine, axes in ((np.eye(4), "ckji"), (np.array(NATIVE["finer, flipped, permuted"]), "cikj")):
        with saving_probabilities(tmp_path / "a.h5", package(), Grid((70, 80, 90), affine)):
            pass
        with h5py.File(tmp_path / "a.h5") as file:
            dataset = file["probabilities"]
            assert "".join(dataset.attrs["axes"]) == axes
            assert dataset.shape[1:] == tuple({"i": 70, "j": 80, "k": 90}[axis] for axis in axes[1:])
            assert dataset.chunks == (1, 16, 64, 64)
        assert read_probabilities(tmp_path / "a.h5").grid.shape == (70, 80, 90)


def test_a_file_that_is_not_finished_is_not_there(tmp_path):
    with suppress(KeyboardInterrupt), saving_probabilities(tmp_path / "a.h5", package(), SOURCE) as sink:
        sink((slice(0, 2), slice(0, 18), slice(0, 25)), torch.zeros(3, 2, 18, 25))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match="a file is in the place of the folder"),
        saving_probabilities(tmp_path / "file" / "a.h5", package(), SOURCE),
    ):
        pass


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
from medseg.errors import StorageError
from medseg.inference.probabilities import saving_probabilities
from medseg.volume import Grid
from tests.inference.test_probabilities import package

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
done = 0
try:
    with saving_probabilities(Path(sys.argv[1]), package(), Grid((64, 64, 256), np.eye(4))) as sink:
        for k in range(0, 256, 4):
            sink((slice(0, 64), slice(0, 64), slice(k, k + 4)), torch.randn(3, 64, 64, 4))
            done += 1
except StorageError as error:
    print(done, error.found)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit", [3_000, 500_000])
def test_a_full_disk_is_an_error_and_not_a_crash(limit, tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.h5"), str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    done, found = run.stdout.split(maxsplit=1)
    assert int(done) < 64  # it stops soon: what cannot be written is kept in memory
    assert found == "File too large\n"
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_something_else_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_probabilities(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(InputError, match="file signature not found"):
        read_probabilities(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["probabilities"] = np.zeros(3)
    with pytest.raises(InputError, match="another HDF5 file"):
        read_probabilities(tmp_path / "other.h5")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with (
        pytest.raises(UsageError, match=r"medseg\[probabilities\]"),
        saving_probabilities(tmp_path / "a.h5", package(), SOURCE),
    ):
        pass


def test_nothing_is_saved_without_a_target():
    with saving_probabilities(None, package(), SOURCE) as sink:
        assert sink is None


def test_the_file_lies_beside_the_label_map():
    assert probabilities_path(Path("out/case_1.nii.gz")) == Path("out/case_1.probabilities.h5")


def test_the_command_writes_them_beside_the_label_map(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_nifti(tmp_path / "scan.nii.gz", volume())
    arguments = [str(tmp_path / "scan.nii.gz"), "-m", str(tmp_path / "model"), "-o", str(tmp_path / "out")]
    arguments += ["--save-probabilities", "--device", "cpu"]
    assert CliRunner().invoke(app, ["segment", *arguments]).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scan.nii.gz", "scan.probabilities.h5"]
    found = read_probabilities(tmp_path / "out" / "scan.probabilities.h5")
    labels = read_nifti(tmp_path / "out" / "scan.nii.gz")
    assert found.grid.difference(labels.grid) is None
    got = np.sort(found.read().astype(np.float64), axis=0)
    sure = got[-1] - got[-2] > TIE
    assert (np.array([0, 1, 3])[found.read().argmax(0)][sure] == labels.array[sure]).all()


def test_a_batch_writes_them_too(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_nifti(tmp_path / "scan.nii.gz", volume())
    job = job_of(nifti_study((tmp_path / "scan.nii.gz",)))
    (tmp_path / "out").mkdir()
    (tmp_path / "scratch").mkdir()
    options = InferenceOptions(save_probabilities=True)
    made = StudyNetwork(tmp_path / "model", options, "cpu", scratch=tmp_path / "scratch")(job, [volume()])
    written = StudyWriter(tmp_path / "scratch")(job, [], made)
    assert [output.path for output in written.outputs] == ["scan.nii.gz", "scan.probabilities.h5"]
    assert read_probabilities(written.made[1]).names == ("background", "ball", "box")
