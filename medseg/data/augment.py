"""Random changes of training patches: batched torch on the device of the data, keyed by (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Augmentation(BaseModel):
    """Which random changes are made, how often and how strong. Intensities are normalised when they come here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip_axes: tuple[int, ...] = Field(
        default=(), description="Axes flipped with probability 1/2. Leave out 0 (left-right) where sides matter."
    )
    affine_probability: Probability = Field(default=0.3, description="Of a rotation with a scaling.")
    rotation_degrees: float = Field(default=15.0, ge=0, le=180, description="Largest angle about each axis.")
    scale: tuple[Positive, Positive] = Field(
        default=(0.85, 1.18), description="Smallest and largest magnification."
    )
    noise_probability: Probability = Field(default=0.15, description="Of Gaussian noise.")
    noise_std: float = Field(default=0.1, ge=0, description="Largest standard deviation of the noise.")
    brightness_probability: Probability = Field(default=0.15, description="Of a factor on all intensities.")
    brightness: tuple[float, float] = Field(default=(0.75, 1.25), description="Range of the factor.")
    contrast_probability: Probability = Field(default=0.15, description="Of a factor on the distance to the mean.")
    contrast: tuple[float, float] = Field(default=(0.75, 1.25), description="Range of the factor.")
    gamma_probability: Probability = Field(default=0.15, description="Of a power law over the patch's range.")
    gamma: tuple[Positive, Positive] = Field(default=(0.7, 1.5), description="Range of the exponent.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.flip_axes)) < len(self.flip_axes):
            raise ValueError(f"flip_axes {list(self.flip_axes)} names an axis twice")
        for name in ("scale", "brightness", "contrast", "gamma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must rise, found {[low, high]}")
        return self


@dataclass(frozen=True)
class Draw:
    """The random numbers of one patch.

    Attributes:
        flips: Spatial axes to flip.
        affine: (dims, dims + 1), output to input position in the axes of ``affine_grid``: the last axis first, each
            from -1 to 1; or None.
        noise_std: Of the noise, 0 for none.
        noise_seed: Of the noise.
        brightness: Factor.
        contrast: Factor.
        gamma: Exponent.
    """

    flips: tuple[int, ...]
    affine: np.ndarray[tuple[int, int], np.dtype[np.float64]] | None
    noise_std: float
    noise_seed: int
    brightness: float
    contrast: float
    gamma: float


def draw(augmentation: Augmentation, extent_mm: Sequence[float], key: Sequence[int]) -> Draw:
    """Draw the changes of one patch.

    Args:
        augmentation: What may happen.
        extent_mm: Size of the patch along its 2 or 3 axes: a rotation keeps distances in mm, not in voxels.
        key: Such as (seed, epoch, index); the same key gives the same changes.
    """
    rng = np.random.default_rng([*key, 1])
    a = augmentation

    def maybe(probability: float, low: float, high: float, otherwise: float) -> float:
        happens, value = rng.random() < probability, rng.uniform(low, high)
        return value if happens else otherwise

    matrix = _affine(rng, a, np.array(extent_mm))
    return Draw(
        flips=tuple(axis for axis in a.flip_axes if rng.random() < 0.5),
        affine=matrix if rng.random() < a.affine_probability else None,
        noise_std=maybe(a.noise_probability, 0, a.noise_std, 0.0),
        noise_seed=int(rng.integers(1 << 62)),
        brightness=maybe(a.brightness_probability, *a.brightness, 1.0),
        contrast=maybe(a.contrast_probability, *a.contrast, 1.0),
        gamma=maybe(a.gamma_probability, *a.gamma, 1.0),
    )


def augment(image: Tensor, label: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
    """Change a batch of patches.

    Args:
        image: float32 (B, C, *spatial); overwritten.
        label: Class indices (B, *spatial); overwritten.
        draws: One a patch.

    Returns:
        Image and label of the same sizes; labels take the nearest value, and background from outside.
    """
    moved = [n for n, d in enumerate(draws) if d.affine is not None]
    if moved:
        image, label = _move(image, label, draws, moved)
    for n, d in enumerate(draws):
        if d.flips:
            image[n] = image[n].flip([axis + 1 for axis in d.flips])
            label[n] = label[n].flip(list(d.flips))
        _change_intensity(image[n], d)
    return image, label


def _move(image: Tensor, label: Tensor, draws: Sequence[Draw], moved: list[int]) -> tuple[Tensor, Tensor]:
    matrices = np.stack([d.affine for d in draws if d.affine is not None])
    theta = torch.from_numpy(matrices).to(image)  # (moved, dims, dims + 1)
    grid = F.affine_grid(theta, [len(moved), 1, *image.shape[2:]], align_corners=False)
    image[moved] = F.grid_sample(image[moved], grid, padding_mode="border", align_corners=False)
    values = label[moved][:, None].to(image)
    nearest = F.grid_sample(values, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    label[moved] = nearest[:, 0].to(label.dtype)
    return image, label


def _change_intensity(image: Tensor, d: Draw) -> None:
    """Change one patch (C, *spatial) in place."""
    if d.noise_std:
        generator = torch.Generator(image.device).manual_seed(d.noise_seed)
        image += d.noise_std * torch.randn(image.shape, generator=generator, device=image.device)
    if d.brightness != 1:
        image *= d.brightness
    axes = list(range(1, image.ndim))
    if d.contrast != 1:
        mean, low, high = image.mean(axes, keepdim=True), image.amin(axes, True), image.amax(axes, True)
        image.copy_(((image - mean) * d.contrast + mean).clamp(low, high))
    if d.gamma != 1:
        low, high = image.amin(axes, True), image.amax(axes, True)
        span = (high - low).clamp_min(1e-6)
        image.copy_(((image - low) / span).pow(d.gamma) * span + low)


def _affine(
    rng: np.random.Generator, augmentation: Augmentation, extent_mm: NDArray[np.float64]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return (dims, dims + 1); see `Draw.affine`."""
    limit = np.deg2rad(augmentation.rotation_degrees)
    spatial_dims = len(extent_mm)
    matrix = np.eye(spatial_dims)
    for first in range(spatial_dims):
        for second in range(first + 1, spatial_dims):
            angle = rng.uniform(-limit, limit)
            turn = np.eye(spatial_dims)
            turn[[first, second], [first, second]] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ turn
    matrix /= np.exp(rng.uniform(*np.log(augmentation.scale)))
    normalised = matrix * extent_mm / extent_mm[:, None]
    return np.hstack((normalised[::-1, ::-1], np.zeros((spatial_dims, 1))))
