"""``plans.json``: what nnU-Net does with an image before the network, and how it slides over it.

nnU-Net reads an image into an array [z, y, x], puts the axes into the plan's order, crops to what is not zero,
normalises and resamples. Here the package's `axes` say the same of an image [i, j, k] = [x, y, z]. The axes of the
network are nnU-Net's own, so that weights, patch and mirroring are taken over as they are; the slices that a 2-D
network sees lie along the last axis in medseg, along the first in nnU-Net.

Source: nnU-Net 2's ``DefaultPreprocessor`` and ``nnUNetPredictor``; Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medseg.data.preprocessing import (
    STORED,
    CTIntensity,
    Intensity,
    PlainIntensity,
    Preprocessing,
    RGBIntensity,
    Spline,
    UnitIntensity,
    ZScoreIntensity,
)
from medseg.errors import ModelError, UsageError, listed
from medseg.inference.tiles import SlidingWindow
from medseg.nnunet.plans import Plans, configuration_of, readable

_FILE = Path("plans.json")
_OVERLAP = 0.5
_SMALLEST_STD = 1e-8
_RESAMPLING = "resample_data_or_seg_to_shape"
_DEFAULTS = {"is_seg": False, "order": 3, "order_z": 0, "separate_z_anisotropy_threshold": 3}
_RESAMPLED = {"data": {"order": 3}, "probabilities": {"order": 1}}
_SEGMENTATION = {"seg": {"is_seg": True, "order": 1}}  # of the first stage of a cascade
_ORIENTATIONS = {
    "SimpleITKIO": STORED,
    "NibabelIO": STORED,
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}


@readable(_FILE)
def preprocessing_of(plans: Plans, configuration: str, dataset: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing of a configuration.

    Args:
        plans: Content of plans.json.
        configuration: Such as ``3d_fullres``.
        dataset: Content of dataset.json, which names the channels.

    Raises:
        UsageError: There is no such configuration.
        ModelError: It does something that medseg does not follow, or lacks what nnU-Net writes there.
    """
    chosen = configuration_of(_FILE, plans, configuration)
    _require("label_manager", "LabelManager", plans.get("label_manager", "LabelManager"))
    _require("preprocessor_name", "DefaultPreprocessor", chosen.get("preprocessor_name"))
    reader = str(plans.get("image_reader_writer"))
    if reader not in _ORIENTATIONS:
        raise _unlike(f"an image_reader_writer of {listed(list(_ORIENTATIONS))}", reader)
    spacing = [*chosen["spacing"], *(["keep"] if len(chosen["spacing"]) == 2 else [])]
    return Preprocessing(
        orientation=_ORIENTATIONS[reader],
        axes=axes_of(plans, configuration),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        crop_nonzero=True,
        spline=Spline(separate=_separate(chosen)),
        intensity=_intensities(plans, chosen, len(dataset.get("channel_names") or dataset.get("modality", {}))),
    )


@readable(_FILE)
def window_of(plans: Plans, configuration: str, mirror_axes: Sequence[int] = ()) -> SlidingWindow:
    """Return the sliding window of a configuration: nnU-Net's own by default, tiles that overlap by half.

    Args:
        plans: Content of plans.json.
        configuration: Such as ``3d_fullres``.
        mirror_axes: ``inference_allowed_mirroring_axes`` of the checkpoint.

    Raises:
        UsageError: There is no such configuration.
        ModelError: It lacks what nnU-Net writes there.
    """
    patch = configuration_of(_FILE, plans, configuration)["patch_size"]
    return SlidingWindow(tile_size=tuple(patch), overlap=_OVERLAP, mirror_axes=tuple(mirror_axes))


@readable(_FILE)
def axes_of(plans: Plans, configuration: str) -> tuple[int, int, int]:
    """Return the axis of the image [i, j, k] that each axis of medseg's network runs along.

    The network's axes themselves are nnU-Net's: no weight is permuted. A 2-D network sees the last two of nnU-Net's
    three axes and one slice after the other along the first, which is the last here.

    Args:
        plans: Content of plans.json.
        configuration: Such as ``3d_fullres``.

    Raises:
        UsageError: There is no such configuration.
        ModelError: The plans lack what nnU-Net writes there.
    """
    first, second, third = (2 - int(axis) for axis in plans["transpose_forward"])
    is_2d = len(configuration_of(_FILE, plans, configuration)["patch_size"]) == 2
    return (second, third, first) if is_2d else (first, second, third)


def turned(preprocessing: Preprocessing, stored: str) -> Preprocessing:
    """Return the preprocessing of images that lie in any way, for a model whose files were all stored one way.

    Args:
        preprocessing: Of images as they are stored.
        stored: See `axes_of_stored`.

    Raises:
        UsageError: See `axes_of_stored`; or the model turns images itself.
    """
    order = axes_of_stored(stored)
    if preprocessing.orientation != STORED:
        raise UsageError(
            "--orientation",
            expected="a model that was trained on axes as files store them",
            found=f"one that turns images to {preprocessing.orientation} itself",
            remedy="leave it out",
        )
    ends = "".join(stored[order.index(axis)] for axis in range(3))
    i, j, k = (order[axis] for axis in preprocessing.axes)
    return preprocessing.model_copy(update={"orientation": ends, "axes": (i, j, k)})


def axes_of_stored(stored: str) -> list[int]:
    """Return along which of the patient's axes (0 right to left, 1 front to back, 2 head to feet) i, j and k run.

    Args:
        stored: To which ends of the patient they run, such as LPS.

    Raises:
        UsageError: It is not three such letters.
    """
    order = [axis for letter in stored for axis, ends in enumerate(("RL", "AP", "SI")) if letter in ends]
    if sorted(order) != [0, 1, 2] or len(stored) != len(order):
        raise UsageError(
            "--orientation",
            expected="three letters: to which ends of the patient i, j and k run, such as LPS or RAS",
            found=stored,
            remedy="look into a header of the training images",
        )
    return order


def _separate(chosen: Plans) -> bool | None:
    """Return whether planes are resampled apart: the same for images, logits and a first stage's labels."""
    found = {}
    resampled = _RESAMPLED | _SEGMENTATION if chosen.get("previous_stage") else _RESAMPLED
    for what, own in resampled.items():
        key = f"resampling_fn_{what}"
        _require(key, _RESAMPLING, chosen.get(key))
        given = {"force_separate_z": False} | _DEFAULTS | chosen.get(f"{key}_kwargs", {})
        found[what] = given.pop("force_separate_z")
        for name, wanted in (_DEFAULTS | own).items():
            _require(f"{key}_kwargs.{name}", wanted, given.pop(name))
        if given:
            raise _unlike(f"no further {key}_kwargs", listed(list(given)))
    for what, forced in found.items():
        _require(f"force_separate_z of {what}", found["data"], forced)
    separate: bool | None = found["data"]
    return separate


def _intensities(plans: Plans, chosen: Plans, channels: int) -> tuple[Intensity, ...]:
    schemes, masks = chosen["normalization_schemes"], chosen["use_mask_for_norm"]
    if not len(schemes) == len(masks) == channels:
        raise _unlike(f"a normalization scheme for each of {channels} channels", f"{len(schemes)}")
    if unknown := [scheme for scheme in schemes if scheme not in _SCHEMES]:
        raise _unlike(f"normalization schemes of {listed(list(_SCHEMES))}", unknown[0])
    measured = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    return tuple(
        _SCHEMES[scheme](measured.get(str(channel), {}), bool(mask))
        for channel, (scheme, mask) in enumerate(zip(schemes, masks, strict=True))
    )


def _ct(measured: dict[str, float], _masked: bool) -> Intensity:
    keys = ("percentile_00_5", "percentile_99_5", "mean", "std")
    if missing := [key for key in keys if key not in measured]:
        raise _unlike("the intensities of the foreground", f"no {missing[0]}")
    low, high, mean, std = (float(measured[key]) for key in keys)
    return CTIntensity(kind="ct", clip_hu=(low, high), mean_hu=mean, std_hu=max(std, _SMALLEST_STD))


_SCHEMES: dict[str, Callable[[dict[str, float], bool], Intensity]] = {
    "CTNormalization": _ct,
    "ZScoreNormalization": lambda _, masked: ZScoreIntensity(kind="zscore", filled=masked),
    "NoNormalization": lambda *_: PlainIntensity(kind="plain"),
    "RescaleTo01Normalization": lambda *_: UnitIntensity(kind="unit"),
    "RGBTo01Normalization": lambda *_: RGBIntensity(kind="rgb"),
}


def _require(what: str, expected: object, found: object) -> None:
    if found != expected:
        raise _unlike(f"{what} {expected}", str(found))


def _unlike(expected: str, found: str) -> ModelError:
    return ModelError(
        _FILE,
        expected=expected,
        found=found,
        remedy="predict with nnU-Net itself: medseg does not prepare images that way",
    )
