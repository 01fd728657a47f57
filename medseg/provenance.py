"""`Provenance`: where a model comes from."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ImportedNetwork(BaseModel):
    """A network that other software trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    software: str = Field(description="What trained it, such as nnU-Net 2.")
    trainer: str
    plans: str = Field(description="Name of the plans it was trained by.")
    configuration: str
    fold: str
    epoch: int = Field(description="Epochs done.")
    checkpoint_sha256: str


class Provenance(BaseModel):
    """Where a model comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    medseg_version: str
    created: str = Field(description="UTC, ISO 8601.")
    dataset: str
    config_sha256: str
    data_sha256: str = Field(description="Of the training cases' ids, checksums and label values.")
    folds: tuple[int, ...] = Field(description="That its networks were validated on, the others trained them.")
    training_cases: int = Field(description="Of one network, the most where it has several.")
    validation_dice: dict[str, float | None] = Field(description="Mean over validation cases, by label name.")
    imported: tuple[ImportedNetwork, ...] = Field(default=(), description="Networks that medseg did not train.")

    @property
    def known_dice(self) -> dict[str, float]:
        """The validation Dice by label name, NaN where a label occurs in no case."""
        return {name: math.nan if dice is None else dice for name, dice in self.validation_dice.items()}

    @model_validator(mode="before")
    @classmethod
    def _of_one_fold(cls, data: Any) -> Any:
        """Read ``fold``, as packages of one network had it."""
        if isinstance(data, dict) and "fold" in data and "folds" not in data:
            return {key: value for key, value in data.items() if key != "fold"} | {"folds": (data["fold"],)}
        return data
