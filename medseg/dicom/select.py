"""Which series a recipe's rules take, and of every other series the rule that left it out and what it saw.

A rule holds where it holds for every slice; a value that is missing never fits.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from medseg.dicom.series import Series
from medseg.dicom.series_rules import (
    NUMBER_VRS,
    SOP_CLASS_NAMES,
    Range,
    SeriesRules,
    split_comparison,
    tag_number,
)
from medseg.dicom.series_values import (
    beginnings,
    normals,
    pixel_spacings_mm,
    spacing_mm,
    texts,
    thicknesses_mm,
    values,
)
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import numbers_of, vr_of

__all__ = ["Choice", "SeriesRules", "first_failed", "prefer"]

_MOST_CHARACTERS = 64  # what a description may hold (PS3.5 6.2, LO); no more is searched or shown
_SHOWN_VRS = NUMBER_VRS | {"CS"}
_SINGLE_PRECISION = 1e-7
_ROUNDING_DEG = 1e-4
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
_NO_AGENT = {"", "no", "n", "none", "n/a", "na", "no contrast", "without", "without contrast", "unenhanced"}


@dataclass(frozen=True)
class Choice:
    """What becomes of one series.

    Attributes:
        series: The series.
        taken: Whether it is taken.
        rule: The rule that left it out, such as ``slice_thickness_mm <= 3``; "" where it is taken.
        seen: What that rule saw, such as ``5``; never a value that identifies a patient.
    """

    series: Series
    taken: bool
    rule: str = ""
    seen: str = ""


def first_failed(rules: SeriesRules, series: Series) -> tuple[str, str] | None:
    """Return the first rule that a series does not fit and what it saw, or None where the series fits all."""
    for name, rule in _RULES.items():
        asked = getattr(rules, name)
        seen = None if asked is None else rule.misfit(rules, series)
        if seen is not None:
            return f"{name} {rule.text(asked)}", _shown(series, seen)
    for key, comparison in (rules.tags or {}).items():
        tag = tag_number(key)
        seen = _misfit(values(series, tag), partial(_compares, comparison))
        if seen is not None:
            return f"{key} {comparison}", _shown(series, seen) if not seen or _may_be_shown(
                tag
            ) else "another value"
    return None


def prefer(rules: SeriesRules, fitting: Sequence[Series]) -> list[Choice]:
    """Take the best series of each study by the rules' `prefer`, or all where it is empty; in their order.

    Series without a StudyInstanceUID compete only with parts of their own SeriesInstanceUID.
    """
    if not rules.prefer:
        return [Choice(series, True) for series in fitting]
    studies: dict[str, list[int]] = {}
    for k, series in enumerate(fitting):
        studies.setdefault(_study(series), []).append(k)
    decisions: dict[int, Choice] = {}
    for places in studies.values():
        decisions.update(zip(places, _best_of_study(rules.prefer, [fitting[k] for k in places]), strict=True))
    return [decisions[k] for k in range(len(fitting))]


class _Rule(NamedTuple):
    """One rule.

    Attributes:
        text: How it reads, given what is asked for.
        misfit: What it saw of a series that does not fit, "" where there is nothing; None where the series fits.
    """

    text: Callable[[Any], str]
    misfit: Callable[[SeriesRules, Series], str | None]


def _misfit(found: Iterable[str], fits: Callable[[str], bool]) -> str | None:
    return next((value for value in found if not value or not fits(value)), None)


def _shown(series: Series, text: str) -> str:
    return series.shown(text[:_MOST_CHARACTERS]).replace("\\", ", ") or "no value"


def _may_be_shown(tag: int) -> bool:
    """Whether a tag is cleaned of patients' names and numbers, or has no room for them."""
    return tag in DESCRIBING.values() or vr_of(tag) in _SHOWN_VRS


def _in(names: Iterable[str]) -> str:
    return f"in {', '.join(names)}"


def _regex(pattern: str) -> str:
    return f"matches {pattern}"


def _among(names: Sequence[str] | None) -> Callable[[str], bool]:
    return lambda text: text in (names or ())


def _matches(pattern: str | None) -> Callable[[str], bool]:
    return lambda text: re.search(pattern or "", text[:_MOST_CHARACTERS], re.IGNORECASE) is not None


def _within(asked: Range | None) -> Callable[[str], bool]:
    return lambda text: asked is None or asked.holds(text)


def _sop_classes(series: Series) -> Iterable[str]:
    uids = dict.fromkeys(frame.header.sop_class_uid for frame in series.frames)
    return [SOP_CLASS_NAMES.get(uid, uid) for uid in uids]


def _image_type(rules: SeriesRules, series: Series) -> str | None:
    asked = rules.image_type
    return next((text for text in texts(series, "ImageType") if asked and not asked.holds(text)), None)


def _oblique(rules: SeriesRules, series: Series) -> str | None:
    """Return by how much the slices are off the plane asked for, where that is too much."""
    cosines = [abs(float(normal[_AXES[rules.orientation or "axial"]])) for normal in normals(series)]
    if not cosines:
        return ""
    off_deg = math.degrees(math.acos(min(*cosines, 1.0)))
    return f"{off_deg:.4g} degrees off" if off_deg > rules.orientation_tolerance_deg + _ROUNDING_DEG else None


def _contrast(rules: SeriesRules, series: Series) -> str | None:
    agents = [text for text in texts(series, "ContrastBolusAgent") if text.casefold() not in _NO_AGENT]
    if any(DESCRIBING["ContrastBolusAgentSequence"] in frame.tags for frame in series.frames):
        agents.append("an agent")
    if bool(agents) == rules.contrast:
        return None
    return agents[0] if agents else "no agent"


_RULES = {
    "modality": _Rule(_in, lambda r, s: _misfit((f.header.modality for f in s.frames), _among(r.modality))),
    "sop_class": _Rule(_in, lambda r, s: _misfit(_sop_classes(s), _among(r.sop_class))),
    "image_type": _Rule(str, _image_type),
    "body_part": _Rule(
        _in, lambda r, s: _misfit((text.upper() for text in texts(s, "BodyPartExamined")), _among(r.body_part))
    ),
    "description": _Rule(_regex, lambda r, s: _misfit(texts(s, "SeriesDescription"), _matches(r.description))),
    "protocol": _Rule(_regex, lambda r, s: _misfit(texts(s, "ProtocolName"), _matches(r.protocol))),
    "contrast": _Rule(lambda asked: str(asked).lower(), _contrast),
    "orientation": _Rule(str, _oblique),
    "slices": _Rule(str, lambda r, s: _misfit([str(s.slices)], _within(r.slices))),
    "slice_thickness_mm": _Rule(str, lambda r, s: _misfit(thicknesses_mm(s), _within(r.slice_thickness_mm))),
    "slice_spacing_mm": _Rule(str, lambda r, s: _misfit([spacing_mm(s)], _within(r.slice_spacing_mm))),
    "pixel_spacing_mm": _Rule(str, lambda r, s: _misfit(pixel_spacings_mm(s), _within(r.pixel_spacing_mm))),
    "kernel": _Rule(_regex, lambda r, s: _misfit(texts(s, "ConvolutionKernel"), _matches(r.kernel))),
}
"""A new rule is a field of `SeriesRules` and an entry here; those that say most about a series come first."""


def _compares(comparison: str, text: str) -> bool:
    sign, wanted = split_comparison(comparison)
    return all(_fits(sign, wanted, part) for part in text.split("\\"))


def _fits(sign: str, wanted: str, value: str) -> bool:
    """Whether one value fits: order is of numbers; equality of numbers, or of texts in whatever case."""
    number, limit = numbers_of(value, 1), numbers_of(wanted, 1)
    if number and limit:
        return _OPERATORS[sign](0.0 if _is_same(number[0], limit[0]) else number[0] - limit[0], 0.0)
    is_equal = value.casefold() == wanted.casefold()
    return bool(value) and sign in ("==", "!=") and is_equal == (sign == "==")


def _is_same(number: float, limit: float) -> bool:
    """Whether two numbers are equal, but for what single precision (VR FL) makes of a fraction."""
    if number.is_integer() and limit.is_integer():
        return number == limit
    return math.isclose(number, limit, rel_tol=_SINGLE_PRECISION)


class _Criterion(NamedTuple):
    """One preference.

    Attributes:
        measures: Of the series of one study, the smaller the better; infinite where it is unknown.
        tell: What a series hears that lost, given its measure, the winner's and the winner's name.
    """

    measures: Callable[[Sequence[Series]], Iterable[float]]
    tell: Callable[[float, float, str], str]


def _thickness(series: Series) -> float:
    """SliceThickness, or the distance between slices where there is none."""
    numbers = [number for text in thicknesses_mm(series) for number in numbers_of(text) or ()]
    return max(numbers or numbers_of(spacing_mm(series)) or [math.inf])


def _tell_unknown(_own: float, _best: float, name: str) -> str:
    return f"unknown, but known of {name}"


_CRITERIA = {
    "most_slices": _Criterion(
        lambda rivals: [-float(series.slices) for series in rivals],
        lambda own, best, name: f"{-own:g} slices; {-best:g} in {name}",
    ),
    "thinnest": _Criterion(
        lambda rivals: map(_thickness, rivals), lambda own, best, name: f"{own:.9g} mm; {best:.9g} mm in {name}"
    ),
    "latest": _Criterion(
        lambda rivals: [math.inf if seconds is None else -seconds for seconds in beginnings(rivals)],
        lambda own, best, name: f"{round(own - best, 3):.12g} s before {name}",
    ),
}


def _study(series: Series) -> str:
    return series.header.study_uid or series.header.series_uid or series.name


def _best_of_study(criteria: Sequence[str], rivals: Sequence[Series]) -> list[Choice]:
    measures = list(zip(*(_CRITERIA[name].measures(rivals) for name in criteria), strict=True))
    best = min(range(len(rivals)), key=lambda k: (measures[k], rivals[k].name))
    name = rivals[best].name
    return [
        Choice(series, True)
        if k == best
        else Choice(series, False, *_lost(criteria, measures[k], measures[best], name))
        for k, series in enumerate(rivals)
    ]


def _lost(criteria: Sequence[str], own: Sequence[float], best: Sequence[float], name: str) -> tuple[str, str]:
    """Return the criterion by which a series lost, and how."""
    for criterion, measure, least in zip(criteria, own, best, strict=True):
        if measure > least:
            tell = _tell_unknown if math.isinf(measure) else _CRITERIA[criterion].tell
            return f"prefer {criterion}", tell(measure, least, name)
    return f"prefer {', '.join(criteria)}", f"the same as {name}, which is first by name"
