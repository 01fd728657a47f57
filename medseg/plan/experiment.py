"""A draft, a data set and its measurements -> a complete configuration with the reason for every number."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.config import ExperimentConfig
from medseg.data.fingerprint import Fingerprint
from medseg.data.manifest import Dataset
from medseg.files import write_text
from medseg.plan.candidates import Candidate
from medseg.plan.compute import Compute
from medseg.plan.draft import Draft
from medseg.plan.drystep import StepCost
from medseg.plan.fixed import Fixed
from medseg.plan.ground import Ground, ground, lowered
from medseg.plan.reason import Reason
from medseg.plan.search import DryStep, Search
from medseg.plan.sides import has_sides
from medseg.plan.values import Facts, is_mostly_empty, values
from medseg.training.cascade import with_coarse_labels

PLAN_FILE = "plan.json"


_ORDER = "training.channels_last"
_WORTH_IT = 0.95
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Planned:
    """A complete configuration.

    Attributes:
        config: The configuration.
        reasons: Its planned values, and those that were set, each with its reason.
        fingerprint: What it was planned from.
        compute: What it was planned for.
        cost: What one step takes; None where it was not measured.
    """

    config: ExperimentConfig
    reasons: tuple[Reason, ...]
    fingerprint: Fingerprint
    compute: Compute
    cost: StepCost | None

    def save(self, folder: Path) -> None:
        """Write ``plan.json``.

        Raises:
            StorageError: The disk is full.
        """
        facts: dict[str, Any] = {
            "reasons": [{"what": r.what, "value": r.value, "why": r.why} for r in self.reasons],
            "compute": self.compute.__dict__,
            "step": None if self.cost is None else self.cost.__dict__,
            "fingerprint": self.fingerprint.model_dump(mode="json"),
        }
        write_text(folder / PLAN_FILE, json.dumps(facts, indent=1) + "\n")


def facts_of(dataset: Dataset) -> Facts:
    """Return what a plan needs to know of a data set beside its measurements."""
    return Facts(
        name=plain_name(dataset.name),
        modalities=[channel.modality for channel in dataset.channels],
        sided=has_sides(dataset.labels),
        incomplete=any(image is None for case in dataset.cases for image in case.images),
    )


def plain_name(text: str) -> str:
    """Return a name that a configuration and a folder may have: letters, digits, and ``_``, ``.``, ``-`` within."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _UNFIT.sub("_", plain).strip("_.-") or "dataset"


def plan_experiment(
    draft: Draft,
    dataset: Dataset,
    fingerprint: Fingerprint,
    compute: Compute,
    fixed: Fixed,
    dry_step: DryStep | None = None,
) -> Planned:
    """Fill what a draft leaves open, so that a step fits into the memory.

    See `Search.best`. A low resolution is planned around the patch that is best at the full one.

    Args:
        draft: What is set already.
        dataset: The data set.
        fingerprint: Of its training cases.
        compute: What may be used.
        fixed: `Draft.fixed`.
        dry_step: Measures a step; None trusts the estimate.

    Raises:
        ConfigError: What is set is not valid.
        UsageError: Not even the smallest patch fits, or what is set does not fit the data or the patches.
    """
    facts = facts_of(dataset)

    def filled(place: Ground, chosen: Candidate) -> tuple[ExperimentConfig, tuple[Reason, ...]]:
        config, reasons = draft.filled(values(place, chosen, fingerprint, facts))
        return with_coarse_labels(config), reasons

    place = ground(fingerprint, compute, fixed, cropped=fixed.crops or is_mostly_empty(fingerprint, facts))
    search = Search(place, filled, len(dataset.channels), dataset.scheme, dry_step)
    chosen, cost = search.best()
    if fixed.resolution == "low":
        coarser = lowered(place, chosen.patch_size)
        changed = coarser.spacing_mm != place.spacing_mm
        search = replace(search, place=coarser)
        chosen, cost = search.best() if changed else (chosen, cost)
    config, reasons = filled(search.place, chosen)
    if cost is not None and draft.get(_ORDER) is None:
        config, cost, reason = _faster_order(config, cost, search.measure)
        reasons = (*reasons, reason)
    return Planned(config, reasons, fingerprint, compute, cost)


def _faster_order(
    config: ExperimentConfig, cost: StepCost, dry_step: Callable[[ExperimentConfig], StepCost | None]
) -> tuple[ExperimentConfig, StepCost, Reason]:
    """Measure a step in the other memory order of the features, and take it where it is faster and fits as well."""
    training = config.training
    changed = training.model_copy(update={"channels_last": not training.channels_last})
    other = config.model_copy(update={"training": changed})
    found = dry_step(other)
    before = f"a step takes {cost.seconds:.2f} s"
    if found is None or found.peak_bytes > 1.05 * cost.peak_bytes:
        return config, cost, Reason(_ORDER, training.channels_last, f"{before}, otherwise more memory")
    if found.seconds > _WORTH_IT * cost.seconds:
        return config, cost, Reason(_ORDER, training.channels_last, f"{before}, otherwise {found.seconds:.2f} s")
    why = f"a step takes {found.seconds:.2f} s, otherwise {cost.seconds:.2f} s"
    return other, found, Reason(_ORDER, changed.channels_last, why)
