"""Series that masks are drawn on: a CT, an oblique MR, a tilted CT, multi-frame objects, and real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from medseg.dicom.origin import Origin, read_origin
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.read import read_stack
from medseg.dicom.scan import scan_pile
from medseg.dicom.stack import stack_series
from medseg.labels import LabelMap
from medseg.phantom import write_dicom_case
from medseg.volume import Volume
from tests.dicom.builder import AXIAL, OBLIQUE, SeriesSpec, gantry_tilt, write_series
from tests.dicom.enhanced_builder import write_enhanced
from tests.tools.masks import paint

_SHAPE = (52, 44, 7)

SYNTHETIC = ("ct", "mr_oblique", "ct_tilted", "ct_enhanced", "mr_enhanced")
REAL = {
    "real_mr_oblique": "mr_study/36459-FLAIRreg-76244",
    "real_ct_tilted": "dicom/tilt_philips",
}
"""Folders of real series by name, below the folder of the real data."""

SHEARED = ("ct_tilted", "real_ct_tilted")


@dataclass(frozen=True, eq=False)
class Case:
    """A series with a mask.

    Attributes:
        name: Of the source.
        folder: Where its files lie.
        files: They, in the order of the slices.
        origin: Its headers.
        image: Its values.
        labels: The mask, on its grid.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    origin: Origin
    image: Volume
    labels: LabelMap

    @property
    def present(self) -> list[int]:
        """The values of the mask, in ascending order."""
        return [int(value) for value in np.unique(self.labels.array) if value]


def make_case(name: str, folder: Path, data_root: Callable[[], Path]) -> Case:
    """Write a synthetic series, or find a real one, and draw its mask.

    Args:
        name: One of `SYNTHETIC` or `REAL`.
        folder: For synthetic series.
        data_root: The folder of the real data.
    """
    source = data_root() / REAL[name] if name in REAL else _write(name, folder)
    (series,) = [one for one in scan_pile(source).series if one.modality in ("CT", "MR")]
    with quiet_pydicom():
        stack = stack_series(series, Policies())
        assert stack.is_plain
        origin = read_origin(stack)
        image = read_stack(stack)
    return Case(name, source, _files_of(origin, source), origin, image, paint(origin.grid))


def _files_of(origin: Origin, folder: Path) -> tuple[Path, ...]:
    paths = [path for path in folder.iterdir() if path.is_file()]
    uids = [pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], force=True) for path in paths]
    by_uid = {str(dataset.get("SOPInstanceUID", "")): path for dataset, path in zip(uids, paths, strict=True)}
    wanted = dict.fromkeys(frame.header.sop_instance_uid for frame in origin.frames)
    return tuple(by_uid[uid] for uid in wanted)


def _write(name: str, folder: Path) -> Path:
    if name == "ct":
        return write_dicom_case(folder, 0, 1, spacing_mm=(6.0, 6.0, 20.0))
    oblique = SeriesSpec(name, study=name, modality="MR", shape=_SHAPE, orientation=OBLIQUE, is_signed=False)
    tilted = SeriesSpec(name, study=name, shape=_SHAPE, **gantry_tilt(18))
    axial = SeriesSpec(name, study=name, shape=_SHAPE, orientation=AXIAL)
    if name.endswith("enhanced"):
        # derived, or the validator wants to know how they were acquired
        write_enhanced(folder, axial if name == "ct_enhanced" else oblique, image_type=("DERIVED", "PRIMARY"))
    else:
        write_series(folder, tilted if name == "ct_tilted" else oblique)
    return folder
