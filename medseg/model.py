"""`ModelPackage`: weights and everything needed to use them; the only contract between training and hospital.

A package is a folder::

    model.json                           the fields of `ModelPackage`
    weights/fold_0-1a2b3c4d.safetensors  one file a network, named by its SHA-256, which is in model.json
    coarse/                              the package of the first stage, of a cascade
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from medseg.data.fingerprint import Fingerprint
from medseg.data.preprocessing import Preprocessing
from medseg.errors import ModelError, UsageError
from medseg.files import sha256_of, write_text
from medseg.inference.tiles import SlidingWindow
from medseg.labels import LabelSet
from medseg.networks import NETWORKS, build_network
from medseg.networks.weights import Pretrained
from medseg.postprocess import Postprocessing
from medseg.provenance import Provenance
from medseg.regions import LabelScheme, Region, complete_regions, region_problems
from medseg.tensorfile import save_tensors_by_hash

SCHEMA_VERSION: Literal[2] = 2
MODEL_FILE = "model.json"
WEIGHTS_FOLDER, COARSE_FOLDER = "weights", "coarse"


class NetworkSpec(BaseModel):
    """How to build the network that the weights belong to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    spatial_dims: Literal[2, 3]
    in_channels: int = Field(ge=1)
    num_classes: int = Field(ge=1)
    fields: dict[str, Any] = Field(
        default_factory=dict, description="The network's arguments, but for pretrained weights."
    )

    @model_validator(mode="after")
    def _complete(self) -> NetworkSpec:
        """Check the fields against the network's signature, and write the defaults down."""
        try:
            known = NETWORKS[self.name].fields.model_validate({"name": self.name} | self.fields)
        except UsageError as error:
            raise ValueError(str(error)) from error
        object.__setattr__(self, "fields", known.model_dump(exclude={"name", "weights"}))
        return self

    @property
    def slices(self) -> int:
        """Neighbouring slices that a 2-D network sees as channels."""
        return int(self.fields["slices"])

    @property
    def interface(self) -> tuple[int, int, int, int]:
        """What networks that are averaged share: dimensions, channels, classes and slices."""
        return self.spatial_dims, self.in_channels, self.num_classes, self.slices

    def build(self, weights: Pretrained = None) -> nn.Module:
        """Build the network, with fresh weights or with an encoder that is pretrained.

        Raises:
            UsageError: Its fields do not fit together.
            ModelError: The pretrained weights are not there, are damaged or do not fit.
        """
        return build_network(
            self.name,
            spatial_dims=self.spatial_dims,
            in_channels=self.in_channels,
            num_classes=self.num_classes,
            weights=weights,
            **self.fields,
        )

    def sketch(self) -> nn.Module:
        """Build the network on torch's meta device: its shapes without its numbers, at once whatever its size.

        Raises:
            UsageError: Its fields do not fit together.
        """
        with torch.device("meta"):
            return self.build()


class ModelPackage(BaseModel):
    """Everything about a model but the numbers of its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str = Field(min_length=1)
    modalities: tuple[str, ...] = Field(min_length=1, description="DICOM modality of each channel.")
    network: NetworkSpec
    networks: dict[str, NetworkSpec] = Field(
        default_factory=dict, description="{file of weights: its network}, where that is not `network`."
    )
    labels: LabelSet
    regions: tuple[Region, ...] = Field(
        default=(), description="What the network's outputs are, in the order of painting, where not the labels."
    )
    ignore_value: int | None = Field(default=None, description="Value of voxels that nobody judged, in references.")
    preprocessing: Preprocessing
    inference: SlidingWindow
    postprocessing: Postprocessing = Postprocessing()
    envelope: Fingerprint = Field(description="What the training images were like.")
    provenance: Provenance
    weights_sha256: dict[str, str] = Field(default_factory=dict, description="{file name: SHA-256}.")

    @model_validator(mode="after")
    def _fits_together(self) -> ModelPackage:
        network, dims = self.network, self.network.spatial_dims
        for _, _, problem in region_problems(self.regions, self.labels):
            raise ValueError(f"regions: {problem}")
        outputs = len(self.regions) or len(self.labels) + 1
        if network.num_classes != outputs:
            meant = f"{outputs} regions" if self.regions else f"{len(self.labels)} labels and background"
            raise ValueError(f"network.num_classes {network.num_classes} for {meant}")
        if network.in_channels != self.preprocessing.network_channels(len(self.modalities)):
            flags = " and their flags" if self.preprocessing.channel_flags else ""
            flags += " and the first stage's labels" if self.coarse else ""
            raise ValueError(
                f"network.in_channels {network.in_channels} for {len(self.modalities)} modalities{flags}"
            )
        self.preprocessing.for_channels(len(self.modalities))
        tile, mirrored = self.inference.tile_size, self.inference.mirror_axes
        if tile is None or len(tile) != dims:
            raise ValueError(f"inference.tile_size {tile} must have {dims} sizes")
        if any(not 0 <= axis < dims for axis in mirrored):
            raise ValueError(f"inference.mirror_axes {list(mirrored)} must lie in 0..{dims - 1}")
        if unlike := [file for file, spec in self.networks.items() if spec.interface != network.interface]:
            raise ValueError(f"networks.{unlike[0]} has another input or output than network")
        if unknown := set(self.postprocessing.keep_largest) - {label.name for label in self.labels}:
            raise ValueError(f"postprocessing.keep_largest: no label is named {', '.join(sorted(unknown))}")
        return self

    @property
    def coarse(self) -> bool:
        """Whether the network sees the label map of a first stage, which is in `COARSE_FOLDER`."""
        return bool(self.preprocessing.coarse_labels)

    @property
    def scheme(self) -> LabelScheme:
        """What the network learns and is measured by."""
        return LabelScheme(self.labels, complete_regions(self.regions), self.ignore_value)

    def save(self, folder: Path, weights: dict[str, dict[str, Tensor]]) -> ModelPackage:
        """Write the package; the weights first, then model.json, each atomically; then delete earlier weights.

        A package that is there already is whole at every moment: new weights have another name.

        Args:
            folder: The package's folder.
            weights: {name such as ``fold_0``: state dict}.

        Returns:
            The package with the checksums of the weights written.

        Raises:
            StorageError: A file cannot be written.
        """
        place = folder / WEIGHTS_FOLDER
        checksums = dict(save_tensors_by_hash(place, name, state) for name, state in weights.items())
        package = self.model_copy(update={"weights_sha256": checksums})
        package.describe(folder)
        return package

    def describe(self, folder: Path) -> None:
        """Write model.json beside weights that are there already; then delete weights that it does not name.

        Raises:
            StorageError: The file cannot be written.
        """
        write_text(folder / MODEL_FILE, self.model_dump_json(indent=1) + "\n")
        for file in (folder / WEIGHTS_FOLDER).glob("*.safetensors"):
            if file.name not in self.weights_sha256:
                with suppress(OSError):  # weights that nothing names do no harm
                    file.unlink()


def find_package(path: Path) -> Path:
    """Return the package's folder for a package, its model.json, or a run folder that holds one.

    Raises:
        ModelError: There is none.
    """
    try:
        for folder in (path, path / "model", path.parent if path.name == MODEL_FILE else path):
            if (folder / MODEL_FILE).is_file():
                return folder
    except OSError as error:
        raise _unreadable(path, error) from error
    raise ModelError(
        path,
        expected=f"a model folder with {MODEL_FILE}",
        found="none",
        remedy="give the folder that training made",
    )


def load_package(path: Path) -> ModelPackage:
    """Read and check a package's model.json.

    Raises:
        ModelError: It is not there, cannot be read, is not valid, or is of another schema version.
    """
    file = find_package(path) / MODEL_FILE
    try:
        package = ModelPackage.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(file, error) from error
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "not UTF-8 text"}
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelError(
            file,
            expected=f"a model description of schema version {SCHEMA_VERSION}",
            found=f"{place}: {first['msg']}",
            remedy="train again, or use the medseg version that made it",
        ) from error
    if not package.weights_sha256:
        raise ModelError(file, expected="at least one file of weights", found="none", remedy="train again")
    return package


def load_networks(path: Path, package: ModelPackage) -> list[nn.Module]:
    """Build each network with its weights, their checksums verified.

    Raises:
        ModelError: A file of weights is missing, cannot be read, differs from its checksum, or does not fit the
            network.
    """
    folder = find_package(path) / WEIGHTS_FOLDER
    return [
        _load_network(folder / name, checksum, package.networks.get(name, package.network))
        for name, checksum in package.weights_sha256.items()
    ]


def check_weights(file: Path, checksum: str) -> None:
    """Refuse a file of weights that is not there, or that is not the one of a SHA-256.

    Raises:
        ModelError: It is missing, cannot be read, or differs.
    """
    try:
        found = sha256_of(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    if found != checksum:
        raise ModelError(
            file,
            expected=f"SHA-256 {checksum[:12]}…",
            found=f"{found[:12]}…: the weights were changed or damaged",
            remedy="copy the model again",
        )


def _load_network(file: Path, checksum: str, spec: NetworkSpec) -> nn.Module:
    check_weights(file, checksum)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what training was warned of
        network = spec.build()
    try:
        network.load_state_dict(safetensors.torch.load_file(file))
    except OSError as error:
        raise _unreadable(file, error) from error
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ModelError(
            file,
            expected=f"the weights of network '{spec.name}'",
            found=str(error).splitlines()[0],
            remedy="copy the model again",
        ) from error
    return network.eval()


def _unreadable(path: Path, error: OSError) -> ModelError:
    found = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or type(error).__name__
    return ModelError(
        path,
        expected="a model that can be read",
        found=found,
        remedy="check its permissions, or copy the model again",
    )
