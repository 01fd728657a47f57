"""Annotated series: what a pile of DICOM holds for training, and the label map that structures make on a series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.structure_map import MappedLabel, StructureMap
from medseg.dicom.annotations import Annotation, Draw, find_annotations, is_annotation, open_annotation
from medseg.dicom.contours import Mask
from medseg.dicom.links import Link, link_structures
from medseg.dicom.planes import planes_of
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.refusal import refusal
from medseg.dicom.scan import scan_pile
from medseg.dicom.select import SeriesRules, first_failed
from medseg.dicom.series import Series
from medseg.dicom.stack import Stack, stack_series
from medseg.dicom.structure import Structure
from medseg.dicom.tags import PATIENT_ID
from medseg.findings import Finding, FindingCode
from medseg.labels import BACKGROUND
from medseg.volume import smallest_unsigned

MODALITIES = ("CT", "MR")
"""Series of these are taken where the rules name no modality."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""


@dataclass(frozen=True)
class AnnotatedSeries:
    """A series and what label objects say of it.

    Attributes:
        series: The series.
        links: The structures that were drawn on it, or that name it and cannot be drawn on it.
        left: The rule that leaves the series out; "" where none does.
    """

    series: Series
    links: tuple[Link, ...] = ()
    left: str = ""

    @property
    def structures(self) -> list[Structure]:
        """The structures that can be drawn on it and are not empty."""
        return [link.structure for link in self.links if link.error is None and not link.structure.is_empty]

    @property
    def patient_id(self) -> str:
        """PatientID, an identifier."""
        return self.series.header.tags.get(PATIENT_ID, "")


@dataclass(frozen=True)
class AnnotatedPile:
    """What piles of DICOM hold.

    Attributes:
        series: Every image series, annotated or not.
        orphans: Structures of label objects that name no series that is there.
        findings: Files that are neither.
    """

    series: tuple[AnnotatedSeries, ...]
    orphans: tuple[Link, ...]
    findings: tuple[Finding, ...]

    @property
    def annotated(self) -> list[AnnotatedSeries]:
        """The series that have a structure to be drawn."""
        return [one for one in self.series if one.structures]


@dataclass(frozen=True)
class LabelPlan:
    """Which structures become which label on one series.

    Attributes:
        chosen: Label -> the structures that it is made of.
        ignored: Structures that match no label.
        missing: Labels without a structure that the map takes all the same.
    """

    chosen: Mapping[str, tuple[Link, ...]] = field(repr=False)
    ignored: tuple[Structure, ...]
    missing: tuple[MappedLabel, ...]


def find_annotated(
    paths: Sequence[Path], rules: SeriesRules | None = None, progress: Progress | None = None
) -> AnnotatedPile:
    """Find the series of piles of DICOM and the structures that were drawn on them; no pixels are read.

    Args:
        paths: Folders with their subfolders, zips, DICOMDIRs or files; one pile together.
        rules: Which series are wanted; all CT and MR by default. Its `prefer` does not count: the annotation does.
        progress: See `Progress`.

    Raises:
        DicomError: There is no such path, or a zip or DICOMDIR is damaged.
    """
    rules = rules or SeriesRules()
    rules = rules if rules.modality else rules.model_copy(update={"modality": MODALITIES})
    series: list[Series] = []
    annotations: list[Annotation] = []
    findings: list[Finding] = []
    for path in paths:
        scan = scan_pile(path, extra=rules.extra_tags | {PATIENT_ID}, progress=_told(progress, "images"))
        found, odd = find_annotations(path, _told(progress, "label objects"))
        series += [one for one in scan.series if not is_annotation(one.header.sop_class_uid)]
        annotations += found
        findings += [finding for finding in scan.findings if finding.code is not FindingCode.NOT_AN_IMAGE]
        findings += odd
    failed = {number: first_failed(rules, one) for number, one in enumerate(series)}
    left = {number: f"{rule[0]} ({rule[1]})" for number, rule in failed.items() if rule}
    links: defaultdict[int | None, list[Link]] = defaultdict(list)
    for link in link_structures(annotations, series, left):
        links[link.series].append(link)
    found_series = (AnnotatedSeries(one, tuple(links[k]), left.get(k, "")) for k, one in enumerate(series))
    return AnnotatedPile(tuple(found_series), tuple(links[None]), tuple(findings))


def plan_labels(annotated: AnnotatedSeries, structure_map: StructureMap) -> LabelPlan:
    """Decide which structures become which label.

    Raises:
        DicomError: A structure matches several labels, several match one label that is not merged, one that is
            wanted cannot be drawn on the series, or a label is missing that must be there.
    """
    where = f"series {annotated.series.name}"
    chosen: defaultdict[str, list[Link]] = defaultdict(list)
    ignored = []
    for link in annotated.links:
        labels = structure_map.match(link.structure)
        if not labels:
            ignored.append(link.structure)
        elif len(labels) > 1:
            found = f"{link.structure.shown} for {' and '.join(mapped.name for mapped in labels)}"
            raise _conflict(where, "one label for each structure", found)
        elif not link.structure.is_empty:
            chosen[labels[0].name].append(link)
            if link.error:
                raise link.error
    _check_conflicts(chosen, structure_map, where)
    missing = tuple(mapped for mapped in structure_map.labels if mapped.name not in chosen)
    has_none = len(ignored) == len(annotated.links)
    refused = [mapped.name for mapped in missing if has_none or structure_map.missing_of(mapped) == "refuse"]
    if refused:
        remedy = "correct match" if has_none else "correct match, or set missing to empty or ignore"
        found = f"none for {', '.join(refused)}"
        raise refusal(where, FindingCode.STRUCTURE_MISSING, "a structure for each label", found, remedy)
    return LabelPlan({name: tuple(links) for name, links in chosen.items()}, tuple(ignored), missing)


def _check_conflicts(chosen: Mapping[str, Sequence[Link]], structure_map: StructureMap, where: str) -> None:
    for mapped in structure_map.labels:
        links = chosen.get(mapped.name, ())
        if len(links) > 1 and not mapped.merge:
            found = ", ".join(link.structure.shown for link in links)
            raise _conflict(where, f"one structure for {mapped.name}, or merge: true", found)


def draw_labels(
    annotated: AnnotatedSeries, plan: LabelPlan, structure_map: StructureMap, policies: Policies | None = None
) -> tuple[Stack, NDArray[np.unsignedinteger[Any]], list[Finding]]:
    """Draw the labels of a series.

    Returns:
        The series' geometry; the label values [column, row, slice], as its pixels are read; findings.

    Raises:
        DicomError: The series is no volume, or a structure does not lie on its slices.
    """
    with quiet_pydicom():
        stack = stack_series(annotated.series, policies or Policies())
        planes = planes_of(stack)
    shape = (planes.shape[1], planes.shape[0], stack.count)
    largest = max(structure_map.label_set.largest, structure_map.ignore_value or 0)
    array: NDArray[np.unsignedinteger[Any]] = np.zeros(shape, smallest_unsigned(largest), order="F")
    findings: list[Finding] = []
    objects: dict[int, Draw] = {}
    for mapped in structure_map.painted:
        union: dict[int, Mask] = {}
        for link in plan.chosen.get(mapped.name, ()):
            if id(link.annotation) not in objects:
                objects[id(link.annotation)] = open_annotation(link.annotation)
            drawing = objects[id(link.annotation)](link.structure, planes)
            findings += drawing.findings
            for number, mask in drawing.slices.items():
                union[number] = union[number] | mask if number in union else mask
        findings += _painted(array, union, mapped, structure_map)
    findings += _unlearnt(array, plan, structure_map)
    return stack, array, findings


def _painted(
    array: NDArray[np.unsignedinteger[Any]],
    slices: Mapping[int, Mask],
    mapped: MappedLabel,
    structure_map: StructureMap,
) -> Iterator[Finding]:
    """Paint a label over the others, and say how much of these it took."""
    names = {one.index: one.name for one in structure_map.labels}
    taken: defaultdict[int, int] = defaultdict(int)
    for number, mask in slices.items():
        plane = array[:, :, number].T  # (rows, columns)
        values, counts = np.unique(plane[mask], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            taken[value] += count
        plane[mask] = mapped.index
    for value, count in sorted(taken.items()):
        if value != BACKGROUND:
            message = f"{count} voxel(s) of {names[value]} are {mapped.name}, too: taken as {mapped.name}"
            yield Finding(FindingCode.LABEL_OVERLAP, message)


def _unlearnt(
    array: NDArray[np.unsignedinteger[Any]], plan: LabelPlan, structure_map: StructureMap
) -> Iterator[Finding]:
    """Say which labels are missing; unlabelled voxels that may be of one are to be ignored."""
    unknown = [mapped.name for mapped in plan.missing if structure_map.missing_of(mapped) == "ignore"]
    absent = [mapped.name for mapped in plan.missing if mapped.name not in unknown]
    if unknown:
        array[array == BACKGROUND] = structure_map.ignore_value or BACKGROUND
        message = f"no {', '.join(unknown)}: nobody learns from the unlabelled voxels"
        yield Finding(FindingCode.STRUCTURE_MISSING, message)
    if absent:
        yield Finding(FindingCode.STRUCTURE_MISSING, f"no {', '.join(absent)}: taken as not there")


def _conflict(where: str, expected: str, found: str) -> Exception:
    return refusal(where, FindingCode.STRUCTURE_CONFLICT, expected, found, "make the map's match more exact")


def _told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
