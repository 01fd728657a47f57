"""What a batch shows: headers read, studies done, problems as they come, the table at its end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from medseg.cli.console import console, errors, progress_bar

if TYPE_CHECKING:
    from medseg.batch.rows import Row

_MOST_LISTED = 20
_HOUR_S = 3600.0


class ScanBar:
    """Shows how many DICOM headers are read, from the first one until it is stopped."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that so many are read."""
        if self._progress is None:
            self._progress = progress_bar()
            self._progress.add_task("DICOM headers", total=None, note="")
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=done, total=total)

    def stop(self) -> None:
        """Take it off the screen."""
        if self._progress:
            self._progress.stop()


class BatchView:
    """Shows how the batch gets on: studies, studies an hour, failures; and every problem as it comes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._studies = progress.add_task("studies", total=None, note="")
        self._tiles = progress.add_task("tiles", total=None, note="")
        self._start = time.monotonic()
        self._ended = self._problems = self._held = 0

    def planned(self, total: int, ended: int) -> None:
        """See `medseg.batch.observer.Observer`."""
        self._progress.update(self._studies, total=total, completed=ended)
        self._start = time.monotonic()

    def tiles(self, done: int, total: int) -> None:
        """See `medseg.batch.observer.Observer`."""
        self._progress.update(self._tiles, completed=done, total=total)

    def ended(self, row: Row) -> None:
        """See `medseg.batch.observer.Observer`."""
        self._ended += 1
        if row.code:
            is_held = row.state.value == "held"
            self._held, self._problems = self._held + is_held, self._problems + (not is_held)
            errors.print(problem_line(row), highlight=False, soft_wrap=True)
        per_hour = self._ended / max(time.monotonic() - self._start, 1e-3) * _HOUR_S
        held = f", {self._held} held" if self._held else ""
        self._progress.update(self._studies, advance=1, note=f"{per_hour:.0f}/h, {self._problems} failed{held}")


def problem_line(row: Row) -> str:
    """Return one line that names a study, and why it has no label map or is held back."""
    place = "" if row.source in row.message or row.name in row.message else f"{row.source}: "
    colour = "yellow" if row.state.value == "held" else "red"
    return f"[{colour}]{row.state.value}[/{colour}] {escape(f'[{row.code}] {place}{row.message}')}"


def print_summary(rows: Iterable[Row], *, with_problems: bool = False) -> None:
    """Print how many studies there are of each state, what was odd about them, and the problems one a line.

    Args:
        rows: The studies.
        with_problems: All of them; else those of studies that were never begun, as the others were told already.
    """
    found = list(rows)
    table = Table("state")
    table.add_column("studies", justify="right")
    for state in dict.fromkeys(["done", *sorted(row.state.value for row in found)]):
        table.add_row(state, str(sum(row.state.value == state for row in found)))
    console.print(table)
    _print_lines(f"{row.name}: {finding}" for row in found if row.result for finding in row.result.findings)
    told = [row for row in found if row.code and (with_problems or not row.attempts)]
    _print_lines(map(problem_line, told), is_markup=True)


def _print_lines(lines: Iterable[str], *, is_markup: bool = False) -> None:
    """Print the first lines, and how many there are more."""
    every = list(lines)
    for line in every[:_MOST_LISTED]:
        console.print(line, highlight=False, soft_wrap=True, markup=is_markup)
    if len(every) > _MOST_LISTED:
        console.print(f"and {len(every) - _MOST_LISTED} more: see medseg batch status --json")
