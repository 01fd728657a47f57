"""The numbers of a measurement report that was written, read back by pydicom alone and computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.origin import Origin, require_known_values
from medseg.dicom.proof import reading
from medseg.dicom.source_images import SourceImages
from medseg.dicom.structure import concept_of, text_of_element
from medseg.labels import LabelMap
from medseg.proof import Proof, match_labels, pixels_of, proof_error
from medseg.volume import Volume, require_same_grid

_GROUP = ("DCM", "125007")
_TRACKING = ("DCM", "112039")
_DERIVATION = ("DCM", "121401")
_VOLUME = ("SCT", "118565006")
_MEAN, _DEVIATION = ("SCT", "373098007"), ("SCT", "386136009")
_LONG_AXIS = ("SCT", "103339001")
_UNITS = {_VOLUME: ("UCUM", "ml"), _LONG_AXIS: ("UCUM", "mm")}

_TOLERANCE = 1e-5  # of a number: reports round to seven digits

Code = tuple[str, str]


@dataclass(frozen=True)
class _Values:
    """One label of the mask: voxels, and mean and standard deviation of the image's finite values in it."""

    voxels: int
    mean: float = np.nan
    deviation: float = np.nan


def prove_report(path: Path, origin: Origin, labels: LabelMap, image: Volume | None = None) -> Proof:
    """Prove that the numbers of a Comprehensive 3D SR (PS3.16 TID 1500) are those of the mask.

    Every label of the mask has one group and no other has any. Its volume is computed again from the mask, and with
    an image mean and standard deviation are; of the longest diameter only unit and sign are looked at. Study,
    patient and the images named as evidence are those of the source.

    Args:
        path: What was written.
        origin: The images that the mask was drawn on.
        labels: The mask.
        image: What was measured, on the same grid.

    Raises:
        ProofError: A number is another one; it names the label and both numbers.
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
        images.check_object(dataset, where)
        images.check_evidence(*_evidence(dataset), where)
        groups = dict(enumerate(_found(dataset, _GROUP)))
        names = [(number, _name(group)) for number, group in groups.items()]
        classes = match_labels(names, labels.labels, where)
        expected = _values_of(labels, image)
        for number, label in enumerate(labels.labels, start=1):
            if (number in expected) != (number in classes.values()):
                texts = (
                    ("its group", "none") if number in expected else ("no group: the mask has none of it", "one")
                )
                raise proof_error(f"{where}, label {label.name}", *texts)
        named = tuple(labels.labels)
        for group, number in classes.items():
            at = f"{where}, label {named[number - 1].name}"
            _compare(groups[group], expected[number], labels.grid.voxel_volume_ml, at)
    return Proof(path.name, "SR", (), perf_counter() - began)


def _compare(group: Dataset, expected: _Values, voxel_ml: float, where: str) -> None:
    """Compare the numbers of a group."""
    found = dict(_numbers(group, where))
    if _VOLUME not in found or _LONG_AXIS not in found:
        raise proof_error(where, "a volume and a long axis", f"{len(found)} other number(s)")
    _check("volume in ml", expected.voxels * voxel_ml, found[_VOLUME], 0.0, where)
    if not 0 < found[_LONG_AXIS] < np.inf:
        raise proof_error(where, "a long axis above 0 mm", f"{found[_LONG_AXIS]:g}")
    for name, code, value in (("mean", _MEAN, expected.mean), ("deviation", _DEVIATION, expected.deviation)):
        if code in found and np.isfinite(value):
            _check(name, value, found[code], expected.deviation, where)


def _check(name: str, expected: float, found: float, scale: float, where: str) -> None:
    if not abs(found - expected) <= _TOLERANCE * (abs(expected) + scale):
        raise proof_error(where, f"a {name} of {expected:.7g}", f"{found:.7g}")


def _numbers(group: Dataset, where: str) -> Iterator[tuple[Code, float]]:
    """Yield the numbers of a group: by what they are, or by their derivation for what is measured in the image."""
    for item in group.ContentSequence:
        if text_of_element(item, "ValueType") != "NUM":
            continue
        name, measured = _code(item, "ConceptNameCodeSequence"), item.MeasuredValueSequence[0]
        unit = _code(measured, "MeasurementUnitsCodeSequence")
        if _UNITS.get(name, unit) != unit:
            raise proof_error(where, f"the unit {_UNITS[name][1]}", unit[1])
        derived = [_code(one, "ConceptCodeSequence") for one in _found(item, _DERIVATION)]
        is_of_image = name not in _UNITS and derived
        yield (derived[0] if is_of_image else name), float(measured.NumericValue)


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
    names = [text_of_element(item, "TextValue") for item in _found(group, _TRACKING)]
    return names[0] if len(names) == 1 else ""


def _found(item: Dataset, code: Code) -> Iterator[Dataset]:
    """Yield the content items of a name at any depth, but within one another."""
    for one in item.get("ContentSequence") or ():
        if _code(one, "ConceptNameCodeSequence") == code:
            yield one
        else:
            yield from _found(one, code)


def _code(item: Dataset, keyword: str) -> Code:
    concept = concept_of(item.get(keyword))
    return (concept.scheme, concept.value) if concept else ("", "")
