"""A series -> `Stack`: its slices in order and where each lies, or a refusal that says why not.

Headers only, but for the pixels of slices at the same place. Only positions and orientations place a slice:
InstanceNumber, SliceThickness, SpacingBetweenSlices and GantryDetectorTilt do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from medseg.dicom.checks import check_frames, usable_frames
from medseg.dicom.frame import Frame, content_order
from medseg.dicom.geometry import (
    VOXEL_TOLERANCE,
    Fit,
    Spacing,
    Vectors,
    clusters,
    corners_off,
    fit_stack,
    is_close,
    orientation_problem,
    same_places,
    slice_affine,
    slice_normal,
)
from medseg.dicom.pixels import FrameReader
from medseg.dicom.policy import Policies
from medseg.dicom.refusal import refusal
from medseg.dicom.series import Series
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import numbers_of
from medseg.errors import GridError, listed
from medseg.findings import Finding, FindingCode
from medseg.volume import MAX_VOXELS, Affine, Grid

_MOST_STEPS_A_SLICE = 4  # that uneven distances are resampled to
_THICKNESS_MM = 1.0  # of a single slice that does not say


@dataclass(frozen=True)
class Stack:
    """Slices that make a volume, and where they lie in it.

    Attributes:
        series: Where they come from.
        frames: (n) in order along their normal.
        places: (n,) index of each along the volume's last axis; whole numbers but for uneven distances.
        count: Size of that axis.
        affine: 4x4, (column, row, slice) to LPS+ mm.
        findings: What was odd.
    """

    series: Series
    frames: tuple[Frame, ...] = field(repr=False)
    places: Vectors
    count: int
    affine: Affine
    findings: tuple[Finding, ...]

    @property
    def is_plain(self) -> bool:
        """Whether every slice of the volume is one of the series, and none has to be interpolated."""
        return self.count == len(self.frames) and np.array_equal(self.places, np.arange(self.count))


def stack_series(series: Series, policies: Policies) -> Stack:
    """Put the slices of a series in order; call it inside `quiet_pydicom`.

    Raises:
        DicomError: The series is not a volume, or a policy refuses it; `reason` is the code of the finding.
    """
    where = f"series {series.name}"
    usable, oddities = usable_frames(series, policies, where)
    oddities += check_frames(usable, policies, where)
    frames, dropped = _one_each(_sorted(usable, where), policies, where)
    stack = _fitted(series, frames, policies, where) if len(frames) > 1 else _single(series, frames[0])
    last_pixel = (frames[0].header.columns - 1, frames[0].header.rows - 1)
    off = corners_off(stack.affine, [_own_affine(frame) for frame in frames], stack.places, last_pixel)
    if not is_close(off):
        raise refusal(where, FindingCode.NOT_STRAIGHT, "parallel slices", f"corners up to {off:.3g} voxels off")
    shape = (frames[0].header.columns, frames[0].header.rows, stack.count)
    if np.prod(shape, dtype=object) > MAX_VOXELS:
        raise refusal(where, FindingCode.TOO_LARGE, f"at most {MAX_VOXELS} voxels", " x ".join(map(str, shape)))
    try:
        Grid(shape, stack.affine)
    except GridError as error:
        raise refusal(where, FindingCode.NO_GEOMETRY, error.expected, error.found) from None
    findings = (*series.findings, *oddities, *dropped, *stack.findings)
    return Stack(series, stack.frames, stack.places, stack.count, stack.affine, findings)


def _sorted(frames: Sequence[Frame], where: str) -> list[list[Frame]]:
    """Return the frames in order along their normal, those at the same place together."""
    orientations = np.array([frame.orientation for frame in frames])
    problem = orientation_problem(orientations)
    if problem:
        raise refusal(where, FindingCode.BAD_ORIENTATION, "a valid ImageOrientationPatient", problem)
    planes = int(clusters(orientations).max()) + 1
    if planes > 1:
        raise refusal(where, FindingCode.BAD_ORIENTATION, "parallel slices", f"{planes} orientations or more")
    along = np.array([frame.position_mm for frame in frames]) @ slice_normal(orientations[0])
    return [[frames[k] for k in place] for place in same_places(along)]


def _one_each(places: list[list[Frame]], policies: Policies, where: str) -> tuple[tuple[Frame, ...], list[Finding]]:
    """Keep one frame of each place where all have the same pixels."""
    repeated = [frames for frames in places if len(frames) > 1]
    if not repeated:
        return tuple(frames[0] for frames in places), []
    extra = sum(len(frames) - 1 for frames in repeated)
    found = f"{extra} slice(s) at the same place as another one"
    reader = FrameReader()
    if not all(_same_place(frames) and reader.same_values(frames, where) for frames in repeated):
        raise refusal(
            where, FindingCode.CONFLICT, "one slice at each place", f"{found}, with other pixels or beside it"
        )
    if policies.duplicate == "refuse":
        raise refusal(where, FindingCode.DUPLICATE, "one slice at each place", f"{found}, with the same pixels")
    message = f"{found}, with the same pixels: left out"
    return tuple(min(frames, key=content_order) for frames in places), [Finding(FindingCode.DUPLICATE, message)]


def _same_place(frames: Sequence[Frame]) -> bool:
    """Whether slices at one height lie at one place within their plane, too."""
    positions = np.array([frame.position_mm for frame in frames])
    spacing = min(frames[0].pixel_spacing_mm or (0.0,))
    return bool(np.ptp(positions, axis=0).max() <= VOXEL_TOLERANCE * spacing)


def _fitted(series: Series, frames: tuple[Frame, ...], policies: Policies, where: str) -> Stack:
    positions = np.array([frame.position_mm for frame in frames])
    fit = fit_stack(positions, np.array(frames[0].orientation), np.array(frames[0].pixel_spacing_mm))
    if not fit.is_straight:
        found = f"a slice {fit.off_voxels:.3g} voxels off the line of the others"
        raise refusal(where, FindingCode.NOT_STRAIGHT, "slices in a straight line", found)
    findings = [*_spacing_findings(fit, positions, policies, where), *_tilt_findings(fit, policies, where)]
    return Stack(series, frames, fit.places, fit.count, fit.affine, tuple(findings))


def _spacing_findings(fit: Fit, positions: Vectors, policies: Policies, where: str) -> Iterator[Finding]:
    normal = slice_normal(np.concatenate([fit.affine[:3, 0], fit.affine[:3, 1]]))
    gaps = np.diff(positions @ normal)
    if fit.spacing is Spacing.MISSING:
        found = _missing_text(fit)
        if policies.missing_slice == "refuse":
            remedy = "export the series again, or choose --on-missing-slice fill"
            raise refusal(where, FindingCode.MISSING_SLICE, "a stack without gaps", found, remedy)
        yield Finding(FindingCode.MISSING_SLICE, f"{found}: interpolated from their neighbours")
    if fit.spacing is Spacing.UNEVEN:
        found = f"distances from {gaps.min():.4g} to {gaps.max():.4g} mm between slices"
        if policies.irregular == "refuse":
            remedy = "choose --on-irregular resample, or segment another series"
            raise refusal(where, FindingCode.IRREGULAR, "even distances between slices", found, remedy)
        if fit.count > _MOST_STEPS_A_SLICE * len(positions):
            expected = f"distances that at most {_MOST_STEPS_A_SLICE} even steps a slice make up"
            raise refusal(where, FindingCode.IRREGULAR, expected, found)
        step = float(fit.affine[:3, 2] @ normal)
        yield Finding(FindingCode.IRREGULAR, f"{found}: resampled to {fit.count} slices {step:.4g} mm apart")


def _missing_text(fit: Fit) -> str:
    """Name the missing slices: how many millimetres from the first one, as the positions of the others say."""
    step_mm = float(np.linalg.norm(fit.affine[:3, 2]))
    there = set(np.rint(fit.places).astype(int).tolist())
    missing = [k for k in range(fit.count) if k not in there]
    named = [f"{k + 1} ({k * step_mm:.4g} mm from the first)" for k in missing]
    return f"{len(missing)} of {fit.count} slices missing: {listed(named)}"


def _tilt_findings(fit: Fit, policies: Policies, where: str) -> Iterator[Finding]:
    if not fit.tilt_deg:
        return
    found = f"slices stacked {fit.tilt_deg:.2f} degrees off their normal (gantry tilt)"
    if policies.gantry_tilt == "refuse":
        raise refusal(where, FindingCode.GANTRY_TILT, "slices stacked along their normal", found)
    yield Finding(FindingCode.GANTRY_TILT, f"{found}: the volume's axes are sheared")


def _single(series: Series, frame: Frame) -> Stack:
    thickness = numbers_of(frame.tags.get(DESCRIBING["SliceThickness"], ""), 1)
    depth_mm = thickness[0] if thickness and thickness[0] > 0 else _THICKNESS_MM
    affine = _own_affine(frame)
    affine[:3, 2] *= depth_mm
    message = f"a single slice, taken as {depth_mm:.4g} mm thick"
    return Stack(series, (frame,), np.zeros(1), 1, affine, (Finding(FindingCode.SINGLE_SLICE, message),))


def _own_affine(frame: Frame) -> Affine:
    parts = (frame.position_mm, frame.orientation, frame.pixel_spacing_mm)
    position, orientation, spacing = (np.array(part, dtype=np.float64) for part in parts)
    return slice_affine(position, orientation, spacing)
