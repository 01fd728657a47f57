"""`Fixed`: what a configuration says already, and a plan leaves as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medseg.data.fingerprint import Triple

Resolution = Literal["full", "low"]


@dataclass(frozen=True)
class Fixed:
    """What the configuration says already, and stays.

    Attributes:
        dims: 2 or 3, as asked by ``--dims``; by the data where None.
        patch_size: One size an axis.
        patch_from: Where the patch is set, for messages.
        batch_size: Patches a step, of all processes.
        accumulate: Parts of a batch.
        spacing_mm: Along the network's axes, where all of it is said.
        axes: Of R, A, S, the one that each axis of the network is.
        crops: Images are cropped.
        depth: Stages of the network.
        has_strides: The network's strides are set.
        flip_axes: That training mirrors along.
        resolution: ``low`` plans the first stage of a cascade.
        has_first_stage: It is the second stage of a cascade.
        optimizer: Its name.
    """

    dims: int | None = None
    patch_size: tuple[int, ...] | None = None
    patch_from: str = "training.patch_size"
    batch_size: int | None = None
    accumulate: int | None = None
    spacing_mm: Triple | None = None
    axes: tuple[int, int, int] = (0, 1, 2)
    crops: bool = False
    depth: int | None = None
    has_strides: bool = False
    flip_axes: tuple[int, ...] | None = None
    resolution: Resolution = "full"
    has_first_stage: bool = False
    optimizer: str = "adamw"
