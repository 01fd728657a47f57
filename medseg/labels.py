"""`LabelSet`: what the numbers of a label map mean. `LabelMap`: a label map together with its meaning."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from medseg.volume import Affine, Grid, Volume, smallest_unsigned

BACKGROUND = 0
AS_PLANNED = "as planned"
_GOLDEN_RATIO = 0.618033988749895


class Laterality(Enum):
    """Side of a paired organ."""

    LEFT = "left"
    RIGHT = "right"


class CodedConcept(BaseModel):
    """A concept of a terminology (DICOM PS3.16); SNOMED CT unless the scheme says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: str = Field(min_length=1, description="Code value, such as 10200004.")
    meaning: str = Field(min_length=1, description="Code meaning, such as Liver.")
    scheme: str = Field(default="SCT", description="Coding scheme designator.")


class Label(BaseModel):
    """One organ or structure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int = Field(ge=1, lt=2**32, description="Value in the label map; 0 is background.")
    name: str = Field(min_length=1, description="Short unique name, used in tables and file names.")
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = Field(
        default=None, description="Display colour as #rrggbb."
    )
    code: CodedConcept | None = Field(default=None, description="What the structure is, as a coded concept.")
    laterality: Laterality | None = Field(default=None, description="Side, for paired organs.")
    category: CodedConcept | None = Field(
        default=None, description="What kind of thing it is (CID 7150); an anatomical structure by default."
    )
    region: CodedConcept | None = Field(
        default=None, description="Where in the body it is, of what is no organ itself, such as a lesion."
    )

    @property
    def rgb(self) -> tuple[float, float, float]:
        """Display colour, each part from 0 to 1; a colour of its own where none is set."""
        if self.color is None:
            return colorsys.hsv_to_rgb((self.index * _GOLDEN_RATIO) % 1.0, 0.75, 0.95)
        red, green, blue = (int(self.color[start : start + 2], 16) / 255 for start in (1, 3, 5))
        return red, green, blue


class LabelSet(RootModel[tuple[Label, ...]]):
    """The labels of a data set or a model, ordered by index; background (0) is not listed.

    Raises:
        ValueError: Two labels share an index or a name, or there is none.
    """

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="after")
    def _check(self) -> LabelSet:
        if not self.root:
            raise ValueError("at least one label is needed")
        for what in ("index", "name"):
            values = [getattr(label, what) for label in self.root]
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"each label needs its own {what}; used twice: {', '.join(twice)}")
        object.__setattr__(self, "root", tuple(sorted(self.root, key=lambda label: label.index)))
        return self

    @classmethod
    def from_names(cls, names: dict[int, str]) -> LabelSet:
        """Make a set from {index: name}; index 0 is taken as background and left out."""
        return cls(tuple(Label(index=i, name=n) for i, n in names.items() if i != BACKGROUND))

    def __iter__(self) -> Iterator[Label]:  # type: ignore[override]
        return iter(self.root)

    def __len__(self) -> int:
        return len(self.root)

    @property
    def indices(self) -> tuple[int, ...]:
        """Label values in ascending order, without background."""
        return tuple(label.index for label in self.root)

    @property
    def largest(self) -> int:
        """The largest label value."""
        return self.indices[-1]

    @property
    def channel_values(self) -> NDArray[np.unsignedinteger[Any]]:
        """Label value of each network output channel: background first, then the labels by index."""
        return np.array((BACKGROUND, *self.indices), dtype=smallest_unsigned(self.largest))

    def unknown_values(self, array: NDArray[np.generic], ignore_value: int | None = None) -> list[float]:
        """Return the values of a label array that are neither background, nor in the set, nor to be ignored."""
        return [float(v) for v in np.unique(array) if v not in (BACKGROUND, *self.indices, ignore_value)]

    def class_indices(
        self, array: NDArray[Any], ignore_value: int | None = None
    ) -> NDArray[np.unsignedinteger[Any]]:
        """Turn label values, all of them known, into class indices.

        Args:
            array: Label values.
            ignore_value: Value of the voxels that nobody judged.

        Returns:
            0 for background, 1 to K for the labels by index, K + 1 for what is ignored.
        """
        classes = np.searchsorted(self.channel_values, array)
        if ignore_value is not None:
            classes[array == ignore_value] = self.ignore_index
        return classes.astype(smallest_unsigned(self.ignore_index))

    @property
    def ignore_index(self) -> int:
        """Class index of the voxels that nobody judged: K + 1, after the background and the K labels."""
        return len(self) + 1

    def class_values(self, ignore_value: int | None = None) -> NDArray[np.unsignedinteger[Any]]:
        """Return the label value of each class index, the inverse of `class_indices`."""
        if ignore_value is None:
            return self.channel_values
        values = (BACKGROUND, *self.indices, ignore_value)
        return np.array(values, dtype=smallest_unsigned(max(values)))


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label map on the grid of the image it was made from.

    Attributes:
        volume: The label values; the smallest unsigned integer type that holds the largest label.
        labels: What the values mean.
        rung: Of one that a model drew, how memory made it run; see `medseg.inference.ladder`.
        confidence: Of one that a model drew, by label name: mean probability at the label's boundary, 0 to 1; see
            `medseg.inference.confidence`. Empty where it was not measured.
    """

    volume: Volume
    labels: LabelSet
    rung: str = AS_PLANNED
    confidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def array(self) -> NDArray[np.integer[Any]]:
        """Label values indexed [i, j, k]."""
        return self.volume.array

    @property
    def affine(self) -> Affine:
        """4x4, voxel index to RAS+ millimetres."""
        return self.volume.affine

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return self.volume.grid

    def sha256(self) -> str:
        """Return the SHA-256 of the voxels, whatever their type: plane after plane, i fastest."""
        digest = hashlib.sha256(repr(self.array.shape).encode())
        for k in range(self.array.shape[2]):
            digest.update(self.array[:, :, k].astype("<u4").tobytes(order="F"))
        return digest.hexdigest()

    def volume_ml(self, label: Label) -> float:
        """Volume of one label in millilitres."""
        return int((self.array == label.index).sum()) * self.grid.voxel_volume_ml
