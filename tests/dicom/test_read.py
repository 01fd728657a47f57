"""Reading series: geometry by the standard's formula, values, and everything that is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.dicom.write import write_series
from medseg.phantom import draw_torso
from medseg.volume import Volume
from tests.dicom.one import read_folder, scan_folder
from tests.dicom.written_series import SHAPE, Alter, check_by_formula, make_volume, oblique_affine, shift


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("seed", range(4))
def test_written_series_come_back(tmp_path: Path, modality: str, seed: int) -> None:
    volume = make_volume(modality, oblique_affine(seed))
    write_series(volume, tmp_path / "s", identity="x")
    back = read_folder(tmp_path / "s")
    assert back.modality == modality
    assert back.array.dtype == np.float32
    assert back.array.flags.f_contiguous
    assert back.findings == ()
    check_by_formula(tmp_path / "s", back)
    index = np.rint(back.grid.index(volume.grid.world(np.indices(SHAPE).reshape(3, -1).T))).astype(int)
    assert np.array_equal(back.array[tuple(index.T)], volume.array.reshape(-1))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    spacing=st.tuples(*[st.floats(0.1, 12)] * 3),
)
def test_millimetres_survive_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, seed: int, spacing: tuple[float, float, float]
) -> None:
    folder = tmp_path_factory.mktemp("series")
    affine = oblique_affine(seed, spacing)
    volume = Volume(np.arange(24).reshape(4, 3, 2), affine, modality="MR")
    write_series(volume, folder, identity="x")
    back = read_folder(folder)
    corners = back.grid.index(volume.grid.world(np.indices((4, 3, 2)).reshape(3, -1).T))
    nearest = np.rint(corners).astype(int)
    assert np.abs(corners - nearest).max() < 1e-6
    assert np.array_equal(back.array[tuple(nearest.T)], volume.array.reshape(-1))


def test_the_normal_points_to_higher_slices(folder: Path) -> None:
    """LPS axes of the result are right-handed whatever way the slices were written."""
    assert np.linalg.det(read_folder(folder).affine[:3, :3]) > 0


def test_simpleitk_agrees_on_the_phantom(tmp_path: Path) -> None:
    write_series(draw_torso(3, (10.0, 9.0, 16.0))[0], tmp_path / "s", identity="x")
    volume = read_folder(tmp_path / "s")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).T, volume.array)
    for index in ((0, 0, 0), (5, 7, 3), tuple(n - 1 for n in volume.array.shape)):
        lps = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(np.array(lps) * (-1, -1, 1), volume.grid.world(np.array(index)), atol=1e-4)


def test_only_positions_order_and_space_the_slices(folder: Path, alter: Alter) -> None:
    expected = read_folder(folder)
    for index in range(6):
        alter([index], InstanceNumber=17 - index, SliceLocation=str(3 * index % 5))
    alter(SliceThickness="99", SpacingBetweenSlices="0.01")
    for file, name in zip(sorted(folder.iterdir()), "cafbed", strict=True):
        file.rename(file.with_name(name))
    found = read_folder(folder)
    assert np.array_equal(found.array, expected.array)
    assert np.array_equal(found.affine, expected.affine)


def test_slopes_of_each_slice_are_applied_in_float32(folder: Path, alter: Alter) -> None:
    slopes = [0.5, 1.0, 2.0, 0.25, 3.0, 1.5]
    for index, slope in enumerate(slopes):
        alter([index], RescaleSlope=str(slope), RescaleIntercept=str(-10 * index))
    volume = read_folder(folder)
    assert volume.array.dtype == np.float32
    check_by_formula(folder, volume)


def test_a_fractional_intercept_makes_float32(folder: Path, alter: Alter) -> None:
    alter([2], RescaleIntercept="-1023.5")
    volume = read_folder(folder)
    assert volume.array.dtype == np.float32
    check_by_formula(folder, volume)


def test_values_beyond_int16_make_float32(tmp_path: Path) -> None:
    array = np.linspace(0, 65535, 12).round().reshape(2, 3, 2)
    write_series(Volume(array, np.diag([-1.0, -1, 1, 1]), modality="MR"), tmp_path / "s", identity="x")
    volume = read_folder(tmp_path / "s")
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, array)


def test_unused_high_bits_do_not_count(folder: Path, alter: Alter) -> None:
    expected = read_folder(folder).array

    def dirty(dataset: pydicom.Dataset) -> None:
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") | 0xA000).astype("<u2").tobytes()

    alter(None, dirty)
    assert np.array_equal(read_folder(folder).array, expected)


@pytest.mark.parametrize("syntax", [pydicom.uid.JPEG2000Lossless, pydicom.uid.RLELossless])
def test_compressed_series_hold_the_same_values(folder: Path, alter: Alter, syntax: str) -> None:
    expected = read_folder(folder).array
    alter(None, lambda dataset: dataset.compress(syntax, generate_instance_uid=False))
    assert np.array_equal(read_folder(folder).array, expected)


def test_distances_within_one_percent_are_even(folder: Path, alter: Alter) -> None:
    alter([2], shift((0, 0, 0.012)))
    check_by_formula(folder, read_folder(folder))


def test_values_of_the_file_are_not_quoted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """pydicom warns of an invalid UID and quotes it."""
    for file in folder.iterdir():
        uid = str(pydicom.dcmread(file).SeriesInstanceUID).encode()
        file.write_bytes(file.read_bytes().replace(uid, b"SECRET" + uid[6:]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = read_folder(folder)
    assert caplog.text == ""
    assert "SECRET" not in repr(scan_folder(folder)) + volume.source
