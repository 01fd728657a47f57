"""A `Volume` -> a classic DICOM series, one file a slice: CT Image Storage or MR Image Storage.

Attributes follow the CT Image IOD (DICOM PS3.3 A.3) and the MR Image IOD (A.4). The patient is synthetic.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from medseg.dicom.geometry import LPS_TO_RAS
from medseg.errors import DicomError
from medseg.files import atomic_path, make_folder, require_new_folder, storage_error
from medseg.volume import Volume

_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}
_INTERCEPTS = {"CT": -1024, "MR": 0}
_PATIENT = "PHANTOM^TORSO"
_DATE, _TIME = "20000101", "120000"
_USUAL_BITS = 12


def write_series(volume: Volume, folder: Path, *, identity: str, description: str = "medseg phantom") -> list[Path]:
    """Write a volume as a DICOM series: slice k of the array's last axis becomes one file.

    Rows run along i and columns along j. Values are rounded to whole numbers; CT is stored with a rescale intercept
    of -1024. The same arguments give the same bytes. The series appears all at once.

    Args:
        volume: CT or MR, with axes at right angles.
        folder: New or empty; gets ``slice_0001.dcm`` and so on.
        identity: What the UIDs are derived from: the same text, the same UIDs.
        description: SeriesDescription.

    Returns:
        The files, in the order of k.

    Raises:
        UsageError: The folder is not empty.
        DicomError: The modality is neither CT nor MR, the axes are sheared, or values do not fit 16 bits.
        StorageError: A file cannot be written; nothing is left in the folder.
    """
    modality = _checked_modality(volume)
    stored = _stored_values(volume, modality)
    shared = _shared_attributes(volume, modality, identity, description)
    bits = _USUAL_BITS if int(stored.max()) < 1 << _USUAL_BITS else 16
    require_new_folder(folder)
    names = [f"slice_{k + 1:04d}.dcm" for k in range(stored.shape[2])]
    make_folder(folder.parent)
    temporary = folder.with_name(f".{secrets.token_hex(4)}.{folder.name}")
    try:
        for k, name in enumerate(names):
            dataset = _slice_dataset(shared, volume, k, identity)
            _add_pixels(dataset, stored[:, :, k].T, bits)
            with atomic_path(temporary / name) as path:
                dataset.save_as(path, enforce_file_format=True)
        temporary.replace(folder)
    except OSError as error:
        raise storage_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in names]


def _checked_modality(volume: Volume) -> str:
    if volume.modality not in _CLASSES:
        raise DicomError(
            volume.source or "volume",
            expected="modality CT or MR",
            found=str(volume.modality),
            remedy="set the volume's modality",
        )
    if volume.grid.is_sheared:
        raise DicomError(
            volume.source or "volume",
            expected="axes at right angles",
            found="a sheared grid",
            remedy="resample the volume first",
        )
    return volume.modality


def _stored_values(volume: Volume, modality: str) -> NDArray[np.uint16]:
    """Return the values [i, j, k] to be stored: whole numbers without the rescale intercept."""
    stored = np.rint(volume.array.astype(np.float64)) - _INTERCEPTS[modality]
    low, high = float(stored.min()), float(stored.max())
    limit = np.iinfo(np.uint16).max
    if not (low >= 0 and high <= limit):
        intercept = _INTERCEPTS[modality]
        raise DicomError(
            volume.source or "volume",
            expected=f"{modality} values from {intercept} to {limit + intercept}",
            found=f"{low + intercept:g} to {high + intercept:g}",
            remedy="clip or shift the values",
        )
    return stored.astype(np.uint16)


def _shared_attributes(volume: Volume, modality: str, identity: str, description: str) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = _CLASSES[modality]
    dataset.Modality = modality
    _add_patient_and_study(dataset, identity)
    _add_series(dataset, identity, description)
    if modality == "CT":
        _add_ct(dataset)
    else:
        _add_mr(dataset)
    affine = LPS_TO_RAS @ volume.affine
    spacing = volume.spacing_mm
    directions = affine[:3, :3] / np.array(spacing)
    dataset.ImageOrientationPatient = _decimals([*directions[:, 0], *directions[:, 1]])
    dataset.PixelSpacing = _decimals([spacing[1], spacing[0]])
    dataset.SliceThickness = _decimals([spacing[2]])[0]
    return dataset


def _add_patient_and_study(dataset: Dataset, identity: str) -> None:
    dataset.PatientName = _PATIENT
    dataset.PatientID = f"PHANTOM-{_uid(identity, 'patient')[-12:]}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.StudyInstanceUID = _uid(identity, "study")
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = _DATE
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = _TIME
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = "1"
    dataset.AccessionNumber = ""


def _add_series(dataset: Dataset, identity: str, description: str) -> None:
    dataset.SeriesInstanceUID = _uid(identity, "series")
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = description
    dataset.PatientPosition = "HFS"
    dataset.BodyPartExamined = "ABDOMEN"
    dataset.FrameOfReferenceUID = _uid(identity, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer = "medseg"
    dataset.ManufacturerModelName = "torso phantom"
    dataset.AcquisitionNumber = 1
    dataset.QualityControlImage = "YES"


def _add_ct(dataset: Dataset) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.RescaleIntercept = _INTERCEPTS["CT"]
    dataset.RescaleSlope = 1
    dataset.RescaleType = "HU"
    dataset.KVP = "120"
    dataset.WindowCenter, dataset.WindowWidth = "40", "400"


def _add_mr(dataset: Dataset) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence = "GR"
    dataset.SequenceVariant = ["SP", "OSP"]
    dataset.ScanOptions = "FS"
    dataset.MRAcquisitionType = "3D"
    dataset.RepetitionTime = "4"
    dataset.EchoTime = "2"
    dataset.EchoTrainLength = 1
    dataset.FlipAngle = "10"
    dataset.MagneticFieldStrength = "1.5"


def _slice_dataset(shared: Dataset, volume: Volume, k: int, identity: str) -> Dataset:
    dataset = Dataset(shared)
    position = (LPS_TO_RAS @ volume.affine) @ np.array([0.0, 0.0, k, 1.0])
    dataset.ImagePositionPatient = _decimals(position[:3].tolist())
    dataset.InstanceNumber = k + 1
    dataset.SOPInstanceUID = _uid(identity, f"slice {k}")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset


def _add_pixels(dataset: Dataset, values: NDArray[np.uint16], bits: int) -> None:
    """Add values (rows, columns)."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def _uid(identity: str, what: str) -> str:
    return str(generate_uid(entropy_srcs=[identity, what]))


def _decimals(values: Any) -> list[str]:
    """Return numbers as decimal strings of at most 16 characters."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]
