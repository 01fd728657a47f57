"""How deep a U-Net is for a patch, and along which axes each of its stages halves and looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_FEATURE_MAP = 4
_ALONE = 3  # times the smallest map that the last axis still halved needs
_SIMILAR = 2.0  # spacings within this factor are halved together and see a kernel of 3


@dataclass(frozen=True)
class Topology:
    """The stages of a U-Net.

    Attributes:
        kernels: Of each stage, one number an axis.
        strides: From each stage to the next.
    """

    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def multiple(self) -> tuple[int, ...]:
        """The voxels along each axis that become one in the last stage."""
        product = [1] * len(self.kernels[0])
        for stride in self.strides:
            product = [p * s for p, s in zip(product, stride, strict=True)]
        return tuple(product)

    def of_depth(self, stages: int | None) -> Topology:
        """Return the first stages, or with further ones that halve nothing; itself where no number is given."""
        if stages is None:
            return self
        more, axes = max(0, stages - len(self.kernels)), len(self.kernels[0])
        kernels = (*self.kernels, *((3,) * axes,) * more)
        strides = (*self.strides, *((1,) * axes,) * more)
        return Topology(kernels[:stages], strides[: stages - 1])

    def channels(self, base: int, most: int) -> tuple[int, ...]:
        """Return the channels of each stage: doubled from one to the next, up to a limit."""
        return tuple(min(base * 2**stage, most) for stage in range(len(self.kernels)))


def topology(patch: Sequence[int], spacing_mm: Sequence[float]) -> Topology:
    """Return the stages for a patch.

    An axis is halved while at least 4 voxels are left of it and its spacing is within twice the finest of the axes
    that can still be halved. A kernel is 1 along an axis until its spacing comes within twice the finest one, and 3
    from there on. The last axis alone is halved only from 12 voxels on.

    Args:
        patch: Sizes, one an axis; at least two stages come out of it.
        spacing_mm: One an axis.

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z, "network topology".
    """
    size, spacing = [float(n) for n in patch], list(spacing_mm)
    near = [False] * len(size)
    kernels, strides = [], []
    while True:
        near = [was or mm < _SIMILAR * min(spacing) for was, mm in zip(near, spacing, strict=True)]
        kernels.append(tuple(3 if n else 1 for n in near))
        axes = _halved(size, spacing)
        if not axes:
            break
        strides.append(tuple(2 if axis in axes else 1 for axis in range(len(size))))
        size = [n / 2 if axis in axes else n for axis, n in enumerate(size)]
        spacing = [2 * mm if axis in axes else mm for axis, mm in enumerate(spacing)]
    if not strides:
        return Topology((kernels[0], (3,) * len(size)), ((1,) * len(size),))
    return Topology((*kernels[:-1], (3,) * len(size)), tuple(strides))


def _halved(size: Sequence[float], spacing_mm: Sequence[float]) -> list[int]:
    large = [axis for axis, n in enumerate(size) if n >= 2 * SMALLEST_FEATURE_MAP]
    if not large:
        return []
    finest = min(spacing_mm[axis] for axis in large)
    axes = [axis for axis in large if spacing_mm[axis] < _SIMILAR * finest]
    if len(axes) == 1 and len(size) > 1 and size[axes[0]] < _ALONE * SMALLEST_FEATURE_MAP:
        return []
    return axes
