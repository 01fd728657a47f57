"""The preprocessing contract as MONAI dictionary transforms: volumes -> what a network sees.

Keys are ``image`` (one `Volume` for each channel), ``label`` and ``coarse``, the label map of the first stage of a
cascade (one each, optional). Nothing is lazy: MONAI's lazy resampling interpolates labels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, MapTransform, Orientationd
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.channels import present_volumes
from medseg.data.preprocessing import CTIntensity, Preprocessing, ZScoreIntensity
from medseg.data.resample import GridMap, resample
from medseg.errors import InputError, MedsegError, is_out_of_memory
from medseg.volume import MAX_VOXELS, Affine, Grid, Volume, require_same_grid

IMAGE, LABEL, COARSE = "image", "label", "coarse"
_RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
_SMALLEST_STD = 1e-8
_KEEP_SPACING = ("keep", "keep", "keep")

Data = Mapping[Hashable, Any]


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
    """

    image: Tensor
    grid: Grid
    label: Tensor | None = None
    present: tuple[bool, ...] | None = None
    coarse: Tensor | None = None


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
            out[key] = _placed(_stack(volumes, is_label=key != IMAGE), first.grid)
        return out


class ExactSpacingd(MapTransform):  # type: ignore[misc]
    """Resample to a spacing: linear for images, nearest for labels; equals MONAI's ``Spacingd`` to 1e-5.

    The first voxel's centre stays where it is, a size is ``round((n - 1) * old / new + 1)``. A sheared grid
    becomes one with right angles.

    Args:
        keys: Which entries.
        spacing_mm: Along i, j, k; ``keep`` leaves an axis as it is.
    """

    def __init__(self, keys: Sequence[str], spacing_mm: Sequence[float | str]) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.spacing_mm = tuple(spacing_mm)

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Resample every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            x = out[key]
            source = grid_of(x)
            target = spaced_grid(source, self.spacing_mm)
            if source.difference(target, tolerance_mm=0.0) is not None:
                values = resample(x.as_tensor(), GridMap(source, target), nearest=key != IMAGE)
                out[key] = _placed(values, target)
        return out


class NormalizeChannelsd(MapTransform):  # type: ignore[misc]
    """Normalise each channel by its own rule, in place.

    Args:
        keys: Which entries.
        rules: One a channel, complete.
    """

    def __init__(self, keys: Sequence[str], rules: Sequence[CTIntensity | ZScoreIntensity]) -> None:
        super().__init__(keys)
        self.rules = tuple(rules)

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Normalise every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            for channel, rule in zip(out[key].as_tensor(), self.rules, strict=True):
                if isinstance(rule, CTIntensity):
                    _normalize_ct(channel, rule)
                else:
                    _normalize_zscore(channel, rule)
        return out


def build_transforms(preprocessing: Preprocessing, channels: int) -> Callable[[Data], dict[str, Any]]:
    """Return the preprocessing as one MONAI ``Compose``.

    Args:
        preprocessing: Complete; see `Preprocessing.completed`.
        channels: Number of image channels.
    """
    keys = (IMAGE, LABEL, COARSE)
    steps: list[Any] = [
        StackVolumesd(keys, allow_missing_keys=True),
        Orientationd(keys, axcodes="RAS", labels=_RAS_LABELS, allow_missing_keys=True),
    ]
    threshold = preprocessing.crop_above
    if threshold is not None:
        steps.append(
            CropForegroundd(
                keys,
                source_key=IMAGE,
                select_fn=lambda image: _above(image, threshold),
                allow_smaller=True,
                allow_missing_keys=True,
            )
        )
    steps.append(ExactSpacingd(keys, preprocessing.spacing_mm or _KEEP_SPACING))
    steps.append(NormalizeChannelsd((IMAGE,), preprocessing.for_channels(channels)))
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
    return Prepared(image.as_tensor(), grid_of(image), drawn.get(LABEL), which, drawn.get(COARSE))


def check_same_grid(first: Volume, other: Volume) -> None:
    """Refuse two volumes that do not lie on the same grid.

    Raises:
        GridError: They do not.
    """
    owner, where = first.source or "the first volume", other.source or "volume"
    require_same_grid(first.grid, other.grid, owner=owner, where=where)


def _check_finite(volume: Volume) -> None:
    # a sum is finite only where every value is: one pass, and no array of its own
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array.sum(dtype=np.float64)):
        raise InputError(
            volume.source or "volume",
            expected="finite values",
            found="NaN or infinite ones",
            remedy="replace them, by the value of air for example",
        )


def spaced_grid(source: Grid, spacing_mm: Sequence[float | str]) -> Grid:
    """Return the right-angled grid of a spacing that covers `source` from its first voxel's centre.

    Args:
        source: Any grid.
        spacing_mm: Along i, j, k; ``keep`` keeps the source's own.

    Raises:
        InputError: It would have more than 2^31 voxels.
    """
    old = np.array(source.spacing_mm)
    new = np.array([o if isinstance(s, str) else float(s) for o, s in zip(old, spacing_mm, strict=True)])
    affine = source.affine.copy()
    affine[:3, :3] = _right_angled(source.affine[:3, :3]) * new
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in source.shape], indexing="ij")).reshape(3, -1).T
    in_target = Grid((1, 1, 1), affine).index(source.world(corners))
    if source.is_sheared:
        affine[:3, 3] += affine[:3, :3] @ in_target.min(axis=0)
    i, j, k = (int(size) for size in np.rint(np.ptp(in_target, axis=0) + 1))
    if i * j * k > MAX_VOXELS:
        raise InputError(
            f"spacing {_rounded(old)} mm",
            expected=f"at most {MAX_VOXELS} voxels at the network's spacing of {_rounded(new)} mm",
            found=f"{i} x {j} x {k}",
            remedy="check the unit of the voxel size; millimetres are meant",
        )
    return Grid((i, j, k), affine)


def grid_of(x: MetaTensor) -> Grid:
    """Return the grid of a (C, i, j, k) `MetaTensor`."""
    i, j, k = x.shape[1:]
    return Grid((i, j, k), np.asarray(x.affine, dtype=np.float64))


def _rounded(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _placed(x: Tensor, grid: Grid) -> MetaTensor:
    return MetaTensor(x, affine=torch.from_numpy(grid.affine.copy()))


def _right_angled(axes: Affine) -> Affine:
    """Return unit axes at right angles: the first kept, the others turned least (Gram-Schmidt)."""
    rotation, triangle = np.linalg.qr(axes)
    return np.asarray(rotation * np.sign(np.diag(triangle)))


def _above(image: Tensor, threshold: float) -> Tensor:
    """Return which voxels to crop to: all of them where none is above the threshold."""
    above = image > threshold
    return above if above.any() else torch.ones_like(above)


def _stack(volumes: Sequence[Volume], *, is_label: bool) -> Tensor:
    if is_label:
        array = volumes[0].array
        kind = np.int16 if array.max() <= np.iinfo(np.int16).max else np.int64
        return torch.from_numpy(array.astype(kind, order="K"))[None]
    if len(volumes) == 1:
        return torch.from_numpy(volumes[0].array.astype(np.float32, order="K"))[None]
    return torch.stack([torch.from_numpy(v.array.astype(np.float32, order="K")) for v in volumes])


def _normalize_ct(channel: Tensor, rule: CTIntensity) -> None:
    if rule.clip_hu is None or rule.mean_hu is None or rule.std_hu is None:
        raise ValueError("the CT intensity rule is not complete; see Preprocessing.completed")
    channel.clamp_(*rule.clip_hu).sub_(rule.mean_hu).div_(rule.std_hu)


def _normalize_zscore(channel: Tensor, rule: ZScoreIntensity) -> None:
    values = channel[channel != 0] if rule.nonzero else channel
    if values.numel() == 0:
        return
    mean, std = values.mean(dtype=torch.float64), values.to(torch.float64).std(correction=0)
    scale = std if std > _SMALLEST_STD else torch.ones_like(std)
    normalised = channel.sub(mean.to(channel)).div_(scale.to(channel))
    channel.copy_(torch.where(channel != 0, normalised, channel) if rule.nonzero else normalised)
