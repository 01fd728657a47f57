"""The labels of nnU-Net's dataset.json: plain ones, regions, and the one to ignore.

The format is that of ``documentation/dataset_format.md``, ``region_based_training.md`` and ``ignore_label.md`` of
nnU-Net 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from medseg.errors import ManifestError
from medseg.labels import BACKGROUND
from medseg.regions import Region

IGNORE = "ignore"


@dataclass(frozen=True)
class NnunetLabels:
    """What the values of the label maps mean.

    Attributes:
        names: {index: name}, with or without the background.
        regions: In the order in which they are painted; empty where every label is one value.
        ignore_value: Value of the voxels that nobody judged.
    """

    names: dict[int, str]
    regions: tuple[Region, ...] = ()
    ignore_value: int | None = None


def read_nnunet_labels(
    where: Path, labels: Mapping[str, int | list[int]], class_order: Sequence[int] | None
) -> NnunetLabels:
    """Read the ``labels`` of a dataset.json.

    Where one of them is a list of values, all of them are regions. A value that is no region by itself is named
    after the region that is painted with it.

    Args:
        where: The file, for messages.
        labels: {name: value or values}.
        class_order: ``regions_class_order``, the value that each region is painted with.

    Raises:
        ManifestError: A value is used twice, a region has none to be painted with, or several are to be ignored.
    """
    values = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    ignored = values.pop(IGNORE, [])
    if len(ignored) > 1:
        raise _wrong(where, "one value to ignore", f"{ignored}", "give the label one value")
    ignore_value = ignored[0] if ignored else None
    if any(len(value) > 1 for value in values.values()):
        regions = _regions(where, values, class_order)
        return NnunetLabels(_names_of_parts(regions), regions, ignore_value)
    names = {value: name for name, several in values.items() for value in several}
    if len(names) < len(values):
        raise _wrong(
            where, "an index of its own for each label", "one used twice, or a label without", "correct labels"
        )
    return NnunetLabels(names, (), ignore_value)


def _regions(where: Path, values: Mapping[str, list[int]], class_order: Sequence[int] | None) -> tuple[Region, ...]:
    learnt = {name: several for name, several in values.items() if set(several) != {BACKGROUND}}
    if class_order is None or len(class_order) != len(learnt):
        raise _wrong(
            where,
            f"regions_class_order with a value for each of {len(learnt)} regions: {', '.join(learnt)}",
            "none" if class_order is None else f"{len(class_order)} values",
            "write the value that each region is painted with, later ones over earlier ones",
        )
    try:
        return tuple(
            Region(name=name, labels=tuple(several), paint=paint)
            for (name, several), paint in zip(learnt.items(), class_order, strict=True)
        )
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise _wrong(
            where, "regions that are painted with one of their own values", problem, "correct it"
        ) from error


def _names_of_parts(regions: Sequence[Region]) -> dict[int, str]:
    names = {value: f"label_{value}" for region in regions for value in region.labels}
    names |= {region.paint: f"rest of {region.name}" for region in regions if region.paint is not None}
    names |= {region.labels[0]: region.name for region in regions if len(region.labels) == 1}
    return dict(sorted(names.items()))


def _wrong(where: Path, expected: str, found: str, remedy: str) -> ManifestError:
    return ManifestError(where, expected=expected, found=found, remedy=remedy)
