"""`ExperimentConfig`: a training YAML, typed and cross-checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import nn

from medseg.crf import check_window
from medseg.data.augment import Augmentation
from medseg.data.preprocessing import Preprocessing
from medseg.data.store import StoreDtype
from medseg.device import Precision
from medseg.errors import UsageError
from medseg.inference.tiles import SlidingWindow
from medseg.losses import LOSSES, DeepSupervision, build_loss, build_region_loss
from medseg.model import NetworkSpec
from medseg.networks import NETWORKS
from medseg.networks.weights import Pretrained
from medseg.postprocess import Postprocessing
from medseg.regions import LabelScheme
from medseg.registry import Registry
from medseg.shipped import Shelf, find_yaml
from medseg.training.finetune import InitFrom
from medseg.yamlfile import load_yaml


def _choice(registry: Registry[Any]) -> Any:
    """Return the annotation of "one of the registry's names with its fields"."""
    models = [entry.fields for entry in registry]
    return Annotated[reduce(or_, models), Field(discriminator="name")] if len(models) > 1 else models[0]


if TYPE_CHECKING:
    NetworkFields = BaseModel
    LossFields = BaseModel
else:
    NetworkFields = _choice(NETWORKS)
    LossFields = _choice(LOSSES)


class DataConfig(BaseModel):
    """Which cases are learnt from and which are validated on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest: str = Field(description="Name in data_manifests/, or path of a manifest.")
    root: Path | None = Field(default=None, description="Data folder; --data-root comes first.")
    fold: int = Field(default=0, ge=0, description="Validation fold of the manifest; the other folds train.")
    store: Path | None = Field(
        default=None, description="Folder of the preprocessed cases; in the run folder if unset."
    )
    coarse: Path | None = Field(
        default=None,
        description="Run folder of a first stage, trained on all folds, whose label maps the network sees, too.",
    )


class OptimizerConfig(BaseModel):
    """The optimizer and its learning rate over time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["adamw", "sgd"] = Field(default="adamw", description="SGD has Nesterov momentum.")
    learning_rate: float = Field(default=1e-3, gt=0, description="The highest one, after the warm-up.")
    weight_decay: float = Field(default=1e-2, ge=0, description="Decoupled for AdamW.")
    momentum: float = Field(default=0.99, ge=0, lt=1, description="Of SGD.")
    schedule: Literal["cosine", "poly", "one_cycle"] = Field(
        default="cosine",
        description="Of the learning rate; one_cycle turns the momentum too, and has its own warm-up.",
    )
    warmup: float = Field(default=0.05, ge=0, lt=1, description="Share of the training that the rate rises in.")
    clip_norm: float | None = Field(default=12.0, gt=0, description="Largest norm of the gradient.")


class TrainingConfig(BaseModel):
    """How long and on what the network is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch_size: tuple[int, ...] = Field(description="Voxels along R, A, S; two numbers make a 2-D network.")
    batch_size: int = Field(default=2, ge=1, description="Patches a step, on all GPUs together.")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Parts of a batch that go through the network one after the other, to save memory.",
    )
    epochs: int = Field(default=100, ge=1, description="Number of epochs, unless --budget is given.")
    steps_per_epoch: int = Field(default=100, ge=1, description="Optimizer steps an epoch.")
    foreground_share: float = Field(default=0.33, ge=0, le=1, description="Share of each batch centred on a label.")
    channel_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Probability of each channel to be withheld from a patch, with preprocessing.channel_flags.",
    )
    validate_every: int = Field(default=5, ge=1, description="Epochs between validations.")
    seed: int = Field(default=0, ge=0, description="Of every random draw.")
    precision: Precision = Field(default="auto", description="bf16 or fp16 on CUDA, fp32 on the CPU by default.")
    channels_last: bool = Field(default=True, description="Memory order of the features; the plan measures both.")
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="torch.compile; auto: on CUDA. What cannot be compiled runs as it is."
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Validate and save the running mean of the weights, of this decay a step.",
    )
    most_skipped: int = Field(
        default=10, ge=1, description="Steps in a row whose loss is not finite before the training stops."
    )
    store_dtype: StoreDtype = Field(default="float16", description="Of the stored images: float16 or float32.")
    track: Literal["tensorboard", "mlflow"] = Field(
        default="tensorboard", description="Where figures go beside metrics.jsonl."
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    augmentation: Augmentation = Augmentation()

    @field_validator("patch_size")
    @classmethod
    def _two_or_three(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(value) not in (2, 3) or min(value) < 4:
            raise ValueError("two or three sizes of at least 4 voxels are needed")
        return value

    @model_validator(mode="after")
    def _whole_parts(self) -> TrainingConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be divisible by accumulate {self.accumulate}")
        return self


class ExperimentConfig(BaseModel):
    """One training experiment, complete in one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the run folder and of the model.")
    description: str = Field(default="", description="One or two sentences for people.")
    data: DataConfig
    init_from: InitFrom | None = Field(default=None, description="Begin with the weights of a model package.")
    preprocessing: Preprocessing
    network: NetworkFields = Field(description="Name of the network and its own fields; see medseg list.")
    loss: LossFields = Field(description="Name of the loss and its own fields; see medseg list.")
    training: TrainingConfig
    inference: SlidingWindow = SlidingWindow()
    postprocessing: Postprocessing = Postprocessing()

    @property
    def spatial_dims(self) -> Literal[2, 3]:
        """2 or 3, by the number of patch sizes."""
        return 2 if len(self.training.patch_size) == 2 else 3

    @model_validator(mode="after")
    def _fits_together(self) -> ExperimentConfig:
        dims = self.spatial_dims
        if self.preprocessing.coarse_labels and self.data.coarse is None:
            raise ValueError("preprocessing.coarse_labels needs data.coarse")
        if self.training.channel_dropout and not self.preprocessing.channel_flags:
            raise ValueError("training.channel_dropout needs preprocessing.channel_flags: true")
        for where, axes in (
            ("inference.mirror_axes", self.inference.mirror_axes),
            ("training.augmentation.flip_axes", self.training.augmentation.flip_axes),
        ):
            if any(not 0 <= axis < dims for axis in axes):
                raise ValueError(f"{where} {list(axes)} must lie in 0..{dims - 1} for a {dims}-D network")
        tile = self.inference.tile_size
        if tile is not None and len(tile) != dims:
            raise ValueError(f"inference.tile_size has {len(tile)} sizes, training.patch_size {dims}")
        try:
            self.check_channels(len(self.preprocessing.intensity))
            self.build_loss(self.spacing_mm)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    def check_channels(self, channels: int) -> None:
        """Check, before anything is computed, that the network can be built and trained on so many channels.

        Raises:
            UsageError: Its fields do not fit together, the patch is too small for it, or there is neither one
                intensity rule nor one a channel.
        """
        try:
            self.preprocessing.for_channels(channels)
        except ValueError as error:
            raise UsageError(
                "preprocessing.intensity",
                expected=f"one rule, or one for each of {channels} channels",
                found=f"{len(self.preprocessing.intensity)} rules",
                remedy="correct it, or the channels of the manifest",
            ) from error
        network = self.network_spec(channels, num_classes=2, spacing_mm=self.spacing_mm).sketch()
        self._check_patch(cast(tuple[int, ...], network.multiple), cast(str, network.norm))

    def _check_patch(self, multiple: tuple[int, ...], norm: str) -> None:
        """Refuse a patch of which one voxel is left, where the normalisation needs two values to measure."""
        patch, batch_size = self.training.patch_size, self.training.batch_size
        needs_two = norm == "instance" or (norm == "batch" and batch_size == 1)
        if needs_two and all(size <= m for size, m in zip(patch, multiple, strict=True)):
            larger = [max(size, 2 * m) for size, m in zip(patch, multiple, strict=True)]
            raise UsageError(
                "training.patch_size",
                expected=f"more than one voxel where the network is coarsest, for {norm} normalisation",
                found=f"{list(patch)}, of which one voxel is left",
                remedy=f"try {larger}, or fewer network.channels",
            )

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        """Spacing along R, A, S that the network works at, where the config says all of it."""
        spacing = [mm for mm in self.preprocessing.spacing_mm or () if mm != "keep"]
        return tuple(spacing) if len(spacing) == 3 else None

    def network_spec(
        self, in_channels: int, num_classes: int, *, spacing_mm: Sequence[float] | None = None
    ) -> NetworkSpec:
        """Return how to build the network for a data set's channels and classes.

        Args:
            in_channels: Image channels, without flags.
            num_classes: Output channels; see `medseg.regions.LabelScheme.outputs`.
            spacing_mm: Along R, A, S, of the images that the network will see; None where it is not known yet.
        """
        fields = self.network.model_dump(exclude={"weights"})
        known = {"patch_size": self.training.patch_size, "spacing_mm": self._of_axes(spacing_mm)}
        fields |= {key: value for key, value in known.items() if key in fields and fields[key] is None}
        return NetworkSpec(
            name=fields.pop("name"),
            spatial_dims=self.spatial_dims,
            in_channels=self.preprocessing.network_channels(in_channels),
            num_classes=num_classes,
            fields=fields,
        )

    def weights(self) -> Pretrained:
        """Return the pretrained weights that the encoder begins with."""
        return cast(Pretrained, getattr(self.network, "weights", None))

    def build_loss(
        self,
        spacing_mm: Sequence[float] | None,
        output_strides: Sequence[Sequence[int]] = (),
        *,
        scheme: LabelScheme | None = None,
    ) -> nn.Module:
        """Build the loss, for logits at one resolution or at several.

        Args:
            spacing_mm: Along R, A, S, of the images that the network will see; None where it is not known yet.
            output_strides: Of the network's logits, where it gives several.
            scheme: Regions, which have a logit each, and voxels to ignore; labels of which all count by default.

        Raises:
            UsageError: A value is out of its range, or a window too small for the spacing.
        """
        crf = self.postprocessing.crf
        if crf is not None and spacing_mm is not None:
            check_window(crf, spacing_mm)
        fields = self.loss.model_dump()
        if fields.get("spacing_mm", ()) is None:
            fields["spacing_mm"] = self._of_axes(spacing_mm)
        if scheme and scheme.ignore_index is not None:
            fields["ignore_index"] = scheme.ignore_index
        if scheme and scheme.regions:
            return DeepSupervision(build_region_loss(**fields, members=scheme.members), output_strides)
        return DeepSupervision(build_loss(**fields), output_strides)

    def _of_axes(self, spacing_mm: Sequence[float] | None) -> tuple[float, ...] | None:
        return None if spacing_mm is None else tuple(spacing_mm)[: self.spatial_dims]

    def window(self) -> SlidingWindow:
        """Return the sliding window with its tile size set."""
        tile = self.inference.tile_size or self.training.patch_size
        return self.inference.model_copy(update={"tile_size": tile})


def load_config(name_or_path: str) -> ExperimentConfig:
    """Read a training YAML by its path, or by its name in ``configs/``.

    Raises:
        UsageError: There is no such file.
        ConfigError: It is not valid; every problem is named with its line.
    """
    return load_yaml(find_yaml(name_or_path, Shelf.CONFIGS), ExperimentConfig)
