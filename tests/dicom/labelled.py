"""A series and a label object in a folder -> what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.dicom.annotations import find_annotations, open_annotation
from medseg.dicom.links import Link, link_structures
from medseg.dicom.planes import planes_of
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.scan import scan_pile
from medseg.dicom.stack import stack_series
from medseg.findings import Finding
from tests.dicom.annotation_builder import save_object
from tests.dicom.builder import SeriesSpec, write_series


def links_in(folder: Path) -> list[Link]:
    """Link all structures below a folder to its CT and MR series."""
    series = [one for one in scan_pile(folder).series if one.modality in ("CT", "MR")]
    found, _ = find_annotations(folder)
    return link_structures(found, series)


def drawn(folder: Path, spec: SeriesSpec, dataset: Dataset) -> tuple[dict[str, NDArray[np.bool_]], list[Finding]]:
    """Write a series and a label object, and draw every structure [column, row, slice]; raise what refuses one."""
    write_series(folder / "series", spec)
    save_object(dataset, folder / "labels.dcm")
    return drawn_in(folder, spec)


def drawn_in(folder: Path, spec: SeriesSpec) -> tuple[dict[str, NDArray[np.bool_]], list[Finding]]:
    """Draw every structure below a folder."""
    series = [one for one in scan_pile(folder).series if one.modality in ("CT", "MR")]
    masks, findings = {}, []
    for link in links_in(folder):
        if link.error:
            raise link.error
        with quiet_pydicom():
            planes = planes_of(stack_series(series[link.series or 0], Policies()))
        drawing = open_annotation(link.annotation)(link.structure, planes)
        masks[link.structure.name] = np.zeros(spec.shape, dtype=bool)
        for number, mask in drawing.slices.items():
            masks[link.structure.name][:, :, number] = mask.T
        findings += drawing.findings
    return masks, findings
