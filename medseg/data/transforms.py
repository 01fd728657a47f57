"""The preprocessing contract as MONAI dictionary transforms: volumes -> what a network sees.

Keys are ``image`` (one `Volume` for each channel), ``label`` and ``coarse``, the label map of the first stage of a
cascade (one each, optional). Nothing is lazy: MONAI's lazy resampling interpolates labels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, CropForegroundd, MapTransform, Orientationd
from torch import Tensor

from medseg.data.channels import present_volumes
from medseg.data.normalize import filled_mask, has_mask, normalize
from medseg.data.preprocessing import STORED, Intensity, Preprocessing
from medseg.data.spacing import IMAGE, NEAREST_AXIS, Data, ExactSpacingd, SplineSpacingd, grid_of, placed
from medseg.errors import InputError, MedsegError, is_out_of_memory
from medseg.volume import Grid, Volume, require_same_grid

LABEL, COARSE = "label", "coarse"
_RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
_KEEP_SPACING = ("keep", "keep", "keep")
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_OUTSIDE = -1


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as a network sees it.

    Attributes:
        image: float32 (C, i, j, k); a channel that is missing is 0. Flags are not in it; see
            `medseg.data.channels.with_flags`.
        label: Label values (i, j, k) on the same grid, where a label was given.
        grid: Where the voxels lie in the patient.
        present: Which channels the case has; None where it has all.
        coarse: Label values (i, j, k) of the first stage of a cascade, on the same grid.
        nearest_axis: Axis along which logits are taken from the nearest plane on their way to the image's own grid;
            None where all axes are interpolated.
    """

    image: Tensor
    grid: Grid
    label: Tensor | None = None
    present: tuple[bool, ...] | None = None
    coarse: Tensor | None = None
    nearest_axis: int | None = None


class StackVolumesd(MapTransform):  # type: ignore[misc]
    """Stack the volumes of each key, one a channel, into a float32 (image) or integer (label) tensor.

    All of them lie on the grid of the first image.
    """

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Replace each key's list of volumes by a (C, i, j, k) `MetaTensor`."""
        out = dict(data)
        first: Volume = data[IMAGE][0]
        for key in self.key_iterator(out):
            volumes: Sequence[Volume] = data[key]
            out[key] = placed(_stack(volumes, is_label=key != IMAGE), first.grid)
        return out


class PermuteAxesd(MapTransform):  # type: ignore[misc]
    """Put the axes in the network's order, without moving a voxel in the patient.

    Args:
        keys: Which entries.
        axes: The present axis of each new one.
    """

    def __init__(self, keys: Sequence[str], axes: Sequence[int]) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.axes = tuple(axes)

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Permute every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            affine = grid_of(out[key]).affine.copy()
            affine[:, :3] = affine[:, self.axes]
            x = out[key].as_tensor().permute(0, *(axis + 1 for axis in self.axes))
            out[key] = placed(x, Grid((x.shape[1], x.shape[2], x.shape[3]), affine))
        return out


class MarkOutsided(MapTransform):  # type: ignore[misc]
    """Label -1 what is background of the first stage and outside `filled_mask`, as nnU-Net does.

    What the first stage drew counts as inside where intensities are measured, and -1 takes part as a label of its
    own where the map is resampled; `UnmarkOutsided` then makes it background again.
    """

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Mark every key."""
        for key in self.key_iterator(data):
            labels = data[key].as_tensor()
            labels[(labels == 0) & ~filled_mask(data[IMAGE].as_tensor())] = _OUTSIDE
        return dict(data)


class UnmarkOutsided(MapTransform):  # type: ignore[misc]
    """Make background what `MarkOutsided` marked."""

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Change every key."""
        for key in self.key_iterator(data):
            data[key].as_tensor().clamp_(min=0)
        return dict(data)


class NormalizeChannelsd(MapTransform):  # type: ignore[misc]
    """Normalise each channel by its own rule, in place; rules with `filled` measure what is not marked as outside.

    Args:
        keys: Which entries.
        rules: One a channel, complete.
    """

    def __init__(self, keys: Sequence[str], rules: Sequence[Intensity]) -> None:
        super().__init__(keys)
        self.rules = tuple(rules)

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Normalise every key."""
        out = dict(data)
        inside = out[COARSE].as_tensor()[0] != _OUTSIDE if COARSE in out else None
        for key in self.key_iterator(out):
            normalize(out[key].as_tensor(), self.rules, inside)
        return out


def build_transforms(preprocessing: Preprocessing, channels: int) -> Callable[[Data], dict[str, Any]]:
    """Return the preprocessing as one MONAI ``Compose``.

    Args:
        preprocessing: Complete; see `Preprocessing.completed`.
        channels: Number of image channels.
    """
    keys = (IMAGE, LABEL, COARSE)
    steps: list[Any] = [StackVolumesd(keys, allow_missing_keys=True)]
    if (axcodes := preprocessing.orientation) != STORED:
        steps.append(Orientationd(keys, axcodes=axcodes, labels=_RAS_LABELS, allow_missing_keys=True))
    if preprocessing.axes != (0, 1, 2):
        steps.append(PermuteAxesd(keys, preprocessing.axes))
    if preprocessing.crops:
        select = partial(_foreground, above=preprocessing.crop_above)
        steps.append(
            CropForegroundd(keys, source_key=IMAGE, select_fn=select, allow_smaller=True, allow_missing_keys=True)
        )
    spacing = preprocessing.spacing_mm or _KEEP_SPACING
    rules = preprocessing.for_channels(channels)
    normalization = NormalizeChannelsd((IMAGE,), rules)
    as_nnunet = preprocessing.spline is not None or any(has_mask(rule) for rule in rules)
    if as_nnunet:
        steps.append(MarkOutsided((COARSE,), allow_missing_keys=True))
    if preprocessing.spline is None:
        steps += [ExactSpacingd(keys, spacing), normalization]
    else:
        steps += [normalization, SplineSpacingd(keys, spacing, preprocessing.spline)]
    if as_nnunet:
        steps.append(UnmarkOutsided((COARSE,), allow_missing_keys=True))
    return Compose(steps)  # type: ignore[no-any-return]


def prepare(
    transforms: Callable[[Data], dict[str, Any]],
    images: Sequence[Volume | None],
    label: Volume | None = None,
    coarse: Volume | None = None,
) -> Prepared:
    """Run the preprocessing on one case.

    Args:
        transforms: From `build_transforms`.
        images: One volume a channel; None for one that is missing, which becomes 0 and changes no crop.
        label: The label map, where there is one.
        coarse: The label map of the first stage of a cascade, where there is one.

    Raises:
        GridError: The volumes do not share one grid.
        InputError: An image holds NaN or infinite values, or there is none.
    """
    given = present_volumes(images)
    for volume in given:
        _check_finite(volume)
    data: dict[Hashable, Any] = {IMAGE: [given[0] if image is None else image for image in images]}
    maps = {key: volume for key, volume in ((LABEL, label), (COARSE, coarse)) if volume is not None}
    data |= {key: [volume] for key, volume in maps.items()}
    for volume in (*given[1:], *maps.values()):
        check_same_grid(given[0], volume)
    try:
        out = transforms(data)
    except RuntimeError as error:  # Compose hides what happened in a RuntimeError
        cause = error.__cause__
        if cause is not None and (isinstance(cause, MedsegError) or is_out_of_memory(cause)):
            raise cause from error
        raise
    image, present = out[IMAGE], tuple(volume is not None for volume in images)
    drawn = {key: out[key].as_tensor()[0] for key in maps}
    for channel, there in zip(image.as_tensor(), present, strict=True):
        if not there:
            channel.zero_()
    which = None if all(present) else present
    nearest_axis = out.get(NEAREST_AXIS)
    return Prepared(image.as_tensor(), grid_of(image), drawn.get(LABEL), which, drawn.get(COARSE), nearest_axis)


def check_same_grid(first: Volume, other: Volume) -> None:
    """Refuse two volumes that do not lie on the same grid.

    Raises:
        GridError: They do not.
    """
    owner, where = first.source or "the first volume", other.source or "volume"
    require_same_grid(first.grid, other.grid, owner=owner, where=where)


def _check_finite(volume: Volume) -> None:
    array = volume.array
    if array.dtype.kind != "f":
        return
    # a sum is finite only where every value is: one pass, and no array of its own
    found = "" if np.isfinite(array.sum(dtype=np.float64)) else "NaN or infinite ones"
    if not found and array.dtype.itemsize > 4:
        low, high = float(array.min()), float(array.max())
        found = f"values from {low:.3g} to {high:.3g}" if max(-low, high) > _FLOAT32_MAX else ""
    if found:
        raise InputError(
            volume.source or "volume",
            expected="finite values that 32 bits hold",
            found=found,
            remedy="replace them, by the value of air for example",
        )


def _foreground(image: Tensor, above: float | None) -> Tensor:
    """Return which voxels to crop to: those that are not 0 or that are above a number; all where there are none."""
    chosen = image != 0 if above is None else image > above
    return chosen if chosen.any() else torch.ones_like(chosen)


def _stack(volumes: Sequence[Volume], *, is_label: bool) -> Tensor:
    if is_label:
        array = volumes[0].array
        kind = np.int16 if array.max() <= np.iinfo(np.int16).max else np.int64
        return torch.from_numpy(array.astype(kind, order="K"))[None]
    if len(volumes) == 1:
        return torch.from_numpy(volumes[0].array.astype(np.float32, order="K"))[None]
    return torch.stack([torch.from_numpy(v.array.astype(np.float32, order="K")) for v in volumes])
