"""`Preprocessing`: the typed description of how an image becomes what a network sees.

It stands in a config with values left open, is completed from the training cases, and is carried in the model
package. Nothing restates it at deployment.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.data.fingerprint import Fingerprint

Positive = Annotated[float, Field(gt=0)]
AxisSpacing = Positive | Literal["keep"]

STORED = "stored"  # the orientation of axes that are not turned
_SMALLEST_WINDOW_HU = 1.0  # where the foreground is constant
_SMALLEST_STD_HU = 1e-3


class CTIntensity(BaseModel):
    """Clip to a window in HU, then subtract a mean and divide by a standard deviation of the data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["ct"]
    clip_hu: tuple[float, float] | None = Field(
        default=None, description="Lowest and highest HU kept; 0.5 and 99.5 percentile of the foreground if unset."
    )
    mean_hu: float | None = Field(default=None, description="Mean of the foreground; measured if unset.")
    std_hu: Positive | None = Field(
        default=None, description="Standard deviation of the foreground; measured if unset."
    )

    @model_validator(mode="after")
    def _check(self) -> CTIntensity:
        if self.clip_hu is not None and self.clip_hu[0] >= self.clip_hu[1]:
            raise ValueError(f"clip_hu must rise, found {list(self.clip_hu)}")
        return self


class ZScoreIntensity(BaseModel):
    """Subtract each image's own mean and divide by its own standard deviation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["zscore"]
    nonzero: bool = Field(default=False, description="Measure and change non-zero voxels only.")
    filled: bool = Field(
        default=False,
        description="Measure and change only voxels that are non-zero in any channel, and the holes among them, as "
        "nnU-Net's use_mask_for_norm does; takes the place of nonzero.",
    )


class UnitIntensity(BaseModel):
    """Subtract each image's smallest value, then divide by the largest: 0 to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["unit"]


class RGBIntensity(BaseModel):
    """Divide values of 0 to 255 by 255."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rgb"]


class PlainIntensity(BaseModel):
    """Leave values as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["plain"]


Intensity = CTIntensity | ZScoreIntensity | UnitIntensity | RGBIntensity | PlainIntensity


class Spline(BaseModel):
    """Resample normalised images by cubic splines, as nnU-Net does.

    The network's grid has the outer faces of the image's own, and ``round(n * old / new)`` voxels along an axis;
    its spacing is therefore not exactly the one asked for. Images are cropped and normalised first. Values stay
    within those of the image; see `medseg.data.spline`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    separate: bool | None = Field(
        default=None,
        description="Take the nearest plane along the one axis of the largest spacing and interpolate in planes "
        "only, images and logits: always, never, or, if unset, where that spacing is over 3 times the smallest.",
    )


class Preprocessing(BaseModel):
    """How an image becomes what a network sees: RAS, cropped, resampled, normalised; in this order.

    With `spline` it is normalised before it is resampled.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    orientation: str = Field(
        default="RAS",
        pattern=r"^([RL][AP][SI]|stored)$",
        description="How axes lie before anything else: turned to R, A, S, or the other way such as LPS; or as "
        "they are stored. Stored DICOM is i along a row, j along a column, k along the stack of slices.",
    )
    axes: tuple[int, int, int] = Field(
        default=(0, 1, 2),
        description="Which axis of the image, once oriented, each axis of the network is. What is given an axis "
        "here, such as spacing, tiles and mirroring, counts the network's.",
    )
    spacing_mm: tuple[AxisSpacing, AxisSpacing, AxisSpacing] | None = Field(
        default=None,
        description="Voxel spacing along R, A, S, or the network's own axes, that it works at; 'keep' leaves an "
        "axis as it is; the median of the training cases if unset.",
    )
    crop_above: float | None = Field(
        default=None,
        description="Crop to the box of voxels above this value (0 for MR, -500 for CT); no crop if unset. "
        "What lies outside the box is background.",
    )
    crop_nonzero: bool = Field(
        default=False, description="Crop to the box of voxels that are not zero in any channel, in its place."
    )
    spline: Spline | None = Field(
        default=None, description="Resample by cubic splines, as nnU-Net; linearly if unset."
    )
    intensity: tuple[Annotated[Intensity, Field(discriminator="kind")], ...] = Field(
        min_length=1, description="One entry for each channel, or one for all of them."
    )

    channel_flags: bool = Field(
        default=False,
        description="Whether a case may lack channels: a missing one is 0, the mean, and the network sees one more "
        "channel for each, which is 1 where the channel is there and 0 where not.",
    )

    coarse_labels: tuple[Annotated[int, Field(ge=1, lt=2**24)], ...] = Field(
        default=(),
        description="Label values of the first stage of a cascade; the network sees one more channel for each, "
        "which is 1 where the first stage drew it. Filled in from data.coarse.",
    )

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"axes must name 0, 1 and 2 once each, found {list(self.axes)}")
        if self.orientation == STORED and self.spacing_mm is None:
            raise ValueError("orientation: stored needs spacing_mm: what is measured counts R, A, S")
        if self.crop_nonzero and self.crop_above is not None:
            raise ValueError("crop_above and crop_nonzero are two crops: give one")
        return self

    @property
    def crops(self) -> bool:
        """Whether images are cropped to what is in them."""
        return self.crop_nonzero or self.crop_above is not None

    def network_channels(self, channels: int) -> int:
        """Return how many channels the network sees of `channels` images.

        They are twice as many where images have flags, and one more for each label of a first stage.
        """
        return (2 * channels if self.channel_flags else channels) + len(self.coarse_labels)

    def for_channels(self, channels: int) -> tuple[Intensity, ...]:
        """Return one intensity rule for each of `channels` channels.

        Raises:
            ValueError: There is neither one rule nor one a channel.
        """
        if len(self.intensity) == 1:
            return self.intensity * channels
        if len(self.intensity) != channels:
            raise ValueError(f"{len(self.intensity)} intensity rules for {channels} channels")
        return self.intensity

    def completed(self, fingerprint: Fingerprint) -> Preprocessing:
        """Fill what was left open with what was measured on the training cases."""
        rules = self.for_channels(len(fingerprint.foreground))
        intensity = tuple(
            _completed_ct(rule, fingerprint, channel) if isinstance(rule, CTIntensity) else rule
            for channel, rule in enumerate(rules)
        )
        spacing = self.spacing_mm or fingerprint.along(self.axes).median_spacing_mm
        return self.model_copy(update={"intensity": intensity, "spacing_mm": spacing})

    def spacing_of(self, fingerprint: Fingerprint) -> tuple[float, float, float]:
        """Return the spacing in mm along the network's axes; the median of what was measured if open."""
        median = fingerprint.along(self.axes).median_spacing_mm
        wanted = self.spacing_mm or median
        i, j, k = (mm if axis == "keep" else axis for axis, mm in zip(wanted, median, strict=True))
        return i, j, k


def _completed_ct(rule: CTIntensity, fingerprint: Fingerprint, channel: int) -> CTIntensity:
    seen = fingerprint.foreground[channel]
    low, high = seen.percentile_00_5, seen.percentile_99_5
    return CTIntensity(
        kind="ct",
        clip_hu=rule.clip_hu or (low, max(high, low + _SMALLEST_WINDOW_HU)),
        mean_hu=seen.mean if rule.mean_hu is None else rule.mean_hu,
        std_hu=rule.std_hu or max(seen.std, _SMALLEST_STD_HU),
    )
