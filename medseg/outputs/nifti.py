"""A mask as NIfTI: one label map, or one mask an organ."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from medseg.labels import Label, LabelMap, LabelSet
from medseg.volume import Volume

_NOT_IN_A_FILE_NAME = re.compile(r"[^\w.+-]+")


def organ_files(labels: LabelSet) -> Iterator[tuple[Label, str]]:
    """Yield each label and the name of its file, which no other label has, also where case does not count."""
    taken: set[str] = set()
    for label in labels:
        stem = _NOT_IN_A_FILE_NAME.sub("_", label.name).strip("._") or f"label_{label.index}"
        while stem.casefold() in taken:
            stem = f"{stem}_{label.index}"
        taken.add(stem.casefold())
        yield label, f"{stem}.nii.gz"


def organ_mask(labels: LabelMap, label: Label) -> LabelMap:
    """Return the binary mask of one label as a label map of its own; its one value is 1."""
    array = np.asfortranarray(labels.array == label.index).view(np.uint8)
    volume = Volume(array, labels.affine, source=f"{labels.volume.source}, {label.name}")
    return LabelMap(volume, LabelSet((label.model_copy(update={"index": 1}),)))
