"""A pile of DICOM and rules -> which series are taken, and why each other one is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.scan import Scan, scan_pile
from medseg.dicom.select import SeriesRules, first_failed, prefer
from medseg.dicom.series import Series
from medseg.dicom.split import Part, split_times
from medseg.dicom.stack import Stack, stack_series
from medseg.errors import DicomError
from medseg.findings import Finding, FindingCode

NO_VOLUMES = {
    code.value
    for code in (
        FindingCode.LOCALIZER,
        FindingCode.MOSAIC,
        FindingCode.COLOUR,
        FindingCode.SECONDARY_CAPTURE,
        FindingCode.MULTI_FRAME,
        FindingCode.FOUR_DIMENSIONAL,
    )
}
"""Reasons of series that are no volume at all, and so are none that is missed."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one series.

    Attributes:
        series: Which.
        stack: Its geometry, where it is taken.
        rule: The rule that left it, or the code of the finding that refused it; "" where it is taken.
        seen: The value that the rule saw, or what was found.
        error: Why it cannot be read, where that is the reason.
    """

    series: Series
    stack: Stack | None = None
    rule: str = ""
    seen: str = ""
    error: DicomError | None = None

    @property
    def is_taken(self) -> bool:
        """Whether the series is read."""
        return self.stack is not None

    @property
    def is_wanted(self) -> bool:
        """Whether it is a volume that the rules take, even where it cannot be read right."""
        return self.is_taken or (self.error is not None and self.rule not in NO_VOLUMES)


@dataclass(frozen=True)
class Plan:
    """What becomes of every series of a pile.

    Attributes:
        decisions: One a series, in the order of the scan.
        findings: Files that are of no series.
    """

    decisions: tuple[Decision, ...]
    findings: tuple[Finding, ...]

    @property
    def taken(self) -> tuple[Stack, ...]:
        """What is read."""
        return tuple(decision.stack for decision in self.decisions if decision.stack)


def plan_pile(
    path: Path,
    rules: SeriesRules | None = None,
    policies: Policies | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Decide which series of a pile are read; a dry run, but for the pixels of slices at the same place.

    Args:
        path: A folder with its subfolders, a zip, a DICOMDIR or a file.
        rules: Which series are wanted; all by default.
        policies: What to do about irregular series; the safest by default.
        progress: Called with (files scanned, files).

    Raises:
        DicomError: There is no such path, or the zip or DICOMDIR is damaged.
    """
    rules = rules or SeriesRules()
    return plan_scan(scan_pile(path, extra=rules.extra_tags, progress=progress), rules, policies)


def plan_scan(scan: Scan, rules: SeriesRules | None = None, policies: Policies | None = None) -> Plan:
    """Decide which series of a scan are read; the rules' `extra_tags` must have been scanned for."""
    rules, policies = rules or SeriesRules(), policies or Policies()
    with quiet_pydicom():
        decisions = [
            _judged(series, rules, policies) for whole in scan.series for series in _volumes(whole, policies)
        ]
    fitting = [decision.series for decision in decisions if decision.is_taken]
    lost = {id(choice.series): choice for choice in prefer(rules, fitting) if not choice.taken}
    for number, decision in enumerate(decisions):
        choice = lost.get(id(decision.series))
        if choice:
            decisions[number] = Decision(decision.series, rule=choice.rule, seen=choice.seen)
    return Plan(tuple(decisions), scan.findings)


def _judged(series: Series, rules: SeriesRules, policies: Policies) -> Decision:
    failed = first_failed(rules, series)
    if failed:
        return Decision(series, rule=failed[0], seen=failed[1])
    try:
        return Decision(series, stack=stack_series(series, policies))
    except DicomError as error:
        return Decision(series, rule=error.reason, seen=error.found, error=error)


def _volumes(series: Series, policies: Policies) -> Iterator[Series]:
    """Split a four-dimensional series where the policy asks for it."""
    if not series.is_four_dimensional or policies.four_dimensional == "refuse":
        yield series
        return
    parts = split_times(Part(series.frames, series.label))
    for number, part in enumerate(parts, start=1):
        suffix = f"{series.suffix}-{number}"
        yield replace(series, frames=part.frames, suffix=suffix, label=part.label, is_four_dimensional=False)
