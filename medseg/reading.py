"""`read_volumes` and `read_volume`: whatever lies at a path -> volumes, NIfTI files and DICOM alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from medseg.dicom.plan import Decision, Plan, plan_pile
from medseg.dicom.policy import Policies
from medseg.dicom.read import read_stack
from medseg.dicom.select import SeriesRules
from medseg.errors import DicomError
from medseg.nifti import is_nifti, read_nifti
from medseg.volume import Volume

_log = logging.getLogger(__name__)
_MOST_NAMED = 6


def read_volumes(
    path: str | Path,
    rules: SeriesRules | None = None,
    policies: Policies | None = None,
    *,
    refused: Callable[[DicomError], None] | None = None,
) -> list[Volume]:
    """Read a NIfTI file, a folder of NIfTI files, or the image series of a pile of DICOM.

    A pile is a folder with its subfolders, a zip, a DICOMDIR or a single file; several studies and patients may be
    mixed. A folder that holds NIfTI files directly is read as these alone.

    Args:
        path: Where the images lie.
        rules: Which DICOM series are wanted; all by default.
        policies: What to do about irregular series; the safest by default.
        refused: Called with the reason for each series that the rules take and that cannot be read right; by
            default it is logged as a warning.

    Returns:
        One volume a NIfTI file or series, with the values, the affine to RAS+ mm and the findings of each.

    Raises:
        NiftiError: A NIfTI file cannot be read.
        DicomError: There is no such path, or no series of it can be read.
    """
    path = Path(path)
    files = nifti_files(path)
    if files:
        return [read_nifti(file) for file in files]
    plan = plan_pile(path, rules, policies)
    report = refused or _warn
    for decision in plan.decisions:
        if decision.error:
            report(decision.error)
    volumes = [volume for decision in plan.taken if (volume := _read(decision, report)) is not None]
    if not volumes:
        raise nothing_taken(path, plan)
    return volumes


def read_volume(path: str | Path, rules: SeriesRules | None = None, policies: Policies | None = None) -> Volume:
    """Read the one volume of a path; see `read_volumes`.

    Raises:
        NiftiError: A NIfTI file cannot be read.
        DicomError: There is no such path, and no volume or more than one that can be read.
    """
    volumes = read_volumes(path, rules, policies)
    if len(volumes) > 1:
        named = ", ".join(
            f"{volume.source} ({volume.modality or 'no modality'})" for volume in volumes[:_MOST_NAMED]
        )
        raise DicomError(
            path,
            expected="one volume",
            found=f"{len(volumes)}: {named}",
            remedy="choose one by rules, or name the folder of one series",
        )
    return volumes[0]


def nifti_files(path: Path) -> list[Path]:
    """Return a NIfTI file itself, or the NIfTI files that lie directly in a folder, sorted; hidden ones are left.

    Raises:
        OSError: The folder cannot be listed.
    """
    if not path.is_dir():
        return [path] if is_nifti(path) else []
    return sorted(
        file for file in path.iterdir() if is_nifti(file) and not file.name.startswith(".") and file.is_file()
    )


def nothing_taken(path: Path, plan: Plan) -> DicomError:
    """Return the error that says why no series of a pile was read."""
    left = [decision for decision in plan.decisions if not decision.is_taken]
    if len(left) == 1 and left[0].error:
        return left[0].error
    named = [
        f"{d.series.name} ({d.series.modality or 'no modality'}: {d.rule}, {d.seen})" for d in left[:_MOST_NAMED]
    ]
    more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
    return DicomError(
        path,
        expected="an image series that can be read",
        found=f"{len(left)} that cannot: {'; '.join(named)}{more}" if left else "no image series",
        remedy="see medseg dicom plan" if left else "give a folder with DICOM slices, or NIfTI files",
    )


def _read(decision: Decision, report: Callable[[DicomError], None]) -> Volume | None:
    if decision.stack is None:
        return None
    try:
        return read_stack(decision.stack)
    except DicomError as error:
        report(error)
        return None


def _warn(error: DicomError) -> None:
    _log.warning("refused: %s", error)
