"""Parts that the builders share: what the modality decides, transfer syntaxes, pixels in bytes, UIDs, shuffling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.valuerep import format_number_as_ds

if TYPE_CHECKING:
    from tests.dicom.builder import SeriesSpec

ENCODERS = {
    "RLE": uid.RLELossless,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
    "JPEG lossless": uid.JPEGLosslessSV1,
}
SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    **ENCODERS,
}
"""Transfer syntaxes by name; `SeriesSpec.transfer_syntax` takes a name or a UID."""


@dataclass(frozen=True)
class Kind:
    """What the modality decides."""

    sop_class: str
    image_type: tuple[str, ...]
    rescale: tuple[float, float] | None
    attributes: Mapping[str, Any]


KINDS = {
    "CT": Kind(
        uid.CTImageStorage,
        ("ORIGINAL", "PRIMARY", "AXIAL"),
        (1, -1024),
        {"KVP": 120, "RescaleType": "HU", "AcquisitionNumber": 1},
    ),
    "MR": Kind(
        uid.MRImageStorage,
        ("ORIGINAL", "PRIMARY", "OTHER"),
        None,
        {
            "ScanningSequence": "GR",
            "SequenceVariant": "SP",
            "ScanOptions": "FS",
            "MRAcquisitionType": "3D",
            "RepetitionTime": 4,
            "EchoTime": 2,
            "EchoTrainLength": 1,
            "AcquisitionNumber": 1,
        },
    ),
    "PT": Kind(
        uid.PositronEmissionTomographyImageStorage,
        ("ORIGINAL", "PRIMARY"),
        (2.5, 0),
        {
            "Units": "BQML",
            "CountsSource": "EMISSION",
            "SeriesType": ["WHOLE BODY", "IMAGE"],
            "CorrectedImage": ["DECY", "ATTN"],
            "DecayCorrection": "START",
            "CollimatorType": "NONE",
            "ActualFrameDuration": 60000,
            "FrameReferenceTime": 0,
            "DecayFactor": 1,
            "AcquisitionDate": "20010203",
            "AcquisitionTime": "101112",
            "RadiopharmaceuticalInformationSequence": [],
            "PatientOrientationCodeSequence": [],
            "PatientGantryRelationshipCodeSequence": [],
        },
    ),
    "OT": Kind(uid.SecondaryCaptureImageStorage, ("DERIVED", "SECONDARY"), None, {"ConversionType": "WSD"}),
}


def add_pixels(dataset: Dataset, spec: SeriesSpec, values: NDArray[Any]) -> None:
    """Add values ([frame,] row, column[, sample]) as the specification says, compressed if it says so."""
    is_colour = spec.photometric == "RGB"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3 if is_colour else 1), spec.photometric
    if is_colour:
        dataset.PlanarConfiguration = 0
    dataset.Columns, dataset.Rows = spec.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored = spec.bits_allocated, spec.bits
    dataset.HighBit = spec.bits - 1 if spec.high_bit is None else spec.high_bit
    dataset.PixelRepresentation = int(spec.is_signed)
    low_bit = dataset.HighBit + 1 - spec.bits
    words = values.astype(np.int64) << low_bit
    if spec.junk_bits:
        mask = ((1 << spec.bits) - 1) << low_bit
        words = (words & mask) | (random_of(f"{spec.name} junk").integers(0, 1 << 32, words.shape) & ~mask)
    order = ">" if spec.syntax == uid.ExplicitVRBigEndian else "<"
    data = (words & ((1 << spec.bits_allocated) - 1)).astype(f"{order}u{spec.bits_allocated // 8}").tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if spec.bits_allocated > 8 else "OB"
    if spec.syntax.is_encapsulated and spec.syntax != uid.JPEGLosslessSV1:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        dataset.compress(spec.syntax, generate_instance_uid=False)


def save(dataset: Dataset, path: Path, spec: SeriesSpec) -> None:
    """Write a dataset in the specification's transfer syntax."""
    if spec.is_bare:
        dataset.save_as(path, implicit_vr=spec.syntax.is_implicit_VR, little_endian=True)
        return
    meta = dataset.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    by_gdcm = spec.syntax == uid.JPEGLosslessSV1 and "PixelData" in dataset
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if by_gdcm else spec.syntax
    dataset.save_as(path, enforce_file_format=True)
    if by_gdcm:
        _encode_jpeg_lossless(path)


def _encode_jpeg_lossless(path: Path) -> None:
    """Let gdcm transcode a file to JPEG lossless, process 14, selection value 1."""
    import gdcm

    original = pydicom.dcmread(path)
    if original.SamplesPerPixel > 1:
        raise ValueError("gdcm's writer ends the process when a CT is in colour")
    reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError("gdcm does not read the file")
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise ValueError("gdcm does not encode the file")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise ValueError("gdcm does not write the file")
    encoded = pydicom.dcmread(path)  # gdcm changes other attributes: only its pixels are wanted
    original.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    original.PixelData = encoded.PixelData
    original["PixelData"].VR = "OB"
    original.save_as(path, enforce_file_format=True)


def set_attributes(dataset: Dataset, attributes: Mapping[str, Any], k: int) -> None:
    """Set attributes, of slice k where they are functions; None deletes."""
    for keyword, value in attributes.items():
        new = value(k) if callable(value) else value
        if new is not None:
            setattr(dataset, keyword, new)
        elif keyword in dataset:
            del dataset[keyword]


def make_uid(*seeds: str) -> str:
    """Return the UID of a seed."""
    return str(uid.generate_uid(entropy_srcs=list(seeds)))


def decimals(values: Iterable[float]) -> list[str]:
    """Return decimal strings of at most 16 characters."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]


def shuffled(count: int, seed: str) -> list[int]:
    """Return 1..count in an order that neither rises nor falls (2: that falls)."""
    order = list(range(count, 0, -1))
    generator = random_of(seed)
    while count > 2 and order in (sorted(order), sorted(order, reverse=True)):
        order = [int(number) + 1 for number in generator.permutation(count)]
    return order


def random_of(seed: str) -> np.random.Generator:
    """Return the generator of a seed."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
