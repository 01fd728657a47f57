"""Thick slices: which axes a network leaves alone while their voxels are much longer than the others."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.errors import UsageError
from medseg.networks.blocks import Sizes

_FACTOR = 2.0

Thick = tuple[bool, ...]


def thick_axes(spacing_mm: Sequence[float] | None, dims: int, levels: int) -> tuple[Thick, ...]:
    """Return, for each level of a network, whether each axis is thick there.

    An axis is thick while its spacing is more than twice the smallest one: kernel and stride are 1 along it. Each
    step to the next level halves the resolution of the other axes.

    Args:
        spacing_mm: Voxel spacing of the network's input, one an axis; None for equal ones.
        dims: 2 or 3.
        levels: How many, that of the input first.

    Raises:
        UsageError: There is not one positive number an axis.

    Source: Isensee et al. 2021 (doi:10.1038/s41592-020-01008-z).
    """
    spacing = [1.0] * dims if spacing_mm is None else list(spacing_mm)
    if len(spacing) != dims or min(spacing) <= 0:
        raise UsageError(
            "network.spacing_mm",
            expected=f"{dims} positive numbers",
            found=str(spacing),
            remedy="give the spacing along each axis, or leave it out",
        )
    found = []
    for _ in range(levels):
        thick = tuple(mm > _FACTOR * min(spacing) for mm in spacing)
        found.append(thick)
        spacing = [mm if alone else 2 * mm for mm, alone in zip(spacing, thick, strict=True)]
    return tuple(found)


def spared(size: int, thick: Thick) -> Sizes:
    """Return `size` along each axis, 1 along the thick ones."""
    return tuple(1 if alone else size for alone in thick)
