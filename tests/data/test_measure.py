"""Measuring cases: in parallel, kept on disk, nothing stale ever used."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import medseg.data.measure as measure
from medseg.data.fingerprint import CaseMeasurement, measure_case, summarize
from medseg.data.manifest import Case
from medseg.data.measure import measure_cases
from medseg.data.store import read_case
from medseg.errors import InputError, ManifestError, NiftiError
from medseg.nifti import write_nifti
from medseg.volume import Volume
from tests.builders import tiny_dataset


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Case, ...]:
    return tiny_dataset(tmp_path / "data", cases=3).cases


def same(one: CaseMeasurement, two: CaseMeasurement) -> bool:
    arrays = {"samples", "everywhere"}
    facts = one.model_dump(exclude=arrays) == two.model_dump(exclude=arrays)
    return facts and all(
        np.array_equal(a, b) for name in arrays for a, b in zip(getattr(one, name), getattr(two, name), strict=True)
    )


def count_reads(monkeypatch) -> list[str]:
    read: list[str] = []
    real = measure.read_case
    monkeypatch.setattr(measure, "read_case", lambda case: read.append(case.id) or real(case))
    return read


def test_each_case_is_measured_in_order(cases):
    done: list[tuple[int, int]] = []
    measured = measure_cases(cases, None, lambda *step: done.append(step))
    assert done == [(1, 3), (2, 3), (3, 3)]
    for one, case in zip(measured, cases, strict=True):
        assert same(one, measure_case(*read_case(case)))


def test_what_was_measured_is_not_read_again(tmp_path, cases, monkeypatch):
    first = measure_cases(cases[:2], tmp_path / "measured")
    read = count_reads(monkeypatch)
    again = measure_cases(cases, tmp_path / "measured")
    assert read == ["case_2"]
    assert all(same(a, b) for a, b in zip(first, again, strict=False))
    assert again[0].samples[0].dtype == np.float32
    assert summarize(again) == summarize(measure_cases(cases))


def test_a_case_without_foreground_is_kept_as_it_was_measured(tmp_path, cases):
    _, label = read_case(cases[0])
    write_nifti(cases[0].label, Volume(np.zeros_like(label.array, order="F"), label.affine))
    two_channels = [replace(case, images=case.images * 2) for case in cases]
    first = measure_cases(two_channels, tmp_path / "measured")
    assert [len(m.samples[1]) > 0 for m in first] == [False, True, True]
    assert [len(m.everywhere[1]) > 0 for m in first] == [True, False, False]
    assert all(same(a, b) for a, b in zip(first, measure_cases(two_channels, tmp_path / "measured"), strict=True))


def test_a_channel_that_no_case_has_is_refused_before_any_is_read(cases, monkeypatch):
    read = count_reads(monkeypatch)
    with pytest.raises(ManifestError, match="in at least one training case, found none of 3 has channel 1"):
        measure_cases([replace(case, images=(*case.images, None)) for case in cases])
    assert read == []


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_changed_file_is_measured_anew(tmp_path, cases, monkeypatch, which):
    measure_cases(cases, tmp_path / "measured")
    path = cases[1].images[0] if which == "image" else cases[1].label
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    read = count_reads(monkeypatch)
    measure_cases(cases, tmp_path / "measured")
    assert read == ["case_1"]


@pytest.mark.parametrize("content", [b"", b"something else", b"half"])
def test_a_damaged_file_is_measured_anew(tmp_path, cases, monkeypatch, content):
    (first,) = measure_cases(cases[:1], tmp_path / "measured")
    (kept,) = (tmp_path / "measured").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    read = count_reads(monkeypatch)
    (again,) = measure_cases(cases[:1], tmp_path / "measured")
    assert read == ["case_0"]
    assert same(first, again)
    assert kept.read_bytes() == whole


def test_a_constant_image_is_refused_by_the_name_of_its_case(tmp_path, cases):
    _, label = read_case(cases[1])
    write_nifti(cases[1].images[0], Volume(np.full(label.array.shape, 7, np.int16), label.affine))
    with pytest.raises(InputError, match=r"case case_1, .*: expected an image, found the value 7 in every voxel"):
        measure_cases(cases, tmp_path / "measured")
    assert len(list((tmp_path / "measured").glob("*.npz"))) in {1, 2}


def test_a_case_that_cannot_be_read_is_refused(cases):
    cases[2].label.unlink()
    with pytest.raises(NiftiError, match="no such file"):
        measure_cases(cases)
