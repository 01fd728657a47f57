"""What every frame of a volume must be: grey, placed, of a size that can be, with values that can be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from medseg.dicom.frame import Frame
from medseg.dicom.pixels import decoder_problem, has_whole_bits, pixel_problem
from medseg.dicom.policy import Policies
from medseg.dicom.refusal import refusal
from medseg.dicom.series import Series
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import uid_name
from medseg.findings import Finding, FindingCode

_GREY = ("MONOCHROME1", "MONOCHROME2", "")
_SECONDARY_CAPTURE = "Secondary Capture"

_Check = tuple[FindingCode, Callable[[Frame], bool], str, str]


def usable_frames(series: Series, policies: Policies, where: str) -> tuple[list[Frame], list[Finding]]:
    """Leave out frames whose pixels cannot be whole.

    Raises:
        DicomError: The images are no slices of one volume; or there are such frames, or damaged files beside the
            series, and the policy is to refuse them.
    """
    problems = [pixel_problem(frame.header) for frame in series.frames]
    frames = [frame for frame, problem in zip(series.frames, problems, strict=True) if problem is None]
    _check_kind(series, frames or series.frames, where)
    bad = next((problem for problem in problems if problem), None)
    if bad is None and not series.damaged_beside:
        return frames, []
    parts = []
    if bad:
        parts.append(f"{len(problems) - len(frames)} of {len(problems)} slices with {bad}")
    if series.damaged_beside:
        parts.append(f"{series.damaged_beside} damaged file(s) beside the slices")
    found = " and ".join(parts)
    if policies.damaged_file == "refuse" or not frames:
        remedy = "copy the series again, or choose --on-damaged drop"
        raise refusal(where, FindingCode.DAMAGED_FILE, "whole files only", found, remedy)
    return frames, [Finding(FindingCode.DAMAGED_FILE, f"{found}: left out")]


def check_frames(frames: Sequence[Frame], policies: Policies, where: str) -> list[Finding]:
    """Check what every slice of a volume needs, and say what is odd and tolerated.

    Raises:
        DicomError: A slice has no place or no values that can be decoded, or a policy refuses it.
    """
    _check_all(_NEEDS, frames, where)
    for syntax in sorted({frame.header.transfer_syntax_uid for frame in frames}):
        problem = decoder_problem(syntax)
        if problem:
            remedy = "install the decoder, or export the series uncompressed"
            raise refusal(where, FindingCode.NO_DECODER, "pixels that can be decoded here", problem, remedy)
    return list(_value_findings(frames, policies, where))


def _check_kind(series: Series, frames: Sequence[Frame], where: str) -> None:
    """Refuse images that are no grey slices of one volume."""
    if series.is_four_dimensional:
        found = f"{len(frames)} slices at repeated places: fMRI, a diffusion tensor or a long time series"
        remedy = "segment another series, or choose --on-four-dimensional split"
        raise refusal(where, FindingCode.FOUR_DIMENSIONAL, "one volume", found, remedy)
    _check_all(_KINDS, frames, where)


def _check_all(checks: Sequence[_Check], frames: Sequence[Frame], where: str) -> None:
    for code, is_wrong, expected, found in checks:
        count = sum(is_wrong(frame) for frame in frames)
        if count:
            raise refusal(where, code, expected, f"{found} in {count} of {len(frames)} slices")


def _value_findings(frames: Sequence[Frame], policies: Policies, where: str) -> Iterator[Finding]:
    slope = DESCRIBING["RescaleSlope"]
    without = sum(frame.rescale is None for frame in frames) or sum(not frame.tags.get(slope) for frame in frames)
    found = f"no valid RescaleSlope and RescaleIntercept in {without} of {len(frames)} slices"
    if 0 < without < len(frames):
        raise refusal(where, FindingCode.NO_RESCALE, "all values in one unit", found)
    if frames[0].rescale is None:
        if policies.no_rescale == "refuse":
            remedy = "export the series again, or choose --on-no-rescale stored"
            raise refusal(where, FindingCode.NO_RESCALE, "values in their unit", found, remedy)
        yield Finding(FindingCode.NO_RESCALE, f"{found}: stored values are taken")
    inverted = sum(frame.header.photometric == "MONOCHROME1" for frame in frames)
    if inverted:
        message = f"{inverted} of {len(frames)} slices are shown inverted (MONOCHROME1); their values are kept"
        yield Finding(FindingCode.MONOCHROME1, message, "PhotometricInterpretation")


def _is_secondary_capture(frame: Frame) -> bool:
    return _SECONDARY_CAPTURE in uid_name(frame.header.sop_class_uid)


def _lacks_groups(frame: Frame) -> bool:
    is_enhanced = "Enhanced" in uid_name(frame.header.sop_class_uid)
    return (frame.header.frame_count != 1 or is_enhanced) and not frame.header.has_functional_groups


def _lacks_geometry(frame: Frame) -> bool:
    return None in (frame.position_mm, frame.orientation, frame.pixel_spacing_mm)


_KINDS: tuple[_Check, ...] = (
    (FindingCode.MOSAIC, lambda f: f.header.is_mosaic, "one slice an image", "a mosaic of slices"),
    (
        FindingCode.LOCALIZER,
        lambda f: not {"LOCALIZER", "SCOUT"}.isdisjoint(f.header.image_type),
        "slices of a volume",
        "a localizer (ImageType)",
    ),
    (
        FindingCode.COLOUR,
        lambda f: f.header.samples_per_pixel != 1 or f.header.photometric not in _GREY,
        "grey slices",
        "colour (SamplesPerPixel, PhotometricInterpretation)",
    ),
    (FindingCode.SECONDARY_CAPTURE, _is_secondary_capture, "images of a scanner", "a secondary capture"),
    (
        FindingCode.MULTI_FRAME,
        _lacks_groups,
        "frames with functional groups",
        "frames without a place of their own",
    ),
)
"""Code, what is wrong, what is expected, what is found: of the image as a whole."""

_NEEDS: tuple[_Check, ...] = (
    (
        FindingCode.NO_GEOMETRY,
        _lacks_geometry,
        "a place for every slice",
        "no valid ImagePositionPatient, ImageOrientationPatient or PixelSpacing",
    ),
    (
        FindingCode.LOOKUP_TABLE,
        lambda f: f.header.has_lookup_table,
        "values that slope and intercept give",
        "a ModalityLUTSequence",
    ),
    (
        FindingCode.PIXEL_FORMAT,
        lambda f: not has_whole_bits(f.header),
        "values of 8, 16 or 32 bits",
        "other BitsAllocated, BitsStored or HighBit",
    ),
)
"""The same, of what every slice needs."""
