"""``plans.json``: what nnU-Net says of a configuration's network, in the form of 2.0 to 2.2 and in that since.

The older form has keys of its own for the U-Net; the newer one names a class of the package
``dynamic_network_architectures`` and has its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medseg.errors import ModelError, UsageError, listed
from medseg.networks.blocks import Sizes

Plans = dict[str, Any]

_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {  # class -> (name here, what its arguments must be)
    "LeakyReLU": ("leaky_relu", {"negative_slope": 0.01}),
    "ReLU": ("relu", {}),
    "ELU": ("elu", {"alpha": 1.0}),
    "GELU": ("gelu", {"approximate": "none"}),
    "SiLU": ("silu", {}),
}
_EPSILON = 1e-5
_OLD_KEYS = (
    "UNet_class_name",
    "UNet_base_num_features",
    "unet_max_num_features",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
    "pool_op_kernel_sizes",
    "conv_kernel_sizes",
)

Norm = Literal["instance", "batch", "none"]


class Architecture(BaseModel):
    """A U-Net of nnU-Net; sizes along nnU-Net's axes, stages of the encoder with the finest first.

    Attributes:
        residual: Whether the encoder has residual blocks.
        channels: Of each stage.
        kernels: Of each stage.
        strides: That lead into each stage; the first is 1.
        units: Convolutions, or residual blocks, of each stage of the encoder.
        decoder_units: Convolutions of each stage of the decoder, the coarsest first.
        norm: Normalisation.
        act: Activation, as medseg names it.
    """

    model_config = ConfigDict(frozen=True)

    residual: bool
    channels: Sizes = Field(min_length=2)
    kernels: tuple[Sizes, ...]
    strides: tuple[Sizes, ...]
    units: Sizes
    decoder_units: Sizes
    norm: Norm
    act: str

    @property
    def dims(self) -> Literal[2, 3]:
        """The spatial dimensions."""
        return 2 if len(self.kernels[0]) == 2 else 3

    @model_validator(mode="after")
    def _fits_together(self) -> Architecture:
        stages = len(self.channels)
        counts = [len(self.kernels), len(self.strides), len(self.units), len(self.decoder_units) + 1]
        if counts != [stages] * 4:
            raise ValueError(f"kernel sizes, strides and convolutions for {counts} stages, features for {stages}")
        if {len(sizes) for sizes in (*self.kernels, *self.strides)} not in ({2}, {3}):
            raise ValueError("kernel sizes and strides must have two or three axes, all the same number")
        if set(self.strides[0]) != {1}:
            raise ValueError(f"the first stride must be 1, found {list(self.strides[0])}")
        return self


class _Arguments(BaseModel):
    """The arguments of ``PlainConvUNet`` and ``ResidualEncoderUNet``, those that medseg's networks can follow."""

    model_config = ConfigDict(extra="forbid")

    n_stages: int = Field(ge=2)
    features_per_stage: int | tuple[int, ...]
    conv_op: Literal["torch.nn.modules.conv.Conv2d", "torch.nn.modules.conv.Conv3d"]
    kernel_sizes: int | tuple[int | tuple[int, ...], ...]
    strides: int | tuple[int | tuple[int, ...], ...]
    n_conv_per_stage: int | tuple[int, ...] | None = None
    n_blocks_per_stage: int | tuple[int, ...] | None = None
    n_conv_per_stage_decoder: int | tuple[int, ...]
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op: str | None = None  # of no effect on predictions
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None
    deep_supervision: bool = False
    nonlin_first: Literal[False] = False
    bottleneck_channels: None = None
    stem_channels: int | None = None


@contextmanager
def readable(where: Path) -> Iterator[None]:
    """Say of a file that does not hold what nnU-Net writes there that it does not.

    Args:
        where: The file, for messages.

    Raises:
        ModelError: A key is missing, or a value is of another kind.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        found = f"no {error.args[0]}" if isinstance(error, KeyError) else _first_problem(error)
        raise ModelError(
            where,
            expected="what nnU-Net writes there",
            found=found,
            remedy="copy nnU-Net's folder of results again",
        ) from error


def configuration_of(where: Path, plans: Plans, name: str) -> Plans:
    """Return a configuration of the plans with what it inherits.

    Args:
        where: The file, for messages.
        plans: Its content.
        name: Such as ``3d_fullres``.

    Raises:
        UsageError: There is no such configuration.
        ModelError: Configurations inherit from one another in a circle, or from one that is not there.
    """
    known = plans.get("configurations")
    if not isinstance(known, dict) or name not in known:
        names = listed(list(known)) if isinstance(known, dict) else "none"
        raise UsageError(where, expected=f"the configuration {name}", found=names, remedy="choose one of these")
    chain = [name]
    while (parent := known[chain[-1]].get("inherits_from")) is not None:
        if parent in chain or parent not in known:
            raise _unlike(
                where, "configurations that inherit from others of the file", " -> ".join((*chain, parent))
            )
        chain.append(parent)
    return {key: value for name in reversed(chain) for key, value in known[name].items()}


def architecture_of(where: Path, configuration: Plans) -> Architecture:
    """Read the network of a configuration.

    Args:
        where: The file, for messages.
        configuration: See `configuration_of`.

    Raises:
        ModelError: It is of a class, or has an argument, that medseg's networks do not follow.
    """
    described = configuration.get("architecture")
    name, arguments = (
        _old_architecture(where, configuration)
        if described is None
        else (described.get("network_class_name"), described.get("arch_kwargs"))
    )
    kind = str(name).rpartition(".")[2]
    if kind not in ("PlainConvUNet", "ResidualEncoderUNet"):
        raise _unlike(where, "a network of the class PlainConvUNet or ResidualEncoderUNet", str(name))
    try:
        read = _Arguments.model_validate(arguments)
        return _architecture(read, residual=kind == "ResidualEncoderUNet")
    except (ValidationError, ValueError) as error:
        raise _unlike(where, f"a {kind} as nnU-Net plans it", _first_problem(error)) from error


def _old_architecture(where: Path, configuration: Plans) -> tuple[str, Plans]:
    """Return the class and the arguments that the keys of nnU-Net 2.0 to 2.2 stand for."""
    missing = [key for key in _OLD_KEYS if key not in configuration]
    if missing:
        raise _unlike(
            where, "a configuration with the key architecture, or with those before it", f"no {missing[0]}"
        )
    kind = str(configuration["UNet_class_name"])
    units = configuration["n_conv_per_stage_encoder"]
    first, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    dims = len(configuration["conv_kernel_sizes"][0])
    return kind, {
        "n_stages": len(units),
        "features_per_stage": [min(first * 2**stage, most) for stage in range(len(units))],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        "n_blocks_per_stage" if kind == "ResidualEncoderUNet" else "n_conv_per_stage": units,
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": _EPSILON, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _architecture(read: _Arguments, *, residual: bool) -> Architecture:
    stages, dims = read.n_stages, int(read.conv_op[-2])
    units = read.n_blocks_per_stage if residual else read.n_conv_per_stage
    if units is None:
        raise ValueError("n_blocks_per_stage or n_conv_per_stage is missing")
    channels = _each(read.features_per_stage, stages)
    if residual and read.stem_channels not in (None, channels[0]):
        raise ValueError(f"stem_channels {read.stem_channels} unlike the {channels[0]} of the first stage")
    return Architecture(
        residual=residual,
        channels=channels,
        kernels=_by_axis(read.kernel_sizes, stages, dims),
        strides=_by_axis(read.strides, stages, dims),
        units=_each(units, stages),
        decoder_units=_each(read.n_conv_per_stage_decoder, stages - 1),
        norm=_norm(read),
        act=_act(read),
    )


def _norm(read: _Arguments) -> Norm:
    name, arguments = (read.norm_op or "").rpartition(".")[2], read.norm_op_kwargs or {}
    if not name:
        return "none"
    batch = name.startswith("BatchNorm")
    if not batch and not name.startswith("InstanceNorm"):
        raise ValueError(f"norm_op {read.norm_op} is neither instance nor batch normalisation")
    if arguments.get("eps", _EPSILON) != _EPSILON or not arguments.get("affine", batch):
        raise ValueError(f"norm_op_kwargs {arguments}, not eps {_EPSILON} and affine")
    return "batch" if batch else "instance"


def _act(read: _Arguments) -> str:
    name, arguments = (read.nonlin or "").rpartition(".")[2], read.nonlin_kwargs or {}
    if name not in _ACTIVATIONS:
        raise ValueError(f"nonlin {read.nonlin} is none of {', '.join(_ACTIVATIONS)}")
    act, fixed = _ACTIVATIONS[name]
    other = {key: value for key, value in arguments.items() if key != "inplace" and fixed.get(key) != value}
    if other:
        raise ValueError(f"nonlin_kwargs {other} of {name}")
    return act


def _each(value: int | Sizes, count: int) -> Sizes:
    return (value,) * count if isinstance(value, int) else value


def _by_axis(value: int | tuple[int | Sizes, ...], stages: int, dims: int) -> tuple[Sizes, ...]:
    return tuple(_each(one, dims) for one in ((value,) * stages if isinstance(value, int) else value))


def _first_problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")


def _unlike(where: Path, expected: str, found: str) -> ModelError:
    return ModelError(
        where,
        expected=expected,
        found=found,
        remedy="predict with nnU-Net itself: medseg has no network that computes the same",
    )
