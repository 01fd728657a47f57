"""A model package -> a `Segmenter`. ``medseg.load_model(path).segment(volume) -> LabelMap``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.device import Precision, parse_memory, pick_device
from medseg.errors import ModelError, UsageError
from medseg.inference.fused import fuse
from medseg.inference.saved import require_hdf5
from medseg.inference.scope import MARGIN_MM, RegionOfInterest, Scope, require_ct, values_of
from medseg.inference.tiles import SlidingWindow
from medseg.model import COARSE_FOLDER, ModelPackage, find_package, load_networks, load_package
from medseg.segmenter import Segmenter


@dataclass(frozen=True)
class InferenceOptions:
    """How a model is run; what is None is the package's own.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        overlap: Of neighbouring tiles.
        mirror_axes: Of test-time mirroring.
        batch_size: Tiles at once.
        memory: That a study may take on the device, such as ``4GB``; what is there by default.
        skip_air: Whether tiles of a CT that hold nothing but air are background without a look.
        roi_from: The package of a coarse model; only the region that it finds is segmented.
        roi_labels: Names of its labels that make the region; all by default.
        roi_margin_mm: Around them, on every side.
        save_probabilities: Whether those of each study are written beside its label map.
    """

    device: str = "auto"
    precision: Precision = "auto"
    overlap: float | None = None
    mirror_axes: tuple[int, ...] | None = None
    batch_size: int | None = None
    memory: str | None = None
    skip_air: bool = False
    roi_from: Path | None = None
    roi_labels: tuple[str, ...] = ()
    roi_margin_mm: float = MARGIN_MM
    save_probabilities: bool = False

    @property
    def within(self) -> InferenceOptions:
        """The same, for a model that sees the region of interest only."""
        return replace(self, roi_from=None, roi_labels=(), roi_margin_mm=MARGIN_MM)

    @property
    def elsewhere(self) -> InferenceOptions:
        """What holds for another model on the same machine: its device, precision and memory."""
        return InferenceOptions(self.device, self.precision, memory=self.memory)

    def window(self, own: SlidingWindow) -> SlidingWindow:
        """Return the package's sliding window with what is set here in its place."""
        asked = {"overlap": self.overlap, "mirror_axes": self.mirror_axes, "batch_size": self.batch_size}
        given = {key: value for key, value in asked.items() if value is not None}
        return SlidingWindow.model_validate(own.model_dump() | given)


def load_segmenter(path: Path, options: InferenceOptions) -> Segmenter:
    """Load a model package with its first stage, where it is a cascade, and the coarse model of its region.

    Args:
        path: A package, or a run folder that holds one.
        options: How it is run.

    Raises:
        ModelError: The package, the first stage in it or the coarse model is missing, damaged or not valid, or the
            coarse model takes other images.
        UsageError: Air is to be skipped in images that are no CT, a label is unknown, a region is described and no
            coarse model named, the memory is no amount, or probabilities are to be saved and h5py is not installed.
        DeviceError: The device is not there.
    """
    if options.save_probabilities:
        require_hdf5()
    target = pick_device(options.device)
    package = load_package(path)
    networks = [fuse(network) for network in load_networks(path, package)]
    coarse = load_segmenter(find_package(path) / COARSE_FOLDER, options.within) if package.coarse else None
    window = options.window(package.inference)
    segmenter = Segmenter(package, networks, target, precision=options.precision, window=window, coarse=coarse)
    segmenter.scope = _scope(package, options)
    return segmenter


def _scope(package: ModelPackage, options: InferenceOptions) -> Scope:
    if options.skip_air:
        require_ct(package.modalities)
    memory_bytes = parse_memory(options.memory) if options.memory is not None else None
    return Scope(_region(package, options), options.skip_air, memory_bytes)


def _region(package: ModelPackage, options: InferenceOptions) -> RegionOfInterest | None:
    if options.roi_from is None:
        if options.roi_labels or options.roi_margin_mm != MARGIN_MM:
            found = "--roi-labels" if options.roi_labels else "--roi-margin"
            remedy = "name the package that finds the region"
            raise UsageError(found, expected="--roi-from with it", found="none", remedy=remedy)
        return None
    coarse = load_segmenter(options.roi_from, options.elsewhere)
    if coarse.package.modalities != package.modalities:
        raise ModelError(
            options.roi_from,
            expected=f"a coarse model of {', '.join(package.modalities)}, as the model",
            found=f"one of {', '.join(coarse.package.modalities)}",
            remedy="choose a coarse model that takes the same images",
        )
    values = values_of(options.roi_labels, coarse.package.labels)
    return RegionOfInterest(coarse, values, options.roi_margin_mm)


def load_model(
    path: str | Path,
    device: str = "auto",
    *,
    precision: Precision = "auto",
    overlap: float | None = None,
    mirror_axes: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> Segmenter:
    """Load a model package, ready to segment.

    Args:
        path: A package, or a run folder that holds one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        overlap: Of neighbouring tiles; the package's own if None.
        mirror_axes: Of test-time mirroring; the package's own if None.
        batch_size: Tiles at once; the package's own if None.

    Raises:
        ModelError: The package, or the first stage in it, is missing, damaged or not valid.
        DeviceError: The device is not there.
    """
    axes = None if mirror_axes is None else tuple(mirror_axes)
    return load_segmenter(Path(path), InferenceOptions(device, precision, overlap, axes, batch_size))
