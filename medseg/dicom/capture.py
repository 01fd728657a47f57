"""Pictures -> Secondary Capture Image Storage (PS3.3 A.8.1), for archives whose viewers know neither SEG nor SR.

BurnedInAnnotation is NO: it says whether text in the picture identifies the patient or the date (PS3.3 C.7.6.1),
and what is burnt in here does neither. The pictures count in no frame of reference: nothing can be measured there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from medseg.dicom.charset import fit_character_set
from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import start_object
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import CaptureOptions
from medseg.dicom.quiet import quiet_pydicom
from medseg.errors import UsageError

_MOST_PIXELS = 65535  # Rows and Columns are of VR US
_COMMENT = "Not for diagnostic use. Drawn by software; not verified by a person."
_DESCRIPTION = "Slices of the source series with the outlines of a segmentation"


def make_captures(
    origin: Origin, pictures: Sequence[NDArray[np.uint8]], identity: Identity, options: CaptureOptions
) -> list[Dataset]:
    """Make a series of secondary captures, one a picture, numbered from 1 in the order given.

    Args:
        origin: The images that the mask was drawn on.
        pictures: (rows, columns, 3) each, red, green, blue; no patient data in them.
        identity: UIDs of the output.
        options: Series and institution.

    Returns:
        Data sets, ready for `medseg.dicom.object_parts.save_object`.

    Raises:
        UsageError: A picture has another form, or more than 65,535 rows or columns.
    """
    for picture in pictures:
        _check(picture)
    with quiet_pydicom():
        return [_capture(picture, identity, options, number) for number, picture in enumerate(pictures, start=1)]


def _capture(picture: NDArray[np.uint8], identity: Identity, options: CaptureOptions, number: int) -> Dataset:
    dataset = start_object(SecondaryCaptureImageStorage, identity, options, number)
    dataset.Modality = "OT"
    dataset.Laterality = ""  # of a series of several organs
    dataset.ConversionType = "WSD"  # workstation
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.DerivationDescription = _DESCRIPTION
    dataset.PatientOrientation = ""  # several planes, so no one direction
    dataset.BurnedInAnnotation = "NO"
    dataset.ImageComments = _COMMENT
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = picture.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.LossyImageCompression = "00"
    dataset.PixelData = picture.tobytes()  # pydicom writes an even number of bytes (PS3.5 8.1.1)
    dataset["PixelData"].VR = "OB"
    fit_character_set(dataset)
    return dataset


def _check(picture: NDArray[Any]) -> None:
    is_rgb = picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8
    if not is_rgb or not min(picture.shape) > 0 or max(picture.shape) > _MOST_PIXELS:
        raise UsageError(
            "picture",
            expected=f"8-bit red, green, blue of at most {_MOST_PIXELS} rows and columns",
            found=f"{picture.dtype}, shape {picture.shape}",
            remedy="draw it with medseg.report.overview",
        )
