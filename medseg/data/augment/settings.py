"""`Augmentation`: which random changes are made, how often and how strong; four presets of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
_RANGES = ("scale", "elastic_displacement", "blur_sigma", "brightness", "contrast", "low_resolution", "gamma")
Preset = Literal["none", "light", "default", "strong"]

_LIGHT = {
    "rotation_probability": 0.1,
    "rotation_degrees": 15.0,
    "scaling_probability": 0.1,
    "scale": (0.85, 1.18),
    "noise_probability": 0.05,
    "noise_std": 0.05,
    "blur_probability": 0.1,
    "brightness_probability": 0.1,
    "brightness": (0.9, 1.1),
    "contrast_probability": 0.1,
    "contrast": (0.9, 1.1),
    "low_resolution_probability": 0.1,
    "low_resolution": (0.7, 1.0),
    "inverted_gamma_probability": 0.0,
    "gamma_probability": 0.15,
    "gamma": (0.8, 1.25),
}
_STRONG = {
    "rotation_probability": 0.4,
    "scaling_probability": 0.4,
    "scale": (0.6, 1.65),
    "noise_probability": 0.2,
    "noise_std": 0.2,
    "blur_probability": 0.3,
    "blur_sigma": (0.5, 1.5),
    "brightness_probability": 0.3,
    "brightness": (0.6, 1.4),
    "contrast_probability": 0.3,
    "contrast": (0.6, 1.4),
    "low_resolution_probability": 0.35,
    "low_resolution": (0.35, 1.0),
    "inverted_gamma_probability": 0.2,
    "gamma_probability": 0.4,
    "gamma": (0.5, 2.0),
}


class Augmentation(BaseModel):
    """Which random changes are made, how often and how strong. Intensities are normalised when they come here.

    A field that is not given has the preset's value. The preset ``default`` makes the changes of nnU-Net v2 with
    its probabilities and ranges (Isensee et al., Nature Methods 2021, supplement 4; nnU-Net 2.8). ``light`` makes
    them half as often and about half as strong, ``strong`` about twice as often and stronger; ``none`` makes none.
    Elastic deformation and the MR bias field are off in every preset, and axes are flipped only where
    `flip_axes` names them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Preset = Field(default="default", description="Where the fields that are not given come from.")
    flip_axes: tuple[int, ...] = Field(
        default=(), description="Axes flipped with probability 1/2. Leave out 0 (left-right) where sides matter."
    )
    rotation_probability: Probability = Field(default=0.2, description="Of a rotation.")
    rotation_degrees: float | None = Field(
        default=None,
        ge=0,
        le=180,
        description="Largest angle about each axis; without it 30 in a volume, 180 in the plane of a 2-D patch and"
        " of thick slices, 15 where a 2-D patch is over 1.5 times longer than wide.",
    )
    scaling_probability: Probability = Field(default=0.2, description="Of a change of size.")
    scale: tuple[Positive, Positive] = Field(
        default=(1 / 1.4, 1 / 0.7), description="Smallest and largest magnification."
    )
    elastic_probability: Probability = Field(default=0.0, description="Of a smooth deformation.")
    elastic_cells: int = Field(default=6, ge=1, description="Control cells along the longest side of the patch.")
    elastic_displacement: tuple[float, float] = Field(
        default=(0.05, 0.25),
        description="Range of the largest shift along an axis, in cells; up to 0.4, beyond which space may fold.",
    )
    bias_probability: Probability = Field(default=0.0, description="Of a smooth factor, as of an MR coil.")
    bias_strength: float = Field(default=0.3, ge=0, description="Largest natural logarithm of that factor.")
    noise_probability: Probability = Field(default=0.1, description="Of Gaussian noise.")
    noise_std: float = Field(default=0.1, ge=0, description="Largest standard deviation of the noise.")
    blur_probability: Probability = Field(default=0.2, description="Of a Gaussian blur.")
    blur_sigma: tuple[Positive, Positive] = Field(default=(0.5, 1.0), description="Range, in voxels of each axis.")
    brightness_probability: Probability = Field(default=0.15, description="Of a factor on all intensities.")
    brightness: tuple[float, float] = Field(default=(0.75, 1.25), description="Range of the factor.")
    contrast_probability: Probability = Field(default=0.15, description="Of a factor on the distance to the mean.")
    contrast: tuple[float, float] = Field(default=(0.75, 1.25), description="Range of the factor.")
    low_resolution_probability: Probability = Field(default=0.25, description="Of a loss of resolution.")
    low_resolution: tuple[Share, Share] = Field(default=(0.5, 1.0), description="Range of the voxels' share kept.")
    inverted_gamma_probability: Probability = Field(default=0.1, description="Of a power law from the top down.")
    gamma_probability: Probability = Field(default=0.3, description="Of a power law over the patch's range.")
    gamma: tuple[Positive, Positive] = Field(default=(0.7, 1.5), description="Range of the exponent.")
    channel_probability: Probability = Field(
        default=0.5, description="Of each channel, where a blur or a loss of resolution is drawn."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        return {**PRESETS[preset], **values} if isinstance(preset, str) and preset in PRESETS else values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.flip_axes)) < len(self.flip_axes):
            raise ValueError(f"flip_axes {list(self.flip_axes)} names an axis twice")
        for name in _RANGES:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must rise, found {[low, high]}")
        low, high = self.elastic_displacement
        if low < 0 or high > 0.4:
            raise ValueError(f"elastic_displacement must lie in 0..0.4, found {[low, high]}")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "none": {name: 0.0 for name in Augmentation.model_fields if name.endswith("_probability")},
    "light": _LIGHT,
    "default": {},
    "strong": _STRONG,
}
