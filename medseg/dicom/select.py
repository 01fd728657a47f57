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
from medseg.dicom.series_values import began, normals, pixel_spacings_mm, spacing_mm, texts, thicknesses_mm, values
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import numbers_of, vr_of

__all__ = ["Decision", "SeriesRules", "choose", "first_failed", "prefer"]

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
class Decision:
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


def choose(rules: SeriesRules, candidates: Sequence[Series]) -> list[Decision]:
    """Decide about every candidate, in their order: whether it fits, and whether it is preferred in its study.

    `rules.extra_tags` must have been read from the headers.
    """
    failed = [first_failed(rules, series) for series in candidates]
    fitting = [series for series, failure in zip(candidates, failed, strict=True) if failure is None]
    preferred = iter(prefer(rules, fitting))
    return [
        next(preferred) if failure is None else Decision(series, False, *failure)
        for series, failure in zip(candidates, failed, strict=True)
    ]


def first_failed(rules: SeriesRules, series: Series) -> tuple[str, str] | None:
    """Return the first rule that a series does not fit and what it saw, or None where the series fits all."""
    for name, rule in _RULES.items():
        asked = getattr(rules, name)
        seen = None if asked is None else rule.misfit(rules, series)
        if seen is not None:
            return f"{name} {rule.text(asked)}", _shown(seen)
    for key, comparison in (rules.tags or {}).items():
        tag = tag_number(key)
        seen = _misfit(values(series, tag), partial(_compares, comparison))
        if seen is not None:
            return f"{key} {comparison}", _shown(seen) if not seen or _may_be_shown(tag) else "another value"
    return None


def prefer(rules: SeriesRules, fitting: Sequence[Series]) -> list[Decision]:
    """Take the best series of each study by the rules' `prefer`, or all where it is empty; in their order.

    Series without a StudyInstanceUID compete only with parts of their own SeriesInstanceUID.
    """
    if not rules.prefer:
        return [Decision(series, True) for series in fitting]
    entries = [_Entry(series, [_CRITERIA[name].measure(series) for name in rules.prefer]) for series in fitting]
    best: dict[str, _Entry] = {}
    for entry in entries:
        best[entry.study] = min(best.get(entry.study, entry), entry, key=lambda e: (e.measures, e.series.name))
    return [_decision(rules.prefer, entry, best[entry.study]) for entry in entries]


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


def _shown(text: str) -> str:
    readable = "".join(letter if letter.isprintable() else "?" for letter in text[:_MOST_CHARACTERS])
    return readable.replace("\\", ", ") or "no value"


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
    "slices": _Rule(str, lambda r, s: _misfit([str(len(s.frames))], _within(r.slices))),
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
        measure: The smaller the better; infinite where it is unknown.
        tell: What a series hears that lost, given its measure, the winner's and the winner's name.
    """

    measure: Callable[[Series], float]
    tell: Callable[[float, float, str], str]


def _thickness(series: Series) -> float:
    """SliceThickness, or the distance between slices where there is none."""
    numbers = [number for text in thicknesses_mm(series) or () for number in numbers_of(text) or ()]
    return max(numbers or numbers_of(spacing_mm(series)) or [math.inf])


def _minus_began(series: Series) -> float:
    seconds = began(series)
    return math.inf if seconds is None else -seconds


def _tell_unknown(_own: float, _best: float, name: str) -> str:
    return f"unknown, but known of {name}"


_CRITERIA = {
    "most_slices": _Criterion(
        lambda s: -float(len(s.frames)), lambda own, best, name: f"{-own:g} slices; {-best:g} in {name}"
    ),
    "thinnest": _Criterion(_thickness, lambda own, best, name: f"{own:.9g} mm; {best:.9g} mm in {name}"),
    "latest": _Criterion(_minus_began, lambda own, best, name: f"{round(own - best, 3):.9g} s before {name}"),
}


@dataclass(frozen=True)
class _Entry:
    series: Series
    measures: list[float]

    @property
    def study(self) -> str:
        header = self.series.header
        return header.study_uid or header.series_uid or self.series.name


def _decision(criteria: Sequence[str], own: _Entry, best: _Entry) -> Decision:
    if own is best:
        return Decision(own.series, True)
    name = best.series.name
    for criterion, measure, least in zip(criteria, own.measures, best.measures, strict=True):
        if measure > least:
            tell = _tell_unknown if math.isinf(measure) else _CRITERIA[criterion].tell
            return Decision(own.series, False, f"prefer {criterion}", tell(measure, least, name))
    seen = f"the same as {name}, which is first by name"
    return Decision(own.series, False, f"prefer {', '.join(criteria)}", seen)
