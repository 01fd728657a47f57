"""How each kind of output is made: files are written, read back and proved, in this order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medseg.dicom.capture import make_captures
from medseg.dicom.capture_proof import prove_captures
from medseg.dicom.object_parts import save_object
from medseg.dicom.proof import prove_segmentation, prove_structure_set
from medseg.dicom.report_proof import prove_report
from medseg.dicom.rtstruct import make_structure_set
from medseg.dicom.seg import make_segmentation
from medseg.dicom.sr import make_measurement_report
from medseg.errors import UsageError
from medseg.files import atomic_path, write_text
from medseg.inference.saved import SUFFIX
from medseg.labels import LabelMap
from medseg.measurements import measurements_csv, measurements_json
from medseg.nifti import write_nifti
from medseg.nifti_proof import prove_label_map
from medseg.outputs.making import Making, Product
from medseg.outputs.nifti import organ_files, organ_mask
from medseg.outputs.page import page_of
from medseg.outputs.tables import label_tables
from medseg.recipe.outputs import (
    CaptureOutput,
    NiftiOutput,
    PicturesOutput,
    ProbabilitiesOutput,
    ReportOutput,
    RtstructOutput,
    SegOutput,
    SrOutput,
    TablesOutput,
)
from medseg.report.case import case_page
from medseg.report.overview import Picture

Make = Callable[[Making, str, Any], None]
"""Writes an output of a name with its options."""


def write_masks(making: Making, name: str, options: NiftiOutput) -> None:
    """Write the label map, or a mask for each label, and what the values mean."""
    labels = making.case.labels
    if options.per_organ:
        folder = _stem(name, options.kind, "organs")
        for label, file in organ_files(labels.labels):
            _write_label_map(making, name, f"{folder}/{file}", organ_mask(labels, label))
    else:
        _write_label_map(making, name, f"{_stem(name, options.kind, 'labels')}.nii.gz", labels)
    for file, text in label_tables(labels.labels).items() if options.tables else ():
        write_text(making.add(name, file if name == options.kind else f"{name}_{file}"), text)


def write_segmentation(making: Making, name: str, options: SegOutput) -> None:
    """Write a DICOM SEG."""
    if making.is_empty(name):
        return
    case, origin = making.case, making.origin
    probabilities = making.probability_of() if options.type == "FRACTIONAL" else None
    made = make_segmentation(origin, case.labels, making.identity(name), options, probabilities)
    path = making.add(name, f"{name}.dcm")
    save_object(made.dataset, path)
    proof = prove_segmentation(path, origin, case.labels, options=options, probabilities=probabilities)
    making.proofs.append(proof)
    del made.dataset.PixelData  # reports refer to the rest
    making.segmentations[name] = made
    making.findings += made.findings


def write_structure_set(making: Making, name: str, options: RtstructOutput) -> None:
    """Write an RTSTRUCT."""
    if making.is_empty(name):
        return
    made = make_structure_set(making.origin, making.case.labels, making.identity(name), options)
    path = making.add(name, f"{name}.dcm")
    save_object(made.dataset, path)
    making.proofs.append(prove_structure_set(path, making.origin, making.case.labels, options))
    making.findings += made.findings


def write_measurement_report(making: Making, name: str, options: SrOutput) -> None:
    """Write a DICOM SR that refers to the segments of a SEG of the same recipe."""
    if making.is_empty(name):
        return
    referred = making.recipe.segmentation_of(name)
    segmentation = making.segmentations[referred].dataset
    identity = making.identity(name)
    made = make_measurement_report(making.origin, making.measurements, identity, options, segmentation)
    path = making.add(name, f"{name}.dcm")
    save_object(made.dataset, path)
    case, other = making.case, making.path_of(referred)
    proof = prove_report(path, making.origin, case.labels, image=case.image, segmentation=other)
    making.proofs.append(proof)
    making.findings += made.findings


def write_tables(making: Making, name: str, options: TablesOutput) -> None:
    """Write the measurements as CSV and JSON."""
    texts = {"csv": measurements_csv, "json": measurements_json}
    for kind in options.formats:
        path = making.add(name, f"{_stem(name, options.kind, 'measurements')}.{kind}")
        write_text(path, texts[kind](making.measurements, making.case.channel))


def write_probabilities(making: Making, name: str, options: ProbabilitiesOutput) -> None:
    """Hand on the file that the network wrote."""
    if making.case.probabilities is None:
        raise UsageError(name, expected="probabilities", found="none saved", remedy="run it by medseg segment")
    making.products.append(
        Product(name, f"{_stem(name, options.kind, 'labels')}{SUFFIX}", making.case.probabilities)
    )


def write_pictures(making: Making, name: str, options: PicturesOutput) -> None:
    """Write overlays as PNG, one a plane."""
    for picture in making.planes:
        if picture.name in options.planes:
            with atomic_path(making.add(name, f"{name}_{picture.name}.png")) as temporary:
                temporary.write_bytes(picture.png)


def write_captures(making: Making, name: str, options: CaptureOutput) -> None:
    """Write the same pictures as DICOM Secondary Capture."""
    pictures: tuple[Picture, ...] = making.planes
    pixels = [picture.pixels for picture in pictures]
    captures = make_captures(making.origin, pixels, making.identity(name), options)
    for picture, dataset in zip(pictures, captures, strict=True):
        path = making.add(name, f"{name}_{picture.name}.dcm")
        save_object(dataset, path)
        making.proofs.append(prove_captures(path, making.origin, picture.pixels))


def write_page(making: Making, name: str, options: ReportOutput) -> None:
    """Write the page of the study; the last one, as it tells of the others."""
    write_text(making.add(name, f"{name}.html"), case_page(page_of(making, with_pictures=options.pictures)))


def _write_label_map(making: Making, output: str, file: str, labels: LabelMap) -> None:
    path = making.add(output, file)
    write_nifti(path, labels)
    making.proofs.append(prove_label_map(path, labels))


def _stem(name: str, kind: str, usual: str) -> str:
    """Return the stem of a file: the usual one where the output has the name of its kind."""
    return usual if name == kind else name


MAKERS: dict[str, Make] = {
    "nifti": write_masks,
    "probabilities": write_probabilities,
    "seg": write_segmentation,
    "rtstruct": write_structure_set,
    "sr": write_measurement_report,
    "tables": write_tables,
    "pictures": write_pictures,
    "capture": write_captures,
    "report": write_page,
}
"""By kind, in the order in which they are made: reports come after what they refer to."""
