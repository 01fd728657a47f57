"""What to do about irregular series: one choice a finding, the safest one by default."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Policies(BaseModel):
    """What to do about findings that leave a choice; every other finding is either accepted or refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gantry_tilt: Literal["keep", "refuse"] = Field(
        "keep", description="Slices stacked at an angle: keep them, with a sheared affine."
    )
    irregular: Literal["refuse", "resample"] = Field(
        "refuse", description="Uneven distances between slices: interpolate even ones from the true positions."
    )
    missing_slice: Literal["refuse", "fill"] = Field(
        "refuse", description="Gaps in an even stack: interpolate the slices that are missing."
    )
    duplicate: Literal["drop", "refuse"] = Field(
        "drop", description="The same pixels twice at one place: keep one of them."
    )
    damaged_file: Literal["refuse", "drop"] = Field(
        "refuse", description="Files of the series that are damaged: go on without them; gaps are judged as such."
    )
    four_dimensional: Literal["refuse", "split"] = Field(
        "refuse", description="fMRI, diffusion tensors, long time series: split them into their volumes."
    )
    no_rescale: Literal["refuse", "stored"] = Field(
        "refuse", description="CT or PET without a valid RescaleSlope and RescaleIntercept: take stored values."
    )
