"""medseg: train networks on CT and MR, segment NIfTI and DICOM, trust the masks.

The public names are loaded when they are first used, so that ``import medseg`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.labels import Label, LabelMap, LabelSet
    from medseg.loading import load_model
    from medseg.nifti import read_nifti, write_nifti
    from medseg.reading import read_volume, read_volumes
    from medseg.segmenter import Segmenter
    from medseg.volume import Grid, Volume

__version__ = "0.1.0"

_HOMES = {
    "Grid": "medseg.volume",
    "Label": "medseg.labels",
    "LabelMap": "medseg.labels",
    "LabelSet": "medseg.labels",
    "Segmenter": "medseg.segmenter",
    "Volume": "medseg.volume",
    "load_model": "medseg.loading",
    "read_nifti": "medseg.nifti",
    "read_volume": "medseg.reading",
    "read_volumes": "medseg.reading",
    "write_nifti": "medseg.nifti",
}

__all__ = [
    "Grid",
    "Label",
    "LabelMap",
    "LabelSet",
    "Segmenter",
    "Volume",
    "load_model",
    "read_nifti",
    "read_volume",
    "read_volumes",
    "write_nifti",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medseg' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
