"""`Maker`: what drew a mask, as it stands in every object that is made of it."""

from __future__ import annotations

from dataclasses import dataclass

from medseg import __version__

MANUFACTURER = "medseg"


@dataclass(frozen=True)
class Maker:
    """What drew a mask.

    Attributes:
        model: Name of the model; of several, their names with a plus sign between.
        model_sha256: Of the model package, or of several together.
        settings_sha256: Of what else changes a mask or an object: how the model is run, the recipe.
        mask_sha256: Of the mask's voxels, by `LabelMap.sha256`: another device may draw some of them otherwise.
        software_version: Of medseg.
    """

    model: str
    model_sha256: str
    settings_sha256: str = ""
    mask_sha256: str = ""
    software_version: str = __version__

    @property
    def model_version(self) -> str:
        """The first twelve characters of the model's hash: no two models share a version."""
        return self.model_sha256[:12]
