"""Written series against SimpleITK's reader, the standard's rules (dciodvfy) and themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from medseg.dicom.write import write_series
from medseg.errors import DicomError, UsageError
from medseg.phantom import draw_torso
from medseg.volume import Volume
from tests.dicom.written_series import make_volume, oblique_affine

LPS = np.diag([-1.0, -1.0, 1.0])


def itk_image(folder: Path) -> SimpleITK.Image:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def itk_affine(image: SimpleITK.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = LPS @ np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = LPS @ image.GetOrigin()
    return affine


def same_voxels(one: np.ndarray, one_affine: np.ndarray, two: np.ndarray, two_affine: np.ndarray) -> None:
    """Each voxel of `one` has a voxel of `two` at the same mm (0.01 voxel) with the same value."""
    between = np.linalg.inv(two_affine) @ one_affine
    index = np.indices(one.shape).reshape(3, -1)
    exact = between[:3, :3] @ index + between[:3, 3:]
    nearest = np.rint(exact).astype(int)
    assert np.abs(exact - nearest).max() < 0.01
    assert nearest.min() >= 0
    assert (nearest.max(axis=1) < two.shape).all()
    assert np.array_equal(one.reshape(-1), two[tuple(nearest)])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_simpleitk_sees_the_same_values_at_the_same_places(tmp_path: Path, seed: int, modality: str) -> None:
    volume = make_volume(modality, oblique_affine(seed))
    write_series(volume, tmp_path / "s", identity="x")
    image = itk_image(tmp_path / "s")
    same_voxels(volume.array, volume.affine, SimpleITK.GetArrayFromImage(image).T, itk_affine(image))


def test_simpleitk_reads_the_phantom(tmp_path: Path) -> None:
    volume, _ = draw_torso(1, (12.0, 12.0, 20.0))
    write_series(volume, tmp_path / "s", identity="x")
    image = itk_image(tmp_path / "s")
    same_voxels(volume.array, volume.affine, SimpleITK.GetArrayFromImage(image).T, itk_affine(image))


def test_each_slice_says_where_its_pixels_are(tmp_path: Path) -> None:
    """PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, pixel by pixel."""
    volume = make_volume()
    for k, file in enumerate(write_series(volume, tmp_path / "s", identity="x")):
        dataset = pydicom.dcmread(file)
        x, y = np.array(dataset.ImageOrientationPatient[:3]), np.array(dataset.ImageOrientationPatient[3:])
        between_rows, between_columns = dataset.PixelSpacing
        for j in range(dataset.Rows):
            for i in range(dataset.Columns):
                lps = np.array(dataset.ImagePositionPatient) + x * between_columns * i + y * between_rows * j
                assert np.allclose(LPS @ lps, volume.grid.world(np.array([i, j, k])), atol=1e-6)
                assert int(dataset.pixel_array[j, i]) - 1024 == volume.array[i, j, k]


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(tmp_path: Path, modality: str) -> None:
    files = write_series(make_volume(modality), tmp_path / "s", identity="x")
    for file in files[:2]:
        report = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        lines = (report.stdout + report.stderr).splitlines()
        assert lines == [f"{modality}Image"]
    entities = subprocess.run(["dcentvfy", *map(str, files)], capture_output=True, text=True, check=False)
    assert entities.stdout + entities.stderr == ""


def test_same_arguments_same_bytes_and_uids_that_differ(tmp_path: Path) -> None:
    one, two, other = (
        write_series(make_volume(), tmp_path / name, identity=identity)
        for name, identity in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    assert [f.read_bytes() for f in one] == [f.read_bytes() for f in two]
    uids = [pydicom.dcmread(f).SOPInstanceUID for f in (*one, *other)]
    assert len(set(uids)) == len(uids)
    assert pydicom.dcmread(one[0]).StudyInstanceUID != pydicom.dcmread(other[0]).StudyInstanceUID


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="new or empty"):
        write_series(make_volume(), tmp_path, identity="x")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.errors import StorageError

    calls = []

    def full_disk(*_: object, **__: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    original = pydicom.Dataset.save_as
    monkeypatch.setattr(pydicom.Dataset, "save_as", lambda *a, **k: (full_disk(), original(*a, **k))[1])
    with pytest.raises(StorageError, match="disk is full"):
        write_series(make_volume(), tmp_path / "s", identity="x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("array", "modality", "reason"),
    [
        (np.full((2, 2, 2), -1025.0), "CT", "-1024 to 64511"),
        (np.full((2, 2, 2), np.nan), "MR", "0 to 65535"),
        (np.full((2, 2, 2), -1.0), "MR", "0 to 65535"),
        (np.zeros((2, 2, 2)), "PT", "CT or MR"),
        (np.zeros((2, 2, 2)), None, "CT or MR"),
    ],
)
def test_refuses_what_the_objects_cannot_hold(
    tmp_path: Path, array: np.ndarray, modality: str | None, reason: str
) -> None:
    with pytest.raises(DicomError, match=reason):
        write_series(Volume(array, np.eye(4), modality=modality), tmp_path / "s", identity="x")


def test_refuses_a_sheared_grid(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3
    with pytest.raises(DicomError, match="sheared"):
        write_series(make_volume(affine=affine), tmp_path / "s", identity="x")


def test_wide_values_take_16_bits(tmp_path: Path) -> None:
    array = np.linspace(0, 65535, 8).reshape(2, 2, 2)
    files = write_series(Volume(array, np.eye(4), modality="MR"), tmp_path / "s", identity="x")
    datasets = [pydicom.dcmread(file) for file in files]
    assert {dataset.BitsStored for dataset in datasets} == {16}
    for k, dataset in enumerate(datasets):
        assert np.array_equal(dataset.pixel_array.T, np.rint(array[:, :, k]))
