"""Writes the label objects of `tests/dicom/frozen` with highdicom 0.28 and rt-utils 1.2.

Run it from the repository's root in an environment of its own that holds both::

    python -m tests.dicom.freeze_annotations
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from rt_utils import RTStructBuilder

from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.frozen import AXIAL_CT, FOLDER, OBLIQUE_MR, fractions, masks

CODES = {"Liver": codes.SCT.Liver, "Spleen": codes.SCT.Spleen}


def describe(number: int, name: str) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=CODES[name],
        algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
    )


def segmentation(
    slices: list[Dataset], pixels: NDArray[np.generic], kind: SegmentationTypeValues, names: list[str], seed: str
) -> Segmentation:
    """Write masks [slice, row, column, segment], or label values without the last axis."""
    extra = {}
    if kind is SegmentationTypeValues.FRACTIONAL:
        extra = {"fractional_type": SegmentationFractionalTypeValues.PROBABILITY, "max_fractional_value": 200}
    return Segmentation(
        source_images=slices,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[describe(number, name) for number, name in enumerate(names, start=1)],
        series_instance_uid=pydicom.uid.generate_uid(entropy_srcs=[seed, "series"]),
        series_number=100,
        sop_instance_uid=pydicom.uid.generate_uid(entropy_srcs=[seed, "instance"]),
        instance_number=1,
        manufacturer="highdicom",
        manufacturer_model_name=highdicom.__version__,
        software_versions=highdicom.__version__,
        device_serial_number="1",
        **extra,
    )


def freeze(spec: SeriesSpec, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = write_series(Path(folder), spec)
        slices = [pydicom.dcmread(file) for file in files]
        found = masks()
        organs = np.stack([mask.transpose(2, 1, 0) for mask in found.values()], axis=-1)
        labels = (organs * np.arange(1, 1 + len(found))).sum(axis=-1).astype(np.uint8)
        order = [3, 0, 4, 2, 1]  # the frames need not come in the order of the slices
        given = [slices[k] for k in order]
        kinds = SegmentationTypeValues
        segmentation(given, organs[order].astype(np.uint8), kinds.BINARY, list(found), f"{name} binary").save_as(
            FOLDER / f"{name}_binary.dcm"
        )
        segmentation(given, labels[order], kinds.LABELMAP, list(found), f"{name} labelmap").save_as(
            FOLDER / f"{name}_labelmap.dcm"
        )
        parts = fractions().transpose(2, 1, 0)[order]
        segmentation(given, parts, kinds.FRACTIONAL, ["Liver"], f"{name} fractional").save_as(
            FOLDER / f"{name}_fractional.dcm"
        )
        structures = RTStructBuilder.create_new(dicom_series_path=folder)
        for organ, mask in found.items():
            structures.add_roi(mask=mask.transpose(1, 0, 2), name=organ)
        structures.save(str(FOLDER / f"{name}_rtstruct.dcm"))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    freeze(AXIAL_CT, "axial")
    freeze(OBLIQUE_MR, "oblique")
