"""How DICOM objects are made of a mask: what a recipe may say. Reading this imports no DICOM library."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ObjectOptions(BaseModel):
    """What all objects have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    series_number: int = Field(ge=1, lt=2**31, description="SeriesNumber.")
    series_description: str = Field(max_length=64, description="SeriesDescription.")
    institution: str = Field(default="", max_length=64, description="InstitutionName of who made the object.")
    department: str = Field(default="", max_length=64, description="InstitutionalDepartmentName.")
    without_frame_of_reference: Literal["refuse", "make"] = Field(
        default="refuse",
        description="Of a series that has no FrameOfReferenceUID: refuse, or make one up, which is said loudly.",
    )
    without_sop_class: Literal["refuse", "infer"] = Field(
        default="refuse",
        description="Of a series whose files have no SOPClassUID: refuse, or take it from the modality.",
    )


class SegOptions(ObjectOptions):
    """DICOM Segmentation (PS3.3 A.51)."""

    series_number: int = Field(default=9301, ge=1, lt=2**31, description="SeriesNumber.")
    series_description: str = Field(default="Segmentation", max_length=64, description="SeriesDescription.")
    type: Literal["BINARY", "FRACTIONAL", "LABELMAP"] = Field(
        default="BINARY",
        description="BINARY: a frame for each label and slice. FRACTIONAL: the same with probabilities, which the "
        "model saves for it. LABELMAP (Supplement 243): one frame a slice, which few viewers read yet.",
    )
    compression: Literal["none", "rle", "jpeg-ls"] = Field(
        default="none", description="Of the frames, lossless; frames of single bits can not be compressed so."
    )

    @model_validator(mode="after")
    def _check_compression(self) -> SegOptions:
        """RLE and JPEG-LS know pixels of 8 and 16 bits only (PS3.5 8.2.2, 8.2.3, G.2)."""
        if self.type == "BINARY" and self.compression != "none":
            raise ValueError(
                f"compression {self.compression} needs type FRACTIONAL or LABELMAP, not BINARY, whose pixels are "
                "single bits: leave compression out, or set another type"
            )
        return self


class RtstructOptions(ObjectOptions):
    """RT Structure Set (PS3.3 A.19)."""

    series_number: int = Field(default=9302, ge=1, lt=2**31, description="SeriesNumber.")
    series_description: str = Field(default="RT Structure Set", max_length=64, description="SeriesDescription.")
    label: str = Field(default="medseg", min_length=1, max_length=16, description="StructureSetLabel.")
    holes: Literal["xor", "xor-type", "keyhole"] = Field(
        default="xor",
        description="xor: a hole is a contour of its own, as most software reads it. xor-type: the same, and the "
        "type of the contours says so (CLOSEDPLANAR_XOR, since 2020), which little software knows yet. keyhole: "
        "joined to the outer contour by a line there and back.",
    )
    decimate_mm: float = Field(
        default=0.0,
        ge=0,
        le=5,
        description="Leave points out that lie no further from the line of the others; 0 for none.",
    )
    smooth_mm: float = Field(
        default=0.0, ge=0, le=5, description="Sigma by which contours are smoothed; 0 for none."
    )


class SrOptions(ObjectOptions):
    """Comprehensive 3D SR with measurements (PS3.16 TID 1500)."""

    series_number: int = Field(default=9303, ge=1, lt=2**31, description="SeriesNumber.")
    series_description: str = Field(default="Measurements", max_length=64, description="SeriesDescription.")


class CaptureOptions(ObjectOptions):
    """Pictures as Secondary Capture (PS3.3 A.8)."""

    series_number: int = Field(default=9304, ge=1, lt=2**31, description="SeriesNumber.")
    series_description: str = Field(
        default="Segmentation overview", max_length=64, description="SeriesDescription."
    )
