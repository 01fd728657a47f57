"""A draft, a data set and its measurements -> a complete configuration with the reason for every number."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from medseg.config import ExperimentConfig
from medseg.data.fingerprint import Fingerprint
from medseg.data.manifest import Dataset
from medseg.errors import UsageError
from medseg.files import write_text
from medseg.labels import LabelSet
from medseg.plan.candidates import Candidate, Fixed, Ground, best_candidate, ground
from medseg.plan.compute import Compute
from medseg.plan.draft import Draft
from medseg.plan.drystep import NO_FIT, StepCost
from medseg.plan.footprint import estimate_bytes
from medseg.plan.reason import Reason
from medseg.plan.values import Facts, values
from medseg.regions import LabelScheme

PLAN_FILE = "plan.json"


class DryStep(Protocol):
    """Measures a training step; see `medseg.plan.drystep.dry_step`."""

    def __call__(self, config: ExperimentConfig, *, channels: int, scheme: LabelScheme) -> StepCost | None:
        """Return what a step takes; None where the system does not tell."""


_MOST_DRY_STEPS = 8
_SMALLER = 1.25  # times the memory that a step which did not fit is taken to need
_ORDER = "training.channels_last"
_WORTH_IT = 0.95
_SIDES = re.compile(r"(^|[\W_])(left|right|l|r|links|rechts|gauche|droite)([\W_]|$)", re.IGNORECASE)
_log = logging.getLogger(__name__)


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
            "compute": {"kind": self.compute.kind, "memory_bytes": self.compute.memory_bytes},
            "step": None if self.cost is None else self.cost.__dict__,
            "fingerprint": self.fingerprint.model_dump(mode="json"),
        }
        write_text(folder / PLAN_FILE, json.dumps(facts, indent=1) + "\n")


def facts_of(dataset: Dataset) -> Facts:
    """Return what a plan needs to know of a data set beside its measurements."""
    return Facts(
        name=dataset.name,
        modalities=[channel.modality for channel in dataset.channels],
        sided=has_sides(dataset.labels),
        incomplete=any(image is None for case in dataset.cases for image in case.images),
    )


def has_sides(labels: LabelSet) -> bool:
    """Whether labels tell left from right, by their laterality or their names."""
    return any(label.laterality is not None or _SIDES.search(label.name) for label in labels)


def plan_experiment(
    draft: Draft,
    dataset: Dataset,
    fingerprint: Fingerprint,
    compute: Compute,
    fixed: Fixed,
    dry_step: DryStep | None = None,
) -> Planned:
    """Fill what a draft leaves open, so that a step fits into the memory.

    The memory of each candidate is estimated; the best one that seems to fit is measured by a dry step, the
    estimates corrected by what came out, and the choice made again, until the measured one is the best that fits.

    Args:
        draft: What is set already.
        dataset: The data set.
        fingerprint: Of its training cases.
        compute: What may be used.
        fixed: `Draft.fixed`.
        dry_step: Measures a step; None trusts the estimate.

    Raises:
        ConfigError: What is set is not valid.
        UsageError: Not even the smallest patch fits, or a 3-D network is asked for on single slices.
    """
    search = _Search(draft, dataset, fingerprint, ground(fingerprint, compute, fixed))
    if dry_step is None:
        config, reasons = search.filled(search.best(1.0))
        return Planned(config, reasons, fingerprint, compute, None)
    chosen, cost = _confirmed(search, dry_step)
    config, reasons = search.filled(chosen)
    if cost is not None and draft.get(_ORDER) is None:
        measure = partial(dry_step, channels=search.channels, scheme=dataset.scheme)
        config, cost, reason = _faster_order(config, cost, measure)
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


def _confirmed(search: _Search, dry_step: DryStep) -> tuple[Candidate, StepCost | None]:
    """Return the best candidate that fits by measurement, and what a step of it takes."""
    memory = search.place.compute.memory_bytes
    correction, measured = 1.0, dict[Candidate, StepCost]()
    for attempt in range(_MOST_DRY_STEPS):
        chosen = search.best(correction)
        if chosen in measured:
            break
        config, _ = search.filled(chosen)
        cost = dry_step(config, channels=search.channels, scheme=search.dataset.scheme)
        if cost is None:
            return chosen, None
        measured[chosen] = cost
        estimate = search.estimate(chosen)
        _log.info("%s takes %.2f GB, estimated %.2f GB", chosen, cost.peak_bytes / 1e9, estimate / 1e9)
        found = (_SMALLER * memory if cost == NO_FIT else cost.peak_bytes) / estimate
        correction = max(correction, found) if attempt else found
    fitting = [(c, cost) for c, cost in measured.items() if cost.peak_bytes <= memory]
    if not fitting:
        raise search.too_small()
    return max(fitting, key=lambda item: math.prod(item[0].patch_size) * item[0].batch_size)


@dataclass(frozen=True)
class _Search:
    """Candidates, as complete configurations."""

    draft: Draft
    dataset: Dataset
    fingerprint: Fingerprint
    place: Ground

    @property
    def channels(self) -> int:
        """Of an image, without flags."""
        return len(self.dataset.channels)

    def filled(self, candidate: Candidate) -> tuple[ExperimentConfig, tuple[Reason, ...]]:
        return self.draft.filled(values(self.place, candidate, self.fingerprint, facts_of(self.dataset)))

    def estimate(self, candidate: Candidate) -> int:
        config, _ = self.filled(candidate)
        return estimate_bytes(
            config, self.channels, self.dataset.scheme.outputs, half=self.place.compute.kind == "cuda"
        )

    def best(self, correction: float) -> Candidate:
        memory = self.place.compute.memory_bytes
        found = best_candidate(self.place, lambda c: correction * self.estimate(c) <= memory)
        if found is None:
            raise self.too_small()
        return found

    def too_small(self) -> UsageError:
        compute = self.place.compute
        return UsageError(
            "the plan",
            expected=f"a training step within {compute.memory_bytes / 1e9:.2f} GB ({compute.source})",
            found="more, even with the smallest patch and batch that the configuration leaves open",
            remedy="give more --memory, a smaller training.patch_size, or fewer network.channels",
        )
