"""The walk over a header's elements: pydicom's raw elements say what is right, and nothing hostile gets through."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from medseg.dicom import elements
from medseg.dicom.elements import DamagedError, Elements, NotDicomError, PixelLocation, read_elements

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
KEYWORDS = """
MediaStorageSOPClassUID MediaStorageSOPInstanceUID ImplementationVersionName SpecificCharacterSet ImageType
SOPClassUID SOPInstanceUID StudyDate Modality Manufacturer SeriesDescription ReferencedImageSequence
PatientName PatientID PatientAge SliceThickness KVP SpacingBetweenSlices GantryDetectorTilt PatientPosition
StudyInstanceUID SeriesInstanceUID SeriesNumber AcquisitionNumber InstanceNumber ImagePositionPatient
ImageOrientationPatient FrameOfReferenceUID SliceLocation SamplesPerPixel PhotometricInterpretation
NumberOfFrames Rows Columns PixelSpacing BitsAllocated BitsStored HighBit PixelRepresentation WindowCenter
RescaleIntercept RescaleSlope ModalityLUTSequence SharedFunctionalGroupsSequence
PerFrameFunctionalGroupsSequence
"""
COMMON = frozenset(int(tag_for_keyword(keyword)) for keyword in KEYWORDS.split())
PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
META_SYNTAX, ROWS, COLUMNS, CLASS, BINARY = 0x00020010, 0x00280010, 0x00280011, 0x00080016, 0x00091001
CHARSET, SEQUENCE, UNDEFINED = 0x00080005, 0x00081140, 0xFFFFFFFF
LONG = {vr.value for vr in pydicom.valuerep.EXPLICIT_VR_LENGTH_32}
ITEM, ITEM_END, SEQUENCE_END = map(bytes.fromhex, ("feff00e0", "feff0de000000000", "feffdde000000000"))


def read(data: bytes, wanted: Any = COMMON) -> Elements:
    return read_elements(io.BytesIO(data), frozenset(wanted))


# ---- bytes written by hand, PS3.5 7.1


def element(
    tag: int, vr: str, value: bytes = b"", *, implicit: bool = False, order: str = "<", length: int | None = None
) -> bytes:
    length = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack(order + "L", length) + value
    if vr in LONG:
        return head + vr.encode() + struct.pack(order + "HL", 0, length) + value
    return head + vr.encode() + struct.pack(order + "H", length) + value


def meta(syntax: str | None = ExplicitVRLittleEndian, group_length: int = 7) -> bytes:
    text = b"" if syntax is None else element(META_SYNTAX, "UI", syntax.encode().ljust(len(syntax) + 1 & ~1, b"\0"))
    return element(0x00020000, "UL", struct.pack("<L", group_length)) + element(0x00020003, "UI", b"1.2\0") + text


def file(dataset: bytes, syntax: str | None = ExplicitVRLittleEndian) -> bytes:
    return bytes(128) + b"DICM" + meta(syntax) + dataset


def image(implicit: bool = False, order: str = "<", extra: bytes = b"") -> bytes:
    """Three elements, anything, and four bytes of pixel data."""

    def put(tag: int, vr: str, value: bytes) -> bytes:
        return element(tag, vr, value, implicit=implicit, order=order)

    start = put(CLASS, "UI", b"1.2.3\0") + put(ROWS, "US", struct.pack(order + "H", 2))
    return start + put(COLUMNS, "US", struct.pack(order + "H", 1)) + extra + put(PIXEL_TAGS[2], "OW", b"abcd")


IMPLICIT = {"implicit": True}
IMAGE_VALUES = {CLASS: b"1.2.3\0", ROWS: b"\2\0", COLUMNS: b"\1\0"}
IMAGE_TAGS = frozenset(IMAGE_VALUES)


def deflated(data: bytes, level: int = 6) -> bytes:
    squeeze = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return squeeze.compress(data) + squeeze.flush()


# ---- the oracle: pydicom


def pydicom_read(data: bytes, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data), force=True, **options)


def raw_meta(data: bytes) -> dict[int, Any]:
    """The raw elements of group 0002, which `pydicom.dcmread` decodes in part."""
    stream = io.BytesIO(data[132:] if data[128:132] == b"DICM" else data)
    found = pydicom.filereader.data_element_generator(stream, False, True, lambda tag, vr, length: tag >> 16 != 2)
    return {int(each.tag): each for each in found}


def raw_value(found: Any) -> bytes:
    """What `Elements.values` must hold for an element of pydicom's."""
    if not isinstance(found, RawDataElement):
        if found.tag == CHARSET:  # the only one that pydicom decodes at once
            text = found.value if isinstance(found.value, str) else "\\".join(found.value or [])
            return text.encode()
        assert found.VR == "SQ"  # of undefined length
        return b""
    unsaid = found.VR in (None, "UN")
    is_sequence = found.VR == "SQ" or (unsaid and (found.value or b"").startswith(ITEM))
    return b"" if is_sequence or found.length == UNDEFINED else found.value or b""


def check_against_pydicom(data: bytes) -> Elements:
    """Every top-level element, byte for byte; the encoding; the place of the pixel data."""
    header, whole = pydicom_read(data, stop_before_pixels=True), pydicom_read(data)
    expected = raw_meta(data) | {int(tag): header.get_item(tag, keep_deferred=True) for tag in list(header.keys())}
    result = read(data, COMMON | expected.keys())
    assert result.values.keys() == expected.keys()
    for tag, value in result.values.items():
        raw = raw_value(expected[tag])
        assert (value.rstrip() if tag == CHARSET else value) == (raw if len(raw) <= 2**16 else b""), f"{tag:08X}"
    assert read(data).values == {tag: value for tag, value in result.values.items() if tag in COMMON}
    assert result.transfer_syntax_uid == header.file_meta.get("TransferSyntaxUID", "")
    assert result.has_file_meta == bool(len(header.file_meta))
    assert result.is_deflated == (result.transfer_syntax_uid == DeflatedExplicitVRLittleEndian)
    raw = [found for found in header.values() if isinstance(found, RawDataElement)]
    assert {(found.is_implicit_VR, found.is_little_endian) for found in raw} <= {
        (result.is_implicit, result.is_little_endian)
    }
    check_pixels(data, result, whole)
    return result


def check_pixels(data: bytes, result: Elements, whole: Any) -> None:
    there = [tag for tag in PIXEL_TAGS if tag in whole]
    if not there:
        assert result.pixels is None
        return
    found = whole.get_item(there[0])
    length = None if found.length == UNDEFINED else found.length
    offset = -1 if result.is_deflated else found.value_tell
    vr = "" if result.is_implicit else found.VR
    assert result.pixels == PixelLocation(there[0], vr, offset, length)
    if offset >= 0:
        assert data[offset:].startswith(ITEM if length is None else found.value or b"")


# ---- files


def dicom_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in OTHER_SUFFIXES)


OTHER_SUFFIXES = {".json", ".dump", ".txt", ".gz", ".icc", ".py", ".nii", ".md"}
UNLIKE_PYDICOM = {
    "rtplan_truncated.dcm": DamagedError,  # pydicom gives what there is
    "no_meta.dcm": NotDicomError,  # a stray byte before its first element: pydicom reads nonsense when forced
    "README": NotDicomError,  # text
}


@pytest.mark.parametrize("path", dicom_files(BUNDLED), ids=lambda path: str(path.relative_to(BUNDLED)))
def test_pydicoms_files_are_read_as_pydicom_reads_them(path: Path) -> None:
    if path.name in UNLIKE_PYDICOM:
        with pytest.raises(UNLIKE_PYDICOM[path.name]):
            read(path.read_bytes())
    else:
        check_against_pydicom(path.read_bytes())


def test_pydicoms_files_were_found_and_are_of_all_kinds() -> None:
    paths = [path for path in dicom_files(BUNDLED) if path.name not in UNLIKE_PYDICOM]
    found = [read(path.read_bytes()) for path in paths]
    assert len(found) > 140
    assert {(each.is_implicit, each.is_little_endian) for each in found} == {(0, 1), (1, 1), (0, 0)}
    assert {each.has_file_meta for each in found} == {each.is_deflated for each in found} == {True, False}
    assert sum(each.pixels is None for each in found) > 3


def test_pydicoms_other_files_are_no_dicom() -> None:
    others = [path for path in BUNDLED.rglob("*") if path.suffix in OTHER_SUFFIXES]
    assert len(others) > 5
    for path in others:
        with pytest.raises(NotDicomError):
            read(path.read_bytes())


@pytest.mark.data
@pytest.mark.parametrize("name", ["ct", "mr_study", "dicom"])
def test_real_files_are_read_as_pydicom_reads_them(data_root: Path, name: str) -> None:
    files = dicom_files(data_root / name)
    assert len(files) >= 20
    for path in files:
        check_against_pydicom(path.read_bytes())


# ---- data sets written by pydicom

ENCODINGS = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
]
TEXTS = st.text("AB YZ_0", max_size=9)


@st.composite
def datasets(draw: st.DrawFn, depth: int = 0) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for tag, vr, values in (
        (0x00080005, "CS", st.sampled_from(["ISO_IR 100", "ISO_IR 192"])),
        (0x00080060, "CS", TEXTS),
        (0x00081030, "LO", TEXTS),
        (0x00080301, "UI", st.just("1.2.3")),
        (0x00189507, "FL", st.floats(width=32, allow_nan=False)),
        (0x0020000D, "UI", st.just("1.2.840.1")),
        (0x00280010, "US", st.integers(0, 65535)),
        (0x00282000, "OB", st.binary(max_size=40)),
        (0x00420010, "ST", TEXTS),
        (0x00720068, "UT", TEXTS.map(lambda text: text * 3000)),  # longer than a chunk, now and then
    ):
        if draw(st.booleans()):
            dataset.add_new(tag, vr, draw(values))
    if draw(st.booleans()):
        block = dataset.private_block(0x0009, "somebody", create=True)
        block.add_new(1, "OB", draw(st.binary(max_size=20)))
        block.add_new(2, "LO", draw(TEXTS))
        block.add_new(4, "UN", draw(st.binary(max_size=9)))
        if depth < 2:
            block.add_new(3, "SQ", draw(sequences(depth)))
    for tag in (SEQUENCE, 0x00400260, 0x52009230):
        if depth < 2 and draw(st.booleans()):
            dataset.add_new(tag, "SQ", draw(sequences(depth)))
            dataset[tag].is_undefined_length = draw(st.booleans())
    return dataset


@st.composite
def sequences(draw: st.DrawFn, depth: int) -> pydicom.Sequence:
    items = draw(st.lists(datasets(depth + 1), max_size=2))
    for item in items:
        item.is_undefined_length_sequence_item = draw(st.booleans())
    return pydicom.Sequence(items)


def written(dataset: pydicom.Dataset, syntax: str) -> bytes:
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.3"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def add_pixels(dataset: pydicom.Dataset, syntax: str) -> None:
    is_encapsulated = syntax == JPEG2000Lossless
    frames = pydicom.encaps.encapsulate([b"a frame "]) if is_encapsulated else b"pixels"
    dataset.add_new(PIXEL_TAGS[2], "OB" if is_encapsulated else "OW", frames)
    dataset[PIXEL_TAGS[2]].is_undefined_length = is_encapsulated


@given(datasets(), st.sampled_from(ENCODINGS), st.booleans())
@settings(max_examples=80, deadline=None)
def test_what_pydicom_writes_is_read_back(dataset: pydicom.Dataset, syntax: str, has_pixels: bool) -> None:
    if has_pixels:
        add_pixels(dataset, syntax)
    result = check_against_pydicom(written(dataset, syntax))
    assert result.transfer_syntax_uid == syntax
    assert (result.pixels is not None) == has_pixels
    assert {tag for tag in result.values if tag >> 16 != 2} == set(dataset.keys()) - {PIXEL_TAGS[2]}
    if "StudyDescription" in dataset:
        assert result.values[0x00081030].rstrip() == dataset.StudyDescription.encode().rstrip()
    if len(dataset) > has_pixels:
        assert result.is_implicit == (syntax == ImplicitVRLittleEndian)
        assert result.is_little_endian == (syntax != ExplicitVRBigEndian)


# ---- data sets written by hand: what no proper writer writes

PARTS = st.tuples(
    st.sampled_from([CLASS, ROWS, BINARY, 0x00080000, 0x00090010, 0x00280000, 0x00091002, 0x7FE00001, 0x00100010]),
    st.sampled_from(["US", "OB", "UN", "LO", "UT", "QQ", "", "UV"]),  # QQ: unknown; "": this one is implicit
    st.binary(max_size=33),
)


@given(st.lists(PARTS, max_size=9), st.booleans(), st.sampled_from("<>"))
@settings(max_examples=200, deadline=None)
def test_odd_lengths_doubles_and_disorder(parts: list[tuple[int, str, bytes]], implicit: bool, order: str) -> None:
    """The last of several is kept; unknown VRs have 16-bit lengths; one element alone may be implicit."""
    order = "<" if implicit else order
    syntax = {"<": ExplicitVRLittleEndian, ">": ExplicitVRBigEndian}[order]

    def holds_item(vr: str, value: bytes) -> bool:
        return (implicit or vr in ("", "UN")) and value.startswith(ITEM)

    put = [(CLASS, "UI", b"1.2"), *parts]
    data = file(b"".join(element(*part, implicit=implicit or not part[1], order=order) for part in put), syntax)
    result = read(data, {tag for tag, _, _ in put})
    assert result.values == {tag: b"" if holds_item(vr, value) else value for tag, vr, value in put}
    assert (result.is_implicit, result.is_little_endian) == (implicit, order == "<")
    if not any(value.startswith(ITEM) for _, _, value in parts):
        check_against_pydicom(data)


@pytest.mark.parametrize("vr", sorted(vr.value for vr in pydicom.valuerep.STANDARD_VR))
def test_every_value_representation(vr: str) -> None:
    data = file(image(extra=element(BINARY, vr, b"12345678")))
    assert read(data, IMAGE_TAGS | {BINARY}).values == IMAGE_VALUES | {BINARY: b"" if vr == "SQ" else b"12345678"}


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("prefix", [bytes(128) + b"DICM", b""], ids=["preamble", "bare"])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, "1.2.840.113619.5.2", "", None]
)
def test_the_real_encoding_counts(implicit: bool, prefix: bytes, syntax: str | None) -> None:
    data = prefix + meta(syntax, group_length=99999) + image(implicit)
    result = read(data, IMAGE_TAGS)
    assert result.values == IMAGE_VALUES
    assert result.pixels == PixelLocation(PIXEL_TAGS[2], "" if implicit else "OW", len(data) - 4, 4)
    assert result == Elements(IMAGE_VALUES, syntax or "", implicit, True, True, False, result.pixels)


@pytest.mark.parametrize("prefix", [bytes(128) + b"DICM", b""], ids=["magic", "bare"])
@pytest.mark.parametrize(("implicit", "order"), [(True, "<"), (False, "<"), (False, ">")])
def test_there_may_be_no_file_meta(prefix: bytes, implicit: bool, order: str) -> None:
    data = prefix + image(implicit, order)
    result = read(data, IMAGE_TAGS)
    assert result.values[ROWS] == struct.pack(order + "H", 2)
    location = PixelLocation(PIXEL_TAGS[2], "" if implicit else "OW", len(data) - 4, 4)
    assert result == Elements(result.values, "", implicit, order == "<", False, False, location)


def test_big_endian_without_a_transfer_syntax() -> None:
    assert not read(file(image(order=">"), None)).is_little_endian
    assert read(file(element(0x30060002, "SH", b"ab"), None)).is_little_endian  # 0x3006 is no swapped 0x0630


def test_file_meta_may_be_implicit() -> None:
    odd = element(META_SYNTAX, "UI", b"1.2.840.10008.1.2.1\0", implicit=True)
    result = read(bytes(128) + b"DICM" + odd + image(), IMAGE_TAGS)
    assert (result.transfer_syntax_uid, result.values) == (ExplicitVRLittleEndian, IMAGE_VALUES)


def test_command_elements_before_the_data_set_are_implicit() -> None:
    data = file(element(0, "", b"\x20\0\0\0", **IMPLICIT) + element(2, "", b"1.2\0", **IMPLICIT) + image())
    result = read(data, IMAGE_TAGS | {2})
    assert result.values == {2: b"1.2\0"} | IMAGE_VALUES
    assert not result.is_implicit


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"])
@pytest.mark.parametrize("level", [0, 9])
def test_deflated_data_sets(syntax: str, level: int) -> None:
    data = file(deflated(image(extra=element(BINARY, "OB", bytes(200_000))), level), syntax)
    result = read(data, IMAGE_TAGS)
    assert (result.values, result.is_deflated) == (IMAGE_VALUES, True)
    assert result.pixels == PixelLocation(PIXEL_TAGS[2], "OW", -1, 4)


def test_deflated_bytes_may_look_like_elements() -> None:
    """A stored block of 512 bytes begins as a tag of group 0001 does."""
    content = image(extra=element(BINARY, "OB", bytes(512 - 12 - len(image()))))
    block = b"\1" + struct.pack("<HH", len(content), len(content) ^ 0xFFFF) + content
    assert block[:2] == b"\1\0"
    assert read(file(block, DeflatedExplicitVRLittleEndian), IMAGE_TAGS).values == IMAGE_VALUES


def test_a_deflated_data_set_that_is_cut_is_damage() -> None:
    data = file(deflated(image()), DeflatedExplicitVRLittleEndian)
    for end in range(len(file(b"", DeflatedExplicitVRLittleEndian)), len(data)):
        with pytest.raises(DamagedError):
            read(data[:end], IMAGE_TAGS)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_an_empty_data_set_is_what_its_transfer_syntax_says(syntax: str) -> None:
    result = read(file(b"", syntax), IMAGE_TAGS | {META_SYNTAX})
    expected = {META_SYNTAX: syntax.encode().ljust(len(syntax) + 1 & ~1, b"\0")}
    is_implicit, is_little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    assert result == Elements(expected, syntax, is_implicit, is_little, True, False, None)


@pytest.mark.parametrize("tag", PIXEL_TAGS)
def test_the_first_pixel_data_ends_the_walk(tag: int) -> None:
    data = file(element(ROWS, "US", b"\2\0") + element(tag, "OF", b"abcd") + image())
    result = read(data, IMAGE_TAGS)
    assert result.values == {ROWS: b"\2\0"}
    assert result.pixels is not None
    assert (result.pixels.tag, result.pixels.vr, result.pixels.length) == (tag, "OF", 4)
    assert data[result.pixels.offset :].startswith(b"abcd")


@pytest.mark.parametrize("length", [0, 4, 0xFFFFFFF0, UNDEFINED])
def test_the_length_of_pixel_data_is_not_checked(length: int) -> None:
    result = read(file(image()[:-16] + element(PIXEL_TAGS[2], "OB", b"", length=length)))
    assert result.pixels is not None
    assert result.pixels.length == (None if length == UNDEFINED else length)


@pytest.mark.parametrize("tag", [0x7FE10010, 0xFFFCFFFC, 0xFFFEE00D])
def test_tags_beyond_the_pixel_data_end_the_walk(tag: int) -> None:
    data = file(element(ROWS, "US", b"\2\0") + element(tag, "LO", b"ab") + image())
    result = read(data, IMAGE_TAGS)
    assert (result.values, result.pixels) == ({ROWS: b"\2\0"}, None)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("tail", [b"", *(bytes(n) for n in (1, 7, 8, 9, 16, 123, 40_000)), b"garbage"])
def test_padding_at_the_end_is_no_damage(implicit: bool, tail: bytes) -> None:
    result = read(file(element(ROWS, "US", b"\2\0", implicit=implicit) + tail), IMAGE_TAGS)
    assert (result.values, result.pixels) == ({ROWS: b"\2\0"}, None)


# ---- sequences of undefined length


def sequence(*items: bytes, vr: str = "SQ", swap: bool = False, **how: Any) -> bytes:
    content = b"".join(items) + SEQUENCE_END
    return element(SEQUENCE, vr, swapped(content) if swap else content, length=UNDEFINED, **how)


def swapped(content: bytes) -> bytes:
    """Empty items and delimiters, in the other byte order."""
    return b"".join(struct.pack(">HHL", *head) for head in struct.iter_unpack("<HHL", content))


def item(content: bytes = b"", *, defined: bool = False) -> bytes:
    if defined:
        return ITEM + struct.pack("<L", len(content)) + content
    return ITEM + struct.pack("<L", UNDEFINED) + content + ITEM_END


INNER = image()  # its pixel data is an icon's
SEQUENCES = {
    "empty": sequence(),
    "items": sequence(item(), item(defined=True), item(INNER), item(INNER, defined=True)),
    "nested": sequence(item(INNER + sequence(item(sequence(item(INNER)))) + element(0x00400001, "AE", b"ab"))),
    "implicit items": sequence(item(image(implicit=True)), item(INNER)),
    "UN holds an implicit sequence": sequence(item(image(True) + sequence(item(image(True)), **IMPLICIT)), vr="UN"),
    "an implicit item with a length like letters": sequence(
        item(element(ROWS, "", b"\2\0", **IMPLICIT) + element(BINARY, "", bytes(0x4C4F), **IMPLICIT))
    ),
    "fragments": sequence(item(b"abc", defined=True), item(b"\xfe\xff\xdd\xe0", defined=True), vr="OB"),
    "fragments of an icon": sequence(
        item(element(PIXEL_TAGS[2], "OB", item(defined=True) + SEQUENCE_END, length=UNDEFINED))
    ),
    "delimiters inside a value": sequence(item(element(BINARY, "OB", ITEM_END + SEQUENCE_END))),
    "longer than chunks": sequence(*[item(element(BINARY, "OB", bytes(7001)) * 5)] * 3),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_undefined_lengths_are_stepped_over(name: str) -> None:
    data = file(image(extra=SEQUENCES[name]))
    assert read(data, IMAGE_TAGS).values == IMAGE_VALUES
    assert read(data, IMAGE_TAGS | {SEQUENCE}).values == IMAGE_VALUES | {SEQUENCE: b""}
    check_against_pydicom(data)
    for end in range(len(data) - 17, data.index(SEQUENCES[name]) + 7, -min(7001, len(SEQUENCES[name]) // 9)):
        with pytest.raises(DamagedError):
            read(data[:end], IMAGE_TAGS)


@pytest.mark.parametrize("name", SEQUENCES)
def test_chunks_may_end_anywhere(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data = file(image(extra=SEQUENCES[name]))
    expected = read(data, IMAGE_TAGS | {SEQUENCE})
    for chunk in range(1, 150, 1 if len(data) < 2000 else 37):
        monkeypatch.setattr(elements, "_CHUNK", chunk)
        assert read(data, IMAGE_TAGS | {SEQUENCE}) == expected


@pytest.mark.parametrize(("vr", "swap"), [("UN", False), ("SQ", True), ("UN", True), ("OB", True)])
def test_undefined_lengths_in_a_big_endian_file(vr: str, swap: bool) -> None:
    """A UN is little endian there by the standard (PS3.5 6.2.2), big endian by some writers."""
    inner = sequence(item(image(True)) if not swap else item(defined=True), vr=vr, order=">", swap=swap)
    result = read(file(image(order=">", extra=inner), ExplicitVRBigEndian), IMAGE_TAGS | {SEQUENCE})
    assert result.values == {CLASS: b"1.2.3\0", ROWS: b"\0\2", COLUMNS: b"\0\1", SEQUENCE: b""}


BROKEN = {
    "no items": element(SEQUENCE, "SQ", INNER, length=UNDEFINED),
    "an item that does not end": element(SEQUENCE, "SQ", item(INNER)[:-8] + SEQUENCE_END, length=UNDEFINED),
    "an item in an item": element(SEQUENCE, "SQ", item(item()) + SEQUENCE_END, length=UNDEFINED),
    "an end too many": sequence(item() + ITEM_END),
    "an item past the end": element(SEQUENCE, "SQ", ITEM + struct.pack("<L", 5000), length=UNDEFINED),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sequences_are_damage(name: str) -> None:
    with pytest.raises(DamagedError):
        read(file(image(extra=BROKEN[name])))


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("depth", [elements.MAX_DEPTH, elements.MAX_DEPTH + 1, 100_000])
def test_deep_nesting(depth: int, implicit: bool) -> None:
    start = element(SEQUENCE, "SQ", ITEM + struct.pack("<L", UNDEFINED), length=UNDEFINED, implicit=implicit)
    data = file(image(implicit, extra=start * depth + (ITEM_END + SEQUENCE_END) * depth))
    if depth <= elements.MAX_DEPTH:
        assert read(data, IMAGE_TAGS).values == IMAGE_VALUES
    else:
        with pytest.raises(DamagedError, match="sequence"):
            read(data)


# ---- not DICOM, or not all of it


@pytest.mark.parametrize("data", [b"", bytes(1), bytes(131), bytes(128) + b"DI", file(b"")[:132], file(b"")[:139]])
def test_a_cut_preamble_is_damage(data: bytes) -> None:
    with pytest.raises(DamagedError):
        read(data)


JUNK = [
    b"junk",
    bytes(132),
    bytes(5000),
    b"II*\0" + bytes(40),
    bytes(128) + b"DOCM" + image(),
    b"\x08\0\x05\0\0\x08\0\0" * 99,  # like a group 0008, implicit, of the wrong length
    struct.pack("<999h", *([8, 3, 60, 0] * 250)[:999]),  # 16-bit pixels; no greater tag follows
    b"\x10" + image()[1:],
    b"PK\3\4" + bytes(range(256)) * 9,
    image()[:11],
]


@pytest.mark.parametrize("data", JUNK, ids=range(len(JUNK)))
def test_junk_is_no_dicom(data: bytes) -> None:
    with pytest.raises(NotDicomError):
        read(data)


LONG_TEXT = element(0x00081030, "LT", b"text " * 4)
SMALL = {
    "explicit": file(image(extra=LONG_TEXT + SEQUENCES["items"] + SEQUENCES["implicit items"])),
    "implicit": file(image(True, extra=sequence(item(image(True)), **IMPLICIT)), ImplicitVRLittleEndian),
    "big endian": file(image(order=">", extra=element(BINARY, "UT", b"text", order=">")), ExplicitVRBigEndian),
    "deflated": file(deflated(image()), DeflatedExplicitVRLittleEndian),
    "bare": image(extra=SEQUENCES["fragments"]),
    "bare implicit": image(True),
    "pydicom's": (BUNDLED / "MR_small.dcm").read_bytes()[:1900],
}


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation(name: str) -> None:
    """A cut file is refused, or what is left of it is right; only a cut between two elements can go unnoticed."""
    data = SMALL[name]
    wanted = IMAGE_TAGS | COMMON | {SEQUENCE, BINARY}
    whole, results = read(data, wanted), []
    for end in range(len(data)):
        try:
            result = read(data[:end], wanted)
        except (DamagedError, NotDicomError):
            continue
        results.append(end)
        assert result.values.items() <= whole.values.items()
        assert result.pixels in (None, whole.pixels)
    assert len(results) < 0.6 * len(data)


def read_or_refuse(data: bytes, wanted: frozenset[int]) -> None:
    try:
        result = read(data, wanted)
    except (DamagedError, NotDicomError):
        return
    assert sum(map(len, result.values.values())) <= len(data) or result.is_deflated


@pytest.mark.parametrize("name", SMALL)
def test_random_damage(name: str) -> None:
    rng = random.Random(name)
    wanted = IMAGE_TAGS | COMMON | {SEQUENCE, BINARY}
    for _ in range(1000):
        data = bytearray(SMALL[name])
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(len(data))
            data[at] = rng.choice([0, 0xFF, 0xFE, rng.randrange(256), data[at] ^ 1 << rng.randrange(8)])
        read_or_refuse(bytes(data), wanted)


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=200, deadline=None)
def test_random_bytes(data: bytes, has_meta: bool) -> None:
    read_or_refuse(file(data) if has_meta else data, COMMON)


# ---- bounds


def peak_of(function: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("wanted", [{BINARY}, set()], ids=["wanted", "stepped over"])
def test_a_damaged_length_allocates_nothing(tmp_path: Path, implicit: bool, wanted: set[int]) -> None:
    data = file(image(implicit)[:14] + element(BINARY, "OB", bytes(800), length=0xFFFFFFF0, implicit=implicit))
    (tmp_path / "file").write_bytes(data)

    def refuse() -> None:
        with (tmp_path / "file").open("rb") as stream, pytest.raises(DamagedError, match="past the end"):
            read_elements(stream, frozenset(wanted))

    assert peak_of(refuse) < 1_000_000


def test_a_deflate_bomb_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert elements.MAX_HEADER_BYTES == 64 * 2**20
    monkeypatch.setattr(elements, "MAX_HEADER_BYTES", 2**19)
    bomb = file(deflated(bytes(100_000_000)), DeflatedExplicitVRLittleEndian)
    assert len(bomb) < 200_000

    def refuse() -> None:
        with pytest.raises(DamagedError, match="524288 bytes"):
            read(bomb)

    assert peak_of(refuse) < 4 * 2**19


@pytest.mark.parametrize("wanted", [{BINARY}, set()], ids=["wanted", "stepped over"])
def test_no_more_is_read_than_the_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: set[int]) -> None:
    """Long values that nobody wants are stepped over unread; short ones count."""
    monkeypatch.setattr(elements, "MAX_HEADER_BYTES", 2**20)
    monkeypatch.setattr(elements, "MAX_VALUE_BYTES", 2**22)
    long = element(BINARY, "OB", bytes(2**21))
    (tmp_path / "long").write_bytes(file(image(extra=long)))
    (tmp_path / "short").write_bytes(file(image(extra=element(BINARY, "OB", bytes(99)) * 10_000)))
    stream = Counted((tmp_path / "long").read_bytes())
    if wanted:
        with pytest.raises(DamagedError, match="1048576 bytes"):
            read_elements(stream, frozenset(wanted))
    else:
        assert read_elements(stream, IMAGE_TAGS).values == IMAGE_VALUES
    assert stream.given <= (2**20 + 2**19 if wanted else 2**16)
    with (tmp_path / "short").open("rb") as stream, pytest.raises(DamagedError, match="1048576 bytes"):
        read_elements(stream, frozenset(wanted))


class Counted(io.BytesIO):
    """Counts the bytes that it gives, and gives no more than `most` at once."""

    def __init__(self, data: bytes, most: int | None = None) -> None:
        super().__init__(data)
        self.given, self.most = 0, most

    def read(self, size: int = -1, /) -> bytes:
        data = super().read(size if self.most is None else min(size, self.most))
        self.given += len(data)
        return data


def test_pixels_are_not_read() -> None:
    data = file(image()[:-16] + element(PIXEL_TAGS[2], "OW", bytes(10**6)))
    stream = Counted(data)
    assert read_elements(stream, IMAGE_TAGS).values == IMAGE_VALUES
    assert stream.given <= 2**15


# ---- streams


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_stream_may_give_less_than_asked_for(most: int) -> None:
    data = file(image(extra=SEQUENCES["nested"] + element(BINARY, "OB", bytes(3000))))
    assert read_elements(Counted(data, most), IMAGE_TAGS | {BINARY}) == read(data, IMAGE_TAGS | {BINARY})


NOISE = element(BINARY, "OB", random.Random(0).randbytes(100_000))
BIG = file(image(extra=NOISE + SEQUENCES["longer than chunks"]))


def zipped(data: bytes, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        archive.writestr("a", data)
    return stream.getvalue()


PACKED = {
    "zip": (zipped(BIG), lambda data: zipfile.ZipFile(io.BytesIO(data)).open("a")),  # noqa: SIM115
    "gzip": (gzip.compress(BIG), lambda data: gzip.GzipFile(fileobj=io.BytesIO(data))),
}


@pytest.mark.parametrize("name", PACKED)
def test_members_of_archives(name: str) -> None:
    data, opened = PACKED[name]
    assert read_elements(opened(data), IMAGE_TAGS | {BINARY}) == read(BIG, IMAGE_TAGS | {BINARY})
    assert read_elements(opened(data), IMAGE_TAGS) == read(BIG, IMAGE_TAGS)


@pytest.mark.parametrize("name", PACKED)
def test_damaged_members_of_archives(name: str) -> None:
    data, opened = PACKED[name]
    data = data[:40_000] + b"\xff" * 9999 + data[49_999:]
    for wanted in (IMAGE_TAGS, IMAGE_TAGS | {BINARY}):
        with pytest.raises(DamagedError):
            read_elements(opened(data), wanted)


def test_a_wrong_checksum_of_an_archive_is_damage() -> None:
    data = bytearray(zipped(file(NOISE), zipfile.ZIP_STORED))
    data[50_000] ^= 1
    with pytest.raises(DamagedError):
        read_elements(PACKED["zip"][1](bytes(data)), frozenset({BINARY}))


def test_a_truncated_gzip_is_damage() -> None:
    data, opened = PACKED["gzip"]
    with pytest.raises(DamagedError):
        read_elements(opened(data[:50_000]), IMAGE_TAGS)


def test_errors_of_the_stream_come_through() -> None:
    class Failing(io.BytesIO):
        def seek(self, *_: Any) -> int:
            raise PermissionError("no")

    with pytest.raises(PermissionError):
        read_elements(Failing(BIG), IMAGE_TAGS)
