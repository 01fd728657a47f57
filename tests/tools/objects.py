"""Every kind of object, made of a case and written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.dicom.capture import make_captures
from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.output_options import CaptureOptions, RtstructOptions, SegOptions, SrOptions
from medseg.dicom.rtstruct import make_structure_set
from medseg.dicom.seg import make_segmentation
from medseg.dicom.sr import make_measurement_report
from medseg.maker import Maker
from medseg.measurements import measure
from medseg.report.overview import overview
from tests.tools.sources import SYNTHETIC, Case

MAKER = Maker("torso demo", "0123456789abcdef" * 4)
SMALL = ("seg", "seg_labelmap", "rtstruct", "sr", "capture")
INSTITUTION = {"institution": "Test hospital", "department": "Radiology"}


class Objects(dict[str, Path]):
    """Files by the names of `KINDS`; the test skips where one was not made."""

    def __missing__(self, kind: str) -> Path:
        pytest.skip(f"{kind} is made of synthetic series only: of a large one, it is large")


def save_all(case: Case, folder: Path) -> Objects:
    """Write one object of every kind; of real series, those that are small."""
    paths = Objects()
    for kind, make in KINDS.items():
        if case.name in SYNTHETIC or kind in SMALL:
            paths[kind] = folder / f"{kind}.dcm"
            save_object(make(case), paths[kind])
    return paths


def identity(case: Case, kind: str) -> Identity:
    """Return the UIDs of an object."""
    return Identity(case.origin, MAKER, kind)


def segmentation(case: Case, kind: str, **options: Any) -> Dataset:
    """Make a DICOM SEG."""
    chosen = SegOptions(**INSTITUTION, **options)
    probabilities = partial(_certain, case) if chosen.type == "FRACTIONAL" else None
    return make_segmentation(case.origin, case.labels, identity(case, kind), chosen, probabilities).dataset


def _certain(case: Case, name: str) -> NDArray[np.float16]:
    """Return the probability of a label as a model that is rather sure: 0.8 in the label, 0.2 beside it."""
    (label,) = [label for label in case.labels.labels if label.name == name]
    inside = case.labels.array == label.index
    return np.where(inside, 0.8, np.where(np.roll(inside, 1, axis=0), 0.2, 0.0)).astype(np.float16)


def structure_set(case: Case, kind: str, **options: Any) -> Dataset:
    """Make an RTSTRUCT."""
    chosen = RtstructOptions(**INSTITUTION, **options)
    return make_structure_set(case.origin, case.labels, identity(case, kind), chosen).dataset


def report(case: Case, kind: str) -> Dataset:
    """Make a measurement report that refers to the segments of `seg`."""
    measurements, chosen = measure(case.labels, case.image), SrOptions(**INSTITUTION)
    return make_measurement_report(
        case.origin, measurements, identity(case, kind), chosen, segmentation(case, "seg")
    ).dataset


def capture(case: Case, kind: str) -> Dataset:
    """Make a secondary capture."""
    picture = overview(case.image, case.labels)
    (dataset,) = make_captures(case.origin, [picture.pixels], identity(case, kind), CaptureOptions(**INSTITUTION))
    return dataset


KINDS: dict[str, Callable[[Case], Dataset]] = {
    "seg": partial(segmentation, kind="seg"),
    "seg_fractional": partial(segmentation, kind="seg_fractional", type="FRACTIONAL"),
    "seg_fractional_rle": partial(
        segmentation, kind="seg_fractional_rle", type="FRACTIONAL", compression="rle", series_number=9311
    ),
    "seg_labelmap": partial(segmentation, kind="seg_labelmap", type="LABELMAP", series_number=9312),
    "rtstruct": partial(structure_set, kind="rtstruct"),
    "rtstruct_keyhole": partial(structure_set, kind="rtstruct_keyhole", holes="keyhole", series_number=9313),
    "sr": partial(report, kind="sr"),
    "capture": partial(capture, kind="capture"),
}
"""How an object of each kind is made."""
