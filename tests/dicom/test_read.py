"""Reading series: geometry by the standard's formula, values, and everything that is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conftest import SHAPE, Alter, make_volume, oblique_affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.dicom.read import read_folder, read_series
from medseg.dicom.scan import scan_folder
from medseg.dicom.write import write_series
from medseg.errors import DicomError
from medseg.findings import FindingCode
from medseg.phantom import draw_torso
from medseg.volume import Volume


def check_by_formula(folder: Path, volume: Volume, step: int = 1) -> None:
    """Each slice's own tags place each pixel (PS3.3 C.7.6.2.1.1) at that voxel of the volume, with that value."""
    inverse = np.linalg.inv(volume.affine)
    seen = set()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for file in files:
        dataset = pydicom.dcmread(file)
        position = np.array(dataset.ImagePositionPatient, dtype=float)
        x, y = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        row_mm, column_mm = (float(value) for value in dataset.PixelSpacing)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        j, i = np.mgrid[0 : dataset.Rows : step, 0 : dataset.Columns : step].reshape(2, -1)
        lps = position[:, None] + np.outer(x, column_mm * i) + np.outer(y, row_mm * j)
        ras = np.diag([-1, -1, 1]) @ lps
        index = inverse[:3, :3] @ ras + inverse[:3, 3:]
        k = int(np.rint(index[2, 0]))
        assert np.abs(index - [i, j, np.full_like(i, k)]).max() < 0.01
        expected = dataset.pixel_array[j, i] * slope + intercept
        assert np.allclose(volume.array[i, j, k], expected, rtol=1e-6, atol=1e-4)
        seen.add(k)
    assert seen == set(range(volume.array.shape[2])) == set(range(len(files)))


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("seed", range(4))
def test_written_series_come_back(tmp_path: Path, modality: str, seed: int) -> None:
    volume = make_volume(modality, oblique_affine(seed))
    write_series(volume, tmp_path / "s", identity="x")
    back = read_folder(tmp_path / "s")
    assert back.modality == modality
    assert back.array.dtype == np.int16
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
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    image = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(image).T, volume.array)
    for index in ((0, 0, 0), (5, 7, 3), tuple(n - 1 for n in volume.array.shape)):
        lps = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(np.array(lps) * (-1, -1, 1), volume.grid.world(np.array(index)), atol=1e-4)


def test_only_positions_order_and_space_the_slices(folder: Path, alter: Alter) -> None:
    expected = read_folder(folder)
    for index in range(6):
        alter([index], InstanceNumber=17 - index, SliceLocation=str(3 * index % 5))
    alter(SliceThickness="99", SpacingBetweenSlices="0.01")
    for file in sorted(folder.iterdir()):
        file.rename(file.with_name(f"{hash(file.name) % 9973:05d}-{file.name[::-1]}"))
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


def shift(millimetres: tuple[float, float, float]) -> Callable[[pydicom.Dataset], None]:
    """Move a slice by mm along its row, its column and its normal."""

    def move(dataset: pydicom.Dataset) -> None:
        x, y = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        position = np.array(dataset.ImagePositionPatient) + np.array(millimetres) @ [x, y, np.cross(x, y)]
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]

    return move


def tilted(dataset: pydicom.Dataset) -> None:
    shift((0.0, 0.4 * dataset.InstanceNumber, 0.0))(dataset)


def turned(dataset: pydicom.Dataset) -> None:
    x, y = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
    x, y = x * np.cos(0.02) + y * np.sin(0.02), y * np.cos(0.02) - x * np.sin(0.02)
    dataset.ImageOrientationPatient = [f"{value:.10g}" for value in (*x, *y)]


def cut_pixels(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2]


def cut_jpeg_2000(dataset: pydicom.Dataset) -> None:
    dataset.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = pydicom.encaps.encapsulate([frame[: 2 * len(frame) // 3 // 2 * 2]])


def wrong_rows_of_jpeg_2000(dataset: pydicom.Dataset) -> None:
    dataset.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    dataset.Rows += 2


def noise_for_jpeg_2000(dataset: pydicom.Dataset) -> None:
    dataset.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(range(200)) + b"\xff\xd9"])


def text_for_a_position(dataset: pydicom.Dataset) -> None:
    dataset["ImagePositionPatient"] = pydicom.DataElement(
        "ImagePositionPatient",
        "DS",
        ["1", "2", "SECRET"],
        validation_mode=pydicom.config.IGNORE,
        already_converted=True,
    )


def lookup_table(dataset: pydicom.Dataset) -> None:
    dataset.ModalityLUTSequence = [pydicom.Dataset()]


def unknown_syntax(dataset: pydicom.Dataset) -> None:
    dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML


REFUSED: dict[str, tuple[list[int] | None, Any, str]] = {
    "orientation changes": ([3], turned, "2 different orientations"),
    "orientation is no unit vectors": (None, {"ImageOrientationPatient": [1, 0, 0, 0, 2, 0]}, "right angles"),
    "orientation not at right angles": (None, {"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}, "right angles"),
    "rows differ": ([5], {"Rows": 4}, "Columns x Rows.*7 x 4, 7 x 5"),
    "pixel spacing differs": ([2], {"PixelSpacing": ["1.1", "0.85"]}, "one PixelSpacing"),
    "no position": ([0], {"ImagePositionPatient": None}, "no valid ImagePositionPatient in 1 of 6"),
    "position is text": ([0], text_for_a_position, "no valid ImagePositionPatient in 1 of 6"),
    "no orientation": ([0, 1], {"ImageOrientationPatient": None}, "no valid ImageOrientationPatient in 2 of 6"),
    "no pixel spacing": (None, {"PixelSpacing": None}, "no valid PixelSpacing in 6 of 6"),
    "zero pixel spacing": ([1], {"PixelSpacing": ["0", "1"]}, "no valid PixelSpacing"),
    "two slices at one place": ([2], shift((0, 0, 2.5)), "1 slice.s. at the same place"),
    "two slices at one height": ([2], shift((30, 0, 2.5)), "1 slice.s. at the same place"),
    "uneven distance": ([5], shift((0, 0, 0.03)), r"2\.5[23]0 mm between slices"),
    "gantry tilt": (None, tilted, r"gantry tilt: slices stacked 9\.09 degrees"),
    "one slice aside": ([3], shift((0.5, 0, 0)), "0.625 voxels off"),
    "multi-frame": (None, {"NumberOfFrames": 2}, "multi-frame"),
    "enhanced class": (None, {"SOPClassUID": pydicom.uid.EnhancedCTImageStorage}, "multi-frame"),
    "colour": (None, {"SamplesPerPixel": 3}, "colour"),
    "palette": (None, {"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
    "mosaic": (None, {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "localizer or mosaic"),
    "localizer": ([0], {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer or mosaic .* in 1 of 6"),
    "absurd size": (None, {"Rows": 65535, "Columns": 65535}, "absurd Rows and Columns"),
    "larger than its pixels": (None, {"Rows": 60, "Columns": 70}, "truncated"),
    "smaller than its pixels": (None, {"Rows": 4}, "truncated, undecodable or other"),
    "cut pixels": ([4], cut_pixels, "slice . of 6.*truncated"),
    "no pixels": ([4], {"PixelData": None}, "slice . of 6.*truncated"),
    "cut JPEG 2000": ([4], cut_jpeg_2000, "slice . of 6.*truncated"),
    "noise for JPEG 2000": ([4], noise_for_jpeg_2000, "slice . of 6.*truncated"),
    "JPEG 2000 of another size": (None, wrong_rows_of_jpeg_2000, "truncated"),
    "unknown transfer syntax": (None, unknown_syntax, "transfer syntax.*MPEG2"),
    "CT without rescale": (
        None,
        {"RescaleSlope": None, "RescaleIntercept": None},
        "RescaleSlope and RescaleIntercept.*6 of 6",
    ),
    "slope alone": ([1], {"RescaleIntercept": None}, "RescaleSlope and RescaleIntercept.*1 of 6"),
    "zero slope": ([1], {"RescaleSlope": "0"}, "RescaleSlope and RescaleIntercept.*1 of 6"),
    "lookup table": ([1], lookup_table, "lookup table"),
    "two modalities": ([1], {"Modality": "PT"}, "one modality for all slices, found CT, PT"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(folder: Path, alter: Alter, case: str) -> None:
    which, change, reason = REFUSED[case]
    if isinstance(change, dict):
        alter(which, **change)
    else:
        alter(which, change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DicomError, match=reason) as caught:
            read_folder(folder)
    (series,) = scan_folder(folder)
    for secret in ("PHANTOM", series.uid, "SECRET", "slice_"):
        assert secret not in str(caught.value)
    assert series.name in str(caught.value)


def test_a_missing_slice_is_a_named_gap(folder: Path) -> None:
    sorted(folder.iterdir())[2].unlink()
    with pytest.raises(DicomError, match=r"5\.000 mm between slices [23] and [34], 2\.500 mm between most others"):
        read_folder(folder)


def test_distances_within_one_percent_are_even(folder: Path, alter: Alter) -> None:
    alter([2], shift((0, 0, 0.012)))
    check_by_formula(folder, read_folder(folder))


def test_a_slow_drift_is_refused(tmp_path: Path) -> None:
    """Distances that each look even (0.8 % apart) but add up to more than a slice's place allows."""
    affine = np.diag([1.0, 1, 2, 1])
    write_series(Volume(np.zeros((2, 2, 40)), affine, modality="MR"), tmp_path / "s", identity="x")
    for k, file in enumerate(sorted((tmp_path / "s").iterdir())):
        dataset = pydicom.dcmread(file)
        dataset.ImagePositionPatient[2] = 2.0 * k * (1 if k < 20 else 1.004)
        dataset.save_as(file)
    with pytest.raises(DicomError, match="off the straight stack|mm between slices"):
        read_folder(tmp_path / "s")


def test_a_single_slice_is_refused(folder: Path) -> None:
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    with pytest.raises(DicomError, match="at least 2 slices, found a single slice"):
        read_folder(folder)


def test_a_damaged_file_beside_the_slices_is_refused(folder: Path) -> None:
    """It may be the last slice: without it the stack would look whole."""
    victim = sorted(folder.iterdir())[-1]
    victim.write_bytes(victim.read_bytes()[:900])
    with pytest.raises(DicomError, match="damaged"):
        read_folder(folder)


def test_two_series_are_refused_by_hash(tmp_path: Path) -> None:
    for name, modality in (("a", "CT"), ("b", "MR")):
        write_series(make_volume(modality), tmp_path / name, identity=name)
    names = [series.name for series in scan_folder(tmp_path)]
    with pytest.raises(DicomError, match=rf"2: {names[0]} \(CT, 6 files\), {names[1]} \(MR, 6 files\)"):
        read_folder(tmp_path)
    assert [read_series(series).modality for series in scan_folder(tmp_path)] == ["CT", "MR"]


def test_no_series_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match="exactly one image series, found none"):
        read_folder(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    "path",
    [
        "ct/example_ct_dicom",
        "mr_study/12-T1post-05670",
        "mr_study/13_HCropVolume",
        "mr_study/34909-T1prereg-84610",
        "mr_study/36459-FLAIRreg-76244",
        "mr_study/37916-T2reg-88910",
    ],
)
def test_real_series_by_the_formula(data_root: Path, path: str) -> None:
    check_by_formula(data_root / path, read_folder(data_root / path), step=7)


def between(volume: Volume, image: Any) -> np.ndarray:
    """Index into another image for every voxel (3, n); fails unless they are the same voxels."""
    matrix = np.linalg.inv(image.affine) @ volume.affine
    exact = matrix[:3, :3] @ np.indices(volume.array.shape).reshape(3, -1) + matrix[:3, 3:]
    nearest = np.rint(exact).astype(int)
    assert np.abs(exact - nearest).max() < 0.01
    assert nearest.min() >= 0
    assert (nearest.max(axis=1) < image.shape).all()
    return nearest


@pytest.mark.data
def test_the_real_ct_lies_on_the_grid_of_its_labels(data_root: Path) -> None:
    volume = read_folder(data_root / "ct" / "example_ct_dicom")
    labels = nib.load(data_root / "ct" / "example_seg_dicom.nii.gz")
    values = np.asanyarray(labels.dataobj)[tuple(between(volume, labels))].reshape(volume.array.shape)
    assert 60 < volume.array[values == 5].mean() < 120  # liver, HU
    assert volume.array[values == 52].mean() > 100  # aorta with contrast medium
    assert {f.code for f in volume.findings} == {FindingCode.SERIES_UID_MISSING, FindingCode.SOP_CLASS_MISSING}


GROUND_TRUTH = [
    "vendors/ge/001",
    "vendors/ge/001_implicit",
    "vendors/generic/001",
    "vendors/generic/001_implicit",
    "vendors/generic/002_non_isotropic",
    "vendors/siemens/001",
    "vendors/siemens/001_implicit",
    "codecs/compressed/001",
    "codecs/compressed_j2k/001",
    "codecs/compressed_rle/001",
    "failing/slicecount/001",
]


@pytest.mark.data
@pytest.mark.parametrize("path", GROUND_TRUTH)
def test_another_converter_agrees(data_root: Path, path: str) -> None:
    """dicom2nifti's output: the same values at the same places."""
    folder = data_root / "dicom" / path
    volume = read_folder(folder)
    image = nib.load(folder.with_name(folder.name + "_ground_truth.nii.gz"))
    values = np.asanyarray(image.dataobj)[tuple(between(volume, image))]
    assert np.allclose(values, volume.array.reshape(-1), rtol=1e-6, atol=1e-5)


@pytest.mark.data
@pytest.mark.parametrize(("path", "decoder"), [("compressed_jpeg", "gdcm"), ("compressed_jpegls", "jpeg_ls")])
def test_other_codecs_agree_or_are_refused(data_root: Path, path: str, decoder: str) -> None:
    folder = data_root / "dicom" / "codecs" / path / "001"
    try:
        volume = read_folder(folder)
    except DicomError as error:
        assert "decoder" in error.remedy
        pytest.skip(f"{decoder} is not installed")
    image = nib.load(folder.with_name("001_ground_truth.nii.gz"))
    assert np.array_equal(np.asanyarray(image.dataobj)[tuple(between(volume, image))], volume.array.reshape(-1))


@pytest.mark.data
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("failing/notavolume", "3 slice.s. at the same place"),
        ("failing/sliceincrement", r"10\.000 mm between slices 3 and 4, 5\.000 mm"),
        ("failing/sliceorientation", "2 different orientations"),
        ("vendors/ge/001_single_slice", "single slice"),
        ("vendors/siemens_mosaic", "mosaic"),
        ("vendors/siemens_multiframe", "multi-frame"),
        ("codecs/rgb", "colour"),
        ("tilt_ge", r"gantry tilt: slices stacked 18\.50 degrees"),
        ("tilt_philips", r"gantry tilt: slices stacked 18\.50 degrees"),
        ("localizer_philips", "localizer"),
    ],
)
def test_real_series_are_refused_with_the_reason(data_root: Path, path: str, reason: str) -> None:
    with pytest.raises(DicomError, match=reason):
        read_folder(data_root / "dicom" / path)
