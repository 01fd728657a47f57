"""`Segmenter`: a model ready to use."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from medseg.data.channels import present_volumes
from medseg.data.coarse import one_hot
from medseg.data.flags import with_flags
from medseg.data.transforms import Prepared, build_transforms, prepare
from medseg.device import Precision, autocast, memory_format, place
from medseg.errors import ModelError
from medseg.inference.accepted import check_images, orientation_findings
from medseg.inference.confidence import UNWATCHED, BoundaryMeter, Watch
from medseg.inference.labelling import Engine, LabelArray, label_on_grid, last_regions, winners
from medseg.inference.ladder import Rung, multiple_of, rungs, segment_on_ladder
from medseg.inference.needs import Method, Work
from medseg.inference.preflight import Preflight, network_grid, preflight, rungs_that_fit
from medseg.inference.probabilities import saving_probabilities, shifted
from medseg.inference.refinement import RefinedEngine
from medseg.inference.ring import SumOverflowError
from medseg.inference.scope import Findings, Scope, body_volume, cropped, filled_body, pasted, told_by
from medseg.inference.tiles import Advance, Shape, SlidingWindow, TileEngine
from medseg.labels import LabelMap
from medseg.model import ModelPackage
from medseg.volume import Grid, Volume


class Segmenter:
    """A model package with its networks on a device.

    Args:
        package: What the model is.
        networks: One or several; their logits are averaged.
        device: Where to compute.
        precision: Of the network; ``auto`` is bf16 or fp16 on CUDA and fp32 on the CPU.
        window: Overrides the package's own tile batch, overlap and mirroring.
        coarse: The first stage of a cascade.
        channels_last: Memory order of the features.

    Attributes:
        scope: What of an image is segmented, and in how much memory; all of it by default.
        measures_confidence: Whether `LabelMap.confidence` is measured, before labels are cleaned; not by default.
    """

    def __init__(
        self,
        package: ModelPackage,
        networks: Sequence[nn.Module],
        device: torch.device,
        *,
        precision: Precision = "auto",
        window: SlidingWindow | None = None,
        coarse: Segmenter | None = None,
        channels_last: bool = True,
    ) -> None:
        self.package = package
        self.coarse = coarse
        self.device = device
        self.precision = precision
        self.window = window or package.inference
        self.channels_last = channels_last
        self.scope = Scope()
        self.measures_confidence = False
        self.networks = list(networks)
        self._placed_on: torch.device | None = None
        self._move(device)
        self._transforms = build_transforms(package.preprocessing, len(package.modalities))

    def segment(
        self,
        image: Volume | Sequence[Volume | None],
        advance: Advance | None = None,
        *,
        coarse: Volume | None = None,
        probabilities: Path | None = None,
    ) -> LabelMap:
        """Segment one image; a cascade does it twice.

        Args:
            image: A volume, or one volume a channel, all on the same grid; None for a channel that is missing,
                where the model was trained for that.
            advance: Called with (tiles done, tiles in all) of the stage in work.
            coarse: Of a cascade, the label map of the first stage; the first stage draws it if None.
            probabilities: Where to write them on the image's own grid; see `medseg.inference.probabilities`.

        Returns:
            The label map on the image's own grid.

        Raises:
            InputError: The number of channels or the modality is not the model's, or a channel is missing that
                the model needs.
            GridError: The channels do not share one grid.
            ModelError: The first stage of a cascade is not there, or logits are NaN or infinite.
            StorageError: The probabilities cannot be written.
        """
        images = [image] if isinstance(image, Volume) else list(image)
        check_images(images, self.package)
        first = present_volumes(images)[0]
        box, told = self.scope.roi.box(images, advance) if self.scope.roi else (None, ())
        if box:
            images = [image and cropped(image, box) for image in images]
            coarse = coarse and cropped(coarse, box)
        meter = self._meter() if self.measures_confidence else None
        with saving_probabilities(probabilities, self.package, first.grid) as sink:
            watch = Watch(shifted(sink, box), meter)
            labels, rung, of_stages = self._segment_within(images, advance, coarse, watch)
        labels = pasted(labels, box, first.grid.shape) if box else labels
        findings = (*first.findings, *orientation_findings(first, self.package), *told, *of_stages)
        volume = Volume(labels, first.affine, source=first.source, findings=findings)
        return LabelMap(volume, self.package.labels, rung.name, meter.means if meter else {})

    def _segment_within(
        self, images: Sequence[Volume | None], advance: Advance | None, coarse: Volume | None, watch: Watch
    ) -> tuple[LabelArray, Rung, Findings]:
        """Prepare images, segment them on the ladder of memory and clean the labels."""
        first = present_volumes(images)[0]
        native = first.grid
        told: Findings = ()
        if self.package.coarse and coarse is None:
            found = self._first_stage().segment(images, advance)
            coarse, told = found.volume, told_by("the first stage", found)
        body = body_volume(images, self.package.modalities) if self.scope.skip_air else None
        prepared = prepare(self._transforms, images, label=body, coarse=coarse)

        def attempt(rung: Rung) -> LabelArray:
            return self.segment_prepared(prepared, native, advance, rung=rung, watch=watch)

        work = Work(native, prepared.grid, first.array.itemsize, probabilities=watch.sink is not None)
        labels, rung = segment_on_ladder(attempt, self.rungs(work))
        return self.package.postprocessing.clean(labels, self.package.labels), rung, (*told, *rung.findings)

    def rungs(self, work: Work) -> list[Rung]:
        """Return the ways to segment a study, from the first that fits the memory allowed.

        Raises:
            OutOfMemoryError: None fits.
        """
        steps = rungs(self.engine(), multiple_of(self.networks, self.package.network.spatial_dims))
        limit = self.scope.memory_bytes
        return steps if limit is None else rungs_that_fit(steps, work, self._method, limit)

    def preflight(self, native: Grid, image_bytes: int = 4, *, probabilities: bool = False) -> Preflight:
        """Return what the whole of an image would take in memory and time; nothing of it is allocated.

        The first stage of a cascade and the coarse model of a region run before: their seconds are added, and where
        they need more memory than the model itself, it is theirs.

        Args:
            native: Grid of the image.
            image_bytes: Of a voxel of it.
            probabilities: Whether they are saved.

        Raises:
            InputError: The image would be too large for the network.
        """
        work = Work(native, network_grid(self.package.preprocessing, native), image_bytes, probabilities)
        steps = rungs(self.engine(), multiple_of(self.networks, self.package.network.spatial_dims))
        flight = preflight(steps, work, self._method, self.scope.memory_bytes)
        for model in (self.coarse, self.scope.roi.model if self.scope.roi else None):
            flight = flight.after(model.preflight(native, image_bytes)) if model else flight
        return flight

    @property
    def _method(self) -> Method:
        return Method(self.package, self.window, self.precision, len(self.networks))

    def _move(self, device: torch.device) -> None:
        """Have the networks on a device; where memory runs out on the way they are nowhere, and moved anew."""
        if device == self._placed_on:
            return
        self._placed_on, dims = None, self.package.network.spatial_dims
        self.networks = [place(n, device, dims, channels_last=self.channels_last) for n in self.networks]
        self._placed_on = device

    def segment_prepared(
        self,
        prepared: Prepared,
        native: Grid,
        advance: Advance | None = None,
        *,
        rung: Rung | None = None,
        watch: Watch = UNWATCHED,
    ) -> LabelArray:
        """Segment an image that is preprocessed already, without the largest component of labels.

        Args:
            prepared: The image as the network sees it.
            native: The grid that labels are wanted on.
            advance: Called with (tiles done, tiles in all).
            rung: How to run the sliding window; as planned by default.
            watch: What else looks at logits.

        Returns:
            Label values of the native shape.

        Raises:
            ModelError: The network gives logits that are NaN or infinite.
        """
        self._move(rung.device if rung else self.device)
        for network in self.networks:
            network.eval()
        engine = self.engine(prepared.present, prepared.coarse)
        if self.scope.skip_air and prepared.label is not None:
            engine = replace(engine, body=filled_body(prepared.label))
        engine = rung.applied(engine) if rung else engine
        with suppress(SumOverflowError):
            return self._labelled(engine, prepared, native, advance, watch)
        return self._labelled(replace(engine, sums=torch.float32), prepared, native, advance, watch)

    def _labelled(
        self, engine: TileEngine, prepared: Prepared, native: Grid, advance: Advance | None, watch: Watch
    ) -> LabelArray:
        refined = self._refined(engine, prepared)
        with torch.inference_mode():
            return label_on_grid(
                watch.meter.watch(refined) if watch.meter else refined,
                prepared,
                native,
                self.package.scheme.drawn_values,
                advance,
                choose=last_regions if self.package.regions else winners,
                sink=watch.sink,
            )

    def _meter(self) -> BoundaryMeter:
        names, values = {label.index: label.name for label in self.package.labels}, self.package.scheme.drawn_values
        drawn = {index: names[value] for index, value in enumerate(values.tolist()) if value}
        return BoundaryMeter(drawn, regions=bool(self.package.regions))

    def engine(self, present: Sequence[bool] | None = None, coarse: Tensor | None = None) -> TileEngine:
        """Return the sliding window over the networks.

        Args:
            present: Which channels the image has; all by default.
            coarse: Of a cascade, label values (i, j, k) of the first stage.
        """
        size = self.window.tile_size or self.package.inference.tile_size
        if size is None:
            raise ModelError(
                self.package.name, expected="inference.tile_size", found="none", remedy="set it in model.json"
            )
        tile: Shape = (size[0], size[1], size[2] if len(size) == 3 else 1)
        network = self.package.network
        predict = partial(self._predict, present=present)
        behind = coarse[None] if coarse is not None and self.package.coarse else None
        return TileEngine(
            predict,
            tile,
            self.window,
            network.spatial_dims,
            network.slices,
            self.device,
            behind,
            regions=bool(self.package.regions),
        )

    def _first_stage(self) -> Segmenter:
        if self.coarse is None:
            remedy = "load the package with medseg.load_model, or give the first stage's label map"
            raise ModelError(
                self.package.name, expected="the first stage of the cascade", found="none", remedy=remedy
            )
        return self.coarse

    def _refined(self, engine: TileEngine, prepared: Prepared) -> Engine:
        crf = self.package.postprocessing.crf
        regions = bool(self.package.regions)
        return engine if crf is None else RefinedEngine(engine, crf, prepared.grid.spacing_mm, regions)

    def _predict(self, tiles: Tensor, present: Sequence[bool] | None = None) -> Tensor:
        masks = tiles[:, :0]
        if self.package.coarse:
            tiles, labels = tiles.tensor_split((-self.package.network.slices,), dim=1)
            masks = one_hot(labels, self.package.preprocessing.coarse_labels)
        if self.package.preprocessing.channel_flags:
            flags = torch.tensor(present or [True] * len(self.package.modalities), device=tiles.device)
            tiles = with_flags(tiles, flags.expand(len(tiles), -1))
        tiles = torch.cat((tiles, masks), dim=1) if self.package.coarse else tiles
        tiles = tiles.contiguous(
            memory_format=memory_format(self.package.network.spatial_dims, channels_last=self.channels_last)
        )
        with autocast(self.precision, tiles.device):
            logits: Tensor = self.networks[0](tiles).float()
            for network in self.networks[1:]:
                logits += network(tiles).float()
        return logits if len(self.networks) == 1 else logits.div_(len(self.networks))
