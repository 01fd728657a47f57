"""`draw`: the random numbers of one patch, before its voxels are touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from medseg.data.augment.geometry import Matrix, random_elastic, random_matrix, thin_axes
from medseg.data.augment.settings import Augmentation
from medseg.data.augment.smooth_field import SmoothField, random_field

PerChannel = tuple[float, ...]
PerChannelAndAxis = tuple[tuple[float, ...], ...]

_AUGMENTATION = 1  # the stream of the key; the sampler has the others
_BIAS_CELLS = 2


class _Stream(IntEnum):
    """Random numbers of its own for each change: turning one off leaves the others as they are."""

    FLIP = 0
    ROTATION = 1
    SCALING = 2
    ELASTIC = 3
    BIAS = 4
    NOISE = 5
    BLUR = 6
    BRIGHTNESS = 7
    CONTRAST = 8
    LOW_RESOLUTION = 9
    INVERTED_GAMMA = 10
    GAMMA = 11


@dataclass(frozen=True)
class Draw:
    """The random numbers of one patch; what is None does not happen.

    Attributes:
        flips: Spatial axes to flip, after the rest of the geometry.
        matrix: (dims, dims), from an offset to the patch's centre in the result to that in the source, in voxels.
        elastic: (dims, *spatial) shift of the position in the source, in voxels.
        bias: (1, *spatial) natural logarithm of a factor on the distance to the channel's minimum.
        noise_std: Of the noise, 0 for none.
        noise_seed: Of the noise.
        blur: Standard deviation by channel and axis, in voxels; 0 for none.
        brightness: Factor by channel.
        contrast: Factor by channel.
        low_resolution: Share of voxels kept, by channel and axis; 1 for all.
        inverted_gamma: Exponent by channel.
        gamma: Exponent by channel.
    """

    flips: tuple[int, ...] = ()
    matrix: Matrix | None = None
    elastic: SmoothField | None = None
    bias: SmoothField | None = None
    noise_std: float = 0.0
    noise_seed: int = 0
    blur: PerChannelAndAxis | None = None
    brightness: PerChannel | None = None
    contrast: PerChannel | None = None
    low_resolution: PerChannelAndAxis | None = None
    inverted_gamma: PerChannel | None = None
    gamma: PerChannel | None = None


def draw(augmentation: Augmentation, shape: Sequence[int], spacing_mm: Sequence[float], key: Sequence[int]) -> Draw:
    """Draw the changes of one patch.

    Args:
        augmentation: What may happen.
        shape: (C, *spatial) of the patch, with 2 or 3 spatial axes. Where neighbouring slices stand as channels, C
            counts the channels of the image: the slices of one change alike.
        spacing_mm: Of the spatial axes. Rotations keep distances in mm, not in voxels; an axis over 3 times coarser
            than the finest is neither turned, scaled, deformed nor reduced.
        key: Such as (seed, epoch, index); the same key gives the same changes.
    """
    dice = _Dice(augmentation, tuple(key), shape[0])
    spatial = tuple(shape[1:])
    a, rng = augmentation, dice.rng
    matrix = random_matrix(a, spatial, spacing_mm, dice.happens(_Stream.ROTATION), dice.happens(_Stream.SCALING))
    flip, noise = rng(_Stream.FLIP), dice.happens(_Stream.NOISE)
    elastic, bias = dice.happens(_Stream.ELASTIC), dice.happens(_Stream.BIAS)
    strength = [a.bias_strength]
    return Draw(
        flips=tuple(axis for axis in range(len(spatial)) if flip.random() < 0.5 and axis in a.flip_axes),
        matrix=matrix,
        elastic=random_elastic(elastic, a, spatial, spacing_mm, matrix) if elastic else None,
        bias=random_field(bias, spatial, spacing_mm, cells=_BIAS_CELLS, limits=strength) if bias else None,
        noise_std=noise.uniform(0, a.noise_std) if noise else 0.0,
        noise_seed=int(noise.integers(1 << 62)) if noise else 0,
        blur=dice.blur(len(spatial)),
        brightness=dice.factors(_Stream.BRIGHTNESS, a.brightness),
        contrast=dice.factors(_Stream.CONTRAST, a.contrast),
        low_resolution=dice.low_resolution(thin_axes(spacing_mm), len(spatial)),
        inverted_gamma=dice.factors(_Stream.INVERTED_GAMMA, a.gamma),
        gamma=dice.factors(_Stream.GAMMA, a.gamma),
    )


@dataclass(frozen=True)
class _Dice:
    """The streams of one patch's key.

    Args:
        augmentation: What may happen.
        key: Of the patch.
        channels: Of the image.
    """

    augmentation: Augmentation
    key: tuple[int, ...]
    channels: int

    def rng(self, stream: _Stream) -> np.random.Generator:
        return np.random.default_rng([*self.key, _AUGMENTATION, stream])

    def happens(self, stream: _Stream) -> np.random.Generator | None:
        """Return the stream, past its first number, if its change is to happen."""
        rng = self.rng(stream)
        probability: float = getattr(self.augmentation, f"{stream.name.lower()}_probability")
        return rng if rng.random() < probability else None

    def factors(self, stream: _Stream, limits: tuple[float, float]) -> PerChannel | None:
        rng = self.happens(stream)
        return None if rng is None else tuple(_factor(rng, *limits) for _ in range(self.channels))

    def blur(self, dims: int) -> PerChannelAndAxis | None:
        """Draw a sigma for each axis of about half of the channels."""
        rng = self.happens(_Stream.BLUR)
        if rng is None:
            return None
        return tuple(
            tuple(chosen * sigma for sigma in rng.uniform(*self.augmentation.blur_sigma, dims).tolist())
            for chosen in self._chosen(rng)
        )

    def low_resolution(self, axes: Sequence[int], dims: int) -> PerChannelAndAxis | None:
        """Draw one share for all thin axes of each of about half of the channels."""
        rng = self.happens(_Stream.LOW_RESOLUTION)
        if rng is None:
            return None
        shares = [rng.uniform(*self.augmentation.low_resolution) if c else 1.0 for c in self._chosen(rng)]
        return tuple(tuple(share if axis in axes else 1.0 for axis in range(dims)) for share in shares)

    def _chosen(self, rng: np.random.Generator) -> list[bool]:
        return [rng.random() < self.augmentation.channel_probability for _ in range(self.channels)]


def _factor(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw from below or from above 1 with the same probability, whatever the range's lengths there."""
    if low < 1 < high:
        low, high = (low, 1.0) if rng.random() < 0.5 else (1.0, high)
    return rng.uniform(low, high)
