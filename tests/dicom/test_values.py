"""Raw values decoded as pydicom does, numbers that are numbers, names that stay hidden, silence that ends."""

from __future__ import annotations

import io
import logging
import math
import re
import struct
import threading
import time
import tracemalloc
import warnings

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.charset import encode_string, python_encoding
from pydicom.datadict import keyword_dict, tag_for_keyword
from pydicom.dataset import Dataset

from medseg.dicom import quiet
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.values import identities, numbers_of, text_of, vr_of, whole_of, without_identity
from tests.dicom.builder import CANARY, CANARY_WORDS

# SpecificCharacterSet -> a name in it (PS3.5 annexes H, I, J, K; supplement 9).
NAMES = {
    ("ISO_IR 100",): "Müller-Lüdenscheid^Zoë",
    ("ISO_IR 101",): "Wałęsa^Łucja",
    ("ISO_IR 144",): "Люкceмбypг^Иван",
    ("ISO_IR 126",): "Διονυσιος",
    ("ISO_IR 127",): "قباني^لنزار",
    ("ISO_IR 138",): "שרון^דבורה",
    ("ISO_IR 148",): "Çavuşoğlu^Işıl",
    ("ISO_IR 166",): "นามสกุล^ชื่อ",
    ("ISO_IR 192",): "Wang^XiaoDong=王^小东=Ünal^😀",
    ("GB18030",): "Wang^XiaoDong=王^小东",
    ("GBK",): "Wang^XiaoDong=王^小东",
    ("", "ISO 2022 IR 87"): "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ("ISO 2022 IR 13", "ISO 2022 IR 87"): "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ("", "ISO 2022 IR 149"): "Hong^Gildong=洪^吉洞=홍^길동",
    ("ISO 2022 IR 100", "ISO 2022 IR 144"): "Müller^Иван",
}


def _written(charset: tuple[str, ...], keyword: str, value: object) -> bytes:
    """A value in bytes; each part of a name begins with an escape sequence of its own (PS3.5 6.1.2.5.3)."""
    encodings = pydicom.charset.convert_encodings(list(charset))
    if isinstance(value, list):
        return b"\\".join(_written(charset, keyword, part) for part in value)
    if vr_of(tag_for_keyword(keyword) or 0) != "PN":
        return encode_string(str(value), encodings)
    groups = [[encode_string(part, encodings) for part in group.split("^")] for group in str(value).split("=")]
    return b"=".join(b"^".join(group) for group in groups)


def _by_pydicom(charset: tuple[str, ...], keyword: str, raw: bytes) -> str:
    """What pydicom makes of raw bytes in a file with that charset; its parts joined by backslashes."""
    stream = io.BytesIO()
    header = Dataset()
    header.SpecificCharacterSet = list(charset)
    pydicom.dcmwrite(stream, header, implicit_vr=False, little_endian=True)
    tag = tag_for_keyword(keyword) or 0
    raw += b" " * (len(raw) % 2)
    head = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr_of(tag).encode(), len(raw))
    read = pydicom.dcmread(io.BytesIO(stream.getvalue() + head + raw), force=True)[keyword].value
    parts = [read] if isinstance(read, str | pydicom.valuerep.PersonName) else read
    return "\\".join(str(part).strip(" \0") for part in parts)


@pytest.mark.parametrize("charset", NAMES, ids="+".join)
@pytest.mark.parametrize("keyword", ["PatientName", "SeriesDescription"])
def test_text_is_decoded_as_pydicom_does(charset: tuple[str, ...], keyword: str) -> None:
    raw = _written(charset, keyword, NAMES[charset])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mine = text_of(raw, vr_of(tag_for_keyword(keyword) or 0), True, "\\".join(charset))
    assert mine == _by_pydicom(charset, keyword, raw)
    if keyword == "PatientName" and charset != ("", "ISO 2022 IR 58"):  # pydicom writes these without their escape
        assert mine.rstrip("=") == NAMES[charset].rstrip("=")


@pytest.mark.parametrize("charset", [("ISO_IR 100",), ("ISO_IR 192",), ("", "ISO 2022 IR 87")], ids="+".join)
def test_several_values_of_text(charset: tuple[str, ...]) -> None:
    values = [NAMES[charset].partition("=")[0], " second ", NAMES[charset].rpartition("=")[2]]
    raw = _written(charset, "ProtocolName", values)
    raw_of_type = _written(charset, "OtherPatientNames", values)
    charsets = "\\".join(charset)
    assert text_of(raw, "LO", True, charsets) == _by_pydicom(charset, "ProtocolName", raw)
    assert text_of(raw_of_type, "PN", True, charsets) == _by_pydicom(charset, "OtherPatientNames", raw_of_type)
    assert text_of(raw, "LO", True, charsets).split("\\")[1] == "second"


@pytest.mark.parametrize(
    "charset", ["NO_SUCH_SET", "ISO_IR 9999", "\\", "ISO 2022 IR 87", "ISO_IR 192\\ISO_IR 100", "x" * 999]
)
@pytest.mark.parametrize("raw", [b"\xff\xfe\x80", b"\x1b$B\x1b", b"\x1b", b"\x1b$)C\xa0\xff", bytes(range(256))])
def test_broken_text_is_text_all_the_same(charset: str, raw: bytes) -> None:
    with quiet_pydicom():
        text = text_of(raw, "LO", True, charset)
    assert isinstance(text, str)
    text.encode()  # no surrogates: it can be printed and hashed


@settings(deadline=None, max_examples=150)
@given(
    raw=st.binary(max_size=40),
    vr=st.sampled_from(["LO", "PN", "CS", "UI", "DS", "IS", "US", "FD", "SV", "UN", "OB", "??", ""]),
    charset=st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "\\ISO 2022 IR 87", "ISO 2022 IR 149", "GB18030"]),
)
def test_any_bytes_are_text(raw: bytes, vr: str, charset: str) -> None:
    with quiet_pydicom():
        text_of(raw, vr, True, charset).encode()


@pytest.mark.parametrize("raw", [b"CT", b"CT ", b"CT\0", b" CT", b"CT\0\0", b"CT\r\n", b"\tCT "])
def test_padding_is_no_part_of_a_value(raw: bytes) -> None:
    assert text_of(raw, "CS") == "CT"
    assert text_of(raw, "LO", True, "ISO_IR 192") == "CT"


def test_padding_of_each_part_and_empty_parts() -> None:
    assert text_of(b"1.5\\ 2 \\-3e2 ", "DS") == "1.5\\2\\-3e2"
    assert text_of(b"A\\\\B", "CS") == "A\\\\B"
    assert text_of(b"", "CS") == ""
    assert text_of(b"  ", "DS") == ""


@pytest.mark.parametrize("is_little", [True, False])
@pytest.mark.parametrize(
    ("vr", "letter", "values"),
    [
        ("US", "H", [0, 1, 65535]),
        ("SS", "h", [-32768, -1, 32767]),
        ("UL", "I", [0, 4294967295]),
        ("SL", "i", [-2147483648, 2147483647]),
        ("UV", "Q", [0, 18446744073709551615]),
        ("SV", "q", [-9223372036854775808, 9223372036854775807]),
        ("FL", "f", [0.5, -1.25e-20, 3.0e38]),
        ("FD", "d", [0.1, -1.7976931348623157e308, 5e-324, 1 / 3]),
    ],
)
def test_binary_numbers_of_both_byte_orders(vr: str, letter: str, values: list[float], is_little: bool) -> None:
    raw = struct.pack(f"{'<' if is_little else '>'}{len(values)}{letter}", *values)
    parts = text_of(raw, vr, is_little).split("\\")
    if letter in "fd":
        digits = 1e-6 if letter == "f" else 1e-8
        assert [float(part) for part in parts] == pytest.approx(values, rel=digits, abs=1e-300)
    else:
        assert [int(part) for part in parts] == values
    assert text_of(raw[:-1], vr, is_little).count("\\") == max(len(values) - 2, 0)


def test_the_vr_of_every_keyword_is_pydicoms() -> None:
    for keyword in keyword_dict:
        tag = tag_for_keyword(keyword) or 0
        assert vr_of(tag) == pydicom.datadict.dictionary_VR(tag).split(" ")[0]
    assert vr_of(0x00091001) == "UN"
    assert vr_of(0xFFFFFFFF) == "UN"


NO_NUMBERS = [
    "", "\\", "1\\", "\\1", "1\\\\2", "nan", "NaN", "inf", "-inf", "+Infinity", "1e400", "-1e999", "0x10", "1_0",
    "1_0.5", "١", "１２", "1,5", "1 2", "CANARY", "1\0", "--1", "1e", "1.2.3", "²", "½", "0b1", "1d5", "1j", "True",
]  # fmt: skip
NUMBERS = {
    "1": (1.0,),
    " 1 ": (1.0,),
    "+1.5": (1.5,),
    "-0": (0.0,),
    ".5": (0.5,),
    "5.": (5.0,),
    "1e-400": (0.0,),
    "1E+02": (100.0,),
    "1\\2\\3": (1.0, 2.0, 3.0),
    "1 \\ 2": (1.0, 2.0),
    "1.7976931348623157e308": (1.7976931348623157e308,),
    "9" * 300: (1e300,),
}


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number(text: str) -> None:
    """Digits, sign, point and exponent are all that PS3.5 6.2 permits in DS; and numbers must be finite."""
    assert numbers_of(text) is None


@pytest.mark.parametrize("text", NUMBERS)
def test_what_is_a_number(text: str) -> None:
    assert numbers_of(text) == pytest.approx(NUMBERS[text])
    assert numbers_of(text, len(NUMBERS[text])) == numbers_of(text)
    assert numbers_of(text, len(NUMBERS[text]) + 1) is None


@pytest.mark.parametrize("part", ["1", "1\\", "\\", ".", " "])
def test_extremely_long_texts_take_no_memory(part: str) -> None:
    text = part * (10_000_000 // len(part)) + "1"
    tracemalloc.start()
    assert numbers_of(text, 3) is None
    assert whole_of(text, 7) in (1, 7)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * len(text)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_numbers_come_back(values: list[float]) -> None:
    assert numbers_of("\\".join(map(repr, values)), len(values)) == tuple(values)


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=12), st.text("0123456789+-.eE_\\ xnaif", max_size=12)))
def test_numbers_are_finite_and_whole_numbers_whole(text: str) -> None:
    numbers = numbers_of(text)
    assert numbers is None or all(map(math.isfinite, numbers))
    if numbers is not None:
        assert len(numbers) == text.count("\\") + 1
        assert re.fullmatch(r"[-+0-9.eE\\\s]+", text, re.ASCII)
    whole = whole_of(text, -77)
    assert isinstance(whole, int)
    if whole != -77:
        assert re.fullmatch(r"\s*[-+]?[0-9]+\s*", text, re.ASCII)


@pytest.mark.parametrize(
    "text", ["", "abc", "1.5", "0x10", "1\\2", "1_0", "١", "１", "nan", "²", "9" * 5000, "1e3", "-", "True"]
)
def test_what_is_no_whole_number(text: str) -> None:
    assert whole_of(text) == 0
    assert whole_of(text, 16) == 16


@pytest.mark.parametrize(("text", "number"), [("12", 12), (" 12 ", 12), ("-3", -3), ("+4", 4), ("007", 7)])
def test_whole_numbers(text: str, number: int) -> None:
    assert whole_of(text, 99) == number


# Names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CANARYNAME^GIVENCANARY", "CT of Canaryname, GIVENCANARY"),
        ("CANARYNAME^GIVENCANARY", "xCANARYNAMEx"),
        ("CANARYNAME-SMITH^ANNA", "T1 CANARYNAME 5mm"),
        ("CANARYNAME,ANNA", "T1 canaryname"),
        ("CANARYNAME.ANNA", "T1 canaryname"),
        ("O'CANARY^ANNA", "o canary"),
        ("Müller^Zoë", "MÜLLER ZOË"),
        ("MÜLLER^ZOË", "müller"),
        ("Groß^Anna", "GROSS"),
        ("Groß^Anna", "Groß"),
        ("GROSS^ANNA", "groß"),
        ("STRASSER^ANNA", "Straßer"),
        ("İpek^Işıl", "İPEK"),
        ("Wang^XiaoDong=王小东", "head 王小东"),
        ("ﬁnch^anna", "finch"),
        ("(abc+b)^[xyz]+.*", "seen (ABC+B) and [xyz]+.*"),
    ],
)
def test_parts_of_a_name_are_hidden_in_free_text(name: str, text: str) -> None:
    hidden = identities((name,))
    shown = without_identity(text, hidden)
    assert "***" in shown
    for part in re.split(r"[\W_]+", name):
        if len(part) >= 3:
            assert part.casefold() not in shown.casefold()
            assert part.casefold() not in shown.upper().casefold()


def test_a_birth_date_is_hidden_in_every_way_to_write_it() -> None:
    hidden = identities(
        (
            CANARY["name"],
            CANARY["patient_id"],
            CANARY["birth_date"],
            CANARY["accession"],
        )
    )
    for text in ("b. 19470228", "b. 1947-02-28", "b. 28.02.1947", "b. 1947.02.28", "b. 1947/02/28"):
        shown = without_identity(text, hidden)
        assert not any(word in shown for word in (*CANARY_WORDS, "28.02.1947", "1947.02.28", "1947/02/28")), shown


def test_ordinary_words_stay() -> None:
    assert (
        without_identity(
            "T1 axial 5mm",
            identities(
                (
                    "Li^Bo",
                    "X^Y",
                    "",
                )
            ),
        )
        == "T1 axial 5mm"
    )
    assert without_identity("T1 axial", ()) == "T1 axial"
    assert identities(()) == ()


@settings(max_examples=200, deadline=None)
@given(
    names=st.lists(st.text(max_size=20), max_size=4),
    before=st.text(max_size=10),
    after=st.text(max_size=10),
    pick=st.integers(0, 99),
)
def test_no_hidden_part_is_left(names: list[str], before: str, after: str, pick: int) -> None:
    hidden = identities(tuple(names))
    assert all(len(part) >= 2 for part in hidden)
    assert list(hidden) == sorted(hidden, key=lambda part: -len(part)) or len({*map(len, hidden)}) > 1
    planted = hidden[pick % len(hidden)] if hidden else "nothing"
    for text in (before + planted + after, before + planted.upper() + after, before + planted.title() + after):
        shown = without_identity(text, hidden)
        left = shown.replace("***", "\n").casefold()
        long = [part for part in hidden if len(part) > 2]  # shorter ones are hidden as words only
        assert not any(part in left for part in long if "\n" not in part and set(part) != {"*"})


def test_a_name_of_very_many_words_hides_nothing_less() -> None:
    """A hostile name; that it takes no time is for `test_hostile` to tell."""
    name = " ".join(f"{number:06x}" for number in range(20_000))
    hidden = identities(
        (
            name,
            "CANARY^ANNA",
        )
    )
    assert "CANARY" not in without_identity("x CANARY x", hidden)


# Silence


def test_filters_and_levels_are_put_back_whatever_happens() -> None:
    loggers = [logging.getLogger(name) for name in ("pydicom", "gdcm", "pylibjpeg")]
    before = (list(warnings.filters), warnings.showwarning, [logger.level for logger in loggers])

    def fail() -> None:
        with quiet_pydicom(), quiet_pydicom():
            assert not any(logger.isEnabledFor(logging.CRITICAL) for logger in loggers)
            warnings.warn("nobody hears this", UserWarning, stacklevel=1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (list(warnings.filters), warnings.showwarning, [logger.level for logger in loggers]) == before


def test_filters_and_levels_are_put_back_after_many_threads() -> None:
    loggers = [logging.getLogger(name) for name in ("pydicom", "gdcm", "pylibjpeg", "openjpeg", "libjpeg")]
    logging.getLogger("pydicom").setLevel(logging.DEBUG)
    before = (list(warnings.filters), [logger.level for logger in loggers])
    failures: list[str] = []

    def work(seed: int) -> None:
        for number in range(60):
            with quiet_pydicom():
                if (seed + number) % 3 == 0:
                    time.sleep(0.0005)
                with quiet_pydicom():
                    logging.getLogger("pydicom").critical("CANARY")
                    warnings.warn("CANARY", UserWarning, stacklevel=1)
                if logging.getLogger("pydicom").isEnabledFor(logging.CRITICAL):
                    failures.append("loud within")

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        inside = (list(warnings.filters), [logger.level for logger in loggers])
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert (list(warnings.filters), [logger.level for logger in loggers]) == inside
    assert (list(warnings.filters), [logger.level for logger in loggers]) == before
    assert not failures
    assert not heard
    assert quiet._silence.inside == 0
    logging.getLogger("pydicom").setLevel(logging.NOTSET)


def test_other_libraries_are_not_silenced_for_good(recwarn: pytest.WarningsRecorder) -> None:
    with quiet_pydicom():
        pass
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)


def test_every_logger_of_pydicom_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Children of its logger, too, as long as nobody gave them a level of their own."""
    with caplog.at_level(logging.DEBUG), quiet_pydicom():
        for name in ("pydicom", "pydicom.pixels", "pydicom.anything", "pylibjpeg", "openjpeg"):
            logging.getLogger(name).critical("CANARY")
    assert "CANARY" not in caplog.text


def test_python_encodings_are_the_tested_ones() -> None:
    """The table above leaves out no charset that pydicom knows, but for aliases and the default."""
    single = {term for term in python_encoding if term.startswith("ISO_IR")} - {"ISO_IR 6", "ISO_IR 13"}
    tested = {term for charset in NAMES for term in charset}
    assert len(single - tested) <= 4
