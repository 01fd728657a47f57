"""The ``--on-...`` options: what to do about irregular DICOM series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from medseg.dicom.policy import Policies
    from medseg.dicom.select import SeriesRules

_PANEL = "Irregular DICOM series"


def _option(name: str, text: str) -> Any:
    return typer.Option(f"--on-{name}", help=text, rich_help_panel=_PANEL, show_default=False)


OnTilt = Annotated[
    Literal["keep", "refuse"] | None,
    _option("tilt", "Gantry tilt: keep it as a sheared affine (default), or refuse."),
]
OnIrregular = Annotated[
    Literal["refuse", "resample"] | None,
    _option("irregular", "Uneven slice distances: refuse (default), or resample from the true positions."),
]
OnMissingSlice = Annotated[
    Literal["refuse", "fill"] | None,
    _option("missing-slice", "Gaps in an even stack: refuse (default), or fill them by interpolation."),
]
OnDuplicate = Annotated[
    Literal["drop", "refuse"] | None, _option("duplicate", "The same slice twice: drop one (default), or refuse.")
]
OnDamaged = Annotated[
    Literal["refuse", "drop"] | None,
    _option("damaged", "Damaged files of a series: refuse it (default), or drop them and judge the gap."),
]
OnFourDimensional = Annotated[
    Literal["refuse", "split"] | None,
    _option("four-dimensional", "fMRI, tensors, time series: refuse (default), or split them into volumes."),
]
OnNoRescale = Annotated[
    Literal["refuse", "stored"] | None,
    _option("no-rescale", "CT or PET without slope and intercept: refuse (default), or take stored values."),
]


def rules_and_policies(recipe: str | None, **given: str | None) -> tuple[SeriesRules | None, Policies]:
    """Return a recipe's rules, if there is a recipe, and its policies with those replaced that were given.

    Raises:
        UsageError: There is no such recipe, or it is not valid.
    """
    from medseg.dicom.policy import Policies
    from medseg.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe else None
    base = loaded.on if loaded else Policies()
    policies = Policies.model_validate(base.model_dump() | {name: value for name, value in given.items() if value})
    return loaded.select if loaded else None, policies
