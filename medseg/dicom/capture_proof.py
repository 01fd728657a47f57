"""A Secondary Capture that was written, decoded again and compared with its picture."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels import pixel_array
from pydicom.uid import SecondaryCaptureImageStorage

from medseg.dicom.origin import Origin
from medseg.dicom.proof import reading
from medseg.dicom.source_images import SourceImages
from medseg.dicom.structure import text_of_element
from medseg.proof import Proof, proof_error

_KIND = str(SecondaryCaptureImageStorage), "OT"


def prove_captures(path: Path, origin: Origin, picture: NDArray[Any]) -> Proof:
    """Prove that a Secondary Capture holds its picture, and is of the study and patient of its source.

    Args:
        path: What was written.
        origin: The images that the mask was drawn on.
        picture: (rows, columns, 3), 8 bit: red, green, blue.

    Raises:
        ProofError: It cannot be decoded, has another size or other pixels, or belongs to another study or patient.
    """
    began, where = perf_counter(), path.name
    with reading(where):
        dataset = dcmread(path)
        SourceImages(origin).check_object(dataset, _KIND, where)
        if text_of_element(dataset, "PhotometricInterpretation") != "RGB":
            raise proof_error(where, "red, green and blue", "other colours")
        found = pixel_array(dataset, raw=True)
    if found.shape != picture.shape or found.dtype != picture.dtype:
        raise proof_error(where, f"a picture of {picture.shape}", f"{found.shape}")
    wrong = int(np.any(found != picture, axis=-1).sum())
    if wrong:
        raise proof_error(where, "the pixels of the picture", f"{wrong} others")
    return Proof(path.name, "SC", (), perf_counter() - began)
