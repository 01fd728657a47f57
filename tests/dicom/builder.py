"""Writes every kind of DICOM series that tests of a reader need, with pydicom alone.

Slices are numbered k along the normal of the image plane (row direction x column direction). What is returned is in
that order; the names of the files and the instance numbers are shuffled, so that neither ever helps a reader.
Positions, orientations and millimetres are DICOM's own (LPS). The same specification gives the same bytes and UIDs.
Multi-frame objects are written by `tests.dicom.enhanced_builder`; `tests.dicom.builder_extras` damages files and
writes what else lies in a folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from tests.dicom.builder_parts import (
    KINDS,
    SYNTAXES,
    add_pixels,
    decimals,
    make_uid,
    random_of,
    save,
    set_attributes,
    shuffled,
)

CANARY = {
    "name": "CANARYNAME^GIVENCANARY",
    "patient_id": "CANARYID4711",
    "birth_date": "19470228",
    "accession": "CANARYACC0815",
}
"""The patient's identity in every dataset."""

CANARY_WORDS = ("CANARY", "19470228", "1947-02-28")
"""No log, message or name of a file may hold one of these."""

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, -0.8)

PerSlice = float | Sequence[float] | Callable[[int], float]


@dataclass(frozen=True, eq=False)
class SeriesSpec:
    """What a series is like; by default a regular axial CT of six slices with random 16-bit values.

    Args:
        name: What the pixels and the UIDs of the instances are derived from.
        series: What the series UID is derived from; `name` by default.
        study: What the UIDs of study and frame of reference are derived from.
        modality: CT, MR, PT or OT; sets the class, the image type and the rescale that are not given.
        sop_class: UID.
        shape: Columns, rows, slices; JPEG 2000 needs 32 columns and rows or more.
        spacing_mm: Between columns, between rows, between slices along the normal.
        distances_mm: Of the slices from the first one along the normal, instead of a constant spacing.
        missing: Slices that are left out.
        origin_mm: Of slice 0.
        orientation: Direction of a row, then of a column: six numbers.
        shear_mm_per_mm: Shift along the row and the column direction per millimetre along the normal.
        jitter_mm: Largest random error of each coordinate of each position.
        has_geometry: Whether position, orientation, spacing and frame of reference are there.
        stored: Values before rescale [column, row, slice], with a last axis of 3 for RGB; random by default.
        slopes: One for all, a sequence, or a function of k.
        intercepts: Likewise.
        bits_allocated: 8, 16 or 32.
        bits_stored: As many by default.
        high_bit: `bits_stored` - 1 by default; more shifts the values up in their words.
        junk_bits: Whether bits outside the stored ones are random.
        is_signed: Pixel representation.
        photometric: MONOCHROME1, MONOCHROME2 or RGB.
        transfer_syntax: A key of `SYNTAXES` or a UID.
        image_type: By modality if not given.
        instance_numbers: Shuffled if not given.
        attributes: Keyword to value or function of k, set last; a value of None deletes.
        suffix: Of the names of the files.
        is_bare: Whether preamble and file meta information are left out; implicit or explicit little endian only.
    """

    name: str = "series"
    series: str = ""
    study: str = "study"
    modality: str = "CT"
    sop_class: str = ""
    shape: tuple[int, int, int] = (40, 36, 6)
    spacing_mm: tuple[float, float, float] = (0.8, 1.1, 2.5)
    distances_mm: Sequence[float] | None = None
    missing: Collection[int] = ()
    origin_mm: tuple[float, float, float] = (-30.25, -45.5, -70.75)
    orientation: Sequence[float] = AXIAL
    shear_mm_per_mm: tuple[float, float] = (0.0, 0.0)
    jitter_mm: float = 0.0
    has_geometry: bool = True
    stored: NDArray[Any] | None = None
    slopes: PerSlice | None = None
    intercepts: PerSlice | None = None
    bits_allocated: int = 16
    bits_stored: int = 0
    high_bit: int | None = None
    junk_bits: bool = False
    is_signed: bool = True
    photometric: str = "MONOCHROME2"
    transfer_syntax: str = "explicit"
    image_type: Sequence[str] = ()
    instance_numbers: Sequence[int] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ".dcm"
    is_bare: bool = False

    @property
    def slices(self) -> list[int]:
        """The k of the slices that are not missing."""
        return [k for k in range(self.shape[2]) if k not in self.missing]

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return make_uid("series", self.series or self.name)

    @property
    def syntax(self) -> uid.UID:
        """UID of the transfer syntax."""
        return uid.UID(SYNTAXES.get(self.transfer_syntax, self.transfer_syntax))

    @property
    def bits(self) -> int:
        """Bits stored."""
        return self.bits_stored or self.bits_allocated


def write_series(folder: Path, spec: SeriesSpec | None = None, **changes: Any) -> list[Path]:
    """Write a series, one file a slice, into a folder that may exist; return the files in the order of k."""
    spec = replace(spec or SeriesSpec(), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    stored, names = stored_values(spec), shuffled(spec.shape[2], f"{spec.name} files")
    tag = hashlib.sha256(spec.name.encode()).hexdigest()[:6]
    paths = []
    for k in spec.slices:
        path = folder / f"{names[k]:05d}{tag}{spec.suffix}"
        save(_slice_dataset(spec, k, stored[:, :, k]), path, spec)
        paths.append(path)
    return paths


def write_merged(folder: Path, *specs: SeriesSpec) -> list[list[Path]]:
    """Write several specifications as one series (`series` of the first); return the files of each."""
    first = specs[0]
    if len({spec.name for spec in specs}) < len(specs):
        raise ValueError("specifications of one series need names of their own; see `variants`")
    numbers = iter(shuffled(sum(spec.shape[2] for spec in specs), f"{first.name} merged"))
    result = []
    for spec in specs:
        own = spec.instance_numbers or [next(numbers) for _ in range(spec.shape[2])]
        result.append(write_series(folder, spec, series=first.series or first.name, instance_numbers=own))
    return result


def variants(spec: SeriesSpec | None = None, /, **values: Iterable[Any]) -> list[SeriesSpec]:
    """Return one specification per value, other pixels each: `variants(spec, EchoTime=[5, 10])`.

    A keyword is an attribute of DICOM or a field of the specification.
    """
    spec = spec or SeriesSpec()
    result = []
    for number, row in enumerate(zip(*values.values(), strict=True)):
        changes = dict(zip(values, row, strict=True))
        fields = {key: changes.pop(key) for key in tuple(changes) if key in SeriesSpec.__dataclass_fields__}
        merged = {**spec.attributes, **fields.pop("attributes", {}), **changes}
        identity = {"name": f"{spec.name}/{number}", "series": spec.series or spec.name}
        result.append(replace(spec, **{**identity, **fields, "attributes": merged}))
    return result


def gantry_tilt(degrees: float, table_step_mm: float = 2.5) -> dict[str, Any]:
    """Return the changes that make a CT with tilted gantry: slices step along z, planes lean towards it."""
    angle = np.deg2rad(degrees)
    return {
        "orientation": (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle))),
        "shear_mm_per_mm": (0.0, float(np.tan(angle))),
        "spacing_mm": (0.8, 1.1, float(table_step_mm * np.cos(angle))),
        "attributes": {"GantryDetectorTilt": degrees},
    }


def planted_values(spec: SeriesSpec | None = None, **changes: Any) -> NDArray[np.float32]:
    """Return the true values after rescale [column, row, slice], in the order of the slices that are written."""
    spec = replace(spec or SeriesSpec(), **changes)
    stored, planes = stored_values(spec), []
    for k in spec.slices:
        header = Dataset()
        add_rescale(header, spec, k)
        set_attributes(header, spec.attributes, k)
        slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
        planes.append((stored[:, :, k] * slope + intercept).astype(np.float32))
    return np.stack(planes, axis=2)


def stored_values(spec: SeriesSpec) -> NDArray[Any]:
    """Return the values before rescale [column, row, slice], missing slices included."""
    kind = np.dtype(f"{'i' if spec.is_signed else 'u'}{spec.bits_allocated // 8}")
    if spec.stored is not None:
        return np.asarray(spec.stored).astype(kind, casting="same_kind")
    low = -(1 << (spec.bits - 1)) if spec.is_signed else 0
    shape = (*spec.shape, 3) if spec.photometric == "RGB" else spec.shape
    return (
        random_of(f"{spec.name} pixels").integers(low, low + (1 << spec.bits), shape, dtype=np.int64).astype(kind)
    )


def positions_mm(spec: SeriesSpec) -> NDArray[np.float64]:
    """Return ImagePositionPatient (slices, 3), missing slices included."""
    x, y = np.array(spec.orientation, dtype=float).reshape(2, 3)
    steps = np.arange(spec.shape[2]) * spec.spacing_mm[2] if spec.distances_mm is None else spec.distances_mm
    lean = np.cross(x, y) + spec.shear_mm_per_mm[0] * x + spec.shear_mm_per_mm[1] * y
    errors = random_of(f"{spec.name} jitter").uniform(-spec.jitter_mm, spec.jitter_mm, (spec.shape[2], 3))
    return np.asarray(np.array(spec.origin_mm) + np.outer(steps, lean) + errors)


def _slice_dataset(spec: SeriesSpec, k: int, plane: NDArray[Any]) -> Dataset:
    """Return one image; `plane` is [column, row]."""
    dataset = common_dataset(spec, k)
    kind = KINDS[spec.modality]
    set_attributes(dataset, kind.attributes, k)
    dataset.ImageType = list(spec.image_type or kind.image_type)
    numbers = spec.instance_numbers or shuffled(spec.shape[2], f"{spec.name} numbers")
    dataset.InstanceNumber = numbers[k]
    if spec.modality == "PT":
        dataset.NumberOfSlices, dataset.ImageIndex = len(spec.slices), numbers[k]
    if spec.has_geometry:
        dataset.FrameOfReferenceUID = make_uid("frame", spec.study)
        dataset.PositionReferenceIndicator = ""
        if "PatientOrientationCodeSequence" not in dataset:
            dataset.PatientPosition = "HFS"
        dataset.ImageOrientationPatient = decimals(spec.orientation)
        dataset.ImagePositionPatient = decimals(positions_mm(spec)[k])
        dataset.PixelSpacing = decimals((spec.spacing_mm[1], spec.spacing_mm[0]))
        dataset.SliceThickness = decimals(spec.spacing_mm[2:])[0]
    add_rescale(dataset, spec, k)
    add_pixels(dataset, spec, plane.swapaxes(0, 1))
    set_attributes(dataset, spec.attributes, k)
    return dataset


def common_dataset(spec: SeriesSpec, k: int) -> Dataset:
    """Return what every object of a series has: patient, study, series, class and instance."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = spec.sop_class or KINDS[spec.modality].sop_class
    dataset.SOPInstanceUID = instance_uid(spec, k)
    dataset.PatientName, dataset.PatientID = CANARY["name"], CANARY["patient_id"]
    dataset.PatientBirthDate, dataset.PatientSex = CANARY["birth_date"], "O"
    dataset.StudyInstanceUID, dataset.StudyID = make_uid("study", spec.study), "1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = CANARY["accession"], "CANARYDOCTOR^ANNA"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20010203"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "101112"
    dataset.StudyDescription, dataset.SeriesDescription = "a study", "a series"
    dataset.SeriesInstanceUID, dataset.SeriesNumber = spec.series_uid, 1
    dataset.Modality, dataset.Manufacturer, dataset.BodyPartExamined = spec.modality, "builder", "ABDOMEN"
    return dataset


def add_rescale(dataset: Dataset, spec: SeriesSpec, k: int, *, is_required: bool = False) -> None:
    """Add slope and intercept of slice k, unless neither the specification nor the modality has any."""
    default = KINDS[spec.modality].rescale
    if default is None and spec.slopes is None and spec.intercepts is None and not is_required:
        return
    slope, intercept = default or (1.0, 0.0)
    slopes = slope if spec.slopes is None else spec.slopes
    intercepts = intercept if spec.intercepts is None else spec.intercepts
    dataset.RescaleSlope, dataset.RescaleIntercept = decimals([_of_slice(slopes, k), _of_slice(intercepts, k)])


def _of_slice(value: PerSlice, k: int) -> float:
    if callable(value):
        return value(k)
    return value[k] if isinstance(value, Sequence) else value


def instance_uid(spec: SeriesSpec, k: int) -> str:
    """Return the SOPInstanceUID of slice k."""
    return make_uid("instance", spec.name, str(k))
