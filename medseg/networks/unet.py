"""The U-Net in two and three dimensions: as first published, as usual since, and as nnU-Net builds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from medseg.errors import UsageError
from medseg.networks.attention import Attention, recalibrate
from medseg.networks.blocks import (
    Act,
    Dims,
    Layers,
    Norm,
    Sizes,
    check_dropout,
    init_he,
    pad_to_multiple,
)
from medseg.networks.decoder import Decoder, Logits, crop_logits
from medseg.networks.overlap_tile import UNITS, mirrored
from medseg.networks.stages import DEFAULT_CHANNELS, Stages, make_stages, per_stage


class UNet(nn.Module):
    """Encoder and decoder joined by concatenated skips.

    The default is the usual form: two padded convolutions with normalisation a stage, max pooling. With
    ``padding: valid, norm: none, channels: [64, 128, 256, 512, 1024]`` it is that of the paper; with
    ``downsampling: strided_conv, norm: instance, act: leaky_relu, bias: true, deep_supervision: true`` that of
    nnU-Net's plain U-Net.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        num_classes: Output channels, background included.
        channels: Feature channels of each stage, the finest first; its length is the depth.
        norm: Normalisation of every unit.
        act: Activation of every unit.
        kernel_sizes: Kernel of each stage, one number an axis; by default 3, and 1 along thick axes.
        strides: From stage to stage, one number an axis; by default 2, and 1 along thick axes.
        downsampling: Max pooling, or a stride of the stage's first convolution.
        padding: ``same`` keeps the size. ``valid`` cuts it at each convolution, as the paper does: the input is
            mirrored at its borders as in the overlap-tile strategy, so that the output still has its size.
        bias: Whether convolutions have biases; where no normalisation follows if unset.
        deep_supervision: While training, return logits of every decoder stage, the finest first.
        dropout: Probability of dropping a channel of the two deepest stages, while training.
        attention: Gates on the skips (``gate``), or recalibration after each encoder stage (``se``, ``cbam``).
        encoder_units: Convolutions of every encoder stage, or of each one, the finest first.
        decoder_units: Of the decoder's stages likewise.
        width_multiplier: Of all channels.
        spacing_mm: Of the input, one number an axis: an axis is thick while its spacing is over twice the smallest.
            A config fills it in from its preprocessing.

    Raises:
        UsageError: The lists do not have one entry a stage (kernels) or between two stages (strides), a kernel is
            even, there are fewer than two stages, the dropout is no probability below 1, or deep
            supervision, strided convolutions, or not two convolutions a stage are asked of ``padding: valid``.

    Source: Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597); Çiçek et al. 2016 (arXiv:1606.06650); Isensee et al.
    2021 (doi:10.1038/s41592-020-01008-z).
    """

    def __init__(  # noqa: PLR0913 - what a config may set is flat
        self,
        spatial_dims: Dims,
        in_channels: int,
        num_classes: int,
        *,
        channels: Sizes = DEFAULT_CHANNELS,
        norm: Norm = "batch",
        act: Act = "relu",
        kernel_sizes: tuple[Sizes, ...] | None = None,
        strides: tuple[Sizes, ...] | None = None,
        downsampling: Literal["max_pool", "strided_conv"] = "max_pool",
        padding: Literal["same", "valid"] = "same",
        bias: bool | None = None,
        deep_supervision: bool = False,
        dropout: float = 0.0,
        attention: Attention = "none",
        encoder_units: int | Sizes = 2,
        decoder_units: int | Sizes = 2,
        width_multiplier: float = 1.0,
        spacing_mm: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if padding == "valid":
            _check_valid(deep_supervision, downsampling, encoder_units, decoder_units)
        layers = Layers(spatial_dims, norm, act)
        self.stages = make_stages(
            spatial_dims,
            channels,
            width_multiplier=width_multiplier,
            kernel_sizes=kernel_sizes,
            strides=strides,
            spacing_mm=spacing_mm,
        )
        self.multiple, self.norm, self.valid = self.stages.multiple, norm, padding == "valid"
        self.encoder = PlainEncoder(
            layers,
            self.stages,
            in_channels,
            pooled=downsampling == "max_pool",
            padded=not self.valid,
            bias=bias,
            dropout=dropout,
            attention=attention,
            units=encoder_units,
        )
        self.decoder = Decoder(
            layers,
            self.stages,
            num_classes,
            units=decoder_units,
            attention=attention,
            deep_supervision=deep_supervision,
            padded=not self.valid,
            bias=bias,
        )
        init_he(self)

    def forward(self, x: Tensor) -> Logits:
        """Map images (B, C, *spatial) to logits (B, K, *spatial)."""
        size = x.shape[2:]
        if self.valid:
            return crop_logits(self.forward_valid(mirrored(x, self.stages)), size, self.stages)
        return crop_logits(self.forward_valid(pad_to_multiple(x, self.multiple)), size, self.stages)

    def forward_valid(self, x: Tensor) -> Logits:
        """Map images whose size fits to logits: of all of it, or of its centre where convolutions cut."""
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image to the logits; the last one counts the classes."""
        return [*self.encoder.parts(), *self.decoder.parts()]


def _check_valid(deep_supervision: bool, downsampling: str, *units: int | Sizes) -> None:
    """Refuse what convolutions that cut do not go with."""
    if deep_supervision:
        raise UsageError(
            "network.deep_supervision",
            expected="false with padding: valid, whose stages cover different parts of the image",
            found="true",
            remedy="choose one of the two",
        )
    if downsampling == "strided_conv":
        raise UsageError(
            "network.downsampling",
            expected="max_pool with padding: valid, as in the paper",
            found=downsampling,
            remedy="choose one of the two",
        )
    for field, count in zip(("encoder_units", "decoder_units"), units, strict=True):
        if set(count if isinstance(count, Sequence) else (count,)) != {UNITS}:
            raise UsageError(
                f"network.{field}",
                expected=f"{UNITS} with padding: valid, as in the paper",
                found=str(count),
                remedy="choose one of the two",
            )


class PlainEncoder(nn.Module):
    """The contracting path: two convolutions a stage, or as many as are asked for.

    Args:
        layers: The network's.
        stages: Channels, kernels, strides.
        in_channels: Image channels.
        pooled: Max pooling between the stages; otherwise a stride of the first convolution.
        padded: Convolutions keep the size.
        bias: Whether convolutions have biases; None: where no normalisation follows.
        dropout: After the two deepest stages.
        attention: Recalibration after each stage.
        units: Convolutions of every stage, or of each one.
    """

    def __init__(  # noqa: PLR0913 - what the U-Net varies
        self,
        layers: Layers,
        stages: Stages,
        in_channels: int,
        *,
        pooled: bool,
        padded: bool,
        bias: bool | None,
        dropout: float,
        attention: Attention,
        units: int | Sizes = 2,
    ) -> None:
        super().__init__()
        depth = len(stages.channels)
        convolutions = per_stage("encoder_units", units, depth)
        no_step = layers.sizes(1)

        def stage(level: int, inputs: int) -> nn.Sequential:
            outputs, kernel = stages.channels[level], stages.kernels[level]
            step = stages.strides[level - 1] if level else no_step
            pool = layers.max_pool(step, step) if pooled and level else nn.Identity()
            return nn.Sequential(
                pool,
                layers.unit(inputs, outputs, kernel, stride=no_step if pooled else step, padded=padded, bias=bias),
                *(
                    layers.unit(outputs, outputs, kernel, padded=padded, bias=bias)
                    for _ in range(convolutions[level] - 1)
                ),
                layers.make_dropout(dropout if level >= depth - 2 else 0.0),
                recalibrate(attention, layers, outputs, kernel),
            )

        self.stages = nn.ModuleList(
            stage(level, inputs) for level, inputs in enumerate((in_channels, *stages.channels[:-1]))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of each stage, (B, channels, *spatial / stride), the finest first."""
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image on."""
        return [[stage] for stage in self.stages]
