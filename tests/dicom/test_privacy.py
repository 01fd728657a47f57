"""Nothing that is printed, logged, warned of, raised or written tells who the patient is.

A canary stands for the patient in every place that DICOM and people have for names. Whatever a run leaves behind is
then searched for it.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

import medseg
from medseg.cli import main
from medseg.cli.console import console, errors
from medseg.dicom.elements import read_elements
from medseg.dicom.header import read_header
from medseg.dicom.listing import decision_record, series_record
from medseg.dicom.monai_reader import SeriesReader
from medseg.dicom.plan import plan_pile
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.read import read_stack
from medseg.dicom.scan import scan_pile
from medseg.dicom.source import find_sources
from medseg.dicom.stack import stack_series
from medseg.dicom.tags import WANTED
from medseg.errors import MedsegError
from tests.builders import save_tiny_model
from tests.dicom.builder import CANARY, CANARY_WORDS, SeriesSpec, write_merged, write_series
from tests.dicom.builder_extras import (
    LOCALIZER,
    RGB,
    SECONDARY_CAPTURE,
    duplicate,
    edit,
    shorten_pixels,
    time_series,
    truncate,
    write_fileset,
    write_mosaic,
    write_non_images,
    zip_folder,
)
from tests.dicom.enhanced_builder import ALL, write_enhanced

ROOT = Path(__file__).resolve().parents[2]
NAME, GIVEN = "CANARYNAME", "GIVENCANARY"
PERMISSIVE = {
    "irregular": "resample",
    "missing_slice": "fill",
    "damaged_file": "drop",
    "four_dimensional": "split",
    "no_rescale": "stored",
}
OPTIONS = [
    "--on-irregular", "resample", "--on-missing-slice", "fill", "--on-damaged", "drop",
    "--on-four-dimensional", "split", "--on-no-rescale", "stored",
]  # fmt: skip
TEXTS = {
    "SeriesDescription": f"T1 {NAME} axial {CANARY['patient_id']}",
    "ProtocolName": f"head {GIVEN.lower()} {CANARY['birth_date']}",
    "StudyDescription": f"{NAME.title()}, born 1947-02-28",
    "ImageComments": f"{NAME}^{GIVEN} {CANARY['accession']}",
    "ContrastBolusAgent": f"agent of {NAME}",
    "ConvolutionKernel": f"B30f {NAME}"[:16],
    "Manufacturer": f"by {GIVEN}",
    "InstitutionName": NAME,
    "OperatorsName": CANARY["name"],
    "OtherPatientIDs": f"{CANARY['patient_id']}X",
    "PatientAddress": "CANARY STREET 1",
    "DerivationDescription": NAME,
    "RequestedProcedureDescription": NAME,
}
"""Where else people write names."""


def _spec(name: str, **changes: Any) -> SeriesSpec:
    attributes = TEXTS | changes.pop("attributes", {})
    return SeriesSpec(name=name, study=f"study {name}", attributes=attributes, **changes)


def _private(dataset: Dataset) -> None:
    block = dataset.private_block(0x0029, "CANARY CREATOR", create=True)
    block.add_new(0x01, "LO", NAME)
    block.add_new(0x02, "OB", CANARY["name"].encode())
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")


def _raw(path: Path, keyword: str, value: str) -> None:
    """Put a text of the same length class into a number: what pydicom itself would not write."""
    data = path.read_bytes()
    tag = pydicom.tag.Tag(keyword)
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
    vr = pydicom.datadict.dictionary_VR(tag).split(" ")[0].encode()
    at = data.find(head + vr)
    content = value.encode() + b" " * (len(value) % 2)
    new = head + vr + len(content).to_bytes(2, "little") + content
    if at < 0:
        at = end = data.index(b"\x28\0\0\x01US")  # BitsAllocated
    else:
        end = at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    path.write_bytes(data[:at] + new + data[end:])


def _good(folder: Path) -> None:
    for path in write_series(folder, _spec("good")):
        edit(path, _private)


def _damaged(folder: Path) -> None:
    truncate(write_series(folder, _spec("truncated"))[2])
    shorten_pixels(write_series(folder / "short", _spec("short"))[2])
    (write_series(folder / "cut", _spec("cut"))[1]).write_bytes(b"\0" * 128 + b"DICM" + CANARY["name"].encode())
    for path in write_series(folder / "frames", _spec("frames", transfer_syntax="RLE")):
        _raw(path, "NumberOfFrames", NAME)
    for keyword in (
        "BitsStored",
        "PlanarConfiguration",
        "PixelAspectRatio",
        "SmallestImagePixelValue",
        "WindowWidth",
    ):
        for path in write_series(folder / keyword, _spec(keyword, transfer_syntax="JPEG-LS")):
            _raw(path, keyword, NAME)
    for codec in ("RLE", "JPEG-LS", "JPEG 2000", "JPEG lossless"):
        for path in write_series(folder / codec, _spec(codec, transfer_syntax=codec)):
            data = path.read_bytes()
            at = data.rindex(b"\xe0\x7f\x10\0") + 40
            path.write_bytes(data[:at] + CANARY["name"].encode() * 3 + data[at + 66 :])
    rescale = write_series(folder / "rescale", _spec("rescale"))
    for path in rescale:
        _raw(path, "RescaleSlope", NAME)


def _refused(folder: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "gap": {"missing": [2]},
        "uneven": {"distances_mm": (0, 1, 2.5, 5, 9, 11)},
        "no geometry": {"has_geometry": False},
        "localizer": LOCALIZER,
        "rgb": RGB,
        "capture": SECONDARY_CAPTURE,
        "syntax": {},
    }
    for name, change in changes.items():
        paths = write_series(folder / name, _spec(name, **change))
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(data.replace(uid.ExplicitVRLittleEndian.encode() + b"\0", NAME.encode().ljust(20, b"\0")))
    write_mosaic(folder / "mosaic")
    write_non_images(folder / "reports", _spec("reports"))
    duplicate(write_series(folder / "conflict", _spec("conflict"))[3], other_pixels=True)
    write_merged(folder / "times", *time_series(30, _spec("times", modality="MR", shape=(8, 8, 3))))
    (folder / f"{NAME}.txt").write_text(CANARY["name"])
    (folder / f"{CANARY['patient_id']}.nii.gz.part").write_bytes(b"x")


def _enhanced(folder: Path) -> None:
    spec = _spec("enhanced", attributes={"ConvolutionKernel": f"B30f {NAME}"[:16]})
    edit(write_enhanced(folder, spec, per_frame=ALL, name=f"{NAME}.dcm"), _private)
    path = write_enhanced(folder / "broken", replace(spec, name="broken"), per_frame=ALL)
    path.write_bytes(path.read_bytes().replace(b"-70.75", NAME[:6].encode()))


def _strange(folder: Path) -> None:
    """The name where no name belongs: in codes, numbers, dates and UIDs."""
    keywords = (
        "Modality ImageType BodyPartExamined PhotometricInterpretation SOPClassUID SeriesNumber AcquisitionNumber "
        "EchoTime SliceThickness KVP InstanceNumber AcquisitionTime ContentTime SeriesDate StudyDate PixelSpacing "
        "ImagePositionPatient FrameOfReferenceUID SpecificCharacterSet TriggerTime"
    )
    for keyword in keywords.split():
        for k, path in enumerate(write_series(folder / keyword, _spec(f"strange {keyword}", shape=(8, 8, 3)))):
            _raw(path, keyword, f"{NAME}{k}" if keyword in ("EchoTime", "AcquisitionNumber") else NAME)
        for path in list((folder / keyword).iterdir())[:2]:
            shutil.copy(path, path.with_name(f"{path.name} copy"))
            _raw(path, "ImagePositionPatient", "0\\0\\1")


PILES: dict[str, Callable[[Path], None]] = {
    "good": _good,
    "damaged": _damaged,
    "refused": _refused,
    "enhanced": _enhanced,
    "strange": _strange,
}
FORMS = ("folder", "zip", "DICOMDIR")


@pytest.fixture(scope="module")
def piles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A path to each pile as a folder, and to all of them as a zip and some as a DICOMDIR."""
    root = tmp_path_factory.mktemp("piles")
    paths = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, write in PILES.items():
            folder = root / name / f"{NAME}_{GIVEN}" / CANARY["birth_date"]
            write(folder)
            paths[name] = root / name
        paths["zip"] = zip_folder(root / "good", root / "all.zip")
        with zipfile.ZipFile(paths["zip"], "a") as archive:
            archive.write(next(root.glob("damaged/**/frames/*")), f"../{NAME}.dcm")
            archive.writestr(f"{NAME}/notes.txt", CANARY["name"])
        plain = root / "plain"
        for kind in ("good", "damaged"):
            for path in root.glob(f"{kind}/*/*/*.dcm"):
                plain.mkdir(exist_ok=True)
                shutil.copy(path, plain / f"{kind}{path.name}")
        paths["DICOMDIR"] = write_fileset(plain, root / "fileset")
        _name_in_dicomdir(paths["DICOMDIR"])
    return paths


def _name_in_dicomdir(path: Path) -> None:
    """Let the records of a DICOMDIR name one file by the canary, one outside and one that is not there."""
    dataset = pydicom.dcmread(path)
    images = [record for record in dataset.DirectoryRecordSequence if "ReferencedFileID" in record]
    old = path.parent.joinpath(*images[0].ReferencedFileID)
    old.rename(path.parent / "CANARYNA")
    images[0].ReferencedFileID = "CANARYNA"
    images[1].ReferencedFileID = ["..", "CANARYNA"]
    images[2].ReferencedFileID = ["CANARYID", "GONE"]
    with path.open("wb") as stream:
        dataset.save_as(stream)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder, modality="CT")
    return folder


RECIPES = {
    "few": "modality: CT\n  description: liver\n",
    "protocol": "protocol: liver\n",
    "body part": "body_part: HEAD\n",
    "image type": "image_type: {include: [NOWHERE]}\n",
    "kernel": "kernel: soft\n",
    "contrast": "contrast: false\n",
    "sop class": "sop_class: MR Image Storage\n",
    "modality": "modality: US\n",
    "thickness": "slice_thickness_mm: {max: 0.1}\n",
    "comments": 'tags: {ImageComments: "== nothing"}\n',
    "private": 'tags: {"0029,1001": "== nothing"}\n',
    "institution": 'tags: {InstitutionName: "== nothing"}\n',
    "numbers": 'tags: {KVP: ">= 100000"}\n',
    "echo": 'tags: {EchoTime: "== 7"}\n',
    "date": 'tags: {StudyDate: ">= 20990101"}\n',
    "latest": "prefer: [latest, thinnest]\n",
}


@pytest.fixture
def recipes(tmp_path: Path) -> dict[str, Path]:
    """Recipes whose rules see the values where the canary is."""
    (tmp_path / "recipes").mkdir()
    paths = {}
    for number, (name, rules) in enumerate(RECIPES.items()):
        paths[name] = tmp_path / "recipes" / f"r{number}.yaml"
        paths[name].write_text(f"name: r{number}\nselect:\n  {rules}")
    return paths


class Heard:
    """Whatever a run left behind: printed, logged, warned of, raised or written."""

    def __init__(self, capfd: Any, caplog: Any, caught: list[warnings.WarningMessage]) -> None:
        self._capfd, self._caplog, self._caught = capfd, caplog, caught
        self.texts: list[str] = []

    def run(self, *words: object) -> int:
        """Run a command as a user does."""
        status = 70
        try:
            main([str(word) for word in words])
        except SystemExit as error:
            status = int(error.code or 0)
        except Exception as error:  # noqa: BLE001 - with --debug a bug comes through, and a user sees it
            self.texts.append("".join(traceback.format_exception(error)))
        return status

    def say(self, *things: object) -> None:
        """Hear what objects say of themselves."""
        for thing in things:
            self.texts += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                self.texts.append("".join(traceback.format_exception(thing)))

    def all(self) -> str:
        out, err = self._capfd.readouterr()
        logged = [f"{record.name} {record.getMessage()} {record.exc_text}" for record in self._caplog.records]
        warned = [str(warning.message) for warning in self._caught]
        return "\n".join([*self.texts, out, err, *logged, *warned])


@pytest.fixture
def heard(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Heard]:
    for one in (console, errors):
        monkeypatch.setattr(one, "_width", 4000)  # nothing is cut or wrapped
    monkeypatch.setattr(console, "_height", 100)
    monkeypatch.setattr(errors, "_height", 100)
    names = ("", "pydicom", "medseg", "gdcm", "pylibjpeg", "openjpeg", "jpeg_ls", "jpeg_ls._CharLS")
    for name in names:
        caplog.set_level(logging.DEBUG, logger=name or None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield Heard(capfd, caplog, caught)


def _leaks(text: str) -> list[str]:
    """What is said of the patient, with what stands around it."""
    words = (*CANARY_WORDS, "0815", "4711")
    pattern = re.compile(".{0,60}(?:" + "|".join(map(re.escape, words)) + ").{0,40}", re.IGNORECASE)
    return pattern.findall(text)[:5]


def _uids(text: str) -> list[str]:
    """UIDs that are not of the standard."""
    return [found for found in re.findall(r"\d(?:\.\d+){5,}", text) if not found.startswith("1.2.840.10008")][:5]


def _check(text: str) -> None:
    """Raise an error that shows what was said of the patient, and no more."""
    found = [*_leaks(text), *_uids(text)]
    if found:
        raise AssertionError("; ".join(dict.fromkeys(found)))


WORDS = {
    "scan": ["dicom", "scan", "PATH"],
    "scan json": ["dicom", "scan", "PATH", "--json"],
    "plan": ["dicom", "plan", "PATH"],
    "plan json": ["dicom", "plan", "PATH", "--json"],
    "plan permissive": ["dicom", "plan", "PATH", *OPTIONS],
    "verbose": ["--verbose", "dicom", "plan", "PATH", *OPTIONS, "--json"],
    "debug": ["--verbose", "--debug", "dicom", "scan", "PATH"],
    "debug plan": ["--debug", "dicom", "plan", "PATH", *OPTIONS],
}


@pytest.mark.parametrize("command", WORDS)
@pytest.mark.parametrize("pile", [*PILES, "zip", "DICOMDIR"])
def test_listing_tells_nothing(heard: Heard, piles: dict[str, Path], pile: str, command: str) -> None:
    words = [str(piles[pile]) if word == "PATH" else word for word in WORDS[command]]
    status = heard.run(*words)
    text = heard.all()
    _check(text)
    assert status in (0, 5), text[-1500:]
    assert len(text) > 200


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("pile", ["good", "enhanced", "strange"])
def test_what_a_rule_saw_tells_nothing(
    heard: Heard, piles: dict[str, Path], recipes: dict[str, Path], pile: str, recipe: str
) -> None:
    for more in ((), ("--json",)):
        assert heard.run("dicom", "plan", piles[pile], "--recipe", recipes[recipe], *OPTIONS, *more) in (0, 5)
    text = heard.all()
    _check(text)


@pytest.mark.parametrize("command", ["scan", "plan"])
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["table", "json"])
def test_uids_are_shown_where_they_are_asked_for(
    heard: Heard, piles: dict[str, Path], command: str, more: tuple[str, ...]
) -> None:
    assert heard.run("dicom", command, piles["good"], *more) == 0
    spec = _spec("good")
    without = heard.all()
    assert spec.series_uid not in without
    assert heard.run("dicom", command, piles["good"], "--show-phi", *more) == 0
    with_uids = heard.all()
    assert spec.series_uid in with_uids
    assert not _leaks(with_uids)  # UIDs are what it says: names are not


@pytest.mark.parametrize("words", [["--verbose"], ["--verbose", "--debug"]], ids=" ".join)
def test_segmenting_tells_nothing(
    heard: Heard, piles: dict[str, Path], model: Path, tmp_path: Path, words: list[str]
) -> None:
    out = tmp_path / "masks"
    inputs = [piles[name] for name in (*PILES, "zip", "DICOMDIR")]
    status = heard.run(*words, "segment", *inputs, "-m", model, "-o", out)
    text = heard.all()
    _check(text)
    assert status == 3, text[-1500:]
    written = [path for path in out.rglob("*") if path.is_file()]
    assert written
    for path in written:
        content = path.read_bytes()
        content += gzip.decompress(content) if path.suffix == ".gz" else b""
        assert not _leaks(str(path.relative_to(out)))
        _check(content.decode("latin-1"))


def test_segmenting_permissively_by_recipe_tells_nothing(
    heard: Heard, piles: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "all.yaml"
    recipe.write_text("name: all\nselect:\n  modality: CT\n  slices: {min: 2}\n")
    out = tmp_path / "masks"
    status = heard.run("segment", piles["refused"], "-m", model, "-o", out, "--recipe", recipe, *OPTIONS)
    text = heard.all()
    assert status == 3, text[-1500:]
    assert "interpolated from their neighbours" in text
    _check(text + "".join(path.name for path in out.iterdir()))


def test_one_file_alone_and_one_that_is_no_dicom(heard: Heard, piles: dict[str, Path], tmp_path: Path) -> None:
    """Here the user names the file, and under that name; but nothing of what is in it."""
    path = next(piles["good"].rglob("*.dcm"))
    shutil.copy(path, tmp_path / "one.dcm")
    (tmp_path / "text.dcm").write_text(f"{CANARY['name']} {CANARY['patient_id']}")
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:700])
    (tmp_path / "DICOMDIR").write_bytes(piles["DICOMDIR"].read_bytes()[:2000])
    (tmp_path / "cut.zip").write_bytes(piles["zip"].read_bytes()[:-30])
    for name in ("one.dcm", "text.dcm", "cut.dcm", "DICOMDIR", "cut.zip", "missing.dcm"):
        for command in ("scan", "plan"):
            heard.run("--debug", "dicom", command, tmp_path / name)
    text = heard.all()
    _check(text)


@pytest.mark.parametrize("pile", [*PILES, "zip", "DICOMDIR"])
@pytest.mark.parametrize("policies", [{}, PERMISSIVE], ids=["strict", "permissive"])
def test_objects_and_errors_tell_nothing(
    heard: Heard, piles: dict[str, Path], pile: str, policies: dict[str, str]
) -> None:
    chosen = Policies.model_validate(policies)
    path = piles[pile]
    found, scan, plan = find_sources(path), scan_pile(path), plan_pile(path, None, chosen)
    heard.say(found, *found.sources, scan, plan, *scan.findings, *plan.findings)
    for series in scan.series:
        heard.say(series, series.header, *series.frames, series.name, series.study_name, *series.findings)
        heard.say(json.dumps(series_record(series)))
    for decision in plan.decisions:
        heard.say(decision, decision.stack, decision.rule, decision.seen, json.dumps(decision_record(decision)))
        if decision.error:
            heard.say(decision.error, decision.error.__dict__, pickle.loads(pickle.dumps(decision.error)))
    refused: list[MedsegError] = []
    try:
        volumes = medseg.read_volumes(path, policies=chosen, refused=refused.append)
    except MedsegError as error:
        refused.append(error)
        volumes = []
    for volume in volumes:
        heard.say(volume, volume.source, volume.grid, *volume.findings, *volume.slices)
    for error in refused:
        heard.say(error, error.__dict__, error.__cause__, error.__context__)
    text = heard.all()
    _check(text)


def test_refusals_are_logged_by_default_without_the_patient(heard: Heard, piles: dict[str, Path]) -> None:
    for pile in ("damaged", "refused"):
        medseg.read_volumes(piles[pile], policies=Policies.model_validate(PERMISSIVE))
    text = heard.all()
    assert "refused: " in text
    _check(text)


def test_the_parts_of_the_reader_tell_nothing(heard: Heard, piles: dict[str, Path]) -> None:
    with quiet_pydicom():
        for path in [*piles["good"].rglob("*.dcm"), *piles["damaged"].rglob("*.dcm")]:
            (source,) = find_sources(path).sources
            heard.say(source, read_header(source))
            with path.open("rb") as stream:
                try:
                    heard.say(read_elements(stream, WANTED))
                except ValueError as error:
                    heard.say(error)
    for series in scan_pile(piles["good"]).series:
        heard.say(stack_series(series, Policies()))
    _check(heard.all())


def test_files_that_vanish_or_change_tell_nothing(heard: Heard, piles: dict[str, Path], tmp_path: Path) -> None:
    """Between the scan and the reading; the errors of the system name files."""
    folder = tmp_path / "in"
    shutil.copytree(piles["good"], folder)
    (stack,) = [decision.stack for decision in plan_pile(folder).decisions]
    paths = sorted(folder.rglob("*.dcm"))
    for change in (
        lambda path: path.write_bytes(path.read_bytes()[:900]),
        lambda path: path.unlink(),
        lambda path: path.mkdir(),
    ):
        change(paths[2])
        with pytest.raises(MedsegError) as caught:
            read_stack(stack)
        heard.say(caught.value)
        heard.run("--debug", "dicom", "plan", folder)
    _check(heard.all())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_files_that_are_forbidden_tell_nothing(heard: Heard, piles: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(piles["good"], tmp_path / "in")
    next((tmp_path / "in").rglob("*.dcm")).chmod(0)
    heard.run("--debug", "dicom", "plan", tmp_path / "in")
    _check(heard.all())


def test_the_reader_for_monai_tells_nothing(heard: Heard, piles: dict[str, Path], tmp_path: Path) -> None:
    reader = SeriesReader(policies=Policies.model_validate(PERMISSIVE))
    _, meta = reader.get_data(reader.read(piles["good"]))
    heard.say(meta)
    folders = (piles["damaged"], *(path for path in piles["refused"].glob("*/*/*") if path.is_dir()))
    for number, path in enumerate(folders):
        shutil.copytree(path, tmp_path / f"{number}")  # what the user names is free of names
        try:
            heard.say(reader.read(tmp_path / f"{number}"))
        except MedsegError as error:
            heard.say(error)
    _check(heard.all())


def test_a_process_of_its_own_tells_nothing(piles: dict[str, Path]) -> None:
    """With the warnings and the logs that Python prints when nobody catches them."""
    for pile in ("damaged", "strange"):
        command = [
            sys.executable,
            "-W",
            "always",
            "-m",
            "medseg",
            "-v",
            "--debug",
            "dicom",
            "plan",
            piles[pile],
            *OPTIONS,
        ]
        environment = os.environ | {"COLUMNS": "4000"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=300, check=False)
        text = (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
        assert done.returncode in (0, 5), text[-1500:]
        _check(text)


def test_the_canary_is_there_to_be_found(piles: dict[str, Path]) -> None:
    """Or these tests could not fail."""
    for pile in PILES:
        files = [path for path in piles[pile].rglob("*") if path.is_file()]
        assert (
            sum(any(word.encode() in path.read_bytes() for word in CANARY_WORDS) for path in files)
            > len(files) // 2
        )
        assert all(_leaks(str(path.relative_to(piles[pile]))) for path in files)
    for text in ("x canaryname", "born 19470228", "1947-02-28"):
        assert _leaks(text)
    assert _uids(f"a {_spec('good').series_uid}")
    _check(f"axial CT {uid.CTImageStorage}")
