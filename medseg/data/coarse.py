"""The first stage of a cascade as input of the second: its label map, which the network sees as one mask a label.

The map is resampled to the nearest label, with splines as nnU-Net does, and stored as it is, one small integer a
voxel; the masks are made when the network looks at a patch or a tile. So labels are never interpolated as numbers,
and a store stays small.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.data.manifest import Case
from medseg.nifti import read_nifti
from medseg.volume import Volume


def read_coarse(case: Case) -> Volume | None:
    """Read the first stage's label map of a case; None where the case has none.

    Raises:
        NiftiError: The file cannot be read.
    """
    return None if case.coarse is None else read_nifti(case.coarse)


def one_hot(labels: Tensor, values: Sequence[int]) -> Tensor:
    """Return one mask for each label.

    Args:
        labels: Label values as float32 (B, 1, *spatial), or (B, slices, i, j) of neighbouring slices.
        values: Of the labels wanted; any other, such as the background, is in no mask.

    Returns:
        Zeros and ones, float32 (B, K, *spatial), or (B, K x slices, i, j), the slices of one label side by side.
    """
    wanted = torch.tensor(values, dtype=labels.dtype, device=labels.device)
    masks = labels[:, None] == wanted.view(1, -1, *[1] * (labels.ndim - 1))  # (B, K, slices, *spatial)
    return masks.to(labels.dtype).flatten(1, 2)


def with_masks(image: Tensor, values: Sequence[int], slices: int = 1) -> Tensor:
    """Replace the label map behind the channels of an image by its masks.

    Args:
        image: (B, C + 1, *spatial), or (B, (C + 1) x slices, i, j); the last channel holds label values.
        values: Of the labels; see `one_hot`. Without any there is no label map, and the image is returned.
        slices: Neighbouring slices that stand side by side as channels.

    Returns:
        (B, C + K, *spatial), or (B, (C + K) x slices, i, j).
    """
    if not values:
        return image
    return torch.cat((image[:, :-slices], one_hot(image[:, -slices:], values)), dim=1)
