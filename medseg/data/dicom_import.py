"""Annotated DICOM studies -> a data set: images and label maps as NIfTI, a manifest, a report on every series."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.annotated import AnnotatedPile, AnnotatedSeries, LabelPlan, Progress, draw_labels, plan_labels
from medseg.data.folds import patient_folds
from medseg.data.schema import CaseEntry, Channel, Manifest, Modality, Splits
from medseg.data.structure_map import StructureMap
from medseg.dicom.policy import Policies
from medseg.dicom.read import read_stack
from medseg.dicom.values import short_hash
from medseg.errors import DicomError, UsageError
from medseg.files import sha256_of, write_text
from medseg.findings import Finding, FindingCode
from medseg.labels import Label, LabelMap, LabelSet
from medseg.nifti import write_nifti
from medseg.volume import Volume

REPORT = "import.csv"
"""Name of the report in the data set's folder."""

_HASH_DIGITS = 12
_NO_LABELS = "no-labels"
_COLUMNS = ["study", "series", "patient", "modality", "taken", "reason", "detail", "voxels", "ignored", "findings"]


@dataclass(frozen=True)
class DicomImportOptions:
    """What an import adds to what the files say.

    Attributes:
        name: Name of the data set; that of its folder where it is None.
        folds: Number of cross-validation folds, by patient; 0 for none.
        seed: Of the folds.
        key: Secret that patients' ids are hashed with; a plain hash where it is empty, which a list of all
            possible ids undoes.
        policies: What to do about irregular series.
    """

    name: str | None = None
    folds: int = 5
    seed: int = 0
    key: bytes = field(default=b"", repr=False)
    policies: Policies = field(default_factory=Policies)


@dataclass(frozen=True)
class ImportRow:
    """What became of one series, or of one label object without a series; free of patient data.

    Attributes:
        study: Hash of the StudyInstanceUID.
        series: Hash of the SeriesInstanceUID, the id of its case; "" for a label object without a series.
        patient: Hash of the PatientID.
        modality: Of the series.
        is_taken: Whether it is a case of the data set.
        reason: Code of what refused it; "" where it is taken.
        detail: The reason in a sentence.
        voxels: Label -> number of voxels.
        ignored: Names of structures that match no label.
        findings: What was odd and tolerated.
    """

    study: str
    series: str
    patient: str
    modality: str
    is_taken: bool = False
    reason: str = ""
    detail: str = ""
    voxels: dict[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def has_labels(self) -> bool:
        """Whether a label object refers to it."""
        return self.reason != _NO_LABELS


@dataclass(frozen=True)
class DicomImport:
    """The outcome of an import.

    Attributes:
        manifest: None where no series was taken.
        rows: One a series and one a label object without a series.
    """

    manifest: Manifest | None
    rows: tuple[ImportRow, ...]


def import_dicom(
    pile: AnnotatedPile,
    structure_map: StructureMap,
    output: Path,
    options: DicomImportOptions | None = None,
    progress: Progress | None = None,
) -> DicomImport:
    """Write a case for every series whose structures make up the map's labels.

    Images go to ``images/CASE.nii.gz`` and labels to ``labels/CASE.nii.gz`` on the series' own grid; `REPORT` says
    what became of every series. A case is named by the hash of its SeriesInstanceUID, a patient by that of the
    PatientID. A series that is refused does not stop the others. Where there are fewer patients than folds, there
    are as many folds as patients.

    Args:
        pile: Of `medseg.data.annotated.find_annotated`.
        structure_map: Which structures become which label.
        output: The data set's folder.
        options: Name, folds and so on.
        progress: See `Progress`.

    Raises:
        UsageError: Annotated series are both CT and MR.
        StorageError: A file cannot be written.
    """
    options = options or DicomImportOptions()
    modality = _one_modality(pile)
    annotated = [one for one in pile.series if one.links]
    entries, rows = [], []
    for number, one in enumerate(annotated, start=1):
        entry, row = _case(one, structure_map, output, options)
        entries += [entry] if entry else []
        rows.append(row)
        if progress:
            progress("cases", number, len(annotated))
    rows += [_unlabelled(one, options) for one in pile.series if not one.links]
    rows += _orphans(pile, structure_map, options)
    manifest = _manifest(entries, modality, structure_map, output, options) if entries else None
    write_text(output / REPORT, _report_text(rows))
    return DicomImport(manifest, tuple(rows))


def patient_name(annotated: AnnotatedSeries, key: bytes = b"") -> str:
    """Return the name that a patient has in the data set: a hash of the PatientID, keyed where there is a key.

    Without a PatientID the patient's name counts; without both, each study is a patient of its own.
    """
    header = annotated.series.header
    identity = annotated.patient_id
    if not identity:
        has_name = header.patient != short_hash("", "")
        identity = f"name {header.patient}" if has_name else f"study {header.study_uid}"
    content = identity.encode(errors="replace")
    digest = hmac.new(key, content, hashlib.sha256) if key else hashlib.sha256(content)
    return digest.hexdigest()[:_HASH_DIGITS]


def _one_modality(pile: AnnotatedPile) -> str:
    found = sorted({one.series.modality for one in pile.annotated if not one.left})
    if len(found) > 1:
        raise UsageError(
            "import-dicom",
            expected="annotated series of one modality",
            found=" and ".join(found),
            remedy="pass --modality CT or --modality MR",
        )
    is_known = bool(found) and found[0] in {modality.value for modality in Modality}
    return found[0] if is_known else Modality.OTHER.value


def _case(
    one: AnnotatedSeries, structure_map: StructureMap, output: Path, options: DicomImportOptions
) -> tuple[CaseEntry | None, ImportRow]:
    """Write one case, or say why not."""
    facts = _facts(one, options)
    try:
        plan = plan_labels(one, structure_map)
        entry, voxels, findings = _written(one, plan, structure_map, output, options)
    except DicomError as error:
        detail = f"expected {error.expected}, found {error.found}; {error.remedy}"
        return None, ImportRow(*facts, reason=error.reason, detail=detail, ignored=_ignored(one, structure_map))
    shown = tuple(structure.shown for structure in plan.ignored)
    return entry, ImportRow(*facts, True, voxels=voxels, ignored=shown, findings=tuple(findings))


def _written(
    one: AnnotatedSeries, plan: LabelPlan, structure_map: StructureMap, output: Path, options: DicomImportOptions
) -> tuple[CaseEntry, dict[str, int], list[Finding]]:
    stack, array, findings = draw_labels(one, plan, structure_map, options.policies)
    image = read_stack(stack)
    name = one.series.name
    paths = {folder: f"{folder}/{name}.nii.gz" for folder in ("images", "labels")}
    write_nifti(output / paths["images"], image)
    write_nifti(output / paths["labels"], _label_map(image, array, structure_map))
    entry = CaseEntry(
        id=name,
        patient=patient_name(one, options.key),
        images=(paths["images"],),
        label=paths["labels"],
        image_sha256=(sha256_of(output / paths["images"]),),
        label_sha256=sha256_of(output / paths["labels"]),
    )
    voxels = {label.name: int(np.count_nonzero(array == label.index)) for label in structure_map.label_set}
    return entry, voxels, [*image.findings, *findings, *_identity_findings(one)]


def _manifest(
    entries: Sequence[CaseEntry],
    modality: str,
    structure_map: StructureMap,
    output: Path,
    options: DicomImportOptions,
) -> Manifest:
    patients = {entry.owner for entry in entries}
    count = min(options.folds, len(patients))
    folds = patient_folds(sorted(patients), count, options.seed) if count > 1 else []
    return Manifest(
        name=options.name or output.resolve().name,
        description=f"{len(entries)} annotated series of {len(patients)} patient(s)",
        root=".",
        channels=(Channel(name=modality, modality=Modality(modality)),),
        labels=structure_map.label_set,
        ignore_value=structure_map.ignore_value,
        cases=tuple(sorted(entries, key=lambda entry: entry.id)),
        splits=Splits(seed=options.seed, folds=dict(enumerate(map(tuple, folds)))) if folds else None,
    )


def _facts(one: AnnotatedSeries, options: DicomImportOptions) -> tuple[str, str, str, str]:
    series = one.series
    return series.study_name, series.name, patient_name(one, options.key), series.shown(series.modality)


def _ignored(one: AnnotatedSeries, structure_map: StructureMap) -> tuple[str, ...]:
    return tuple(link.structure.shown for link in one.links if not structure_map.match(link.structure))


def _unlabelled(one: AnnotatedSeries, options: DicomImportOptions) -> ImportRow:
    detail = f"no label object refers to it{f'; left by {one.left}' if one.left else ''}"
    return ImportRow(*_facts(one, options), reason=_NO_LABELS, detail=detail)


def _orphans(pile: AnnotatedPile, structure_map: StructureMap, options: DicomImportOptions) -> Iterator[ImportRow]:
    """Yield a row for each label object that has a structure without a series."""
    for annotation in {id(link.annotation): link.annotation for link in pile.orphans}.values():
        links = [link for link in pile.orphans if link.annotation is annotation]
        error = next(link.error for link in links if link.error)
        detail = f"expected {error.expected}, found {error.found}; {error.remedy}"
        names = tuple(link.structure.shown for link in links)
        yield ImportRow(
            annotation.study_name, "", "", annotation.kind.value, reason=error.reason, detail=detail, ignored=names
        )


def _identity_findings(one: AnnotatedSeries) -> Iterator[Finding]:
    if not one.patient_id:
        message = "no PatientID: told apart by name, or by study where there is none"
        yield Finding(FindingCode.NO_PATIENT_ID, message)


def _label_map(image: Volume, array: NDArray[Any], structure_map: StructureMap) -> LabelMap:
    """Return the label map; the value to be ignored counts as a label there."""
    labels = tuple(structure_map.label_set)
    if structure_map.ignore_value is not None:
        labels += (Label(index=structure_map.ignore_value, name=f"ignore {structure_map.ignore_value}"),)
    return LabelMap(Volume(array, image.affine), LabelSet(labels))


def _report_text(rows: Sequence[ImportRow]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow(
            [
                *(row.study, row.series, row.patient, row.modality, "yes" if row.is_taken else "no"),
                *(row.reason, row.detail),
                "; ".join(f"{name} {count}" for name, count in row.voxels.items()),
                "; ".join(row.ignored),
                "; ".join(map(str, row.findings)),
            ]
        )
    return stream.getvalue()
