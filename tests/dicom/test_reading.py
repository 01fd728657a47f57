"""What a caller of the reader meets: one volume or many, through MONAI too; nothing lost without a word."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Spacingd

import medseg
from medseg.dicom.monai_reader import SeriesReader
from medseg.dicom.plan import plan_pile
from medseg.dicom.select import SeriesRules
from medseg.errors import DicomError, GridError
from medseg.nifti import write_nifti
from tests.dicom.builder import OBLIQUE, SeriesSpec, planted_values, variants, write_merged, write_series
from tests.dicom.builder_extras import LOCALIZER, duplicate, edit, truncate

CT = SeriesSpec(orientation=OBLIQUE)


def codes(volume: medseg.Volume) -> set[str]:
    return {finding.code.value for finding in volume.findings}


def test_nifti_and_dicom_are_read_alike(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", CT)
    (volume,) = medseg.read_volumes(tmp_path / "dicom")
    write_nifti(tmp_path / "nifti" / "a.nii.gz", volume)
    (same,) = medseg.read_volumes(str(tmp_path / "nifti"))
    assert np.array_equal(same.array, volume.array)
    assert same.grid.difference(volume.grid) is None
    assert medseg.read_volume(tmp_path / "nifti" / "a.nii.gz").grid.difference(volume.grid) is None


def test_read_volume_wants_exactly_one_and_counts_what_cannot_be_read(tmp_path: Path) -> None:
    write_series(tmp_path / "a", CT, name="a")
    write_series(tmp_path / "scout", name="scout", **LOCALIZER)
    assert medseg.read_volume(tmp_path).array.shape == planted_values(CT).shape
    write_series(tmp_path / "b", CT, name="b", missing=[2])
    with pytest.raises(DicomError, match=r"expected one volume, found 2: .*missing-slice"):
        medseg.read_volume(tmp_path)
    assert len(medseg.read_volumes(tmp_path)) == 1


def test_refusals_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path / "a", CT, name="a")
    write_series(tmp_path / "b", CT, name="b", missing=[2])
    with caplog.at_level(logging.WARNING):
        medseg.read_volumes(tmp_path)
    assert "slices missing" in caplog.text


def test_rules_choose(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", CT, name="ct")
    write_series(tmp_path / "mr", CT, name="mr", modality="MR")
    (volume,) = medseg.read_volumes(tmp_path, SeriesRules(modality=["MR"]))
    assert volume.modality == "MR"
    with pytest.raises(DicomError, match="modality in PT, CT"):
        medseg.read_volumes(tmp_path, SeriesRules(modality=["PT"]))


def test_monai_loads_a_series_as_it_lies(tmp_path: Path) -> None:
    write_series(tmp_path, CT)
    expected = medseg.read_volume(tmp_path)
    load = Compose([LoadImaged("image", reader=SeriesReader()), EnsureChannelFirstd("image")])
    image = load({"image": tmp_path})["image"]
    assert image.shape == (1, *expected.array.shape)
    assert np.array_equal(image.numpy()[0], expected.array)
    assert np.allclose(image.affine.numpy(), expected.affine)
    spaced = Spacingd("image", (2.0, 2.0, 2.0))({"image": image})["image"]
    assert np.allclose(np.linalg.norm(spaced.affine.numpy()[:3, :3], axis=0), 2.0)


def test_monai_stacks_channels_on_one_grid(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name, CT, name=name)
    write_series(tmp_path / "c", CT, name="c", spacing_mm=(0.8, 1.1, 3.0))
    image = LoadImage(reader=SeriesReader())([tmp_path / "a", tmp_path / "b"])
    assert image.shape == (2, *planted_values(CT).shape)
    with pytest.raises(GridError):
        LoadImage(reader=SeriesReader())([tmp_path / "a", tmp_path / "c"])


def test_what_is_refused_is_refused_through_monai_too(tmp_path: Path) -> None:
    """MONAI tries its other readers after an exception of `read`: they would give a wrong geometry."""
    write_series(tmp_path, CT, missing=[2])
    with pytest.raises(DicomError, match="slices missing"):
        LoadImage(reader=SeriesReader())(tmp_path)
    with pytest.raises(DicomError, match="slices missing"):
        LoadImaged("image", reader=SeriesReader())({"image": tmp_path})


def test_files_that_are_lost_are_said_on_every_volume_of_the_pile(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for path in write_series(tmp_path / name, CT, name=name):
            shutil.move(path, tmp_path / f"{name}_{path.name}")
    last = sorted(tmp_path.glob("a_*"))[0]
    truncate(last, last.stat().st_size - 400)
    volumes = medseg.read_volumes(tmp_path, refused=lambda error: None)
    assert volumes
    assert all("damaged-file" in codes(volume) for volume in volumes)


def test_a_dangling_link_is_said(tmp_path: Path) -> None:
    paths = write_series(tmp_path, CT)
    paths[-1].unlink()
    paths[-1].symlink_to(tmp_path / "annex" / "object")
    assert codes(medseg.read_volume(tmp_path)) == {"unreadable-file"}


def test_rules_match_the_text_as_it_stands_and_show_it_without_the_name(tmp_path: Path) -> None:
    for path in write_series(tmp_path, CT):
        edit(path, PatientName="Post^Jan", SeriesDescription="t1 mprage post")
    (decision,) = plan_pile(tmp_path, SeriesRules(description="^(?!.*post)")).decisions
    assert (decision.is_taken, decision.seen) == (False, "t1 mprage ***")
    (decision,) = plan_pile(tmp_path, SeriesRules(description="post")).decisions
    assert decision.is_taken


def test_patients_without_uids_are_never_mixed(tmp_path: Path) -> None:
    """Two halves of a stack that would fit together, of two patients, in two folders without any UID."""
    paths = write_series(tmp_path / "all", CT)
    for number, half in enumerate((paths[:3], paths[3:])):
        (tmp_path / f"{number}").mkdir()
        for path in half:
            edit(path, PatientID=f"p{number}", StudyInstanceUID="", SeriesInstanceUID="", FrameOfReferenceUID="")
            shutil.move(path, tmp_path / f"{number}" / path.name)
    assert [volume.array.shape[2] for volume in medseg.read_volumes(tmp_path)] == [3, 3]


def test_acquisitions_one_behind_the_other_are_two_volumes(tmp_path: Path) -> None:
    heights = [2.5 * k for k in (*range(5), *range(9, 14))]
    write_series(
        tmp_path,
        SeriesSpec(shape=(40, 36, 10), distances_mm=heights),
        attributes={"AcquisitionNumber": lambda k: 1 + k // 5},
    )
    volumes = medseg.read_volumes(tmp_path)
    assert [volume.array.shape[2] for volume in volumes] == [5, 5]
    assert all("split" in codes(volume) for volume in volumes)


def test_a_missing_slice_between_acquisitions_of_one_scan_stays_missing(tmp_path: Path) -> None:
    """A scanner may take a volume in rows of a few slices; one that lacks a slice is no reason to take it apart."""
    write_series(
        tmp_path,
        SeriesSpec(shape=(40, 36, 12), missing=[4]),
        attributes={"AcquisitionNumber": lambda k: 1 + k // 4},
    )
    with pytest.raises(DicomError, match="1 of 12 slices missing: 5 "):
        medseg.read_volumes(tmp_path)


def test_one_copy_does_not_split_a_row_of_odd_and_even_acquisitions(tmp_path: Path) -> None:
    spec = SeriesSpec(shape=(40, 36, 20))
    paths = write_series(tmp_path, spec, attributes={"AcquisitionNumber": lambda k: 1 + k % 2})
    edit(duplicate(paths[3], new_uid=True), AcquisitionNumber=1)
    volume = medseg.read_volume(tmp_path)
    assert np.array_equal(volume.array, planted_values(spec))
    assert "duplicate" in codes(volume)


def test_the_attribute_that_separates_everything_comes_before_one_that_does_not(tmp_path: Path) -> None:
    """Phase 2 was taken in two acquisitions; it is one volume all the same."""
    first, second = variants(CT, TemporalPositionIdentifier=[1, 2])
    groups = write_merged(tmp_path, first, second)
    for k, path in enumerate(groups[1]):
        edit(path, AcquisitionNumber=2 if k < 3 else 3)
    for path in groups[0]:
        edit(path, AcquisitionNumber=2)
    assert [volume.array.shape[2] for volume in medseg.read_volumes(tmp_path)] == [6, 6]


def test_big_endian_words_of_two_pixels_are_turned(tmp_path: Path) -> None:
    """PS3.5 7.3: OW is swapped as words, also where a word holds two pixels."""
    spec = SeriesSpec(
        bits_allocated=8, bits_stored=8, high_bit=7, is_signed=False, transfer_syntax="explicit", modality="MR"
    )
    paths = write_series(tmp_path, spec)
    for path in paths:
        dataset = pydicom.dcmread(path)
        words = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        dataset.PixelData = words
        dataset["PixelData"].VR = "OW"
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False)
    assert np.array_equal(medseg.read_volume(tmp_path).array, planted_values(spec))
