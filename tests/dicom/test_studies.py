"""A pile study by study gives the series of the whole pile; a series by reference is the series itself."""

import os
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from medseg.dicom.plan import plan_scan
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.read import read_series
from medseg.dicom.reference import SeriesReference, recall, refer_to
from medseg.dicom.scan import scan_pile
from medseg.dicom.studies import scan_studies
from medseg.dicom.write import write_series
from medseg.errors import DicomError
from tests.dicom.written_series import make_volume


@pytest.fixture
def pile(tmp_path):
    """Three studies whose files are mixed in folders, one with two series, a damaged file and a text."""
    root = tmp_path / "pile"
    for n, name in enumerate(("a", "b", "c", "d")):
        volume = make_volume()
        write_series(replace(volume, array=volume.array + n), root / name, identity=name)
    for file in (root / "c").iterdir():  # of the study of a
        dataset = pydicom.dcmread(file)
        dataset.StudyInstanceUID = pydicom.dcmread(next((root / "a").iterdir())).StudyInstanceUID
        dataset.save_as(file)
    for k, file in enumerate(sorted((root / "b").iterdir())):
        if k % 2:
            file.rename(root / "a" / f"z{k}.dcm")
    damaged = sorted((root / "d").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:300])
    (root / "a" / "notes.txt").write_text("no image")
    return root


def described(decisions):
    return sorted(
        (
            d.series.name,
            d.series.slices,
            d.rule,
            d.seen,
            str(d.error),
            d.series.damaged_beside,
            str(d.series.findings),
        )
        for d in decisions
    )


def whole_and_parts(path):
    parts = [plan_scan(scan).decisions for scan in scan_studies(path, small=0)]
    return described(plan_scan(scan_pile(path)).decisions), described([d for part in parts for d in part]), parts


def test_studies_one_by_one_are_the_pile(pile):
    whole, apart, parts = whole_and_parts(pile)
    assert apart == whole
    assert len(whole) == 4
    assert [len({d.series.header.study_uid for d in part}) for part in parts] == [1, 1, 1]
    assert any("damaged" in str(item) for item in whole)


def test_a_small_pile_is_read_once(pile):
    (scan,) = scan_studies(pile)
    assert len(scan.series) == 4
    assert scan.findings == scan_pile(pile).findings


def test_a_pile_without_images(tmp_path):
    (tmp_path / "x.txt").write_text("text")
    (scan,) = scan_studies(tmp_path, small=0)
    assert (scan.series, scan.findings) == ((), scan_pile(tmp_path).findings)


@pytest.mark.data
def test_real_piles_one_by_one(data_root):
    for name in ("dicom", "mr_study"):
        whole, apart, _ = whole_and_parts(data_root / name)
        assert apart == whole
        assert whole


def recalled(series):
    return recall(SeriesReference.unpack(refer_to(series).pack()))


def read_or_refused(series):
    try:
        return read_series(series), ""
    except DicomError as error:
        return None, str(error)


def check_same(series):
    again = recalled(series)
    assert (again.name, again.label, again.findings) == (series.name, series.label, series.findings)
    (first, refusal), (second, same) = read_or_refused(series), read_or_refused(again)
    assert refusal == same
    if first:
        assert np.array_equal(first.array, second.array)
        assert np.array_equal(first.affine, second.affine)
        assert (first.findings, first.slices, first.source) == (second.findings, second.slices, second.source)


@pytest.mark.data
def test_every_real_series_by_reference_is_read_as_the_series(data_root):
    series = scan_pile(data_root / "dicom").series
    assert len(series) > 10
    for one in series:
        check_same(one)


def test_series_of_an_archive_by_reference(pile, tmp_path):
    archive = tmp_path / "pile.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for file in sorted(pile.rglob("*.dcm")):
            stream.write(file, file.relative_to(pile))
    series = scan_pile(archive).series
    assert len(series) == 4
    for one in series:
        check_same(one)


def test_a_reference_takes_little_room_and_shows_no_path(pile):
    series = scan_pile(pile).series[0]
    reference = refer_to(series)
    assert str(pile) not in repr(reference)
    assert len(reference.pack()) < 700


@pytest.mark.parametrize("change", ["touched", "gone", "another"])
def test_a_file_that_changed_since_is_refused(pile, change):
    series = scan_pile(pile).series[0]
    reference = refer_to(series)
    file = next(iter(sorted((pile / "a").glob("*.dcm"))))
    if change == "touched":
        os.utime(file, ns=(1, 1))
    elif change == "gone":
        file.unlink()
    else:
        shutil.copy(pile / "a" / "notes.txt", file)
    with quiet_pydicom(), pytest.raises(DicomError, match="run the command again"):
        recall(reference)
