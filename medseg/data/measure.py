"""Every training case read once and measured, in parallel; what was measured is kept on disk."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medseg.data.channels import require_every_channel
from medseg.data.fingerprint import CaseMeasurement, measure_case
from medseg.data.manifest import Case
from medseg.data.store import file_stamp, read_case
from medseg.errors import InputError
from medseg.files import atomic_path
from medseg.threads import map_threads

_LAYOUT_VERSION = 3
_SAMPLES = ("samples", "everywhere")  # the fields that are arrays, one a channel
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


def measure_cases(
    cases: Sequence[Case],
    cache: Path | None = None,
    advance: Callable[[int, int], None] | None = None,
    *,
    ignore_value: int | None = None,
) -> list[CaseMeasurement]:
    """Measure cases, at most 4 at a time.

    Args:
        cases: Labelled cases.
        cache: Folder of what was measured before; a case whose files have not changed since is not read again.
            None measures all.
        advance: Called with (cases done, cases in all).
        ignore_value: Label value of the voxels that nobody judged.

    Returns:
        One measurement a case, in their order.

    Raises:
        ManifestError: None of the cases has one of the channels; it is said before any is read.
        InputError: A case cannot be read; an image of it is constant, or holds NaN or infinite values.
        StorageError: The cache cannot be written.
    """
    require_every_channel([case.present for case in cases])
    return map_threads(lambda case: _measure(case, cache, ignore_value), cases, advance)


def _measure(case: Case, cache: Path | None, ignore_value: int | None) -> CaseMeasurement:
    if cache is None:
        return _read_and_measure(case, ignore_value)
    facts = json.dumps([_LAYOUT_VERSION, file_stamp(case), ignore_value])
    kept = cache / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.npz"
    measurement = _load(kept)
    if measurement is None:
        measurement = _read_and_measure(case, ignore_value)
        _save(kept, measurement)
    return measurement


def _read_and_measure(case: Case, ignore_value: int | None) -> CaseMeasurement:
    images, label = read_case(case)
    try:
        return measure_case(images, label, ignore_value=ignore_value)
    except InputError as error:
        where = f"case {case.id}, {error.where}"
        raise InputError(where, expected=error.expected, found=error.found, remedy=error.remedy) from error


def _save(path: Path, measurement: CaseMeasurement) -> None:
    facts = measurement.model_dump_json(exclude=set(_SAMPLES)).encode()
    with atomic_path(path) as temporary:
        np.savez(temporary, np.frombuffer(facts, dtype=np.uint8), *measurement.samples, *measurement.everywhere)


def _load(path: Path) -> CaseMeasurement | None:
    """Return what was measured, or None where it is not there or cannot be read."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as held:
            facts, *arrays = (held[name] for name in held.files)
            channels = len(arrays) // 2
            samples = zip(_SAMPLES, (tuple(arrays[:channels]), tuple(arrays[channels:])), strict=True)
            return CaseMeasurement.model_validate(json.loads(facts.tobytes()) | dict(samples))
    except _DAMAGED:
        return None
