"""Foreign data set folders, as they are: Medical Segmentation Decathlon and nnU-Net raw.

The layouts are those of https://medicaldecathlon.com and of ``documentation/dataset_format.md`` of nnU-Net 2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from medseg.data.nnunet_labels import read_nnunet_labels
from medseg.errors import ManifestError
from medseg.nifti import SUFFIXES, case_name
from medseg.regions import Region

_DESCRIPTION = "dataset.json"
_MOST_NAMED = 3


class Layout(Enum):
    """The layouts that can be imported."""

    DECATHLON = "Medical Segmentation Decathlon"
    NNUNET_RAW = "nnU-Net raw"
    BIDS = "BIDS with derivatives"


@dataclass(frozen=True)
class FoundCase:
    """The files of a case.

    Attributes:
        name: The case id.
        images: One path a channel, relative to the folder; None for a channel that the case has not.
        label: Path of the label map, relative to the folder.
        patient: Whose case it is, where the layout says so.
    """

    name: str
    images: Sequence[str | None]
    label: str
    patient: str | None = None


@dataclass(frozen=True)
class FoundDataset:
    """What a folder holds.

    Attributes:
        folder: The folder.
        name: Name that its dataset.json gives, or that of the folder.
        description: As its dataset.json says.
        license: As its dataset.json says.
        channels: Names of the channels, in order.
        labels: {index: name}, with or without the background.
        cases: The annotated cases; every file is there.
        regions: Unions of labels that are learnt in place of them.
        ignore_value: Value of voxels that nobody judged.
    """

    folder: Path
    name: str
    description: str
    license: str
    channels: Sequence[str]
    labels: dict[int, str]
    cases: Sequence[FoundCase]
    regions: tuple[Region, ...] = ()
    ignore_value: int | None = None


class _Facts(BaseModel):
    name: str | None = None
    description: str = ""
    license: str = Field(default="", validation_alias=AliasChoices("licence", "license"))


class _Pair(BaseModel):
    image: str
    label: str


class _Decathlon(_Facts):
    modality: dict[int, str] = Field(min_length=1)
    labels: dict[int, str]
    training: list[_Pair] = Field(min_length=1)


class _Listed(BaseModel):
    images: list[str]
    label: str


class _NnunetRaw(_Facts):
    channel_names: dict[int, str] = Field(min_length=1)
    labels: dict[str, int | list[int]]
    regions_class_order: list[int] | None = None
    file_ending: str
    dataset: dict[str, _Listed] | None = None


_Json = TypeVar("_Json", bound=_Facts)


def detect_layout(folder: Path) -> Layout:
    """Tell the layout of a folder by the keys of its dataset.json, or by a dataset_description.json in its place.

    Raises:
        ManifestError: There is no dataset.json, it cannot be read, or it is of neither layout.
    """
    if (folder / "dataset_description.json").is_file() and not (folder / _DESCRIPTION).exists():
        return Layout.BIDS
    keys = _read_json(folder).keys()
    if "channel_names" in keys:
        return Layout.NNUNET_RAW
    if {"modality", "training"} <= keys:
        return Layout.DECATHLON
    raise ManifestError(
        folder / _DESCRIPTION,
        expected="channel_names (nnU-Net) or modality and training (Decathlon)",
        found=f"keys {', '.join(sorted(keys))}",
        remedy="write a manifest by hand; docs/datasets.md shows one",
    )


def read_decathlon(folder: Path) -> FoundDataset:
    """List the cases of a Medical Segmentation Decathlon folder: dataset.json, imagesTr and labelsTr.

    A data set of several channels must have one file a channel, ``CASE_0000.nii.gz`` and so on in place of
    ``CASE.nii.gz``, as nnU-Net 1 has them.

    Raises:
        ManifestError: dataset.json is wrong, files are missing, or images are 4-D.
    """
    facts = _parse(folder, _Decathlon)
    channels = [facts.modality[number] for number in sorted(facts.modality)]
    cases = [_decathlon_case(folder, pair, len(channels)) for pair in facts.training]
    return _found(folder, facts, channels, facts.labels, cases)


def read_nnunet_raw(folder: Path) -> FoundDataset:
    """List the cases of an nnU-Net 2 raw folder.

    Its dataset.json stands beside imagesTr (``CASE_0000.nii.gz``, one file a channel) and labelsTr, unless the
    ``dataset`` key lists the files. Where one of the labels is a list of values, all of them are regions, and
    ``regions_class_order`` has the value that each is painted with; a label value that is no region by itself is
    named after the region that is painted with it.

    Raises:
        ManifestError: dataset.json is wrong, files are missing or left over, or they are not NIfTI.
    """
    facts = _parse(folder, _NnunetRaw)
    if facts.file_ending not in SUFFIXES:
        raise _wrong(folder, f"a file_ending of {' or '.join(SUFFIXES)}", facts.file_ending, "convert to NIfTI")
    channels = [facts.channel_names[number] for number in sorted(facts.channel_names)]
    if facts.dataset is None:
        cases = _nnunet_cases(folder, facts.file_ending, len(channels))
    else:
        cases = [FoundCase(case, files.images, files.label) for case, files in sorted(facts.dataset.items())]
    meaning = read_nnunet_labels(folder / _DESCRIPTION, facts.labels, facts.regions_class_order)
    found = _found(folder, facts, channels, meaning.names, cases)
    return replace(found, regions=meaning.regions, ignore_value=meaning.ignore_value)


def name_first(names: Sequence[str]) -> str:
    """Return the first few of many names, for a message."""
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


def describe_problems(error: ValidationError) -> str:
    """Return all problems that pydantic found on one line."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()
    )


def _found(
    folder: Path, facts: _Facts, channels: list[str], labels: dict[int, str], cases: list[FoundCase]
) -> FoundDataset:
    _require_files(folder, cases)
    name = facts.name or folder.resolve().name
    return FoundDataset(folder, name, facts.description, facts.license, channels, labels, cases)


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / _DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(
            folder, "a readable file", type(error).__name__, "pass the folder that holds dataset.json"
        ) from error
    except json.JSONDecodeError as error:
        raise _wrong(folder, "valid JSON", f"{error.msg} in line {error.lineno}", "correct it") from error
    if not isinstance(content, dict):
        raise _wrong(folder, "keys and values", type(content).__name__, "correct it")
    return content


def _parse(folder: Path, model: type[_Json]) -> _Json:
    try:
        return model.model_validate(_read_json(folder))
    except ValidationError as error:
        raise _wrong(folder, "the keys of its layout", describe_problems(error), "correct it") from error


def _wrong(folder: Path, expected: str, found: str, remedy: str) -> ManifestError:
    return ManifestError(folder / _DESCRIPTION, expected=expected, found=found, remedy=remedy)


def _decathlon_case(folder: Path, pair: _Pair, channels: int) -> FoundCase:
    image = PurePosixPath(pair.image)
    case = case_name(Path(image.name))
    split = [str(image.with_name(f"{case}_{channel:04d}.nii.gz")) for channel in range(channels)]
    if all((folder / name).is_file() for name in split):
        return FoundCase(case, split, pair.label)
    if channels > 1 and (folder / image).is_file():
        raise _wrong(
            folder,
            f"one 3-D file for each of {channels} channels",
            f"one 4-D file, {image}",
            f"split it into files named {PurePosixPath(split[0]).name} and so on, beside it",
        )
    return FoundCase(case, [str(image)] if channels == 1 else split, pair.label)


def _nnunet_cases(folder: Path, ending: str, channels: int) -> list[FoundCase]:
    images = {name.removesuffix(ending) for name in _names(folder / "imagesTr", ending)}
    cases = sorted(_names(folder / "labelsTr", ending))
    files = [FoundCase(name.removesuffix(ending), (), f"labelsTr/{name}") for name in cases]
    expected = {f"{item.name}_{channel:04d}" for item in files for channel in range(channels)}
    surplus = sorted(images - expected)
    if surplus:
        raise ManifestError(
            folder / "imagesTr",
            expected=f"{channels} image(s) CASE_0000{ending} for each label CASE{ending}",
            found=f"{len(surplus)} without a place: {name_first(surplus)}",
            remedy="add the labels, correct channel_names, or take the images out",
        )
    return [
        FoundCase(item.name, [f"imagesTr/{item.name}_{c:04d}{ending}" for c in range(channels)], item.label)
        for item in files
    ]


def _names(folder: Path, ending: str) -> list[str]:
    return [path.name for path in folder.glob(f"*{ending}") if not path.name.startswith(".")]


def _require_files(folder: Path, cases: Sequence[FoundCase]) -> None:
    wanted = [name for files in cases for name in (*files.images, files.label) if name]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing or not wanted:
        raise ManifestError(
            folder,
            expected=f"{len(wanted)} image and label files" if wanted else "cases in imagesTr and labelsTr",
            found=f"{len(missing)} missing: {name_first(missing)}" if wanted else "none",
            remedy="complete the folder",
        )
