"""What a recipe writes of a mask: one model of options for each kind of output.

An output has a name and a kind; a name that is a kind needs no ``kind``. So two segmentations may stand side by
side::

    outputs:
      seg: {}
      labelmap: {kind: seg, type: LABELMAP}
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from medseg.dicom.output_options import CaptureOptions, RtstructOptions, SegOptions, SrOptions

Plane = Literal["axial", "coronal", "sagittal"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class NiftiOptions(BaseModel):
    """A mask as NIfTI."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_organ: bool = Field(
        default=False, description="One mask of 0 and 1 for each label, in a folder, in place of one label map."
    )
    tables: bool = Field(
        default=True,
        description="What the values mean, in files beside it: labels.json, ITK-SNAP's label descriptions and a "
        "colour table of 3D Slicer.",
    )


class PicturesOptions(BaseModel):
    """Overlays of image and mask as PNG."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    planes: tuple[Plane, ...] = Field(
        default=get_args(Plane), min_length=1, description="One picture a plane, through the middle of the mask."
    )


class ReportOptions(BaseModel):
    """One HTML page a study: volumes, findings, quality flags, provenance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: bool = Field(default=True, description="Whether the overlays stand in it.")


class TablesOptions(BaseModel):
    """Measurements as files that programs read: volume, mean and standard deviation, longest axial diameter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    formats: tuple[Literal["csv", "json"], ...] = Field(
        default=("csv", "json"), min_length=1, description="Which files are written."
    )


class ProbabilitiesOptions(BaseModel):
    """Probabilities of every label on the image's own grid, float16, as one HDF5 file; see docs/segmenting.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NiftiOutput(NiftiOptions):
    """An output of the kind nifti."""

    kind: Literal["nifti"] = Field(default="nifti", description="NIfTI.")


class SegOutput(SegOptions):
    """An output of the kind seg."""

    kind: Literal["seg"] = Field(default="seg", description="DICOM Segmentation.")


class RtstructOutput(RtstructOptions):
    """An output of the kind rtstruct."""

    kind: Literal["rtstruct"] = Field(default="rtstruct", description="DICOM RT Structure Set.")


class SrOutput(SrOptions):
    """An output of the kind sr."""

    kind: Literal["sr"] = Field(default="sr", description="DICOM measurement report.")
    segmentation: str | None = Field(
        default=None,
        description="Name of the output of the kind seg whose segments it refers to; by default the first one that "
        "is BINARY.",
    )


class PicturesOutput(PicturesOptions):
    """An output of the kind pictures."""

    kind: Literal["pictures"] = Field(default="pictures", description="PNG.")


class CaptureOutput(CaptureOptions):
    """An output of the kind capture."""

    kind: Literal["capture"] = Field(default="capture", description="The pictures as DICOM Secondary Capture.")


class ReportOutput(ReportOptions):
    """An output of the kind report."""

    kind: Literal["report"] = Field(default="report", description="HTML.")


class TablesOutput(TablesOptions):
    """An output of the kind tables."""

    kind: Literal["tables"] = Field(default="tables", description="CSV and JSON.")


class ProbabilitiesOutput(ProbabilitiesOptions):
    """An output of the kind probabilities."""

    kind: Literal["probabilities"] = Field(default="probabilities", description="HDF5.")


_AnyOutput = (
    NiftiOutput
    | ProbabilitiesOutput
    | SegOutput
    | RtstructOutput
    | SrOutput
    | PicturesOutput
    | CaptureOutput
    | ReportOutput
    | TablesOutput
)
KINDS: tuple[str, ...] = tuple(str(model.model_fields["kind"].default) for model in get_args(_AnyOutput))
"""The kinds of outputs there are."""

DICOM_KINDS = frozenset(["seg", "rtstruct", "sr", "capture"])
"""Those that are DICOM objects: they need a study that is."""


def _named(value: Any) -> Any:
    """Give every output its name, for its validator."""
    return {name: (name, options) for name, options in value.items()} if isinstance(value, dict) else value


def _with_kind(pair: Any) -> Any:
    """Return the options of an output with the kind, which is its name where it is left out."""
    if not (isinstance(pair, tuple) and len(pair) == 2):
        return pair
    name, options = pair
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("the name of an output has letters, digits, _, . and - only")
    if isinstance(options, BaseModel):
        return options
    options = {} if options is None else options
    if not isinstance(options, dict) or "kind" in options:
        return options
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"one of {', '.join(KINDS)}"
        raise ValueError(f"an output whose name is no kind of output needs a kind ({hint})")
    return {**options, "kind": name}


Output = Annotated[_AnyOutput, Field(discriminator="kind"), BeforeValidator(_with_kind)]
"""One output with its options."""

Outputs = Annotated[dict[str, Output], BeforeValidator(_named), Field(min_length=1)]
"""All outputs, by name."""
