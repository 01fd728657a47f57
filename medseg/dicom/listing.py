"""Series and decisions -> plain records, for tables and JSON; free of patient data unless asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from medseg.dicom.geometry import orientation_problem, slice_normal
from medseg.dicom.plan import Decision
from medseg.dicom.series import Series
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import readable, uid_name
from medseg.findings import Finding

SCHEMA_VERSION = 1

_PLANES = ("sagittal", "coronal", "axial")  # whose normal runs along x, y, z
_LEAST_COSINE = 0.94  # 20 degrees; beyond that a plane is oblique


def series_record(series: Series, *, show_phi: bool = False) -> dict[str, Any]:
    """Return what the headers of a series say.

    Args:
        series: From a scan.
        show_phi: Add the UIDs.
    """
    header = series.header
    texts = {
        "modality": header.modality,
        "sop_class": uid_name(header.sop_class_uid),
        "description": _first(series, "SeriesDescription"),
        "body_part": _first(series, "BodyPartExamined"),
        "image_type": "\\".join(header.image_type),
        "transfer_syntax": uid_name(header.transfer_syntax_uid),
    }
    record: dict[str, Any] = {
        "series": series.name,
        "study": series.study_name,
        **{name: series.shown(text) for name, text in texts.items()},
        "plane": plane_of(series),
        "columns": header.columns,
        "rows": header.rows,
        "slices": series.slices,
        "pixel_spacing_mm": list(series.frames[0].pixel_spacing_mm or ()),
        "split": series.label,
        "findings": [finding_record(finding) for finding in series.findings],
    }
    if show_phi:
        record |= {
            "series_instance_uid": readable(header.series_uid),
            "study_instance_uid": readable(header.study_uid),
        }
    return record


def decision_record(decision: Decision, *, show_phi: bool = False) -> dict[str, Any]:
    """Return what becomes of a series, beside what its headers say."""
    stack = decision.stack
    record = series_record(decision.series, show_phi=show_phi)
    record |= {
        "taken": decision.is_taken,
        "rule": decision.rule,
        "seen": decision.seen,
        "slice_spacing_mm": round(float(np.linalg.norm(stack.affine[:3, 2])), 6) if stack else None,
    }
    if stack:
        record["findings"] = [finding_record(finding) for finding in stack.findings]
    return record


def finding_record(finding: Finding) -> dict[str, str]:
    """Return a finding's code, message and place."""
    return {"code": finding.code.value, "message": finding.message, "where": finding.where}


def plane_of(series: Series) -> str:
    """Return ``axial``, ``coronal`` or ``sagittal`` (to 20 degrees), ``oblique``, or ``""`` without orientation."""
    orientation = np.array(series.frames[0].orientation or (), dtype=np.float64)
    if orientation.size == 0 or orientation_problem(orientation[None]):
        return ""
    cosines = np.abs(slice_normal(orientation))
    axis = int(cosines.argmax())
    return _PLANES[axis] if cosines[axis] >= _LEAST_COSINE else "oblique"


def _first(series: Series, keyword: str) -> str:
    return next(iter(series.values(DESCRIBING[keyword])), "")
