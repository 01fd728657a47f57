"""Everything before a training whose configuration leaves something open: measure the data, plan, confirm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medseg.data.fingerprint import Fingerprint, IntensityStatistics
from medseg.data.manifest import Case, Dataset
from medseg.device import pick_device
from medseg.errors import UsageError
from medseg.plan.candidates import Candidate
from medseg.plan.compute import compute_for
from medseg.plan.draft import Draft
from medseg.plan.drystep import dry_step
from medseg.plan.experiment import Planned, facts_of, plan_experiment
from medseg.plan.fixed import Resolution
from medseg.plan.ground import ground
from medseg.plan.values import values
from medseg.training.run import Observer
from medseg.training.setup import measure_side
from medseg.training.world import local_device

_CUBE, _MILLIMETRE = (128, 128, 128), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is made for.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        memory: Such as ``8GB``; what is free on the device if None. See `medseg.plan.compute.compute_for`.
        dims: 2 or 3; by the data if None.
        resolution: ``low`` plans the first stage of a cascade.
        dry_run: Confirm the plan by training steps on random numbers.
    """

    device: str = "auto"
    memory: str | None = None
    dims: int | None = None
    resolution: Resolution = "full"
    dry_run: bool = True


def prepare(
    draft: Draft, dataset: Dataset, cases: Sequence[Case], store: Path, observer: Observer, options: PlanOptions
) -> Planned:
    """Measure training cases and plan what a draft leaves open.

    What the draft says is checked before any image is read.

    Args:
        draft: The configuration so far.
        dataset: The data set.
        cases: Its training cases.
        store: Folder of the preprocessed cases; what was measured is kept there.
        observer: Is told how the measuring goes.
        options: What the plan is made for.

    Raises:
        ConfigError: What the draft says is not valid.
        UsageError: Nothing fits into the memory, or the request does not fit the data.
        InputError: A case cannot be read, or its image is constant.
        ManifestError: A label occurs in no case.
    """
    compute = compute_for(options.device, options.memory)
    fixed = draft.fixed(options.dims, options.resolution)
    nominal = _nominal(len(dataset.channels))
    place = ground(nominal, compute, fixed)
    patch = fixed.patch_size or _CUBE[: place.dims]
    guess = Candidate(patch, fixed.batch_size or 2 * place.together, fixed.accumulate or 1)
    draft.filled(values(place, guess, nominal, facts_of(dataset)))
    fingerprint = measure_side(cases, dataset.scheme, store, observer)
    step = None
    if options.dry_run and not compute.unmeasured:
        step = partial(dry_step, device=str(pick_device(local_device(options.device))))
    return plan_experiment(draft, dataset, fingerprint, compute, fixed, step)


def resolution_named(text: str) -> Resolution:
    """Return a resolution by its name.

    Raises:
        UsageError: It is none.
    """
    named: dict[str, Resolution] = {"full": "full", "low": "low"}
    if text not in named:
        raise UsageError("--resolution", expected="full or low", found=f"'{text}'", remedy="write it so")
    return named[text]


def _nominal(channels: int) -> Fingerprint:
    """Return measurements that any data set could have, to check a draft with."""
    level = IntensityStatistics(mean=0.0, std=1.0, percentile_00_5=-1.0, percentile_99_5=1.0)
    return Fingerprint(
        cases=1,
        median_spacing_mm=_MILLIMETRE,
        smallest_spacing_mm=_MILLIMETRE,
        largest_spacing_mm=_MILLIMETRE,
        percentile_10_spacing_mm=_MILLIMETRE,
        smallest_extent_mm=(128.0, 128.0, 128.0),
        largest_extent_mm=(128.0, 128.0, 128.0),
        median_extent_mm=(128.0, 128.0, 128.0),
        median_cropped_extent_mm=(128.0, 128.0, 128.0),
        median_shape=_CUBE,
        foreground=(level,) * channels,
    )
