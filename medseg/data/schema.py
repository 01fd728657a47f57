"""What a manifest file may say: the typed models behind `data_manifests/*.yaml`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from enum import Enum
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from medseg.errors import ManifestError
from medseg.labels import LabelSet
from medseg.regions import Region, region_problems

_Problem = tuple[tuple[int | str, ...], str]


def _relative(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or PureWindowsPath(text).is_absolute():
        raise ValueError("expected a path relative to the data folder")
    if ".." in path.parts:
        raise ValueError("expected a path inside the data folder, without '..'")
    return str(path)


RelativePath = Annotated[str, Field(min_length=1), AfterValidator(_relative)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Modality(Enum):
    """How an image was made: the DICOM modality (PS3.3 C.7.3.1.1.1)."""

    CT = "CT"
    MR = "MR"
    PET = "PT"
    NM = "NM"
    ULTRASOUND = "US"
    ANGIOGRAPHY = "XA"
    OTHER = "OT"


class Channel(BaseModel):
    """One of the images that each case has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="Short name, such as T1 or CT.")
    modality: Modality = Field(description="DICOM modality: CT, MR, PT, NM, US, XA, or OT for any other.")


class CaseEntry(BaseModel):
    """One case: the images of one examination, one a channel, and their label map; channels may be missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, description="Unique name of the case, used in tables and file names.")
    patient: str | None = Field(
        default=None,
        min_length=1,
        description="Whose case it is; a patient's cases share a fold. The case id where unset.",
    )
    images: tuple[RelativePath | None, ...] = Field(
        min_length=1,
        description="One NIfTI file a channel, relative to the data folder, with forward slashes; null for a "
        "channel that the case has not.",
    )
    label: RelativePath | None = Field(
        default=None,
        description="NIfTI label map on the images' grid; unset for a case that nobody annotated.",
    )
    image_sha256: tuple[Sha256 | None, ...] | None = Field(
        default=None, description="SHA-256 of each image file, in the order of `images`; null where there is none."
    )
    label_sha256: Sha256 | None = Field(default=None, description="SHA-256 of the label file.")

    @model_validator(mode="after")
    def _check(self) -> CaseEntry:
        if self.image_sha256 is not None and len(self.image_sha256) != len(self.images):
            raise ValueError(f"{len(self.image_sha256)} checksum(s) for {len(self.images)} image(s)")
        if not any(self.images):
            raise ValueError("a case has an image in one channel at least")
        for image, checksum in zip(self.images, self.image_sha256 or (), strict=False):
            if (image is None) != (checksum is None):
                raise ValueError(f"image {image or 'null'}, but checksum {checksum or 'null'}")
        if self.label_sha256 is not None and self.label is None:
            raise ValueError("a checksum of a label, but no label")
        return self

    @property
    def owner(self) -> str:
        """The patient; the case itself where no patient is named."""
        return self.patient or self.id


class Splits(BaseModel):
    """Which cases each fold is validated on; it trains on all the others. Written down, never drawn again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int | None = Field(default=None, description="Seed that the folds were drawn with; unset if by hand.")
    folds: dict[int, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        min_length=1, description="Fold number: its validation patients (or single cases)."
    )


def _relative_root(text: str) -> str:
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
        raise ValueError("expected a folder relative to this file, or none and --data-root instead")
    return text


def _plain_name(text: str) -> str:
    if PurePosixPath(text).name != text or PureWindowsPath(text).name != text:
        raise ValueError("expected the name of a file beside this one")
    return text


class Manifest(BaseModel):
    """The facts of a data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="Short name of the data set.")
    description: str = Field(default="", description="What it is, where it comes from, what was left out.")
    license: str = Field(default="", description="Licence of the data, as an SPDX identifier where it has one.")
    root: Annotated[str, Field(min_length=1), AfterValidator(_relative_root)] | None = Field(
        default=None,
        description="Folder of the files, relative to this manifest; --data-root comes before it.",
    )
    channels: tuple[Channel, ...] = Field(min_length=1, description="The images of a case, in order.")
    labels: LabelSet = Field(description="What the values of the label maps mean.")
    cases: tuple[CaseEntry, ...] | None = Field(
        default=None, min_length=1, description="The cases; or else cases_csv."
    )
    cases_csv: Annotated[str, AfterValidator(_plain_name)] | None = Field(
        default=None, description="CSV file beside the manifest that lists the cases, for large data sets."
    )
    regions: tuple[Region, ...] = Field(
        default=(),
        description="Unions of labels that are learnt in place of them and may contain one another; the larger "
        "ones first, as the later ones are painted over them.",
    )
    ignore_value: int | None = Field(
        default=None,
        ge=1,
        lt=2**32,
        description="Value of voxels that nobody judged: they are neither learnt from nor counted.",
    )
    splits: Splits | None = Field(default=None, description="Folds for training and validation.")

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if (self.cases is None) == (self.cases_csv is None):
            raise ValueError("give the cases either in cases or in cases_csv")
        problems = [
            InitErrorDetails(type=PydanticCustomError("manifest", "{text}", {"text": text}), loc=where, input=None)
            for where, text in _contradictions(self)
        ]
        if problems:
            raise ValidationError.from_exception_data("Manifest", problems)
        return self

    @property
    def entries(self) -> tuple[CaseEntry, ...]:
        """The cases that stand in the manifest itself; those of a CSV file once it has been read."""
        return self.cases or ()

    def validation_ids(self, fold: int) -> frozenset[str]:
        """Return the ids of the cases that a fold is validated on, with those that have no label.

        Raises:
            ManifestError: There is no such fold.
        """
        folds = self.splits.folds if self.splits else {}
        if fold not in folds:
            raise ManifestError(
                self.name,
                expected=f"a fold {fold}",
                found=f"folds {', '.join(map(str, sorted(folds)))}" if folds else "no folds",
                remedy="choose another fold" if folds else "add splits, or import the data set with --folds",
            )
        owners = {entry.owner for entry in self.entries}
        named = set(folds[fold])
        return frozenset(entry.id for entry in self.entries if entry.owner in named or (entry.id in named - owners))


def _contradictions(manifest: Manifest) -> Iterator[_Problem]:
    """Yield what does not fit together, each with the keys that lead to it."""
    names = [channel.name for channel in manifest.channels]
    for position, name in enumerate(names):
        if name in names[:position]:
            yield ("channels", position, "name"), f"another channel is named {name}"
    for position, key, text in region_problems(manifest.regions, manifest.labels):
        yield ("regions", position, key), text
    if manifest.ignore_value in manifest.labels.indices:
        yield ("ignore_value",), f"{manifest.ignore_value} is the value of a label"
    if manifest.cases is not None:
        yield from _case_contradictions(manifest)
        yield from _fold_contradictions(manifest)


def _case_contradictions(manifest: Manifest) -> Iterator[_Problem]:
    seen: set[str] = set()
    for position, entry in enumerate(manifest.entries):
        if entry.id in seen:
            yield ("cases", position, "id"), f"another case is named {entry.id}"
        seen.add(entry.id)
        images, channels = len(entry.images), len(manifest.channels)
        if images != channels:
            yield ("cases", position, "images"), f"{entry.id} has {images} image(s) for {channels} channel(s)"
    for number, channel in enumerate(manifest.channels):
        if not any(entry.images[number : number + 1] != (None,) for entry in manifest.entries):
            yield ("channels", number), f"no case has an image of channel {channel.name}"


def _fold_contradictions(manifest: Manifest) -> Iterator[_Problem]:
    known = {name for entry in manifest.entries for name in (entry.id, entry.owner)}
    for number, names in (manifest.splits.folds if manifest.splits else {}).items():
        for position, name in enumerate(names):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
                hint = f"; did you mean {near[0]}?" if near else ""
                yield ("splits", "folds", number, position), f"{name} is neither a patient nor a case{hint}"
