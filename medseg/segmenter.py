"""`Segmenter`: a model ready to use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from medseg.data.channels import present_volumes, with_flags
from medseg.data.coarse import one_hot
from medseg.data.transforms import Prepared, build_transforms, prepare
from medseg.device import Precision, autocast, memory_format, place
from medseg.errors import InputError, ModelError
from medseg.inference import Engine, LabelArray, label_on_grid, last_regions, winners
from medseg.labels import LabelMap
from medseg.model import ModelPackage
from medseg.refinement import RefinedEngine
from medseg.tiles import Advance, Shape, SlidingWindow, TileEngine
from medseg.volume import Grid, Volume

ANY_MODALITY = "OT"  # DICOM's "other": what an import writes for a channel whose name tells nothing


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
        dims = package.network.spatial_dims
        self.channels_last = channels_last
        self.networks = [place(network, device, dims, channels_last=channels_last) for network in networks]
        self._transforms = build_transforms(package.preprocessing, len(package.modalities))

    def segment(
        self,
        image: Volume | Sequence[Volume | None],
        advance: Advance | None = None,
        *,
        coarse: Volume | None = None,
    ) -> LabelMap:
        """Segment one image; a cascade does it twice.

        Args:
            image: A volume, or one volume a channel, all on the same grid; None for a channel that is missing,
                where the model was trained for that.
            advance: Called with (tiles done, tiles in all) of the stage in work.
            coarse: Of a cascade, the label map of the first stage; the first stage draws it if None.

        Returns:
            The label map on the image's own grid.

        Raises:
            InputError: The number of channels or the modality is not the model's, or a channel is missing that
                the model needs.
            GridError: The channels do not share one grid.
            ModelError: The first stage of a cascade is not there.
        """
        images = [image] if isinstance(image, Volume) else list(image)
        self._check(images)
        first = present_volumes(images)[0]
        native = first.grid
        if self.package.coarse and coarse is None:
            coarse = self._first_stage().segment(images, advance).volume
        prepared = prepare(self._transforms, images, coarse=coarse)
        labels = self.segment_prepared(prepared, native, advance)
        labels = self.package.postprocessing.clean(labels, self.package.labels)
        volume = Volume(labels, native.affine, source=first.source, findings=first.findings)
        return LabelMap(volume, self.package.labels)

    def segment_prepared(self, prepared: Prepared, native: Grid, advance: Advance | None = None) -> LabelArray:
        """Segment an image that is preprocessed already, without the largest component of labels.

        Args:
            prepared: The image as the network sees it.
            native: The grid that labels are wanted on.
            advance: Called with (tiles done, tiles in all).

        Returns:
            Label values of the native shape.
        """
        for network in self.networks:
            network.eval()
        with torch.inference_mode():
            return label_on_grid(
                self._refined(self.engine(prepared.present, prepared.coarse), prepared),
                prepared,
                native,
                self.package.scheme.drawn_values,
                advance,
                choose=last_regions if self.package.regions else winners,
            )

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
        return TileEngine(predict, tile, self.window, network.spatial_dims, network.slices, self.device, behind)

    def _first_stage(self) -> Segmenter:
        if self.coarse is None:
            raise ModelError(
                self.package.name,
                expected="the first stage of the cascade",
                found="none",
                remedy="load the package with medseg.load_model, or give the first stage's label map",
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
        with autocast(self.precision, self.device):
            logits: Tensor = self.networks[0](tiles).float()
            for network in self.networks[1:]:
                logits += network(tiles).float()
        return logits / len(self.networks)

    def _check(self, images: Sequence[Volume | None]) -> None:
        given = [volume for volume in images if volume is not None]
        source = given[0].source if given else "input"
        if len(images) != len(self.package.modalities):
            raise InputError(
                source,
                expected=f"{len(self.package.modalities)} channel(s): {', '.join(self.package.modalities)}",
                found=f"{len(images)} volume(s)",
                remedy="give one volume for each channel of the model",
            )
        if not given or (len(given) < len(images) and not self.package.preprocessing.channel_flags):
            raise InputError(
                source,
                expected="every channel that the model was trained on" if given else "at least one channel",
                found=f"{len(given)} of {len(images)}",
                remedy="give the missing ones, or train a model with preprocessing.channel_flags",
            )
        if self.package.network.spatial_dims == 3 and min(given[0].grid.shape) == 1:
            raise InputError(
                source,
                expected="a volume, as this 3-D model needs",
                found="a single slice",
                remedy="choose a 2-D model, or a series with more slices",
            )
        for volume, modality in zip(images, self.package.modalities, strict=True):
            if volume is not None and modality != ANY_MODALITY and volume.modality not in (None, modality):
                raise InputError(
                    volume.source,
                    expected=f"a {modality} image, as the model was trained on",
                    found=str(volume.modality),
                    remedy="choose a model for this modality",
                )
