"""How tissues look in CT and in MR, and what the scanner adds: blur, shading, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.phantom.anatomy import Tissue
from medseg.phantom.shapes import Points

Image = NDArray[np.float32]

_BLUR_MM = 1.8
_TEXTURE_MM = 6.0
_KERNEL_SIGMAS = 3.0
_CT_RANGE_HU = (-1024, 3071)
_AIR_HU = -1000.0


@dataclass(frozen=True)
class Contrast:
    """The look of one modality.

    Attributes:
        level: Middle intensity of each tissue.
        spread: How far an examination's intensities stray from the middle, as a share of `reference`.
        reference: What `spread` and the texture are a share of.
        noise: Standard deviation of the noise of a typical examination.
        is_magnitude: Noise as in MR magnitude images, and coil shading.
    """

    level: dict[Tissue, float]
    spread: float
    reference: float
    noise: float
    is_magnitude: bool

    def levels(self, rng: np.random.Generator) -> dict[Tissue, float]:
        """Return the intensities of one examination; tissues that share one keep sharing it."""
        drift = self.spread * self.reference
        levels = {tissue: level + float(rng.uniform(-drift, drift)) for tissue, level in self.level.items()}
        levels[Tissue.AIR] = self.level[Tissue.AIR]
        return levels


CONTRASTS = {
    "CT": Contrast(
        {
            Tissue.AIR: _AIR_HU,
            Tissue.FOAM: -920.0,
            Tissue.SKIN: 20.0,
            Tissue.FAT: -100.0,
            Tissue.MUSCLE: 55.0,
            Tissue.LUNG: -840.0,
            Tissue.PARENCHYMA: 115.0,
            Tissue.LESION: 65.0,
            Tissue.KIDNEY: 165.0,
            Tissue.BLOOD: 160.0,
            Tissue.VEIN: 150.0,
            Tissue.FLUID: 12.0,
            Tissue.BOWEL: 40.0,
            Tissue.DISC: 85.0,
            Tissue.BONE: 260.0,
            Tissue.CORTEX: 520.0,
        },
        spread=0.1,
        reference=100.0,
        noise=14.0,
        is_magnitude=False,
    ),
    "MR": Contrast(
        {
            Tissue.AIR: 0.0,
            Tissue.FOAM: 0.0,
            Tissue.SKIN: 260.0,
            Tissue.FAT: 170.0,
            Tissue.MUSCLE: 230.0,
            Tissue.LUNG: 45.0,
            Tissue.PARENCHYMA: 420.0,
            Tissue.LESION: 290.0,
            Tissue.KIDNEY: 540.0,
            Tissue.BLOOD: 560.0,
            Tissue.VEIN: 520.0,
            Tissue.FLUID: 110.0,
            Tissue.BOWEL: 190.0,
            Tissue.DISC: 150.0,
            Tissue.BONE: 270.0,
            Tissue.CORTEX: 120.0,
        },
        spread=0.06,
        reference=400.0,
        noise=18.0,
        is_magnitude=True,
    ),
}
"""Portal venous CT in HU; contrast-enhanced, fat-suppressed T1 MR in arbitrary units."""


def finish(
    image: Image,
    axes: tuple[Points, Points, Points],
    spacing_mm: tuple[float, float, float],
    contrast: Contrast,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """Return what the scanner makes of a painted image: texture, blur, shading, noise, whole numbers."""
    sigmas = [_BLUR_MM / step for step in spacing_mm]
    texture = _unit_noise(image.shape, [_TEXTURE_MM / step for step in spacing_mm], rng)
    noise_level = contrast.noise * float(rng.uniform(0.7, 1.4))
    if not contrast.is_magnitude:
        tissue = np.clip((image - np.float32(_AIR_HU)) / np.float32(1000), 0, 1)
        blurred = blur(image + np.float32(5) * texture * tissue, sigmas)
        blurred += np.float32(noise_level) * _unit_noise(image.shape, [0.6, 0.6, 0.3], rng)
        return np.clip(np.rint(blurred), *_CT_RANGE_HU).astype(np.int16)
    shaded = blur(image * (1 + np.float32(0.03) * texture), sigmas) * _coil_shading(axes, rng)
    shaded *= np.float32(rng.uniform(0.7, 1.5))
    real, imaginary = (np.float32(noise_level) * _unit_noise(image.shape, None, rng) for _ in range(2))
    magnitude: Image = np.rint(np.hypot(shaded + real, imaginary))
    return magnitude.astype(np.int16)


def blur(image: Image, sigmas: list[float]) -> Image:
    """Convolve with a Gaussian along each axis, edges repeated.

    Args:
        image: (i, j, k).
        sigmas: Standard deviation along each axis, voxels.
    """
    for axis, sigma in enumerate(sigmas):
        image = _blur_line(image, sigma, axis)
    return image


def _blur_line(image: Image, sigma: float, axis: int) -> Image:
    radius = max(1, int(np.ceil(_KERNEL_SIGMAS * sigma)))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    margins = [(radius, radius) if other == axis else (0, 0) for other in range(3)]
    padded = np.pad(image, margins, mode="edge")
    result = np.zeros_like(image)
    for start, weight in enumerate(weights):
        window = [slice(None)] * 3
        window[axis] = slice(start, start + image.shape[axis])
        result += np.float32(weight) * padded[tuple(window)]
    return result


def _unit_noise(shape: tuple[int, ...], sigmas: list[float] | None, rng: np.random.Generator) -> Image:
    noise = rng.standard_normal(shape, dtype=np.float32)
    if sigmas is None:
        return noise
    smooth = blur(noise, sigmas)
    return smooth / np.float32(max(float(smooth.std()), 1e-6))


def _coil_shading(axes: tuple[Points, Points, Points], rng: np.random.Generator) -> Image:
    """Return a smooth factor (i, j, k) around 1, as from receive coils."""
    log_gain: Image = np.zeros((1, 1, 1), dtype=np.float32)
    for axis in axes:
        scaled = axis / np.float32(180)
        slope, curve = rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.3)
        log_gain = log_gain + np.float32(slope) * scaled + np.float32(curve) * scaled * scaled
    return np.exp(log_gain)
