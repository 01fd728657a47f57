"""The store on disk: its size, several processes at once, a kill at any moment, a disk that is full."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import medseg.data.store as store
import medseg.data.stored as stored_module
from medseg.data.manifest import Case
from medseg.data.preprocessing import Preprocessing
from medseg.data.space import expected_bytes
from medseg.data.store import build_store
from medseg.errors import StorageError
from medseg.labels import LabelSet
from medseg.nifti import write_nifti
from medseg.volume import Volume
from tests.builders import LABELS, tiny_dataset
from tests.data.stored import stored_case

PLAIN = Preprocessing.model_validate({"intensity": ({"kind": "zscore"},)})
AS_IT_IS = Preprocessing.model_validate(
    {"intensity": ({"kind": "ct", "clip_hu": (-1e9, 1e9), "mean_hu": 0.0, "std_hu": 1.0},)}
)
FILES = ("image.npy", "label.npy", "voxels.npy", "case.json")
Usage = namedtuple("Usage", "total used free")

BUILD = """
import itertools, sys, time
from pathlib import Path
import medseg.data.store as store
from medseg.data.manifest import load_manifest
from medseg.data.preprocessing import Preprocessing

data, folder, stop_after = sys.argv[1:]
number = itertools.count(1)
real = store.write_case

def write_case(case, *arguments):
    real(case, *arguments)
    if next(number) == int(stop_after):
        (case.folder / "case.json").unlink()  # as if it had got no further
        print("stopped", flush=True)
        time.sleep(600)

store.write_case = write_case
dataset = load_manifest(data)
preprocessing = Preprocessing.model_validate({"intensity": ({"kind": "zscore"},)})
print("ready", flush=True)
input()
stored = store.build_store(Path(folder), dataset.cases, preprocessing, dataset.labels)
print(*(case.is_whole for case in stored))
"""


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Case, ...]:
    return tiny_dataset(tmp_path / "data", cases=3).cases


def write_pair(folder: Path, image: np.ndarray, label: np.ndarray, spacing: float = 1.0) -> Case:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    write_nifti(folder / "image.nii", Volume(image, affine))
    write_nifti(folder / "label.nii", Volume(label, affine))
    return Case("one", "one", (folder / "image.nii",), folder / "label.nii")


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def built_apart(folder: Path, stop_after: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready to build the store on a line of input."""
    arguments = [sys.executable, "-c", BUILD, str(folder / "data" / "tiny.yaml"), str(folder / "store")]
    process = subprocess.Popen(
        [*arguments, str(stop_after)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


# --- size and type ---


@pytest.mark.parametrize(("size", "classes"), [(8, 1), (8, 7), (12, 100), (35, 1), (35, 100), (64, 7)])
def test_a_voxel_takes_at_most_five_bytes(tmp_path, size, classes):
    rng = np.random.default_rng(0)
    shape = (size, size, size)
    case = write_pair(
        tmp_path, rng.normal(size=shape).astype(np.float32), rng.integers(1, classes + 1, shape).astype(np.uint8)
    )
    labels = LabelSet.from_names({value: f"label {value}" for value in range(1, classes + 1)})
    build_store(tmp_path / "store", [case], PLAIN, labels)
    assert bytes_in(tmp_path / "store") <= 5 * size**3
    assert bytes_in(tmp_path / "store") >= 3 * size**3


@pytest.mark.parametrize(("size", "classes"), [(40, 2), (64, 100)])
@pytest.mark.parametrize("beyond", [False, True])
def test_in_float32_the_lists_take_at_most_one_percent(tmp_path, size, classes, beyond):
    rng = np.random.default_rng(0)
    shape = (size, size, size)
    image = rng.normal(size=shape).astype(np.float32)
    image[0, 0, 0] = 70_000 if beyond else 1  # which float16 does not hold
    label = rng.integers(1, classes + 1, shape).astype(np.uint8)
    labels = LabelSet.from_names({value: f"label {value}" for value in range(1, classes + 1)})
    dtype = "float16" if beyond else "float32"
    case = write_pair(tmp_path, image, label)
    (stored,) = build_store(tmp_path / "store", [case], AS_IT_IS, labels, dtype=dtype)
    assert stored.image.dtype == np.float32
    assert 5 * size**3 <= bytes_in(tmp_path / "store") <= 5.05 * size**3
    assert all(len(stored.voxels_of(index)) for index in range(1, classes + 1))


def test_the_bytes_are_known_beforehand(tmp_path):
    rng = np.random.default_rng(0)
    shape = (40, 30, 24)
    label = rng.integers(0, 3, shape).astype(np.uint8)
    case = write_pair(tmp_path, rng.normal(size=shape).astype(np.float32), label, spacing=2.0)
    labels = LabelSet.from_names({1: "a", 2: "b"})
    for spacing, dtype in ((None, "float16"), ((1.0, 2.0, "keep"), "float32"), ((4.0, 4.0, 4.0), "float16")):
        preprocessing = PLAIN.model_copy(update={"spacing_mm": spacing})
        expected = expected_bytes(case, preprocessing, 2, dtype)
        folder = tmp_path / f"store {spacing}"
        build_store(folder, [case], preprocessing, labels, dtype=dtype)
        assert bytes_in(folder) == pytest.approx(expected, rel=0.05, abs=2000)


def test_values_beyond_float16_are_kept_in_float32(tmp_path):
    image = np.zeros((6, 5, 4), np.float32)
    image[1, 2, 3] = -70_000
    image[2, 2, 2] = 12_345
    case = write_pair(tmp_path, image, np.ones(image.shape, np.uint8))
    (stored,) = build_store(tmp_path / "store", [case], AS_IT_IS, LABELS)
    assert stored.image.dtype == np.float32
    np.testing.assert_array_equal(stored.image[0], image)
    np.testing.assert_array_equal(stored.patch((0, 0, 0), image.shape)[0][0], image)
    image[1, 2, 3] = -65_504
    write_nifti(case.images[0], Volume(image, np.eye(4)))
    (stored,) = build_store(tmp_path / "store", [case], AS_IT_IS, LABELS)
    assert stored.image.dtype == np.float16
    assert stored.image.min() == -65_504


def test_another_type_is_another_case(tmp_path, cases):
    folders = {
        build_store(tmp_path / "s", cases[:1], PLAIN, LABELS, dtype=dtype)[0].folder
        for dtype in ("float16", "float32", "float16")
    }
    assert len(folders) == 2


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="no /proc")
@pytest.mark.parametrize("size", [(16, 16, 16), (160, 160, 1)])
def test_a_patch_costs_the_patch_and_not_the_volume(tmp_path, size):
    image = np.zeros((1, 160, 160, 160), np.float32)
    case = stored_case(tmp_path / "large", image, np.zeros(image.shape[1:], np.uint8))
    corner = tuple(min(50, 160 - length) for length in size)
    before = bytes_read()
    case.patch(corner, size)
    rows = size[1] * size[2] * 160 * (4 + 1)  # a row is read whole
    assert rows <= bytes_read() - before <= 2 * rows


def bytes_read() -> int:
    """Bytes that this process has asked the system to read."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


# --- several processes, and kills ---


def test_two_processes_build_one_store_at_once(tmp_path, cases):
    with built_apart(tmp_path) as one, built_apart(tmp_path) as two:
        for process in (one, two):
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120)[0].splitlines()[-1] for process in (one, two)]
    assert said == ["True True True"] * 2
    alone = build_store(tmp_path / "alone", cases, PLAIN, LABELS)
    assert contents(tmp_path / "store") == contents(tmp_path / "alone")
    assert len(list((tmp_path / "store").iterdir())) == len(alone) == 3


def test_a_store_that_was_killed_is_completed(tmp_path, cases):
    with built_apart(tmp_path, stop_after=2) as process:
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "stopped\n"
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("store/[!.]*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    left = [path for path in (tmp_path / "store").iterdir() if path.name.startswith(".")]
    assert left
    whole = [path for path in (tmp_path / "store").iterdir() if not path.name.startswith(".")]
    stamps = {path: path.stat().st_mtime_ns for folder in whole for path in folder.iterdir()}
    stored = build_store(tmp_path / "store", cases, PLAIN, LABELS)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert len(stamps) == 4 * len(whole) >= 4
    build_store(tmp_path / "alone", cases, PLAIN, LABELS)
    assert contents(tmp_path / "store") == contents(tmp_path / "alone")
    assert {case.folder for case in stored} == set((tmp_path / "store").iterdir())


def test_folders_of_living_processes_are_left_alone_for_an_hour(tmp_path, cases):
    folder = tmp_path / "store"
    living, elsewhere, old = (
        folder / f".{name}.{owner}"
        for name, owner in (
            ("1a", f"{os.getpid()}@{platform.node()}"),
            ("2b", "999999999@another-machine"),
            ("3c", f"{os.getpid()}@{platform.node()}"),
        )
    )
    for temporary in (living, elsewhere, old):
        temporary.mkdir(parents=True)
    os.utime(old, (time.time() - 3601,) * 2)
    build_store(folder, cases, PLAIN, LABELS)
    assert (living.exists(), elsewhere.exists(), old.exists()) == (True, True, False)


@pytest.mark.parametrize("name", FILES)
def test_a_case_that_lost_a_file_is_made_again(tmp_path, cases, name):
    first = build_store(tmp_path / "store", cases, PLAIN, LABELS)
    before = contents(tmp_path / "store")
    (first[1].folder / name).unlink()
    build_store(tmp_path / "store", cases, PLAIN, LABELS)
    assert contents(tmp_path / "store") == before


def test_the_second_to_finish_keeps_the_first_ones_case(tmp_path, cases, monkeypatch):
    real = store.write_case

    def write_case(case, *arguments):
        real(case, *arguments)
        if not list(tmp_path.glob("store/[!.]*")):
            with monkeypatch.context() as patch:
                patch.setattr(store, "write_case", real)
                inner.extend(build_store(tmp_path / "store", cases[:1], PLAIN, LABELS))
            stamps.append((inner[0].folder / "image.npy").stat().st_ino)

    inner, stamps = [], []
    monkeypatch.setattr(store, "write_case", write_case)
    (outer,) = build_store(tmp_path / "store", cases[:1], PLAIN, LABELS)
    assert (outer.folder / "image.npy").stat().st_ino == stamps[0]
    assert [path.name for path in (tmp_path / "store").iterdir()] == [outer.folder.name]


# --- a full disk ---


@pytest.mark.parametrize("name", FILES)
def test_a_disk_that_runs_full_leaves_whole_cases_and_nothing_else(tmp_path, cases, monkeypatch, name):
    real = stored_module._flushed

    @contextmanager
    def flushed(path):
        with real(path) as stream:
            yield stream
            stream.write(b"half")
            if path.name == name:
                raise OSError(errno.ENOSPC, "No space left on device")

    build_store(tmp_path / "store", cases[:1], PLAIN, LABELS)
    before = contents(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(stored_module, "_flushed", flushed)
        with pytest.raises(StorageError) as caught:
            build_store(tmp_path / "store", cases, PLAIN, LABELS)
    assert caught.value.found == "the disk is full"
    assert caught.value.expected == "about 0.0 MB free for 2 preprocessed case(s)"
    after = contents(tmp_path / "store")
    assert after == before
    assert len(list((tmp_path / "store").iterdir())) == 1
    assert all(case.is_whole for case in build_store(tmp_path / "store", cases, PLAIN, LABELS))


def test_too_little_room_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    shape = (100, 100, 100)
    case = write_pair(tmp_path, rng.normal(size=shape).astype(np.float32), np.ones(shape, np.uint8))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 2_900_000))
        patch.setattr(store, "read_case", lambda case: pytest.fail("a case was read"))
        with pytest.raises(StorageError, match=r"expected about 3\.1 MB free for 1 .* found 2\.9 MB free"):
            build_store(tmp_path / "store", [case], PLAIN, LABELS)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 3_100_000))
    build_store(tmp_path / "store", [case], PLAIN, LABELS)


def test_the_first_case_shows_how_much_a_crop_leaves(tmp_path, monkeypatch):
    cases = []
    for name in ("a", "b"):
        image = np.zeros((60, 60, 60), np.float32)
        image[10:40, 10:40, 10:40] = np.random.default_rng(0).uniform(1, 2, (30, 30, 30))
        case = write_pair(tmp_path / name, image, np.ones(image.shape, np.uint8))
        cases.append(Case(name, name, case.images, case.label))
    cropped = PLAIN.model_copy(update={"crop_above": 0.0})
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 80_000))
        with pytest.raises(StorageError, match=r"expected about 0\.1 MB free for 1 .* found 0\.1 MB free"):
            build_store(tmp_path / "store", cases, cropped, LABELS)
    assert len(list((tmp_path / "store").iterdir())) == 1
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 120_000))
    assert all(case.is_whole for case in build_store(tmp_path / "store", cases, cropped, LABELS))
