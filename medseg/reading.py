"""`read_volumes` and `read_volume`: whatever lies at a path -> volumes, NIfTI files and DICOM alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from medseg.dicom.plan import NO_VOLUMES, Plan, plan_pile
from medseg.dicom.policy import Policies
from medseg.dicom.read import read_stack
from medseg.dicom.select import SeriesRules
from medseg.errors import DicomError, listed
from medseg.nifti import is_nifti, read_nifti
from medseg.volume import Volume

_log = logging.getLogger(__name__)


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
    errors: list[DicomError] = []
    plan = plan_pile(path, rules, policies)
    volumes = list(_volumes(plan, errors))
    for error in errors:
        (refused or _warn)(error)
    if not volumes:
        raise errors[0] if len(errors) == 1 else nothing_taken(path, plan, errors)
    return volumes


def read_volume(path: str | Path, rules: SeriesRules | None = None, policies: Policies | None = None) -> Volume:
    """Read the one volume of a path; see `read_volumes`.

    Raises:
        NiftiError: A NIfTI file cannot be read.
        DicomError: There is no such path, or not exactly one volume: one that cannot be read right
            counts too, but localizers, colour images and the like do not.
    """
    errors: list[DicomError] = []
    volumes = read_volumes(path, rules, policies, refused=errors.append)
    unread = [error for error in errors if error.reason not in NO_VOLUMES]
    if len(volumes) + len(unread) > 1:
        found = [f"{volume.source} ({volume.modality or 'no modality'})" for volume in volumes]
        found += [f"{error.where} ({error.reason})" for error in unread]
        raise DicomError(
            path,
            expected="one volume",
            found=f"{len(found)}: {listed(found)}",
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


def nothing_taken(path: Path, plan: Plan, errors: Sequence[DicomError] = ()) -> DicomError:
    """Return the error that says why no series of a pile was read.

    Args:
        path: The pile.
        plan: What became of its series.
        errors: Of series that were taken and could not be read.
    """
    left = [decision for decision in plan.decisions if not decision.is_taken]
    if len(left) == 1 and left[0].error and not errors:
        return left[0].error
    named = [f"{d.series.name} ({d.series.shown(d.series.modality) or '?'}: {d.rule}, {d.seen})" for d in left]
    named += [f"{error.where} ({error.reason})" for error in errors if error.where not in "".join(named)]
    return DicomError(
        path,
        expected="an image series that can be read",
        found=f"{len(named)} that cannot: {listed(named)}" if named else "no image series",
        remedy="see medseg dicom plan" if named else "give a folder with DICOM slices, or NIfTI files",
        reason=errors[0].reason if errors else "",
    )


def _volumes(plan: Plan, errors: list[DicomError]) -> Iterator[Volume]:
    """Read what is taken; collect why series are refused."""
    errors += [decision.error for decision in plan.decisions if decision.error]
    for stack in plan.taken:
        try:
            yield read_stack(stack)
        except DicomError as error:
            errors.append(error)


def _warn(error: DicomError) -> None:
    _log.warning("refused: %s", error)
