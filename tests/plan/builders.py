"""Measurements and drafts of made-up data sets."""

from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from medseg.data.fingerprint import Fingerprint, IntensityStatistics
from medseg.plan.draft import Draft

LEVEL = IntensityStatistics(mean=0.0, std=1.0, percentile_00_5=-1.0, percentile_99_5=1.0)


def fingerprint(spacing, shape, *, tenth=None, kept=1.0, cropped=None, cases=20, channels=1) -> Fingerprint:
    extent = tuple(float(n * mm) for n, mm in zip(shape, spacing, strict=True))
    return Fingerprint(
        cases=cases,
        median_spacing_mm=spacing,
        smallest_spacing_mm=tenth or spacing,
        largest_spacing_mm=spacing,
        percentile_10_spacing_mm=tenth or spacing,
        smallest_extent_mm=extent,
        largest_extent_mm=extent,
        median_extent_mm=extent,
        median_shape=tuple(int(n) for n in np.array(cropped or shape)),
        median_cropped_extent_mm=tuple(float(n * mm) for n, mm in zip(cropped or shape, spacing, strict=True)),
        kept_by_crop=kept,
        label_values=(1, 3),
        foreground=(LEVEL,) * channels,
    )


def draft(text: str = "") -> Draft:
    tree = YAML(typ="rt").load(text or "data: {manifest: tiny.yaml}")
    return Draft(Path("draft.yaml"), tree)
