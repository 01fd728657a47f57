"""`Search`: the best candidate for the memory, by estimates of what its training step takes, and by measurement."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from medseg.config import ExperimentConfig
from medseg.errors import UsageError
from medseg.plan.candidates import Candidate, best_candidate, smallest_candidate
from medseg.plan.drystep import NO_FIT, StepCost
from medseg.plan.footprint import estimate_bytes
from medseg.plan.ground import Ground
from medseg.plan.reason import Reason
from medseg.regions import LabelScheme

_MOST_DRY_STEPS = 8
_LEAST_ERROR = 0.5  # of an estimate: what a small step takes beside the process is hard to tell
_SMALLER = 1.25  # times the memory that a step which did not fit is taken to need
_log = logging.getLogger(__name__)


class DryStep(Protocol):
    """Measures a training step; see `medseg.plan.drystep.dry_step`."""

    def __call__(self, config: ExperimentConfig, *, channels: int, scheme: LabelScheme) -> StepCost | None:
        """Return what a step takes; None where the system does not tell."""


@dataclass(frozen=True)
class Search:
    """Candidates as complete configurations.

    Attributes:
        place: What the candidates stand on.
        filled: Makes a candidate a configuration with its reasons.
        channels: Of an image, without flags.
        scheme: What is learnt of the labels.
        dry_step: Measures a step; None trusts the estimate.
    """

    place: Ground
    filled: Callable[[Ground, Candidate], tuple[ExperimentConfig, tuple[Reason, ...]]]
    channels: int
    scheme: LabelScheme
    dry_step: DryStep | None
    _known: dict[tuple[Ground, Candidate], int] = field(default_factory=dict)

    def best(self) -> tuple[Candidate, StepCost | None]:
        """Return the best candidate that fits, and what a step of it takes, where that was measured.

        The memory of each candidate is estimated; the best one that seems to fit is measured, the estimates
        corrected by what came out, and the choice made again, until the measured one is the best that fits. Where
        none seems to fit, the smallest one is measured.

        Raises:
            UsageError: Not even the smallest one fits.
        """
        if self.dry_step is None:
            return self._estimated(), None
        correction, measured = 1.0, dict[Candidate, StepCost]()
        for attempt in range(_MOST_DRY_STEPS):
            chosen = self._fitting(correction) or smallest_candidate(self.place)
            if chosen in measured:
                break
            cost = self.measure(self.filled(self.place, chosen)[0])
            if cost is None:
                return self._estimated(), None
            measured[chosen] = cost
            found = self._error(chosen, cost)
            correction = max(correction, found) if attempt else found
        fitting = [chosen for chosen, cost in measured.items() if cost.peak_bytes <= self._memory]
        if not fitting:
            raise self._too_small()
        best = max(fitting, key=lambda candidate: candidate.rank)
        return best, measured[best]

    def measure(self, config: ExperimentConfig) -> StepCost | None:
        """Return what a step of one process takes; None where nothing can be measured."""
        if self.dry_step is None:
            return None
        return self.dry_step(self._of_one_process(config), channels=self.channels, scheme=self.scheme)

    @property
    def _memory(self) -> int:
        return self.place.compute.memory_bytes

    def _estimated(self) -> Candidate:
        found = self._fitting(1.0)
        if found is None:
            raise self._too_small()
        return found

    def _fitting(self, correction: float) -> Candidate | None:
        return best_candidate(self.place, lambda c: correction * self._estimate(c) <= self._memory)

    def _estimate(self, candidate: Candidate) -> int:
        key = self.place, candidate
        if key not in self._known:
            self._known[key] = self._estimated_bytes(candidate)
        return self._known[key]

    def _estimated_bytes(self, candidate: Candidate) -> int:
        config, _ = self.filled(self.place, candidate)
        half = config.training.precision in ("bf16", "fp16")
        if config.training.precision == "auto":
            half = self.place.compute.kind == "cuda"
        return estimate_bytes(self._of_one_process(config), self.channels, self.scheme.outputs, half=half)

    def _error(self, candidate: Candidate, cost: StepCost) -> float:
        """Return how many times the estimate a step takes."""
        estimate = self._estimate(candidate)
        _log.info("%s takes %.2f GB, estimated %.2f GB", candidate, cost.peak_bytes / 1e9, estimate / 1e9)
        taken = _SMALLER * self._memory if cost == NO_FIT else cost.peak_bytes
        return max(_LEAST_ERROR, taken / estimate)

    def _of_one_process(self, config: ExperimentConfig) -> ExperimentConfig:
        share = config.training.batch_size // self.place.compute.processes
        return config.model_copy(update={"training": config.training.model_copy(update={"batch_size": share})})

    def _too_small(self) -> UsageError:
        compute = self.place.compute
        return UsageError(
            "the plan",
            expected=f"a training step within {compute.memory_bytes / 1e9:.2f} GB ({compute.source})",
            found="more, even with the smallest patch and batch that the configuration leaves open",
            remedy="give more --memory, a smaller training.patch_size, or fewer network.channels",
        )
