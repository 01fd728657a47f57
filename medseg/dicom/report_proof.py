"""The numbers of a measurement report that was written, read back by pydicom alone and computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from medseg.dicom.code_proof import Coded, check_coded, label_side
from medseg.dicom.diameter_proof import longest_diameters
from medseg.dicom.label_names import object_name
from medseg.dicom.origin import Origin, require_known_values
from medseg.dicom.proof import reading
from medseg.dicom.report_items import Code, code_of, found_items
from medseg.dicom.report_segments import Segments
from medseg.dicom.source_images import SourceImages
from medseg.dicom.structure import concept_of, laterality_of, text_of_element
from medseg.labels import Label, LabelMap
from medseg.proof import Proof, match_labels, pixels_of, proof_error
from medseg.volume import Volume, require_same_grid

_KIND = str(Comprehensive3DSRStorage), "SR"
_GROUP = ("DCM", "125007")
_TRACKING = ("DCM", "112039")
_CATEGORY, _FINDING = ("SCT", "276214006"), ("DCM", "121071")
_SITE, _SIDE = ("SCT", "363698007"), ("SCT", "272741003")
_DERIVATION = ("DCM", "121401")
_VOLUME, _LONG_AXIS = ("SCT", "118565006"), ("SCT", "103339001")
_MEAN, _DEVIATION = ("SCT", "373098007"), ("SCT", "386136009")
_MILLILITRE, _MILLIMETRE = ("UCUM", "ml"), ("UCUM", "mm")
_OF_IMAGE = {
    "CT": (("DCM", "112031"), ("UCUM", "[hnsf'U]")),  # attenuation coefficient, Hounsfield units
    "MR": (("DCM", "110852"), ("UCUM", "1")),  # signal intensity
}
_HOUNSFIELD = ("", "HU")  # RescaleType of a CT (PS3.3 C.8.2.1)

_TOLERANCE = 1e-5  # of a number: reports round to seven digits

Name = tuple[Code, Code | None]
"""What a number is, and, of what is measured in the image, how it is derived."""


@dataclass(frozen=True)
class _Values:
    """One label of the mask: voxels, and mean and standard deviation of the image's finite values in it."""

    voxels: int
    mean: float = np.nan
    deviation: float = np.nan


@dataclass(frozen=True)
class _Number:
    """A number that a report holds, or has to hold."""

    what: str
    value: float
    unit: Code
    scale: float = 0.0  # rounding is relative to the value and to this


def prove_report(
    path: Path,
    origin: Origin,
    labels: LabelMap,
    *,
    image: Volume | None = None,
    segmentation: Path | None = None,
) -> Proof:
    """Prove that the numbers of a Comprehensive 3D SR (PS3.16 TID 1500) are those of the mask.

    Every label of the mask has one group and no other has any; it is of the type, category and side of its label.
    Its volume and longest axial diameter are computed again from the mask, and with an image mean and standard
    deviation are, which have to be there where their meaning is known; names and units are looked at. With a SEG,
    each group refers to its label's segment of it, by the same tracking UID; where slices of the volume are not
    those of the series, to none. Study, patient and the images named as evidence are those of the source.

    Args:
        path: What was written.
        origin: The images that the mask was drawn on.
        labels: The mask.
        image: What was measured, on the same grid.
        segmentation: The SEG of the same mask that the report has to refer to.

    Raises:
        ProofError: A number or a reference is another one; it names the label and both numbers.
        GridError: Mask, image and series do not lie on one grid.
        InputError: The mask holds a value that its labels do not name.
    """
    began, where = perf_counter(), path.name
    for grid in (labels.grid, *([] if image is None else [image.grid])):
        require_same_grid(origin.grid, grid, owner=origin.where, where="what is compared")
    require_known_values(labels)
    images = SourceImages(origin)
    with reading(where):
        dataset = dcmread(path)
        images.check_object(dataset, _KIND, where)
        studies, instances = _evidence(dataset)
        images.check_evidence(studies, instances, where)
        segments = Segments(origin, segmentation if origin.stack.is_plain else None)
        segments.check_evidence(instances, where)
        groups = list(found_items(dataset, _GROUP))
        expected = _expected(origin, labels, image)
        for number, own in _classes(groups, expected, labels, where).items():
            label = tuple(labels.labels)[own - 1]
            at = f"{where}, label {label.name}"
            _compare(dict(_numbers(groups[number], at)), expected[own], at)
            check_coded(_coded(groups[number], label), label, where)
            segments.check_group(groups[number], label, at)
    return Proof(path.name, _KIND[1], (), perf_counter() - began)


def _classes(
    groups: Sequence[Dataset], expected: Mapping[int, object], labels: LabelMap, where: str
) -> dict[int, int]:
    """Return number of each group -> class index of its label; every label that is there has one."""
    names = [object_name(label) for label in labels.labels]
    classes = match_labels([(number, _name(group)) for number, group in enumerate(groups)], names, where)
    for number, label in enumerate(labels.labels, start=1):
        if (number in expected) != (number in classes.values()):
            is_there = number in expected
            texts = ("its group", "none") if is_there else ("no group: the mask has none of it", "one")
            raise proof_error(f"{where}, label {label.name}", *texts)
    return classes


def _expected(origin: Origin, labels: LabelMap, image: Volume | None) -> dict[int, dict[Name, _Number]]:
    """Return the numbers of each class index that is there; without an image, without what is measured in it."""
    kind = _meaning_of_values(origin)
    lengths_mm = longest_diameters(labels)
    found: dict[int, dict[Name, _Number]] = {}
    for own, values in _values_of(labels, image).items():
        volume_ml = values.voxels * labels.grid.voxel_volume_ml
        found[own] = {
            (_VOLUME, None): _Number("volume in ml", volume_ml, _MILLILITRE),
            (_LONG_AXIS, None): _Number("long axis in mm", lengths_mm[own], _MILLIMETRE),
        }
        if kind is not None and np.isfinite(values.mean):
            name, unit = kind
            found[own][name, _MEAN] = _Number("mean", values.mean, unit, values.deviation)
            found[own][name, _DEVIATION] = _Number("deviation", values.deviation, unit, values.deviation)
    return found


def _compare(found: Mapping[Name, _Number], expected: Mapping[Name, _Number], where: str) -> None:
    """Compare the numbers of a group; what is measured in an image may only be there where one was given."""
    for name, want in expected.items():
        if name not in found:
            raise proof_error(where, f"a {want.what}", f"{len(found)} other number(s)")
        got = found[name]
        if got.unit != want.unit:
            raise proof_error(where, f"the unit {want.unit[1]}", got.unit[1] or "none")
        if not abs(got.value - want.value) <= _TOLERANCE * (abs(want.value) + want.scale):
            raise proof_error(where, f"a {want.what} of {want.value:.7g}", f"{got.value:.7g}")
    if any(name[1] is not None for name in expected) and set(found) != set(expected):
        raise proof_error(where, f"{len(expected)} numbers", f"{len(set(found) - set(expected))} others too")


def _numbers(group: Dataset, where: str) -> Iterator[tuple[Name, _Number]]:
    """Yield the numbers of a group: by what they are, and by their derivation where measured in the image."""
    names = set()
    for item in group.ContentSequence:
        if text_of_element(item, "ValueType") != "NUM":
            continue
        code, measured = code_of(item, "ConceptNameCodeSequence"), item.MeasuredValueSequence[0]
        derived = [code_of(one, "ConceptCodeSequence") for one in found_items(item, _DERIVATION)]
        is_of_mask = code in (_VOLUME, _LONG_AXIS)
        name = code, None if is_of_mask or not derived else derived[0]
        if name in names:
            raise proof_error(where, "each number once", f"two of code {code[1]}")
        names.add(name)
        unit = code_of(measured, "MeasurementUnitsCodeSequence")
        yield name, _Number("", float(measured.NumericValue), unit)


def _coded(group: Dataset, label: Label) -> Coded:
    """Return what a group says that its label is; a side is that of a place, which not all that is found has."""
    kind, category = (
        next((concept_of(item.get("ConceptCodeSequence")) for item in found_items(group, code)), None)
        for code in (_FINDING, _CATEGORY)
    )
    sites = list(found_items(group, _SITE))
    said = [concept_of(one.get("ConceptCodeSequence")) for site in sites for one in found_items(site, _SIDE)]
    side = laterality_of(said[0]) if said and said[0] else None
    return Coded(kind, category, side if sites else label_side(label))


def _meaning_of_values(origin: Origin) -> tuple[Code, Code] | None:
    """Return name and unit of the image's values; None where nobody knows what they are."""
    modality = origin.stack.series.modality
    if modality == "CT":
        for dataset in origin.datasets:
            own = (dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()])[0]
            shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
            groups = [
                group for part in (own, shared) for group in part.get("PixelValueTransformationSequence") or ()
            ]
            if any(text_of_element(part, "RescaleType") not in _HOUNSFIELD for part in (dataset, *groups)):
                return None
    return _OF_IMAGE.get(modality)


def _values_of(labels: LabelMap, image: Volume | None) -> Mapping[int, _Values]:
    """Count the voxels of each class index that is there, plane by plane, and average the image's values."""
    size = len(labels.labels) + 1
    counts, sums = np.zeros(size, dtype=np.int64), np.zeros((3, size))  # finite values: number, sum, squares
    for k in range(labels.array.shape[2]):
        plane = labels.array[:, :, k].T
        there = pixels_of(plane)
        classes = np.searchsorted(labels.labels.channel_values, plane[there])
        counts += np.bincount(classes, minlength=size)
        if image is not None:
            values = image.array[:, :, k].T[there].astype(np.float64)
            finite = np.isfinite(values)
            for power in range(3):
                sums[power] += np.bincount(classes[finite], weights=values[finite] ** power, minlength=size)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums[1] / sums[0]
        deviations = np.sqrt(np.maximum(sums[2] / sums[0] - means**2, 0))
    return {
        int(number): _Values(int(counts[number]), float(means[number]), float(deviations[number]))
        for number in np.flatnonzero(counts)
    }


def _evidence(dataset: Dataset) -> tuple[set[str], set[str]]:
    """Return the studies that a report names as evidence, and the images and objects."""
    studies, instances = set(), set()
    for study in dataset.get("CurrentRequestedProcedureEvidenceSequence") or ():
        studies.add(text_of_element(study, "StudyInstanceUID"))
        for series in study.ReferencedSeriesSequence:
            instances |= {text_of_element(one, "ReferencedSOPInstanceUID") for one in series.ReferencedSOPSequence}
    return studies, instances


def _name(group: Dataset) -> str:
    names = [text_of_element(item, "TextValue") for item in found_items(group, _TRACKING)]
    return names[0] if len(names) == 1 else ""
