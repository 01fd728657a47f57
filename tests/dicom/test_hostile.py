"""Hostile DICOM files: read right or refused, without a crash, a hang, a word or much memory."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.builder_extras import write_mosaic, write_non_images, zip_folder
from tests.dicom.enhanced_builder import ALL, write_enhanced
from tests.dicom.hostile import (
    _ENCAPSULATIONS,
    _PLACES,
    BUNDLED,
    CASES,
    CODECS,
    GIB,
    HUGE,
    MEMORY,
    REFUSED,
    ROOT,
    STRICT,
    WHOLE,
    Outcome,
    _encapsulated,
    _examine,
    _one_pixel,
    _single,
    _spec,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each case."""
    root = tmp_path_factory.mktemp("hostile")
    folders = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (name, make) in enumerate(CASES.items()):
            folders[name] = root / f"{number:03d}"
            make(folders[name], name)
            shutil.rmtree(root / f"{number:03d} source", ignore_errors=True)
    return folders


@pytest.fixture(scope="module")
def outcomes(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What became of each case, one after the other."""
    return _examine(made, tmp_path_factory.mktemp("log"))


@pytest.mark.parametrize("name", CASES)
def test_hostile_files_are_read_right_or_refused(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert not outcome.problem, outcome.problem
    assert not outcome.said
    if name in REFUSED:
        assert not outcome.volumes, f"volumes of shape {[shape for _, shape in outcome.volumes]}"
    if name in REFUSED | STRICT:
        assert not outcome.strict, f"volumes of shape {outcome.strict} by the safest policies"
    if name in WHOLE:
        assert outcome.volumes
    assert outcome.resident < MEMORY, f"{outcome.resident >> 20} MB resident"
    assert outcome.grown < MEMORY, f"{outcome.grown >> 20} MB of address space"


@pytest.fixture(scope="module")
def huge(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The same where an allocation of 15 GB does not fail: nobody may ask for it all the same."""
    return _examine({name: made[name] for name in HUGE}, tmp_path_factory.mktemp("huge"), limit=64 * GIB)


@pytest.mark.parametrize("name", HUGE)
def test_what_a_code_stream_claims_is_not_allocated(huge: dict[str, Outcome], name: str) -> None:
    assert not huge[name].problem, huge[name].problem
    assert huge[name].grown < MEMORY, f"{huge[name].grown >> 20} MB of address space"


def _good(folder: Path) -> dict[str, list[Path]]:
    """Write three good studies, each in a folder of its own."""
    specs = {
        "ct": SeriesSpec(name="good ct", study="good 1"),
        "mr": SeriesSpec(name="good mr", study="good 2", modality="MR", transfer_syntax="JPEG-LS"),
        "pt": SeriesSpec(name="good pt", study="good 3", modality="PT", transfer_syntax="deflated"),
    }
    return {name: write_series(folder / name, spec) for name, spec in specs.items()}


def test_good_studies_come_out_of_a_pile_of_hostile_ones(
    made: dict[str, Path], outcomes: dict[str, Outcome], tmp_path: Path
) -> None:
    """All cases, all of pydicom's files and three good studies in one folder."""
    pile = tmp_path / "pile"
    good = _good(pile)
    write_mosaic(pile / "mosaic")
    write_non_images(pile / "reports")
    for name, folder in made.items():
        if not outcomes[name].problem.startswith("the process ended"):
            shutil.move(folder, pile / folder.name)  # sparse files stay sparse
    for folder in made.values():
        if (pile / folder.name).exists():
            (folder.parent / folder.name).symlink_to(pile / folder.name)
    for number, path in enumerate(_bundled()):
        (pile / "bundled").mkdir(exist_ok=True)
        shutil.copy(path, pile / "bundled" / f"{number:03d}")
    alone = _examine({name: pile / name for name in good}, tmp_path / "alone")
    (outcome,) = _examine({"pile": pile}, tmp_path / "log", seconds=240).values()
    assert not outcome.problem, outcome.problem
    for name in good:
        (volume,) = alone[name].volumes
        assert volume in outcome.volumes
    assert outcome.resident < 6 * MEMORY
    expected = sum(len(outcomes[name].volumes) for name in made if (pile / made[name].name).exists())
    assert len(outcome.volumes) >= expected + len(good)


@pytest.mark.parametrize("seed", range(3))
def test_good_studies_come_out_beside_one_that_is_refused_late(tmp_path: Path, seed: int) -> None:
    """Refused only when its grid is made, its pixels decoded or its memory asked for."""
    good = _good(tmp_path / "pile")
    make = [
        _single(SliceThickness="1e-320"),
        _encapsulated("JPEG-LS", _ENCAPSULATIONS["rubbish"]),
        _one_pixel(_PLACES["a gap of 1e9 slices"]),
    ][seed]
    make(tmp_path / "pile" / "bad", f"late {seed}")
    cases = {name: tmp_path / "pile" / name for name in good} | {"pile": tmp_path / "pile"}
    found = _examine(cases, tmp_path / "log")
    assert not found["pile"].problem, found["pile"].problem
    for name in good:
        assert found[name].volumes[0] in found["pile"].volumes


@pytest.mark.parametrize("name", ["JPEG-LS: rubbish", "RLE: half of the frame", "frame with slope 1e300"])
def test_what_cannot_be_decoded_is_the_reason_that_is_given(outcomes: dict[str, Outcome], name: str) -> None:
    """Not that there was no image series at all."""
    assert outcomes[name].refusals
    assert "DICOM" not in outcomes[name].refusals


# pydicom's own files


def _bundled() -> list[Path]:
    """Every file that pydicom brings along; nothing is downloaded."""
    kinds = (".pyc", ".py", ".json")
    return sorted(path for path in BUNDLED.rglob("*") if path.is_file() and path.suffix not in kinds)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    cases = {str(path.relative_to(BUNDLED)): path for path in _bundled()}
    cases |= {f"{path.relative_to(BUNDLED)}/": path for path in BUNDLED.rglob("*") if path.is_dir()}
    work = tmp_path_factory.mktemp("bundled")
    zip_folder(BUNDLED, work / "all.zip")
    return _examine(cases | {"all": BUNDLED, "zip": work / "all.zip"}, work, seconds=60)


def test_files_that_come_with_pydicom_do_no_harm(bundled: dict[str, Outcome]) -> None:
    assert len(bundled) > 150
    problems = {name: outcome.problem for name, outcome in bundled.items() if outcome.problem}
    assert not problems, "\n".join(f"{name}: {problem[-600:]}" for name, problem in problems.items())
    large = {name: outcome.resident >> 20 for name, outcome in bundled.items() if outcome.resident > MEMORY}
    assert not large


def test_the_same_files_in_a_zip_give_the_same(bundled: dict[str, Outcome]) -> None:
    assert bundled["all"].volumes
    assert sorted(bundled["zip"].volumes) == sorted(bundled["all"].volumes)


def test_a_known_file_is_read_and_a_known_one_refused(bundled: dict[str, Outcome]) -> None:
    def outcome(name: str) -> Outcome:
        return next(value for key, value in bundled.items() if key.endswith(f"/{name}"))

    assert [shape for _, shape in outcome("CT_small.dcm").volumes] == ["(128, 128, 1)"]
    assert [shape for _, shape in outcome("MR_small.dcm").volumes] == ["(64, 64, 1)"]
    names = ("MR_small", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_bigendian")
    assert len({outcome(f"{name}.dcm").volumes for name in names}) == 1
    assert outcome("rtplan.dcm").findings == ("not-an-image",)
    assert outcome("reportsi.dcm").findings == ("not-an-image",)
    assert set(outcome("MR_truncated.dcm").refusals) == {"damaged-file"}


# fuzzing

FUZZED: dict[str, dict[str, Any]] = {
    "explicit": {},
    "implicit": {"transfer_syntax": "implicit"},
    "big endian": {"transfer_syntax": "big endian"},
    "deflated": {"transfer_syntax": "deflated"},
    "bare": {"is_bare": True, "transfer_syntax": "implicit"},
    "enhanced": {},
    "enhanced RLE": {"transfer_syntax": "RLE"},
    **{codec: {"transfer_syntax": codec} for codec in CODECS},
    **{f"heads of {codec}": {"transfer_syntax": codec} for codec in CODECS},
}
ROUNDS = int(os.environ.get("MEDSEG_FUZZ_ROUNDS", "24"))
"""Of each kind; a long run sets it to thousands."""


def _damaged(data: bytes, generator: np.random.Generator, low: int, high: int) -> bytes:
    """Flip bytes, set lengths, cut or repeat."""
    content = bytearray(data)
    for place in generator.integers(low, high, int(generator.integers(1, 12))):
        how = generator.random()
        if how < 0.4:
            content[place] ^= 1 << int(generator.integers(8))
        elif how < 0.8:
            content[place] = int(generator.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, int(generator.integers(256))]))
        else:
            length = int(generator.choice([0xFFFFFFFE, 0xFFFFFFFF, 0, 0x7FFFFFFF]))
            content[place : place + 4] = struct.pack("<L", length)
    end = generator.random()
    if end < 0.15:
        del content[int(generator.integers(low, len(content))) :]
    elif end < 0.2:
        place = int(generator.integers(low, len(content)))
        content[place:place] = content[max(place - 40, 0) : place]
    return bytes(content)


def _fuzz(folder: Path, kind: str) -> Iterator[Path]:
    """Write one folder a round, with one damaged file in it."""
    spec = SeriesSpec(name=f"fuzz {kind}", study="fuzz", shape=(33, 34, 3), **FUZZED[kind])
    if kind.startswith("enhanced"):
        paths = [write_enhanced(folder / "whole", spec, per_frame=ALL)]
    else:
        paths = write_series(folder / "whole", spec)
    whole = paths[0].read_bytes()
    pixels = max(whole.rfind(b"\xe0\x7f\x10\0"), whole.rfind(b"\x7f\xe0\0\x10"), 0)
    for seed in range(ROUNDS):
        generator = np.random.default_rng([seed, *kind.encode()])
        low, high = (pixels, len(whole)) if generator.random() < 0.5 else (0, len(whole))
        if kind.startswith("heads of "):
            low, high = pixels + 20, pixels + 100
        new = folder / f"{seed}"
        new.mkdir()
        for path in paths[1:]:
            os.link(path, new / path.name)
        (new / paths[0].name).write_bytes(_damaged(whole, generator, low, high))
        yield new


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    root = tmp_path_factory.mktemp("fuzz")
    folders = {kind: list(_fuzz(root / kind, kind)) for kind in FUZZED}
    cases = {f"{kind}: {path.name}": path for kind, paths in folders.items() for path in paths}
    return _examine(cases, tmp_path_factory.mktemp("log"))


@pytest.mark.parametrize("kind", FUZZED)
def test_random_damage_does_no_harm(fuzzed: dict[str, Outcome], kind: str) -> None:
    mine = {name: outcome for name, outcome in fuzzed.items() if name.startswith(f"{kind}: ")}
    assert len(mine) == ROUNDS
    problems = {name: outcome.problem or outcome.said for name, outcome in mine.items()}
    problems = {name: problem for name, problem in problems.items() if problem}
    assert not problems, "\n".join(f"{name}: {problem[-700:]}" for name, problem in problems.items())
    large = {name: outcome.grown >> 20 for name, outcome in mine.items() if outcome.grown > MEMORY}
    assert not large


def test_very_many_directions_take_no_time(tmp_path: Path) -> None:
    """60,000 frames, each with an orientation of its own."""
    code = (
        "import sys, dataclasses, numpy as np\n"
        "from pathlib import Path\n"
        "from medseg.dicom.scan import scan_pile\n"
        "from medseg.dicom.split import split_series\n"
        "frame = scan_pile(Path(sys.argv[1])).series[0].frames[0]\n"
        "angles = np.linspace(0, 3, 60_000)\n"
        "turned = [(1.0, 0.0, 0.0, 0.0, float(np.cos(a)), float(np.sin(a))) for a in angles]\n"
        "frames = [dataclasses.replace(frame, number=k, orientation=o, pixel_spacing_mm=(1.0 + k, 1.0))"
        " for k, o in enumerate(turned)]\n"
        "assert sum(len(part.frames) for part in split_series(frames)) == 60_000\n"
    )
    write_series(tmp_path / "s", _spec("directions"))
    subprocess.run([sys.executable, "-c", code, tmp_path / "s"], cwd=ROOT, timeout=300, check=True)


# the command line


@pytest.fixture
def shown(made: dict[str, Path], tmp_path: Path) -> Iterator[Path]:
    """Cases with values that a terminal could take for orders."""
    for name, folder in made.items():
        if " of markup" in name or " of words" in name or " of letters" in name or name == "names of any bytes":
            shutil.copytree(folder, tmp_path / "pile" / folder.name)
    write_series(tmp_path / "pile" / "good", SeriesSpec(name="good"))
    return tmp_path / "pile"


@pytest.mark.parametrize("words", [("scan",), ("scan", "--json"), ("plan",), ("plan", "--json")], ids=" ".join)
@pytest.mark.parametrize("phi", [(), ("--show-phi",)], ids=["", "phi"])
def test_values_are_no_orders_to_the_terminal(shown: Path, words: tuple[str, ...], phi: tuple[str, ...]) -> None:
    command = [sys.executable, "-W", "error", "-m", "medseg", "dicom", words[0], str(shown), *words[1:], *phi]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout[-500:] + done.stderr[-1500:]).decode()
    assert done.stderr == b""
    text = done.stdout.decode()
    assert not [hex(ord(letter)) for letter in text if letter != "\n" and not letter.isprintable()]
    if "--json" in words:
        assert len(json.loads(text)["series"]) > 5
