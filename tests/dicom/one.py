"""Reading the one series of a folder, as most tests want it."""

from __future__ import annotations

from pathlib import Path

from medseg.dicom.policy import Policies
from medseg.dicom.scan import scan_pile
from medseg.dicom.series import Series
from medseg.errors import DicomError
from medseg.reading import read_volumes
from medseg.volume import Volume


def read_folder(path: Path, **policies: str) -> Volume:
    """Read a path that must hold exactly one volume; the first refusal is raised."""

    def refused(error: DicomError) -> None:
        raise error

    (volume,) = read_volumes(path, policies=Policies.model_validate(policies), refused=refused)
    return volume


def scan_folder(path: Path) -> list[Series]:
    """Return the series of a path."""
    return list(scan_pile(path).series)
