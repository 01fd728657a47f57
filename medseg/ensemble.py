"""Several model packages -> one whose networks are averaged: the folds of a run, or runs that go well together."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.data.fingerprint import Fingerprint
from medseg.data.label_statistics import pool_labels
from medseg.errors import ModelError, UsageError
from medseg.files import atomic_path
from medseg.inference.tiles import SlidingWindow
from medseg.model import (
    COARSE_FOLDER,
    WEIGHTS_FOLDER,
    ModelPackage,
    NetworkSpec,
    check_weights,
    find_package,
    load_package,
)
from medseg.postprocess import Postprocessing
from medseg.provenance import Provenance

# What may differ between packages that are averaged; all else must be the same.
_OWN = {"name", "network", "networks", "inference", "envelope", "provenance", "weights_sha256"}
_INTERFACE = ("spatial_dims", "in_channels", "num_classes", "slices")
_OUTERMOST = {"smallest": min, "largest": max}


def merge_packages(
    folders: Sequence[Path],
    target: Path,
    *,
    name: str | None = None,
    validation_dice: Mapping[str, float] | None = None,
    postprocessing: Postprocessing | None = None,
) -> ModelPackage:
    """Write a package that holds the networks of several ones; their logits are averaged.

    Weights are linked where the file system can, copied otherwise, their checksums verified; model.json comes last,
    so that a package that is there already is whole at every moment. The first stage of cascades goes along.

    Args:
        folders: The packages, or run folders that hold one each.
        target: Folder of the new package.
        name: Of the new package; that of the first by default.
        validation_dice: By label name, over all validation cases; by default the mean over the packages.
        postprocessing: That of the packages by default.

    Returns:
        The new package.

    Raises:
        ModelError: A package is damaged; they do not share preprocessing, labels, channels or what else an average
            needs, such as the first stage of a cascade; or two of them hold the same network.
        UsageError: There is no package, or the target is one of them.
        StorageError: A file cannot be written.
    """
    places = [find_package(folder) for folder in folders]
    _check_target(places, target)
    packages = [load_package(place) for place in places]
    for place, package in zip(places[1:], packages[1:], strict=True):
        require_averageable(packages[0], package, place)
    merged = combine(packages, name=name, validation_dice=validation_dice)
    if postprocessing is not None:
        merged = merged.model_copy(update={"postprocessing": postprocessing})
    merged = ModelPackage.model_validate(merged.model_dump())
    if merged.coarse:
        merge_packages(_first_stage(places), target / COARSE_FOLDER)
    for place, package in zip(places, packages, strict=True):
        for file, checksum in package.weights_sha256.items():
            _link(place / WEIGHTS_FOLDER / file, target / WEIGHTS_FOLDER / file, checksum)
    merged.describe(target)
    return merged


def _first_stage(places: Sequence[Path]) -> list[Path]:
    """Return the package of the first stage that all packages share, as a list."""
    stages = [place / COARSE_FOLDER for place in places]
    found = [set(load_package(stage).weights_sha256.values()) for stage in stages]
    for stage, checksums in zip(stages, found, strict=True):
        if checksums != found[0]:
            raise ModelError(
                stage,
                expected=f"the first stage of {places[0]}",
                found="another one",
                remedy="train them all on one first stage (--coarse)",
            )
    return stages[:1]


def require_averageable(first: ModelPackage, other: ModelPackage, where: object) -> None:
    """Refuse a package whose logits cannot be averaged with those of another.

    Raises:
        ModelError: Names the first difference.
    """
    if found := difference(first, other):
        raise ModelError(
            where,
            expected=f"what '{first.name}' of fold {_listed(first.provenance.folds)} has",
            found=found,
            remedy="train them with the same preprocessing on the same data, or choose one of them",
        )


def difference(first: ModelPackage, other: ModelPackage) -> str | None:
    """Return the first thing that keeps two packages from being averaged, such as ``preprocessing.spacing_mm``.

    Returns:
        One phrase that names the field and both values; None where there is none.
    """
    for field in _INTERFACE:
        here, there = getattr(first.network, field), getattr(other.network, field)
        if here != there:
            return f"network.{field} {there} instead of {here}"
    return _difference(first.model_dump(mode="json", exclude=_OWN), other.model_dump(mode="json", exclude=_OWN), "")


def combine(
    packages: Sequence[ModelPackage],
    *,
    name: str | None = None,
    validation_dice: Mapping[str, float] | None = None,
) -> ModelPackage:
    """Return the description of packages that can be averaged as one; nothing is written.

    The tile is as large as the largest, tiles overlap as the most of them do, and only axes that every package
    mirrors are mirrored.

    Args:
        packages: At least one; see `require_averageable`.
        name: Of the result; that of the first by default.
        validation_dice: By label name; by default the mean over the packages.

    Raises:
        ModelError: Two packages hold the same network.
    """
    first = packages[0]
    specs = {file: spec for package in packages for file, spec in _specs(package)}
    checksums = {file: checksum for package in packages for file, checksum in package.weights_sha256.items()}
    if len(set(checksums.values())) < sum(len(package.weights_sha256) for package in packages):
        raise ModelError(
            first.name,
            expected="different networks",
            found="the same weights in two packages",
            remedy="give each package once",
        )
    return first.model_copy(
        update={
            "name": name or first.name,
            "networks": {file: spec for file, spec in specs.items() if spec != first.network},
            "inference": _window([package.inference for package in packages]),
            "envelope": _envelope([package.envelope for package in packages]),
            "provenance": _provenance([package.provenance for package in packages], validation_dice),
            "weights_sha256": checksums,
        }
    )


def _specs(package: ModelPackage) -> Iterable[tuple[str, NetworkSpec]]:
    return ((file, package.networks.get(file, package.network)) for file in package.weights_sha256)


def _window(windows: Sequence[SlidingWindow]) -> SlidingWindow:
    tiles = [window.tile_size for window in windows if window.tile_size]
    mirrored = set[int].intersection(*(set(window.mirror_axes) for window in windows))
    return windows[0].model_copy(
        update={
            "tile_size": tuple(max(sizes) for sizes in zip(*tiles, strict=True)),
            "overlap": max(window.overlap for window in windows),
            "batch_size": min(window.batch_size for window in windows),
            "mirror_axes": tuple(sorted(mirrored)),
        }
    )


def _envelope(envelopes: Sequence[Fingerprint]) -> Fingerprint:
    """Return the first with its smallest and largest values widened to those of all, labels included."""
    update: dict[str, object] = {
        "cases": max(envelope.cases for envelope in envelopes),
        "labels": pool_labels([envelope.labels for envelope in envelopes]),
    }
    for field in Fingerprint.model_fields:
        if outermost := _OUTERMOST.get(field.partition("_")[0]):
            values = zip(*(getattr(envelope, field) for envelope in envelopes), strict=True)
            update[field] = tuple(outermost(axis) for axis in values)
    return envelopes[0].model_copy(update=update)


def _provenance(parts: Sequence[Provenance], validation_dice: Mapping[str, float] | None) -> Provenance:
    dice = validation_dice if validation_dice is not None else _mean_dice(parts)
    return Provenance(
        medseg_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=_joined(part.dataset for part in parts),
        config_sha256=_joined(part.config_sha256 for part in parts),
        data_sha256=_joined(part.data_sha256 for part in parts),
        folds=tuple(sorted({fold for part in parts for fold in part.folds})),
        training_cases=max(part.training_cases for part in parts),
        validation_dice={label: round(d, 6) if math.isfinite(d) else None for label, d in dice.items()},
        imported=tuple(network for part in parts for network in part.imported),
    )


def _mean_dice(parts: Sequence[Provenance]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part.validation_dice)
    known = {name: [d for part in parts if (d := part.validation_dice.get(name)) is not None] for name in names}
    return {name: math.fsum(values) / len(values) if values else math.nan for name, values in known.items()}


def _joined(texts: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(texts))


def _difference(here: Any, there: Any, path: str) -> str | None:
    """Return the first leaf in which two trees of JSON differ."""
    if isinstance(here, dict) and isinstance(there, dict):
        keys = dict.fromkeys((*here, *there))
        found = (_difference(here.get(key), there.get(key), f"{path}.{key}".lstrip(".")) for key in keys)
        return next((text for text in found if text), None)
    if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        found = (_difference(a, b, f"{path}.{n}") for n, (a, b) in enumerate(zip(here, there, strict=True)))
        return next((text for text in found if text), None)
    return None if here == there else f"{path} {there!r} instead of {here!r}"


def _check_target(places: Sequence[Path], target: Path) -> None:
    same = [place for place in places if place.resolve() == target.resolve()]
    if same or not places:
        raise UsageError(
            target,
            expected="packages to merge, and another folder for the result" if places else "packages to merge",
            found=f"{same[0]} as both" if same else "none",
            remedy="name a new folder" if places else "give their folders",
        )


def _link(source: Path, target: Path, checksum: str) -> None:
    """Give a file of weights a second name, or copy it where that cannot be; verify what is there."""
    check_weights(source, checksum)
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            check_weights(temporary, checksum)


def _listed(folds: Sequence[int]) -> str:
    return ", ".join(map(str, folds))
