"""What voxels mean: rescale, photometric interpretation, encodings, bits, and pixels that are damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from tests.dicom.builder import OBLIQUE, SeriesSpec, planted_values, variants, write_merged, write_series
from tests.dicom.builder_extras import PET_SLOPES, duplicate, edit, make_odd, shorten_pixels, truncate
from tests.dicom.builder_parts import ENCODERS, SYNTAXES
from tests.dicom.cases import check, check_interpolated, check_parts, codes, read, read_one, reason, refusal
from tests.dicom.enhanced_builder import ALL, write_enhanced
from tests.dicom.law import check_law, frames_of

SMALL: dict[str, Any] = {"shape": (34, 33, 4)}  # JPEG 2000 needs 32 columns and rows

RESCALES: dict[str, dict[str, Any]] = {
    "PET, 1 then 0.0005 and 50.5": PET_SLOPES,
    "PET, 1 then 0.0005": {"modality": "PT", "slopes": lambda k: 0.0005 if k else 1.0},
    "PET, 1 then 50.5": {"modality": "PT", "slopes": lambda k: 50.5 if k else 1.0},
    "PET, each its own": {"modality": "PT", "slopes": lambda k: 0.013 * 3**k},
    "CT, -1000": {"intercepts": -1000.0},
    "CT, each its own": {"slopes": lambda k: 1 + k / 4, "intercepts": lambda k: -1024.0 + 10 * k},
    "CT, negative slope": {"slopes": -1.0, "intercepts": 24.0},
    "MR of Philips": {"modality": "MR", "slopes": 2.47301587, "intercepts": -3.5},
    "MR without": {"modality": "MR"},
}


@pytest.mark.parametrize("what", RESCALES)
def test_each_slice_has_its_own_rescale(tmp_path: Path, what: str) -> None:
    spec = SeriesSpec(**SMALL, **RESCALES[what])
    paths = write_series(tmp_path, spec)
    volume = read_one(tmp_path)
    check(paths, volume)
    assert np.allclose(volume.array, planted_values(spec), rtol=1e-6, atol=1e-2)
    assert not volume.findings


def test_an_empty_rescale_of_an_mr_is_none(tmp_path: Path) -> None:
    spec = SeriesSpec(modality="MR", **SMALL)
    write_series(tmp_path, spec, attributes={"RescaleSlope": "", "RescaleIntercept": ""})
    assert np.array_equal(read_one(tmp_path).array, planted_values(spec))


@pytest.mark.parametrize("what", RESCALES)
@pytest.mark.parametrize("per_frame", [(), ALL])
def test_each_frame_has_its_own_rescale(tmp_path: Path, what: str, per_frame: Any) -> None:
    spec = SeriesSpec(**SMALL, **RESCALES[what])
    path = write_enhanced(tmp_path, spec, per_frame=per_frame)
    volume = read_one(tmp_path)
    check([path], volume)
    assert np.allclose(volume.array, planted_values(spec), rtol=1e-6, atol=1e-2)


@pytest.mark.parametrize("modality", ["CT", "PT"])
@pytest.mark.parametrize("lost", [("RescaleSlope", "RescaleIntercept"), ("RescaleSlope",), ("RescaleIntercept",)])
@pytest.mark.parametrize("which", [range(4), [2]])
def test_ct_and_pet_without_rescale_are_refused_or_stored(
    tmp_path: Path, modality: str, lost: tuple[str, ...], which: list[int]
) -> None:
    paths = write_series(tmp_path, modality=modality, **SMALL)
    for k in which:
        edit(paths[k], **dict.fromkeys(lost))
    assert reason(tmp_path) == "no-rescale"
    if len(which) < len(paths):  # the others are in HU or Bq/ml: one volume never mixes units
        assert reason(tmp_path, no_rescale="stored") == "no-rescale"
        return
    volume = read_one(tmp_path, no_rescale="stored")
    assert codes(volume) == {"no-rescale"}
    for k in which:
        assert np.array_equal(volume.array[:, :, k], pydicom.dcmread(paths[k]).pixel_array.T)


@pytest.mark.parametrize(("slope", "intercept"), [("0", "0"), ("1\\2", "0"), ("", "-1024"), ("1", "")])
def test_rescales_that_are_not_valid_are_refused(tmp_path: Path, slope: str, intercept: str) -> None:
    values = {"RescaleSlope": slope.split("\\") if "\\" in slope else slope, "RescaleIntercept": intercept}
    write_series(tmp_path, attributes=values, **SMALL)
    assert reason(tmp_path) == "no-rescale"


def test_a_modality_lookup_table_is_refused(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [2, 0, 16], "HU", b"\0\0\1\0"
    write_series(tmp_path, attributes={"ModalityLUTSequence": [table]}, is_signed=False, **SMALL)
    assert reason(tmp_path) == "lookup-table"


@pytest.mark.parametrize("modality", ["CT", "PT"])
@pytest.mark.parametrize("syntax", ["explicit", "RLE", "JPEG-LS", "JPEG 2000", "deflated"])
def test_monochrome1_keeps_stored_values(tmp_path: Path, modality: str, syntax: str) -> None:
    spec = SeriesSpec(photometric="MONOCHROME1", modality=modality, transfer_syntax=syntax, **SMALL)
    paths = write_series(tmp_path / "classic", spec)
    volume = read_one(tmp_path / "classic")
    check(paths, volume)
    assert np.allclose(volume.array, planted_values(spec), rtol=1e-6)
    assert codes(volume) == {"monochrome1"}
    path = write_enhanced(tmp_path / "enhanced", spec)
    volume = read_one(tmp_path / "enhanced")
    check([path], volume)
    assert codes(volume) == {"monochrome1"}


BITS: dict[str, dict[str, Any]] = {
    "signed 16": {},
    "unsigned 16": {"is_signed": False},
    "signed 12": {"bits_stored": 12},
    "unsigned 12": {"bits_stored": 12, "is_signed": False},
    "signed 12 at 15": {"bits_stored": 12, "high_bit": 15},
    "unsigned 12 at 15": {"bits_stored": 12, "high_bit": 15, "is_signed": False},
    "signed 12 with junk": {"bits_stored": 12, "junk_bits": True},
    "unsigned 12 with junk": {"bits_stored": 12, "junk_bits": True, "is_signed": False},
    "signed 12 at 13 with junk": {"bits_stored": 12, "high_bit": 13, "junk_bits": True},
    "unsigned 10 at 13 with junk": {"bits_stored": 10, "high_bit": 13, "junk_bits": True, "is_signed": False},
    "signed 8": {"bits_allocated": 8},
    "unsigned 8": {"bits_allocated": 8, "is_signed": False},
    "unsigned 6 of 8 with junk": {"bits_allocated": 8, "bits_stored": 6, "junk_bits": True, "is_signed": False},
}
WIDE: dict[str, dict[str, Any]] = {
    "signed 32": {"bits_allocated": 32},
    "unsigned 32": {"bits_allocated": 32, "is_signed": False},
    "signed 20 of 32 with junk": {"bits_allocated": 32, "bits_stored": 20, "junk_bits": True},
    "unsigned 24 at 31": {"bits_allocated": 32, "bits_stored": 24, "high_bit": 31, "is_signed": False},
}
NATIVE = ("implicit", "big endian", "deflated")
WHOLE = {name: bits for name, bits in BITS.items() if "junk" not in name and "at" not in name}


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [*product(NATIVE, [*BITS, *WIDE]), *product(["RLE"], BITS)],  # pydicom writes no RLE of 32 bits
)
def test_only_the_bits_that_are_stored_count(tmp_path: Path, syntax: str, bits: str) -> None:
    if syntax == "big endian" and bits in ("signed 8", "unsigned 8", "unsigned 6 of 8 with junk"):
        syntax = "implicit"
    spec = SeriesSpec(transfer_syntax=syntax, modality="MR", **{**BITS, **WIDE}[bits], **SMALL)
    paths = write_series(tmp_path, spec)
    volumes, refused = read(tmp_path)
    assert not refused
    assert np.allclose(volumes[0].array, planted_values(spec), rtol=1e-6)
    if bits not in WIDE and not (syntax == "RLE" and " at " in bits):  # which the law cannot decode
        check(paths, volumes[0])


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize("bits", WHOLE)
def test_every_codec_is_decoded(tmp_path: Path, syntax: str, bits: str) -> None:
    spec = SeriesSpec(transfer_syntax=syntax, orientation=OBLIQUE, **WHOLE[bits], **SMALL)
    paths = write_series(tmp_path, spec)
    volume = read_one(tmp_path)
    check(paths, volume)
    assert np.array_equal(volume.array, planted_values(spec))
    assert not volume.findings


@pytest.mark.parametrize("syntax", [name for name in SYNTAXES if name != "JPEG lossless"])
@pytest.mark.parametrize("bits", ["signed 16", "unsigned 12", "unsigned 8", "signed 12 with junk"])
def test_every_syntax_of_multi_frame_files_is_decoded(tmp_path: Path, syntax: str, bits: str) -> None:
    if (bits == "signed 12 with junk" and syntax in ("JPEG-LS", "JPEG 2000")) or (
        bits == "unsigned 8" and syntax == "big endian"
    ):
        bits = "signed 12"
    spec = SeriesSpec(transfer_syntax=syntax, **BITS[bits], shape=(34, 33, 7))
    path = write_enhanced(tmp_path, spec)
    volume = read_one(tmp_path)
    check([path], volume)
    assert np.array_equal(volume.array, planted_values(spec))


def test_slices_in_several_syntaxes_are_one_volume(tmp_path: Path) -> None:
    paths = []
    for k, syntax in enumerate(SYNTAXES):
        others = set(range(len(SYNTAXES))) - {k}
        paths += write_series(tmp_path, transfer_syntax=syntax, shape=(34, 33, len(SYNTAXES)), missing=others)
    check(paths, read_one(tmp_path))


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
def test_files_without_meta_information_are_read(tmp_path: Path, syntax: str) -> None:
    paths = write_series(tmp_path, is_bare=True, transfer_syntax=syntax, suffix="")
    volume = read_one(tmp_path)
    check(paths, volume)
    assert codes(volume) == {"no-file-meta"}


@pytest.mark.parametrize("keyword", ["SeriesDescription", "ImagePositionPatient", "ImageType", "StudyInstanceUID"])
def test_values_of_odd_length_are_read(tmp_path: Path, keyword: str) -> None:
    paths = write_series(tmp_path, attributes={"SeriesDescription": "a long series"})
    for path in paths:
        if len(pydicom.dcmread(path).get_item(keyword).value) % 2 == 0:
            make_odd(path, keyword)
    check(paths, read_one(tmp_path))


@pytest.mark.parametrize("syntax", [uid.HEVCMP51, uid.MPEG2MPML, "1.2.3.4.5"])
def test_a_codec_that_is_not_there_is_named(tmp_path: Path, syntax: str) -> None:
    for path in write_series(tmp_path, transfer_syntax="RLE"):
        edit(path, lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", syntax))
    error = refusal(tmp_path)
    assert error.reason == "no-decoder"
    assert uid.UID(syntax).name in error.found or "transfer syntax" in error.found


# Damage: the instance is rejected, the study goes on

DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut off in the pixels": lambda path: truncate(path, 1000),
    "cut off by one byte": lambda path: truncate(path, 1),
    "cut off in the header": lambda path: path.write_bytes(path.read_bytes()[:900]),
    "pixels too short": lambda path: shorten_pixels(path, 2),
    "pixels half": lambda path: shorten_pixels(path, 1400),
    "no pixels": lambda path: edit(path, PixelData=None),
    "empty pixels": lambda path: edit(path, PixelData=b""),
    "absurd frames": lambda path: edit(path, NumberOfFrames=2_000_000_000),
    "absurd size": lambda path: edit(path, Rows=65535, Columns=65535),
    "absurd bits": lambda path: edit(path, BitsAllocated=65528),
    "no rows": lambda path: edit(path, Rows=0),
    "negative frames": lambda path: edit(path, NumberOfFrames=-1),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("is_mixed", [True, False])
def test_one_damaged_instance_does_not_stop_the_study(tmp_path: Path, damage: str, is_mixed: bool) -> None:
    good = write_series(tmp_path / "good", name="good")
    bad = write_series(tmp_path / ("good" if is_mixed else "bad"), name="bad")
    DAMAGE[damage](bad[2])
    volumes, refused = read(tmp_path)
    assert len(volumes) == 1
    check(good, volumes[0])
    assert refused
    assert set(refused) <= {"damaged-file", "missing-slice", "multi-frame", "pixel-format"}


@pytest.mark.parametrize("damage", [name for name in DAMAGE if not name.startswith(("absurd", "negative"))])
@pytest.mark.parametrize("which", [3, 5])
def test_damaged_instances_are_refused_or_dropped(tmp_path: Path, damage: str, which: int) -> None:
    paths = write_series(tmp_path)
    DAMAGE[damage](paths[which])
    assert reason(tmp_path) == "damaged-file"
    rest = paths[:which] + paths[which + 1 :]
    if which == 3:
        assert reason(tmp_path, damaged_file="drop") == "missing-slice"
        check_interpolated(rest, read_one(tmp_path, damaged_file="drop", missing_slice="fill"))
        return
    volume = read_one(tmp_path, damaged_file="drop")
    check(rest, volume)
    assert codes(volume) == {"damaged-file"}


def cut_codestream(path: Path, keep: float) -> None:
    """Leave out the end of the compressed frame, in a file that is well formed otherwise."""

    def change(dataset: pydicom.Dataset) -> None:
        (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
        short = frame.rstrip(b"\0")[: int(len(frame) * keep)]
        dataset.PixelData = encapsulate([short])

    edit(path, change)


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize("keep", [0.98, 0.4, 0.02])
def test_compressed_pixels_that_end_too_early_are_refused(tmp_path: Path, syntax: str, keep: float) -> None:
    cut_codestream(write_series(tmp_path, transfer_syntax=syntax, shape=(64, 60, 4))[2], keep)
    assert reason(tmp_path) == "damaged-file"


@pytest.mark.parametrize("syntax", [name for name in ENCODERS if name != "JPEG lossless"])
def test_a_compressed_frame_that_ends_too_early_is_refused(tmp_path: Path, syntax: str) -> None:
    cut_codestream(write_enhanced(tmp_path, transfer_syntax=syntax, shape=(64, 60, 1)), 0.7)
    assert reason(tmp_path) == "damaged-file"


@pytest.mark.parametrize("syntax", [*ENCODERS, "deflated"])
@pytest.mark.parametrize("lost_bytes", [8, 9, 400, 3000])
def test_compressed_files_that_end_too_early_are_refused(tmp_path: Path, syntax: str, lost_bytes: int) -> None:
    paths = write_series(tmp_path, transfer_syntax=syntax, shape=(64, 60, 4))
    truncate(paths[1], lost_bytes)
    assert reason(tmp_path) == "damaged-file"


@pytest.mark.parametrize("syntax", [name for name in ENCODERS if name != "RLE"])  # which does not say its size
def test_compressed_pixels_of_another_size_are_refused(tmp_path: Path, syntax: str) -> None:
    paths = write_series(tmp_path, transfer_syntax=syntax, shape=(40, 36, 4))
    for path in paths:
        edit(path, Rows=40, Columns=36)
    assert reason(tmp_path) == "damaged-file"


def test_a_damaged_copy_of_a_whole_slice_is_no_conflict_when_dropped(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    shorten_pixels(duplicate(paths[2]))
    assert reason(tmp_path) == "damaged-file"
    check(paths, read_one(tmp_path, damaged_file="drop"))


@pytest.mark.parametrize(
    "change", [{"NumberOfFrames": 5}, {"NumberOfFrames": 7}, {"NumberOfFrames": 10**9}, {"Rows": 60000}]
)
def test_multi_frame_files_whose_sizes_are_wrong_are_rejected(tmp_path: Path, change: dict[str, int]) -> None:
    good = write_series(tmp_path, name="good")
    edit(write_enhanced(tmp_path / "enhanced"), **change)
    volumes, _ = read(tmp_path)
    assert len(volumes) == 1
    check(good, volumes[0])


def test_values_of_parts_do_not_mix(tmp_path: Path) -> None:
    """Two acquisitions with other slopes, signs and bits in one series: each volume has its own."""
    specs = variants(
        SeriesSpec(**SMALL),
        slopes=[1.0, 0.5],
        is_signed=[True, False],
        bits_stored=[16, 12],
        transfer_syntax=["big endian", "JPEG-LS"],
        AcquisitionNumber=[1, 2],
    )
    groups = write_merged(tmp_path, *specs)
    volumes, refused = read(tmp_path)
    assert not refused
    check_parts(volumes, groups)


def test_signs_may_change_within_a_series(tmp_path: Path) -> None:
    signed = write_series(tmp_path, replace(SeriesSpec(**SMALL), missing=(2, 3)))
    unsigned = write_series(tmp_path, replace(SeriesSpec(**SMALL), missing=(0, 1), is_signed=False))
    volume = read_one(tmp_path)
    check_law([frame for path in (*signed, *unsigned) for frame in frames_of(path)], volume)
