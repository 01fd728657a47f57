"""A model package -> a `Segmenter`. ``medseg.load_model(path).segment(volume) -> LabelMap``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.device import Precision, pick_device
from medseg.model import COARSE_FOLDER, find_package, load_networks, load_package
from medseg.segmenter import Segmenter
from medseg.tiles import SlidingWindow


@dataclass(frozen=True)
class InferenceOptions:
    """How a model is run; what is None is the package's own.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        overlap: Of neighbouring tiles.
        mirror_axes: Of test-time mirroring.
        batch_size: Tiles at once.
    """

    device: str = "auto"
    precision: Precision = "auto"
    overlap: float | None = None
    mirror_axes: tuple[int, ...] | None = None
    batch_size: int | None = None

    def window(self, own: SlidingWindow) -> SlidingWindow:
        """Return the package's sliding window with what is set here in its place."""
        asked = {"overlap": self.overlap, "mirror_axes": self.mirror_axes, "batch_size": self.batch_size}
        given = {key: value for key, value in asked.items() if value is not None}
        return SlidingWindow.model_validate(own.model_dump() | given)


def load_segmenter(path: Path, options: InferenceOptions) -> Segmenter:
    """Load a model package with its first stage, where it is a cascade.

    Args:
        path: A package, or a run folder that holds one.
        options: How it is run.

    Raises:
        ModelError: The package, or the first stage in it, is missing, damaged or not valid.
        DeviceError: The device is not there.
    """
    target = pick_device(options.device)
    package = load_package(path)
    networks = load_networks(path, package)
    coarse = load_segmenter(find_package(path) / COARSE_FOLDER, options) if package.coarse else None
    window = options.window(package.inference)
    return Segmenter(package, networks, target, precision=options.precision, window=window, coarse=coarse)


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
