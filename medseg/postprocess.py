"""`Postprocessing`: what is done to a network's logits and labels before they are a label map."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import cc3d
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from medseg.crf import CRF
from medseg.labels import BACKGROUND, LabelSet

_FULL_CONNECTIVITY = 26

LabelArray = TypeVar("LabelArray", bound=NDArray[np.integer[Any]])


class Postprocessing(BaseModel):
    """What is done to a network's logits and labels; nothing by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crf: CRF | None = Field(
        default=None,
        description="Refine the probabilities by mean-field inference on the image; {} takes the defaults. "
        "All classes of the whole image are in memory for it, and it takes minutes on a CPU.",
    )
    keep_largest: tuple[str, ...] = Field(
        default=(),
        description="Names of labels of which the largest connected component is kept on the image's own grid; "
        "the rest becomes background. `medseg select` finds where this helps.",
    )

    def clean(self, array: LabelArray, labels: LabelSet) -> LabelArray:
        """Keep the largest component of each label that `keep_largest` names.

        Args:
            array: Label values (i, j, k).
            labels: What they mean.

        Returns:
            The array itself where nothing is removed, a changed copy otherwise.
        """
        for label in labels:
            if label.name in self.keep_largest:
                array = keep_largest(array, label.index)
        return array

    def keeping_largest(self, names: Iterable[str]) -> Postprocessing:
        """Return the same postprocessing with the largest component of more labels kept."""
        return self.model_copy(update={"keep_largest": tuple(dict.fromkeys((*self.keep_largest, *names)))})


def keep_largest(array: LabelArray, value: int) -> LabelArray:
    """Keep the largest connected component of a label; its other voxels become background.

    Voxels that share a face, an edge or a corner are connected (26 neighbours, as in nnU-Net). Components are
    measured in voxels; of equally large ones the one is kept that comes first with i fastest, then j, then k.

    Args:
        array: Label values (i, j, k).
        value: Of the label.

    Returns:
        The array itself where the label has fewer than two components, a changed copy otherwise.
    """
    box = _box_of(array, value)
    if box is None:
        return array
    mask = np.asfortranarray(array[box] == value).view(np.uint8)  # cc3d 4.1 fails on bool masks such as 1, 0, 1
    components = cc3d.connected_components(mask, connectivity=_FULL_CONNECTIVITY)
    sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
    if len(sizes) <= 2:  # background and one component
        return array
    largest = _first_of_the_largest(components, sizes[1:])
    cleaned = array.copy(order="K")
    cleaned[box][(components != BACKGROUND) & (components != largest)] = BACKGROUND
    return cleaned


def _first_of_the_largest(components: NDArray[np.integer[Any]], sizes: NDArray[np.int64]) -> int:
    """Return the number of the largest component; components are numbered from 1."""
    tied = np.flatnonzero(sizes == sizes.max()) + 1
    if len(tied) == 1:
        return int(tied[0])
    in_order = components.ravel(order="F")
    return int(in_order[np.isin(in_order, tied).argmax()])


def _box_of(array: NDArray[Any], value: int) -> tuple[slice, ...] | None:
    """Return the smallest box that holds every voxel of a value, or None where there is none."""
    mask = array == value
    box = [slice(None)] * mask.ndim
    for axis in reversed(range(mask.ndim)):  # the slowest axis first, as i is fastest in memory
        others = tuple(other for other in range(mask.ndim) if other != axis)
        occupied = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not occupied.size:
            return None
        box[axis] = slice(int(occupied[0]), int(occupied[-1]) + 1)
    return tuple(box)
