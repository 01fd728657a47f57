"""`MergedSegmenter`: several models on one study -> one mask, in the order of precedence of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.cleanup import Cleanup
from medseg.data.channels import present_volumes
from medseg.data.fingerprint import Fingerprint
from medseg.errors import ModelError, UsageError
from medseg.findings import Finding
from medseg.inference.preflight import Preflight, network_grid
from medseg.inference.tiles import Advance, tile_count
from medseg.labels import AS_PLANNED, BACKGROUND, LabelMap, LabelSet
from medseg.loading import InferenceOptions, load_segmenter
from medseg.maker import Maker
from medseg.model import ModelPackage
from medseg.recipe import Recipe
from medseg.recipe.labels import MergedLabels, config_error, merged_labels
from medseg.recipe.packages import find_models, models_hash
from medseg.recipe.running import envelope_of, options_of, relabelled
from medseg.segmenter import Segmenter
from medseg.volume import Grid, Volume, smallest_unsigned


class MergedSegmenter:
    """Models that segment the same images into one mask.

    Args:
        segmenters: In order of precedence: where two draw the same voxel it is the earlier one's.
        merged: What becomes of their labels.
        cleanup: What is cleaned up in the mask.
        sha256: Of the models, for what is made of a mask.

    Raises:
        ModelError: The models take different images.
    """

    def __init__(
        self,
        segmenters: Sequence[Segmenter],
        merged: MergedLabels,
        *,
        cleanup: Cleanup | None = None,
        sha256: str = "",
    ) -> None:
        self.segmenters = tuple(segmenters)
        self.cleanup = cleanup or Cleanup()
        self._merged = merged
        self._sha256 = sha256
        first = self.segmenters[0].package
        for package in self.packages[1:]:
            if package.modalities != first.modalities:
                raise ModelError(
                    package.name,
                    expected=f"a model of {', '.join(first.modalities)}, as {first.name}",
                    found=f"one of {', '.join(package.modalities)}",
                    remedy="put models into one pipeline that take the same images",
                )

    @property
    def labels(self) -> LabelSet:
        """The labels of the mask."""
        return self._merged.labels

    @property
    def packages(self) -> tuple[ModelPackage, ...]:
        """The models, with labels as the recipe names them."""
        return tuple(segmenter.package for segmenter in self.segmenters)

    @property
    def package(self) -> ModelPackage:
        """The model that says which images can be taken: the first that is 3-D, or else the first."""
        return next((package for package in self.packages if package.network.spatial_dims == 3), self.packages[0])

    @property
    def device(self) -> torch.device:
        """Where the first model computes."""
        return self.segmenters[0].device

    @property
    def envelopes(self) -> tuple[tuple[Fingerprint, tuple[str, ...]], ...]:
        """What the images of each model's training were like, with the names of the labels that it draws."""
        return tuple(
            (envelope_of(package), names) for package, names in zip(self.packages, self._merged.names, strict=True)
        )

    @property
    def measures_confidence(self) -> bool:
        """Whether the confidence at the labels' boundaries is measured, which takes time."""
        return all(segmenter.measures_confidence for segmenter in self.segmenters)

    @measures_confidence.setter
    def measures_confidence(self, wanted: bool) -> None:
        for segmenter in self.segmenters:
            segmenter.measures_confidence = wanted

    def maker(self, settings_sha256: str = "") -> Maker:
        """Return what drew a mask, as it stands in objects."""
        return Maker("+".join(package.name for package in self.packages), self._sha256, settings_sha256)

    def segment(
        self,
        images: Volume | Sequence[Volume | None],
        advance: Advance | None = None,
        *,
        probabilities: Path | None = None,
    ) -> LabelMap:
        """Segment one study; see `medseg.segmenter.Segmenter.segment`.

        One model's label map is in memory beside the mask, not more. The confidence of a label is its model's, for
        the boundary that the model drew.

        Args:
            images: A volume, or one volume a channel.
            advance: Called with (tiles done, tiles in all) of all models; those of models to come are counted as if
                nothing were cropped.
            probabilities: Where those of the one model are written; with its labels as the recipe names them.

        Returns:
            The mask on the images' own grid.

        Raises:
            UsageError: Probabilities are asked for of several models.
            MedsegError: As one model raises.
        """
        given = [images] if isinstance(images, Volume) else list(images)
        if probabilities is not None and len(self.segmenters) > 1:
            raise UsageError(
                "probabilities", expected="one model", found=str(len(self.segmenters)), remedy="leave them out"
            )
        painting = _Painting(present_volumes(given)[0], self._merged.labels)
        for number, segmenter in enumerate(self.segmenters):
            to_come = sum(_tiles(later, painting.grid) for later in self.segmenters[number + 1 :])
            share = _of_all(advance, painting.tiles, to_come)
            drawn = segmenter.segment(given, share, probabilities=probabilities)
            title = segmenter.package.name if len(self.segmenters) > 1 else ""
            painting.add(drawn, self._merged.values[number], self._merged.names[number], title)
            del drawn
        return painting.finished(self.cleanup)

    def preflight(self, native: Grid, image_bytes: int = 4, *, probabilities: bool = False) -> Preflight:
        """Return what a study takes: the most memory of a model, the time of all of them.

        The mask that models are merged in, a byte or two a voxel, comes on top where there are several.

        Args:
            native: Grid of the image.
            image_bytes: Of a voxel of it.
            probabilities: Whether they are saved.
        """
        last, *others = (s.preflight(native, image_bytes, probabilities=probabilities) for s in self.segmenters)
        for flight in others:
            last = last.after(flight)
        return last


class _Painting:
    """A mask while models are painted into it."""

    def __init__(self, image: Volume, labels: LabelSet) -> None:
        self._image = image
        self._labels = labels
        self._mask: NDArray[np.integer] | None = None
        self._findings: list[Finding] = list(image.findings)
        self._rungs: list[str] = []
        self._confidence: dict[str, float] = {}
        self.tiles = [0]  # of each model so far, as it said; the present one is last

    def add(self, drawn: LabelMap, values: dict[int, int], names: Sequence[str], title: str) -> None:
        """Paint what a model drew where no earlier one has drawn anything.

        Args:
            drawn: By its own values.
            values: {its own value: the value in the mask}.
            names: Of the labels that are taken of it.
            title: Of the model, where there are several.
        """
        self._mask = _painted(self._mask, drawn, values, smallest_unsigned(self._labels.largest))
        known = self._image.findings
        told = [finding for finding in drawn.volume.findings if finding not in known]
        self._findings += [replace(f, message=f"{title}: {f.message}") if title else f for f in told]
        if drawn.rung != AS_PLANNED:
            self._rungs.append(f"{title}: {drawn.rung}" if title else drawn.rung)
        self._confidence |= {name: drawn.confidence[name] for name in names if name in drawn.confidence}
        self.tiles.append(0)

    @property
    def grid(self) -> Grid:
        """Where the mask lies."""
        return self._image.grid

    def finished(self, cleanup: Cleanup) -> LabelMap:
        """Return the mask."""
        if self._mask is None:
            raise ValueError("there is always at least one model")
        image = self._image
        mask = cleanup.clean(self._mask, self._labels, image.grid)
        volume = Volume(mask, image.affine, source=image.source, findings=tuple(self._findings))
        return LabelMap(volume, self._labels, "; ".join(self._rungs) or AS_PLANNED, self._confidence)


def load_merged(recipe: Recipe, options: InferenceOptions) -> MergedSegmenter:
    """Load the models of a recipe.

    Args:
        recipe: Its models need not be found yet.
        options: How they are run; what is set here goes before what the recipe says of a model.

    Raises:
        UsageError: The recipe has no models.
        ConfigError: It does not fit its models: a label that none of them draws, two that draw labels of one name,
            probabilities of several.
        ModelError: A package is nowhere, damaged, not the one of the recipe's hash, or the models take different
            images.
        DeviceError: The device is not there.
    """
    found = find_models(recipe)
    saves = options.save_probabilities or found.needs_probabilities
    if saves and len(found.models) > 1:
        raise config_error(found, [(("models",), "probabilities can be saved of one model only")])
    segmenters = [
        load_segmenter(Path(entry.path), options_of(entry, replace(options, save_probabilities=saves)))
        for entry in found.models
    ]
    merged = merged_labels(found, [segmenter.package.labels for segmenter in segmenters])
    for entry, segmenter in zip(found.models, segmenters, strict=True):
        segmenter.package = relabelled(segmenter.package, found, entry)
    return MergedSegmenter(segmenters, merged, cleanup=found.postprocess, sha256=models_hash(found))


def _painted(
    mask: NDArray[np.integer] | None, drawn: LabelMap, values: dict[int, int], dtype: type[np.unsignedinteger]
) -> NDArray[np.integer]:
    """Return the mask with what a model drew in its background; plane by plane, so that nothing else is made."""
    table = np.zeros(drawn.labels.largest + 1, dtype=dtype)
    table[list(values)] = list(values.values())
    if mask is None and drawn.array.dtype == dtype and np.array_equal(table, np.arange(len(table))):
        return drawn.array
    painted = np.zeros(drawn.array.shape, dtype=dtype, order="F") if mask is None else mask
    for k in range(painted.shape[2]):
        plane = painted[:, :, k]
        np.copyto(plane, table[drawn.array[:, :, k]], where=plane == BACKGROUND)
    return painted


def _tiles(segmenter: Segmenter, native: Grid) -> int:
    """Return how many tiles a model has for an image, were nothing cropped from it."""
    seen = network_grid(segmenter.package.preprocessing, native)
    return tile_count(seen.shape, segmenter.engine().tile, segmenter.window.overlap)


def _of_all(advance: Advance | None, tiles: list[int], to_come: int) -> Advance | None:
    """Return what a model calls, so that its caller is told of the tiles of all models.

    Args:
        advance: What the caller gave.
        tiles: Of each model so far; of the present one, which is last, they are noted.
        to_come: Tiles of later models.
    """
    if advance is None:
        return None
    before = sum(tiles)

    def told(done: int, total: int) -> None:
        tiles[-1] = total
        advance(before + done, before + total + to_come)

    return told
