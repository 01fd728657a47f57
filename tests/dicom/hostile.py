"""Bytes from an enemy: every file is read right or refused, in bounded memory and time, and stops no other.

Everything runs in processes of its own (`_examine`): with a limit on address space and on time a case, warnings as
errors, and standard output and error looked at. So a decoder that ends the process fails one case, not all tests.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import itertools
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.builder_extras import edit, zip_folder
from tests.dicom.builder_parts import ENCODERS, SYNTAXES, set_attributes
from tests.dicom.enhanced_builder import ALL, write_enhanced

GIB = 1 << 30
ROOT = Path(__file__).resolve().parents[2]
BUNDLED = Path(pydicom.__file__).parent / "data"
CODECS = tuple(ENCODERS)

SECONDS = 60.0  # a case; an ordinary one takes 0.05, and machines may be busy
MEMORY = 400 << 20  # bytes that a case may add to the address space, threads and their arenas included
LIMIT = 3 * GIB  # beyond what the imports take: more is an error at once


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        volumes: Digest and shape of each volume.
        strict: Shape of each volume that comes by the safest policies.
        refusals: Code of each refusal.
        findings: Codes of the findings of the scan.
        problem: A crash, an escaped exception, or a volume that is none.
        said: What was printed on standard output and error.
        grown: Bytes that the address space grew beyond any earlier case.
        resident: Bytes that the resident memory grew by at its peak.
    """

    volumes: tuple[tuple[str, str], ...] = ()
    strict: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    problem: str = ""
    said: str = ""
    grown: int = 0
    resident: int = 0


# The examining process


def _examine(
    cases: Mapping[str, Path], work: Path, *, limit: int = LIMIT, seconds: float = SECONDS
) -> dict[str, Outcome]:
    """Scan, plan and read each case in a process of its own, or in several where one of them dies."""
    work.mkdir(parents=True, exist_ok=True)
    left, outcomes = dict(cases), dict[str, Outcome]()
    while left:
        job, log = work / "job.json", work / "log.jsonl"
        job.write_text(json.dumps({name: os.fsdecode(path) for name, path in left.items()}))
        log.write_text("")
        done = subprocess.run(
            [
                sys.executable,
                "-X",
                "faulthandler",
                "-m",
                "tests.dicom.hostile",
                job,
                log,
                str(limit),
                str(seconds),
            ],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds * len(left) + 120,
            check=False,
        )
        said = (done.stdout + done.stderr).decode("utf-8", "backslashreplace").strip()
        begun = ""
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            begun = entry.pop("name")
            if entry:
                entry = {key: _tupled(value) for key, value in entry.items()}
                outcomes[begun] = Outcome(**entry)
                del left[begun]
        if done.returncode:
            if begun not in left:
                raise RuntimeError(f"the examining process failed by itself ({done.returncode}): {said[-2000:]}")
            outcomes[begun] = Outcome(problem=f"the process ended ({done.returncode}): {said[-1500:]}")
            del left[begun]
        elif said:
            raise RuntimeError(f"the examining process said: {said[:2000]}")
    return outcomes


def _tupled(value: Any) -> Any:
    return (
        tuple(tuple(part) if isinstance(part, list) else part for part in value)
        if isinstance(value, list)
        else value
    )


def _main(job: str, log: str, limit: str, seconds: str) -> None:
    import medseg.dicom.listing
    import medseg.dicom.plan
    import medseg.reading  # noqa: F401

    with ThreadPoolExecutor(8) as pool:  # their stacks are no growth
        list(pool.map(lambda _: sum(range(10**5)), range(8)))
    warnings.simplefilter("error")
    most = _status("VmSize") + int(limit)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Path(log).open("a") as stream, os.fdopen(os.dup(2), "w") as own:
        faulthandler.enable(own)
        said = os.open(Path(log).with_name("said.txt"), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        for name, path in json.loads(Path(job).read_text()).items():
            print(json.dumps({"name": name}), file=stream, flush=True)
            faulthandler.dump_traceback_later(float(seconds), exit=True, file=own)
            result = _case(Path(path))
            faulthandler.cancel_dump_traceback_later()
            sys.stdout.flush()
            sys.stderr.flush()
            result["said"] = os.pread(said, 1 << 20, 0).decode("utf-8", "backslashreplace")
            os.ftruncate(said, 0)
            os.lseek(said, 0, os.SEEK_SET)
            print(json.dumps({"name": name} | result), file=stream, flush=True)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _case(path: Path) -> dict[str, Any]:
    """Scan, plan and read one path; warnings are errors before and after."""
    Path("/proc/self/clear_refs").write_text("5")
    size, peak, resident = _status("VmSize"), _status("VmPeak"), _status("VmRSS")
    result: dict[str, Any] = {"problem": ""}
    filters = list(warnings.filters)
    try:
        result |= _results(path)
    except Exception:  # noqa: BLE001 - whatever leaves the public calls is what is looked for
        result["problem"] = traceback.format_exc()[-3000:]
    if warnings.filters != filters:
        result["problem"] += "the filters of warnings are not put back"
    now = _status("VmPeak")
    return result | {"grown": now - size if now > peak else 0, "resident": max(_status("VmHWM") - resident, 0)}


def _results(path: Path) -> dict[str, Any]:
    from medseg.dicom.listing import decision_record, series_record
    from medseg.dicom.plan import plan_pile
    from medseg.dicom.policy import Policies
    from medseg.dicom.scan import scan_pile
    from medseg.errors import MedsegError
    from medseg.reading import read_volumes

    permissive = Policies(
        gantry_tilt="keep",
        irregular="resample",
        missing_slice="fill",
        duplicate="drop",
        damaged_file="drop",
        four_dimensional="split",
        no_rescale="stored",
    )
    refusals: list[Any] = []
    volumes: list[Any] = []
    findings: list[str] = []
    strict: list[str] = []
    try:
        scan = scan_pile(path)
        findings = sorted({finding.code.value for finding in scan.findings})
        json.dumps([series_record(series, show_phi=show) for series in scan.series for show in (False, True)])
        repr(scan)
        for policies in (None, permissive):
            plan = plan_pile(path, None, policies)
            json.dumps([decision_record(decision) for decision in plan.decisions])
            repr(plan)
        with contextlib.suppress(MedsegError):
            strict = [repr(volume.array.shape) for volume in read_volumes(path, refused=str)]
        volumes = read_volumes(path, None, permissive, refused=refusals.append)
    except MedsegError as error:
        refusals.append(error)
    for error in refusals:
        str(error)
    return {
        "volumes": [(_digest(volume), repr(volume.array.shape)) for volume in volumes],
        "strict": strict,
        "refusals": sorted(getattr(error, "reason", "") or error.code for error in refusals),
        "findings": findings,
        "problem": next(filter(None, map(_problem, volumes)), ""),
    }


def _problem(volume: Any) -> str:
    """What no volume may be, wherever it comes from."""
    if not np.isfinite(volume.array).all() or not np.isfinite(volume.affine).all():
        return "a volume that is not finite"
    if volume.array.dtype != np.float32 or volume.array.ndim != 3 or not volume.array.flags.f_contiguous:
        return f"a volume of {volume.array.dtype} {volume.array.shape}"
    if not np.linalg.det(volume.affine[:3, :3]):
        return "a volume without a volume"
    return ""


def _digest(volume: Any) -> str:
    content = volume.array.tobytes("F") + np.round(volume.affine, 6).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


# Bytes of files


def _at(data: bytes, keyword: str, vr: str) -> int:
    """Where the head of an explicit little endian element begins."""
    tag = tag_for_keyword(keyword) or 0
    return data.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode())


def _element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """An explicit little endian element, with another length than its own if it is given."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    length = len(value) if length is None else length
    if vr in ("OB", "OW", "SQ", "UN", "UT", "UC", "UR"):
        return head + struct.pack("<HL", 0, length) + value
    return head + struct.pack("<H", length) + value


def _pixels_replaced(path: Path, value: bytes, length: int | None = 0xFFFFFFFF) -> Path:
    """Replace an explicit PixelData by other bytes: of undefined length, or of one that is given."""
    data = path.read_bytes()
    vr = "OB" if b"\xe0\x7f\x10\0OB" in data else "OW"
    data = data[: _at(data, "PixelData", vr)]
    return _written(path, data + _element(0x7FE00010, "OB", value, length))


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _item(value: bytes, length: int | None = None) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(value) if length is None else length) + value


DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def _fragment(path: Path) -> bytes:
    """The one compressed frame of a file."""
    return next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


def _spec(name: str, **changes: Any) -> SeriesSpec:
    return SeriesSpec(name=f"hostile {name}", study=f"hostile study {name}", shape=(40, 36, 4), **changes)


def _first(folder: Path, name: str, **changes: Any) -> Path:
    """Write a series of four slices and return one of its files, to be damaged."""
    return write_series(folder, _spec(name, **changes))[1]


# Cases. Each writes a folder; its name is that of the test.

Make = Callable[[Path, str], object]
CASES: dict[str, Make] = {}
REFUSED: set[str] = set()
"""Cases from which no volume may come."""
WHOLE: set[str] = set()
"""Cases from which a volume must come."""
STRICT: set[str] = set()
"""Cases from which no volume may come unless a policy permits it."""


def _case_of(name: str, make: Make, *, refused: bool = False, whole: bool = False) -> None:
    assert name not in CASES
    CASES[name] = make
    if refused:
        REFUSED.add(name)
    if whole:
        WHOLE.add(name)


def _edited(name: str, *, every: bool = True, refused: bool = True, **values: Any) -> None:
    """Add a case: attributes of all slices, or of one, changed behind pydicom's back."""

    def make(folder: Path, label: str) -> None:
        paths = write_series(folder, _spec(label))
        for k, path in enumerate(paths):
            if every or k == 1:
                changed = {key: value(k) if callable(value) else value for key, value in values.items()}
                _set_raw(path, changed)

    _case_of(name, make, refused=refused and every)


def _set_raw(path: Path, values: Mapping[str, str | bytes | int]) -> None:
    """Replace values in an explicit little endian file by raw bytes; numbers are unsigned 16 bits."""
    data = path.read_bytes()
    for keyword, value in values.items():
        raw = struct.pack("<H", value) if isinstance(value, int) else value
        raw = raw.encode() if isinstance(raw, str) else raw
        tag = tag_for_keyword(keyword) or 0
        vr = pydicom.datadict.dictionary_VR(tag).split(" ")[0]
        new = _element(tag, vr, raw + (b"" if vr == "US" else b" " * (len(raw) % 2)))
        try:
            at = _at(data, keyword, vr)
            end = at + 8 + struct.unpack_from("<H", data, at + 6)[0]
        except ValueError:
            at = end = _at(data, "BitsAllocated", "US")  # any place after the geometry
        data = data[:at] + new + data[end:]
    path.write_bytes(data)


# absurd sizes
BIG = {"Rows": 65535, "Columns": 65535, "NumberOfFrames": "2147483647"}
_edited("absurd native", **BIG)
_edited("absurd native one slice", every=False, **BIG)
_edited("absurd rows alone", Rows=65535, Columns=65535)
_edited("absurd frames alone", NumberOfFrames="2147483647")
for _codec in CODECS:
    _case_of(
        f"absurd {_codec}",
        lambda folder, name, codec=_codec: [
            _set_raw(path, BIG) for path in write_series(folder, _spec(name, transfer_syntax=codec))
        ],
        refused=True,
    )
    _case_of(
        f"absurd rows {_codec}",
        lambda folder, name, codec=_codec: [
            _set_raw(path, {"Rows": 8192, "Columns": 8192})
            for path in write_series(folder, _spec(name, transfer_syntax=codec))
        ],
        refused=True,
    )
for _text in ("abc", "", "-1", "0", "1.5", "1e3", "1\\2", "9" * 5000, "0x10", "CANARY"):
    _edited(f"frames {_text[:9] or 'empty'!r}", refused=False, NumberOfFrames=_text)
_edited("no bits", BitsAllocated=0)
_edited("one bit", BitsAllocated=1, BitsStored=1, HighBit=0)
_edited("bits of 65535", BitsAllocated=65535, BitsStored=65535, HighBit=65534)
_edited("bits stored of 17", BitsStored=17, HighBit=16)
_edited("bits stored of none", BitsStored=0, HighBit=65535)
_edited("samples of 65535", SamplesPerPixel=65535)
_edited("samples of none", SamplesPerPixel=0)
_edited("rows as text", Rows=b"36")
_edited("empty rows", Rows=b"")

# geometry that is none
for _key, _count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
    for _text in ("nan", "inf", "1e400", "", "x", "1_0", "0x10"):
        _edited(f"{_key} of {_text!r}", **{_key: "\\".join([_text] * _count)})
    _edited(f"{_key} of one number too few", **{_key: "\\".join("010100"[: _count - 1])})
    _edited(f"{_key} of very many", **{_key: "1\\" * 30000 + "1"})
for _text in ("0", "-1", "1e-320", "1e308", "1e-30", "1e30", "-0.0"):
    is_number = _text in ("1e-30", "1e30")  # absurd, and a number: read as it stands, or refused
    _edited(f"spacing of {_text}", refused=not is_number, PixelSpacing=f"{_text}\\{_text}")
    _edited(f"spacing of 1 and {_text}", refused=not is_number, PixelSpacing=f"1\\{_text}")
for _text in (
    "0\\0\\0\\0\\0\\0",
    "1\\0\\0\\1\\0\\0",
    "1e308\\0\\0\\0\\1e308\\0",
    "1\\0\\0\\0\\1e-320\\0",
    "2\\0\\0\\0\\2\\0",
):
    _edited(f"orientation {_text.replace(chr(92), ' ')}", ImageOrientationPatient=_text)
_PLACES: dict[str, Callable[[int], str]] = {
    "all at 1e308": lambda k: "1e308\\1e308\\1e308",
    "ever further, to 1e308": lambda k: f"0\\0\\{k * 5e307}",
    "both ends of all numbers": lambda k: f"0\\0\\{(-1) ** k * 1.7e308}",
    "one at 1e308": lambda k: f"0\\0\\{1e308 if k == 3 else k}",
    "one at -1e200 across": lambda k: f"{-1e200 if k == 3 else 0}\\0\\{k}",
    "steps of 1e-30": lambda k: f"0\\0\\{k * 1e-30}",
    "steps of 1e-320": lambda k: f"0\\0\\{k * 1e-320}",
    "steps of 1e-4": lambda k: f"0\\0\\{k * 1e-4}",
    "beyond the digits of a double": lambda k: f"0\\0\\{1e17 + k * 2}",
    "a gap of 1e9 slices": lambda k: f"0\\0\\{(0, 1, 2, 1e9)[k]}",
    "a gap of 1e15 slices": lambda k: f"0\\0\\{(0, 1, 2, 1e15)[k]}",
    "a gap of 1e300 slices": lambda k: f"0\\0\\{(0, 1, 2, 1e300)[k]}",
    "an uneven gap of 1e9 slices": lambda k: f"0\\0\\{(0, 1, 2.5, 1e9)[k]}",
    "uneven steps that grow": lambda k: f"0\\0\\{(0, 1e-2, 1e3, 1e9)[k]}",
}
for _text, _place in _PLACES.items():
    _edited(f"positions: {_text}", ImagePositionPatient=_place)


def _one_pixel(place: Callable[[int], str]) -> Make:
    def make(folder: Path, name: str) -> None:
        for k, path in enumerate(write_series(folder, replace(_spec(name), shape=(1, 1, 4)))):
            _set_raw(path, {"ImagePositionPatient": place(k)})

    return make


_case_of("one pixel, a gap of 1e9 slices", _one_pixel(_PLACES["a gap of 1e9 slices"]), refused=True)
_case_of("one pixel, an uneven gap of 1e9 slices", _one_pixel(_PLACES["an uneven gap of 1e9 slices"]), refused=True)

# values
for _text in ("1e308", "-1e39", "0", "nan", "inf", "1e400", "x", "1\\2"):
    _edited(f"slope of {_text}", refused=False, RescaleSlope=_text)
    _edited(f"intercept of {_text}", refused=False, RescaleIntercept=_text)
_edited("slope of 1e-320", refused=False, RescaleSlope="1e-320")
_edited("thickness of nan", refused=False, SliceThickness="nan")


def _single(**values: Any) -> Make:
    return lambda folder, name: _set_raw(write_series(folder, replace(_spec(name), shape=(40, 36, 1)))[0], values)


for _text in ("nan", "1e308", "1e-320", "-5", "1e-30", "1_0", "x"):
    _case_of(f"single slice, thickness {_text}", _single(SliceThickness=_text))

# lengths
for _length in (0xFFFFFFFE, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000):
    for _key, _vr in (
        ("PixelData", "OB"),
        ("SeriesDescription", "UT"),
        ("SeriesDescription", "UN"),
        ("SeriesDescription", "SQ"),
    ):

        def _make(folder: Path, name: str, key: str = _key, vr: str = _vr, length: int = _length) -> None:
            path = _first(folder, name)
            data, tag = path.read_bytes(), tag_for_keyword(key) or 0
            at = _at(data, key, "OW" if key == "PixelData" else "LO")
            path.write_bytes(data[:at] + _element(tag, vr, data[at + 12 :], length))

        _case_of(f"{_key} as {_vr} of length {_length:X}", _make)

    def _make_item(folder: Path, name: str, length: int = _length) -> None:
        path = _first(folder, name)
        data = path.read_bytes()
        at = _at(data, "Modality", "CS")
        nested = _element(0x00081140, "SQ", _item(b"\x08\0\x60\0CS\x02\0CT", length), 0xFFFFFFFF)
        path.write_bytes(data[:at] + nested + data[at:])

    _case_of(f"an item of length {_length:X}", _make_item)


def _nested(depth: int, defined: bool) -> Make:
    def make(folder: Path, name: str) -> None:
        path = _first(folder, name)
        data, inner = path.read_bytes(), b""
        if defined:
            for _ in range(depth):
                inner = _element(0x00081140, "SQ", _item(inner))
        else:
            inner = (_element(0x00081140, "SQ", b"", 0xFFFFFFFF) + _item(b"", 0xFFFFFFFF)) * depth
        at = _at(data, "Modality", "CS")
        path.write_bytes(data[:at] + inner + data[at:])

    return make


_case_of("sequences 50,000 deep without lengths", _nested(50_000, defined=False))
_case_of("sequences 2,000 deep with lengths", _nested(2_000, defined=True))


def _deep_groups(folder: Path, name: str) -> None:
    """Functional groups whose contents nest more deeply than a parser that calls itself can follow."""
    path = write_enhanced(folder, _spec(name))
    data = path.read_bytes()
    at = _at(data, "PerFrameFunctionalGroupsSequence", "SQ")
    inner = (_element(0x00081140, "SQ", b"", 0xFFFFFFFF) + _item(b"", 0xFFFFFFFF)) * 20_000
    groups = _element(0x52009230, "SQ", _item(inner) * 4)
    path.write_bytes(data[:at] + groups + data[_at(data, "PixelData", "OW") :])


_case_of("functional groups 20,000 deep", _deep_groups, refused=True)


# compressed headers and files


def _deflated(*parts: tuple[bytes, int]) -> bytes:
    """A raw deflate stream of parts, each so many times; made without making what it inflates to."""
    return b"".join(_block(content) * times for content, times in parts) + zlib.compress(b"", 1, -15)


@lru_cache(maxsize=64)
def _block(content: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)


def _zeros(count: int) -> list[tuple[bytes, int]]:
    return [(bytes(16 << 20), count >> 24), (bytes(count & 0xFFFFFF), 1)]


def _deflate_file(path: Path, change: Callable[[bytes], list[tuple[bytes, int]]]) -> None:
    """Turn an explicit little endian file into a deflated one, whose data set is changed."""
    data = path.read_bytes()
    meta_end = 144 + struct.unpack_from("<L", data, 140)[0]
    old = _element(0x00020010, "UI", uid.ExplicitVRLittleEndian.encode() + b"\0")
    new = _element(0x00020010, "UI", uid.DeflatedExplicitVRLittleEndian.encode())
    assert data.count(old) == 1
    meta = data[:meta_end].replace(old, new)
    meta = meta[:140] + struct.pack("<L", len(meta) - 144) + meta[144:]
    path.write_bytes(meta + _deflated(*change(data[meta_end:])))


def _bomb(path: Path, zeros: int, *, declared: int | None = None, before: bytes = b"", after: bool = False) -> None:
    """Turn an explicit little endian file into a deflated one that inflates to `zeros` bytes and more.

    Args:
        path: The file.
        zeros: In place of the pixels, or after them.
        declared: Length of the pixel data; as many as there are zeros by default.
        before: An element before the pixel data.
        after: Whether the pixels stay and the zeros come after them.
    """

    def change(data: bytes) -> list[tuple[bytes, int]]:
        if after:
            return [(data, 1), *_zeros(zeros)]
        head = _element(0x7FE00010, "OW", b"", declared or min(zeros, 0xFFFFFFFE))
        return [(data[: _at(data, "PixelData", "OW")] + before + head, 1), *_zeros(zeros)]

    _deflate_file(path, change)


def _pixel_bomb(zeros: int, **how: Any) -> Make:
    return lambda folder, name: _bomb(_first(folder, name), zeros, **how)


_case_of("deflate bomb of 10 GB of pixels", _pixel_bomb(10 * GIB))
_case_of("deflate bomb of 3.9 GB of pixels", _pixel_bomb(0xF9000000))
_case_of("deflate bomb of 3.9 GB after the declared pixels", _pixel_bomb(0xF9000000, declared=40 * 36 * 2))
_case_of("deflate bomb after the data set", _pixel_bomb(0xF9000000, after=True))
_case_of("deflate bomb of a header", _pixel_bomb(1000, before=_element(0x00291001, "OB", b"", 0xFFFFFF00)))


def _header_bomb(folder: Path, name: str) -> None:
    """The header holds a private value of 4 GB, all of it there."""
    path = _first(folder, name)
    _bomb(path, 0xF9000000, before=_element(0x00291001, "OB", b"", 0xF8000000))


_case_of("deflate bomb before the pixels", _header_bomb)


def _enhanced_bomb(folder: Path, name: str) -> None:
    _bomb(write_enhanced(folder, _spec(name)), 0xF9000000)


_case_of("deflate bomb in a multi-frame file", _enhanced_bomb, refused=True)


def _long_texts(keyword: str, make_text: Callable[[int], bytes], *, count: int = 20) -> Make:
    """Many small deflated files, each with a text of 50 MB in its header."""

    def make(folder: Path, name: str) -> None:
        for number in range(count):
            path = write_series(folder, replace(_spec(f"{name} {number}"), shape=(8, 8, 1)))[0]
            text = make_text(number) * ((1 << 20) // len(make_text(number)))
            tag = tag_for_keyword(keyword) or 0

            def change(data: bytes, tag: int = tag, text: bytes = text) -> list[tuple[bytes, int]]:
                at = _at(data, keyword, pydicom.datadict.dictionary_VR(tag))
                end = at + 8 + struct.unpack_from("<H", data, at + 6)[0]
                head = _element(tag, "UT", b"", 50 * len(text))
                return [(data[:at] + head, 1), (text, 50), (data[end:], 1)]

            _deflate_file(path, change)

    return make


_case_of("descriptions of 50 MB", _long_texts("SeriesDescription", lambda n: b"%02d" % n, count=5))
_case_of("positions of 50 MB", _long_texts("ImagePositionPatient", lambda n: b"1\\", count=3))
_case_of("names of 50 MB", _long_texts("PatientName", lambda n: b"ABCDEF^GHIJKLMN ", count=3))
_case_of("series UIDs of 50 MB", _long_texts("SeriesInstanceUID", lambda n: b"1.", count=10))


def _many_names(folder: Path, name: str) -> None:
    """A patient of 300,000 names."""
    words = " ".join(f"{number:06x}" for number in range(300_000)).encode()
    path = _first(folder, name)
    data = path.read_bytes()
    at = _at(data, "PatientName", "PN")
    end = at + 8 + struct.unpack_from("<H", data, at + 6)[0]
    path.write_bytes(data[:at] + _element(0x00100010, "UT", words) + data[end:])


_case_of("a patient of very many names", _many_names)


def _sparse(path: Path, keep: bytes, size: int) -> None:
    """Write a file that claims and has very many bytes, which take no space on the disk."""
    path.write_bytes(keep)
    os.truncate(path, size)


def _sparse_pixels(folder: Path, name: str) -> None:
    path = _first(folder, name)
    data = path.read_bytes()
    head = data[: _at(data, "PixelData", "OW")] + _element(0x7FE00010, "OW", b"", 0xB0000000)
    _sparse(path, head, 0xB0000000 + len(head))


def _sparse_enhanced(folder: Path, name: str) -> None:
    """Multi-frame: 2.9 GB of pixels that the headers have no use for, and that are more than the header says."""
    path = write_enhanced(folder, _spec(name))
    data = path.read_bytes()
    head = data[: _at(data, "PixelData", "OW")] + _element(0x7FE00010, "OW", b"", 0xB0000000)
    _sparse(path, head, 0xB0000000 + len(head))


def _sparse_header(folder: Path, name: str) -> None:
    path = _first(folder, name)
    data = path.read_bytes()
    at = _at(data, "BitsAllocated", "US")
    _sparse(path, data[:at] + _element(0x00291001, "OB", b"", 0xB0000000), 0xB0000100)


_case_of("pixels of 2.9 GB", _sparse_pixels)
_case_of("multi-frame pixels of 2.9 GB", _sparse_enhanced, refused=True)
_case_of("a private value of 2.9 GB", _sparse_header)
_case_of("zeros of 5 GB", lambda folder, name: _sparse(_first(folder, name), b"", 5 * GIB))


def _sparse_fragment(folder: Path, name: str) -> None:
    """A compressed frame of 2.9 GB for an image of 3 kB."""
    path = _first(folder, name, transfer_syntax="RLE")
    data = path.read_bytes()
    head = data[: _at(data, "PixelData", "OB")]
    head += _element(0x7FE00010, "OB", _item(b"") + _item(b"", 0xB0000000), 0xFFFFFFFF)
    _sparse(path, head, 0xB0000000 + len(head))


_case_of("a fragment of 2.9 GB", _sparse_fragment)


def _zip_of(make: Make) -> Make:
    """The same files in a zip archive."""

    def packed(folder: Path, name: str) -> None:
        make(folder / "files", name)
        zip_folder(folder / "files", folder / "all.zip")
        shutil.rmtree(folder / "files")

    return packed


def _zip_bomb(folder: Path, name: str) -> None:
    """One member, a DICOM file whose pixels are 3.9 GB of zeros; and one that claims to be small."""
    path = _first(folder, name)
    data = path.read_bytes()
    head = data[: _at(data, "PixelData", "OW")] + _element(0x7FE00010, "OW", b"", 0xF9000000)
    packed = _deflated((head, 1), *_zeros(0xF9000000))
    folder.mkdir(exist_ok=True)
    for number, claimed in enumerate((len(head) + 0xF9000000, len(data))):
        info = zipfile.ZipInfo(f"bomb{number}")
        local = struct.pack("<4sHHHHHLLLHH", b"PK\3\4", 20, 0, 8, 0, 33, 0, len(packed), claimed, 5, 0) + b"bomb0"
        central = struct.pack(
            "<4sHHHHHHLLLHHHHHLL", b"PK\1\2", 20, 20, 0, 8, 0, 33, 0, len(packed), claimed, 5, 0, 0, 0, 0, 0, 0
        )
        end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 1, 1, len(central) + 5, len(local) + len(packed), 0)
        (folder / f"{info.filename}.zip").write_bytes(local + packed + central + b"bomb0" + end)
    for file in folder.glob("*.dcm"):
        file.unlink()


_case_of("zip of descriptions of 50 MB", _zip_of(_long_texts("SeriesDescription", lambda n: b"%02d" % n)))
_case_of("zip bombs", _zip_bomb)

# encapsulated pixels


def _encapsulated(codec: str, change: Callable[[bytes], bytes]) -> Make:
    """Another content of the encapsulated pixel data of one slice, made of its frame."""

    def make(folder: Path, name: str) -> None:
        path = _first(folder, name, transfer_syntax=codec)
        _pixels_replaced(path, change(_fragment(path)))

    return make


_ENCAPSULATIONS: dict[str, Callable[[bytes], bytes]] = {
    "no items at all": lambda frame: b"",
    "nothing but a delimiter": lambda frame: DELIMITER,
    "an empty offset table and no fragments": lambda frame: _item(b"") + DELIMITER,
    "an offset table and no fragments": lambda frame: _item(struct.pack("<L", 0)) + DELIMITER,
    "an empty fragment": lambda frame: _item(b"") + _item(b"") + DELIMITER,
    "fragments of one byte": lambda frame: _item(b"") + b"".join(_item(bytes([k])) for k in frame) + DELIMITER,
    "an offset beyond the end": lambda frame: _item(struct.pack("<L", 0xFFFFFFF0)) + _item(frame) + DELIMITER,
    "an offset within a fragment": lambda frame: _item(struct.pack("<L", 10)) + _item(frame) + DELIMITER,
    "an offset table of 3 bytes": lambda frame: _item(b"\1\2\3") + _item(frame) + DELIMITER,
    "very many offsets": lambda frame: _item(struct.pack("<100000L", *range(100000))) + _item(frame) + DELIMITER,
    "a fragment of length FFFFFFFE": lambda frame: _item(b"") + _item(frame, 0xFFFFFFFE) + DELIMITER,
    "a fragment of length FFFFFFFF": lambda frame: _item(b"") + _item(frame, 0xFFFFFFFF) + DELIMITER,
    "an offset table of length FFFFFFFE": lambda frame: _item(b"", 0xFFFFFFFE) + _item(frame) + DELIMITER,
    "another tag among the fragments": lambda frame: _item(b"") + b"\x08\0\x08\0" + _item(frame) + DELIMITER,
    "half of the frame": lambda frame: _item(b"") + _item(frame[: len(frame) // 4 * 2]) + DELIMITER,
    "rubbish": lambda frame: _item(b"") + _item(bytes(range(256)) * 4) + DELIMITER,
    "zeros": lambda frame: _item(b"") + _item(bytes(1000)) + DELIMITER,
}  # fmt: skip
for _codec in CODECS:
    for _text, _change in _ENCAPSULATIONS.items():
        _case_of(f"{_codec}: {_text}", _encapsulated(_codec, _change))
for _codec, _other in itertools.permutations(CODECS, 2):

    def _make_other(folder: Path, name: str, codec: str = _codec, other: str = _other) -> None:
        """The frames are of another codec than the transfer syntax says."""
        for path in write_series(folder, _spec(name, transfer_syntax=codec)):
            source = write_series(folder.with_name(f"{folder.name} source"), _spec(name, transfer_syntax=other))[0]
            _pixels_replaced(path, _item(b"") + _item(_fragment(source)) + DELIMITER)

    _case_of(f"{_other} that says it is {_codec}", _make_other, refused=True)


def _other_size(codec: str, shape: tuple[int, int]) -> Make:
    """Compressed frames of another size than the header says."""

    def make(folder: Path, name: str) -> None:
        spec = replace(_spec(name, transfer_syntax=codec), shape=(*shape, 4))
        for path in write_series(folder, spec):
            _set_raw(path, {"Columns": 40, "Rows": 36})

    return make


_OTHER_SIZES = {
    "turned by 90 degrees": (36, 40),
    "of as many pixels": (48, 30),
    "smaller": (33, 33),
    "larger": (64, 64),
}
for _codec in CODECS:
    for _text, _shape in _OTHER_SIZES.items():
        # run-length codes do not say how wide an image is
        is_known = _codec != "RLE" or _shape[0] * _shape[1] != 40 * 36
        if _codec != "JPEG 2000" or min(_shape) >= 32:
            _case_of(f"{_codec}: frames {_text}", _other_size(_codec, _shape), refused=is_known)
_case_of("JPEG 2000: frames of as many pixels, 45 x 32", _other_size("JPEG 2000", (45, 32)), refused=True)


def _other_precision(codec: str) -> Make:
    """Frames of 8 bits in files that say 16."""

    def make(folder: Path, name: str) -> None:
        spec = _spec(name, transfer_syntax=codec, bits_allocated=8, is_signed=False)
        for path in write_series(folder, spec):
            _set_raw(path, {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15})

    return make


for _codec in CODECS:
    # a code stream says how many bits it has; run-length codes do not
    _case_of(f"{_codec}: frames of 8 bits that say 16", _other_precision(_codec), refused=_codec == "RLE")


def _claims(codec: str, marker: bytes, offset: int, fields: str, *values: int) -> Make:
    """Sizes in a code stream patched, behind a marker."""

    def patch(frame: bytes) -> bytes:
        at = frame.index(marker) + offset
        patched = frame[:at] + struct.pack(fields, *values) + frame[at + struct.calcsize(fields) :]
        return _item(b"") + _item(patched) + DELIMITER

    return _encapsulated(codec, patch)


_SIZ = (b"\xff\x51", 6, ">LLLLLLLL")  # behind marker, length and capabilities: Xsiz .. YTOsiz (T.800 A.5.1)
HUGE: dict[str, Make] = {
    "JPEG 2000: a code stream of 60000 x 60000": _claims("JPEG 2000", *_SIZ, *(60000, 60000, 0, 0) * 2),
    "JPEG 2000: tiles of 1 x 1 in 60000 x 60000": _claims("JPEG 2000", *_SIZ, 60000, 60000, 0, 0, 1, 1, 0, 0),
    "JPEG 2000: one tile, 60000 x 60000 pixels": _claims("JPEG 2000", *_SIZ, 60000, 60000, 0, 0, 40, 36, 0, 0),
    "JPEG 2000: no pixels": _claims("JPEG 2000", *_SIZ, 0, 0, 0, 0, 0, 0, 0, 0),
    "JPEG 2000: an image outside its tile": _claims("JPEG 2000", *_SIZ, 40, 36, 39, 35, 1, 1, 0, 0),
    "JPEG-LS: a code stream of 65535 x 65535": _claims("JPEG-LS", b"\xff\xf7", 5, ">HH", 65535, 65535),
    "JPEG-LS: no pixels": _claims("JPEG-LS", b"\xff\xf7", 5, ">HH", 0, 0),
    "JPEG-LS: 200 components": _claims("JPEG-LS", b"\xff\xf7", 9, ">B", 200),
    "JPEG-LS: 2 bits": _claims("JPEG-LS", b"\xff\xf7", 4, ">B", 2),
    "JPEG lossless: a code stream of 65535 x 65535": _claims("JPEG lossless", b"\xff\xc3", 5, ">HH", 65535, 65535),
    "JPEG lossless: no pixels": _claims("JPEG lossless", b"\xff\xc3", 5, ">HH", 0, 0),
    "JPEG lossless: 2 bits": _claims("JPEG lossless", b"\xff\xc3", 4, ">B", 2),
    "JPEG lossless: 200 components": _claims("JPEG lossless", b"\xff\xc3", 9, ">B", 200),
    "JPEG lossless: another process": _claims("JPEG lossless", b"\xff\xc3", 1, ">B", 0xC0),
    "JPEG-LS: a scan of 0 bytes": _encapsulated(
        "JPEG-LS", lambda frame: _item(b"") + _item(frame[: frame.index(b"\xff\xda") + 10]) + DELIMITER
    ),
    "JPEG-LS: a scan of 2 bytes": _encapsulated(
        "JPEG-LS", lambda frame: _item(b"") + _item(frame[: frame.index(b"\xff\xda") + 12]) + DELIMITER
    ),
    "JPEG-LS: a scan of 4 bytes": _encapsulated(
        "JPEG-LS", lambda frame: _item(b"") + _item(frame[: frame.index(b"\xff\xda") + 14]) + DELIMITER
    ),
    "JPEG-LS: a scan of 6 bytes": _encapsulated(
        "JPEG-LS", lambda frame: _item(b"") + _item(frame[: frame.index(b"\xff\xda") + 16]) + DELIMITER
    ),
    "JPEG-LS: a scan that ends early": _encapsulated(
        "JPEG-LS", lambda frame: _item(b"") + _item(frame[: len(frame) // 4 * 2] + b"\xff\xd9") + DELIMITER
    ),
    "JPEG lossless: no Huffman table": _claims("JPEG lossless", b"\xff\xc4", 1, ">B", 1),
    "JPEG lossless: a Huffman table of length 0": _claims("JPEG lossless", b"\xff\xc4", 2, ">H", 0),
    "JPEG lossless: a Huffman table of length 65535": _claims("JPEG lossless", b"\xff\xc4", 2, ">H", 65535),
    "JPEG lossless: a scan of another table": _claims("JPEG lossless", b"\xff\xda", 6, ">B", 0x33),
    "JPEG lossless: a scan of another component": _claims("JPEG lossless", b"\xff\xda", 5, ">B", 9),
    "JPEG lossless: another predictor": _claims("JPEG lossless", b"\xff\xda", 7, ">B", 200),
    "RLE: 15 segments": _encapsulated(
        "RLE", lambda frame: _item(b"") + _item(struct.pack("<16L", 15, *range(64, 79)) + frame[64:]) + DELIMITER
    ),
    "RLE: segments beyond the end": _encapsulated(
        "RLE",
        lambda frame: _item(b"") + _item(struct.pack("<16L", 2, 64, *[0xFFFFFFF0] * 14) + frame[64:]) + DELIMITER,
    ),
    "RLE: very many segments": _encapsulated(
        "RLE", lambda frame: _item(b"") + _item(struct.pack("<L", 0xFFFFFFFF) + frame[4:]) + DELIMITER
    ),
    "RLE: a run of 100 MB for 3 kB": _encapsulated(
        "RLE",
        lambda frame: _item(b"") + _item(struct.pack("<16L", 2, *[64] * 15) + b"\x81\0" * 800_000) + DELIMITER,
    ),
}  # fmt: skip
for _text, _make_huge in HUGE.items():
    _case_of(_text, _make_huge)


def _native_as_encapsulated(folder: Path, name: str) -> None:
    """Fragments in a file whose transfer syntax is uncompressed: their heads are no pixels."""
    for path in write_series(folder, _spec(name)):
        raw = pydicom.dcmread(path).PixelData
        _pixels_replaced(path, _item(b"") + _item(raw) + DELIMITER)


_case_of("uncompressed pixels in fragments", _native_as_encapsulated, refused=True)


def _encapsulated_as_native(codec: str) -> Make:
    """A compressed transfer syntax, and pixel data of the very length that uncompressed pixels would have."""

    def make(folder: Path, name: str) -> None:
        for path in write_series(folder, _spec(name, transfer_syntax=codec)):
            content = encapsulate([_fragment(path)])
            _pixels_replaced(path, content[: 40 * 36 * 2].ljust(40 * 36 * 2, b"\0"), None)

    return make


for _codec in CODECS:
    _case_of(f"{_codec} in pixel data of a length", _encapsulated_as_native(_codec), refused=True)


def _enhanced_codec(codec: str, table: Callable[[list[int]], bytes] | None) -> Make:
    """A multi-frame file with another offset table; None: the frames of a fragment too few."""

    def make(folder: Path, name: str) -> None:
        path = write_enhanced(folder, _spec(name, transfer_syntax=codec))
        frames = list(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=4))
        ends = list(itertools.accumulate(len(frame) + 8 for frame in frames))
        items = [_item(frame) for frame in frames]
        if table is None:
            _pixels_replaced(path, _item(b"") + b"".join(items[:-1]) + DELIMITER)
        else:
            _pixels_replaced(path, _item(table([0, *ends[:-1]])) + b"".join(items) + DELIMITER)

    return make


_TABLES: dict[str, Callable[[list[int]], bytes]] = {
    "backwards": lambda offsets: struct.pack("<4L", *reversed(offsets)),
    "all the same": lambda offsets: struct.pack("<4L", *[offsets[1]] * 4),
    "off by two": lambda offsets: struct.pack("<4L", *[offset + 2 for offset in offsets]),
    "beyond the end": lambda offsets: struct.pack("<4L", *[0xFFFFFFF0] * 4),
    "too short": lambda offsets: struct.pack("<2L", *offsets[:2]),
    "too long": lambda offsets: struct.pack("<6L", *offsets, 0xFFFFFFF0, 0xFFFFFFF4),
}
for _codec in CODECS:
    _case_of(f"multi-frame {_codec}, a frame too few", _enhanced_codec(_codec, None), refused=True)
    for _text, _table in _TABLES.items():
        _case_of(f"multi-frame {_codec}, offsets {_text}", _enhanced_codec(_codec, _table))


def _extended_offsets(folder: Path, name: str) -> None:
    path = write_enhanced(folder, _spec(name, transfer_syntax="RLE"))
    edit(
        path,
        lambda ds: set_attributes(
            ds, {"ExtendedOffsetTable": b"\xff" * 32, "ExtendedOffsetTableLengths": b"\xff" * 32}, 0
        ),
    )


_case_of("multi-frame RLE, extended offsets beyond the end", _extended_offsets)

# functional groups


def _groups(
    change: Callable[[Dataset], None], *, refused: bool = True, strict: bool = False
) -> Callable[[str], None]:
    """Add a case of changed groups; `strict`: the other frames are a volume with a gap, which policies may fill."""

    def make(folder: Path, name: str) -> None:
        edit(write_enhanced(folder, _spec(name), per_frame=ALL), change)

    def add(name: str) -> None:
        _case_of(name, make, refused=refused and not strict)
        if strict:
            STRICT.add(name)

    return add


def _on(frame: int, sequence: str, keyword: str, value: Any) -> Callable[[Dataset], None]:
    """Change an attribute in a group of a frame; a VR and a value, or None to delete."""

    def change(dataset: Dataset) -> None:
        group = dataset.PerFrameFunctionalGroupsSequence[frame][sequence].value[0]
        del group[keyword]
        if value is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                vr, content = value
                group.add(
                    pydicom.dataelem.DataElement(tag_for_keyword(keyword) or 0, vr, content, validation_mode=0)
                )

    return change


_groups(lambda ds: ds.__setattr__("NumberOfFrames", 100_000))("100,000 frames claimed")
_groups(lambda ds: ds.__setattr__("NumberOfFrames", 3))("fewer frames claimed")
_groups(lambda ds: ds.__delitem__("NumberOfFrames"))("no number of frames")
_groups(lambda ds: ds.__delitem__("SharedFunctionalGroupsSequence"), refused=False)("no shared groups")
_groups(lambda ds: ds.__setattr__("SharedFunctionalGroupsSequence", []), refused=False)("empty shared groups")
_groups(lambda ds: ds.__setattr__("PerFrameFunctionalGroupsSequence", []))("empty per-frame groups")
_groups(lambda ds: ds.__delitem__("PerFrameFunctionalGroupsSequence"))("no per-frame groups")
for _text, _sequence in (
    ("position", "PlanePositionSequence"),
    ("orientation", "PlaneOrientationSequence"),
    ("measures", "PixelMeasuresSequence"),
):
    _groups(lambda ds, key=_sequence: ds.PerFrameFunctionalGroupsSequence[2].__delitem__(key))(
        f"frame without {_text}"
    )
    _groups(lambda ds, key=_sequence: ds.PerFrameFunctionalGroupsSequence[2].__setattr__(key, []))(
        f"frame of no {_text}"
    )
_POSITION = ("PlanePositionSequence", "ImagePositionPatient")
_ORIENTATION = ("PlaneOrientationSequence", "ImageOrientationPatient")
_groups(_on(1, *_POSITION, None))("frame with an empty position")
_groups(_on(1, *_POSITION, ("US", [1, 2, 3])), refused=False)("position as whole numbers")
_groups(_on(1, *_POSITION, ("FD", [float("nan")] * 3)))("position as nan")
_groups(_on(1, *_POSITION, ("FD", [float("inf"), 0.0, 0.0])))("position as inf")
_groups(_on(1, *_POSITION, ("FD", [1e308, -1e308, 1e308])))("position as 1e308")
_groups(_on(1, *_POSITION, ("LO", "nowhere")))("position as text")
_groups(_on(1, *_POSITION, ("SQ", [])))("position as a sequence")
_groups(_on(1, *_POSITION, ("OB", b"\0" * 6)))("position as bytes")
_groups(_on(1, *_POSITION, ("UN", b"1\\2\\3 ")), refused=False)("position as unknown")
_groups(_on(1, *_POSITION, ("AT", [0x00100010] * 3)))("position as tags")
_groups(_on(1, *_POSITION, ("PN", "1\\2\\3")), refused=False)("position as names")
_groups(_on(1, *_ORIENTATION, ("FD", [0.0] * 6)), strict=True)("frame without directions")
_groups(_on(1, "PixelMeasuresSequence", "PixelSpacing", ("FD", [-1.0, 1.0])), strict=True)(
    "frame with a negative spacing"
)
_groups(_on(1, "PixelMeasuresSequence", "PixelSpacing", ("FD", [1e-30, 1e-30])), strict=True)(
    "frame with a spacing of 1e-30"
)
_groups(_on(1, "PixelValueTransformationSequence", "RescaleSlope", ("FD", float("nan"))), refused=False)(
    "frame with slope nan"
)
_groups(_on(1, "PixelValueTransformationSequence", "RescaleSlope", ("FD", 1e300)))("frame with slope 1e300")


def _groups_of_another_vr(vr: str) -> Make:
    def make(folder: Path, name: str) -> None:
        path = write_enhanced(folder, _spec(name))
        data = path.read_bytes()
        at, end = _at(data, "PerFrameFunctionalGroupsSequence", "SQ"), _at(data, "PixelData", "OW")
        path.write_bytes(data[:at] + _element(0x52009230, vr, data[at + 12 : end]) + data[end:])

    return make


for _vr in ("UN", "OB", "UT"):
    _case_of(f"per-frame groups as {_vr}", _groups_of_another_vr(_vr))

# names, places and what is no file


def _odd_names(folder: Path, name: str) -> None:
    paths = write_series(folder, _spec(name))
    for path, odd in zip(paths, (b"\xff\xfe.dcm", b"a\nb\x1b[31m", "[bold]é".encode(), b" "), strict=True):
        path.rename(path.parent / os.fsdecode(odd))


def _no_files(folder: Path, name: str) -> None:
    path = _first(folder, name)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.nii.gz")
    (folder / "nowhere").symlink_to(folder / "gone")
    (folder / "self").symlink_to(folder / "self")
    (folder / "up").symlink_to(folder)
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "random.dcm").symlink_to("/dev/urandom")
    (folder / "DICOMDIR").mkdir()
    (folder / "folder.dcm").mkdir()
    (folder / "empty").write_bytes(b"")
    (folder / "preamble").write_bytes(path.read_bytes()[:132])
    deep = folder
    with contextlib.suppress(OSError):
        for _ in range(300):
            deep = deep / "d"
            deep.mkdir()


_case_of("names of any bytes", _odd_names, whole=True)
_case_of("pipes, devices, links and folders", _no_files, whole=True)
for _key in ("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
    for _text, _raw in (
        ("words", "[/red] CANARY \x1b[2J"),
        ("letters", b"\xff\xfe\xe9"),
        ("99 digits", "1." + "9" * 99),
    ):
        _edited(f"{_key} of {_text}", refused=False, **{_key: _raw})
for _key in (
    "Modality",
    "SeriesDescription",
    "ImageType",
    "PhotometricInterpretation",
    "SpecificCharacterSet",
    "BodyPartExamined",
):
    for _text, _raw in (("markup", "[/red][bold\x1b[2J\\x"), ("bytes", bytes(range(128, 256, 5))), ("nothing", "")):
        _edited(f"{_key} of {_text}", refused=False, **{_key: _raw})


def _another_syntax(text: str) -> Make:
    def make(folder: Path, name: str) -> None:
        for path in write_series(folder, _spec(name)):
            data = path.read_bytes()
            old = _element(0x00020010, "UI", uid.ExplicitVRLittleEndian.encode() + b"\0")
            assert data.count(old) == 1
            new = _element(0x00020010, "UI", text.encode() + b"\0" * (len(text) % 2))
            path.write_bytes(data.replace(old, new))

    return make


for _text in (
    *map(str, SYNTAXES.values()),
    str(uid.JPEGBaseline8Bit),
    str(uid.MPEG2MPML),
    "1.2.840.10008.1.2.1.98",  # encapsulated, uncompressed
    str(uid.HTJ2K),
    "1.2.840.10008.1.2.8.1",  # deflated frames
    "1.2.3",
    "[/red]",
    "",
):
    _case_of(f"says that its syntax is {_text or 'nothing'}", _another_syntax(_text))


if __name__ == "__main__":
    _main(*sys.argv[1:])
