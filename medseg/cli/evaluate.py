"""``medseg evaluate``: how well predictions agree with references."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console, progress_bar
from medseg.errors import NOTHING_DONE, SOME_FAILED, UsageError

if TYPE_CHECKING:
    from medseg.evaluation import Evaluation, LabelSummary
    from medseg.regions import LabelScheme

_SHOWN_FAILURES = 10


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A label map (.nii, .nii.gz) or a folder of them.")],
    references: Annotated[
        Path, typer.Argument(help="The reference, or a folder of references named like the predictions.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            help="What the values mean: a model folder, a model.json, a dataset.json or a data manifest. "
            "Default: every value of the references.",
            show_default=False,
        ),
    ] = None,
    ignore_value: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Value of reference voxels that nobody judged; they are left out. Default: what --labels says.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Surface Dice counts border voxels that are at most this many mm off.")
    ] = 1.0,
    csv: Annotated[
        Path | None, typer.Option(help="Write every case and label to this file.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Cases at the same time. Default: one a core, at most 4.", show_default=False),
    ] = None,
) -> None:
    """Measure how well predictions agree with references: Dice, surface Dice, HD95, ASSD and volume error.

    The files of two folders are matched by name; each pair must lie on the same grid. A case that cannot be
    compared is named with the reason, and the others go on.

    [bold]Example:[/bold] medseg evaluate predictions/ labelsTs/ --labels my_model/ --csv scores.csv

    [bold]Exit status:[/bold] 0 all compared; 2 wrong usage; 3 some cases failed; 5 all failed.
    """
    from medseg.evaluate import evaluate as compare
    from medseg.label_files import load_scheme

    scheme = load_scheme(labels) if labels else None
    if ignore_value is not None:
        scheme = _ignoring(scheme, ignore_value)
    with progress_bar() as bar:
        task = bar.add_task("comparing", total=None, note="")
        result = compare(
            predictions,
            references,
            scheme,
            tolerance_mm=tolerance,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _print(result)
    if csv:
        result.write_csv(csv)
        console.print(f"Every case and label: {escape(str(csv))}", soft_wrap=True, highlight=False)
    if result.failures:
        raise typer.Exit(SOME_FAILED if result.cases else NOTHING_DONE)


def _ignoring(scheme: LabelScheme | None, value: int) -> LabelScheme:
    if scheme is None:
        raise UsageError(
            "--ignore-value", expected="--labels too", found="none", remedy="say which values are to be measured"
        )
    return replace(scheme, ignore_value=value)


def _print(result: Evaluation) -> None:
    if result.cases:
        console.print(_table(result))
    _print_notes(result)
    _print_failures(result)


def _table(result: Evaluation) -> Table:
    table = Table(title=f"{len(result.cases)} case(s), means over the cases that hold the label", show_footer=True)
    names = ["all labels", *(label.name for label in result.summary)]
    table.add_column("label", footer=names[0], min_width=max(map(len, names)))
    table.add_column("cases", justify="right")
    table.add_column("Dice", justify="right", footer=_figure(result.mean_dice, 3), style="bold")
    table.add_column(f"surface Dice\nat {result.tolerance_mm:g} mm", justify="right")
    table.add_column("HD95\nmm", justify="right")
    table.add_column("ASSD\nmm", justify="right")
    table.add_column("volume\nerror %", justify="right")
    table.add_column("in one\nonly", justify="right")
    for label in result.summary:
        table.add_row(*_cells(label))
    return table


def _cells(label: LabelSummary) -> list[str]:
    return [
        escape(label.name),
        str(label.cases),
        _figure(label.dice, 3),
        _figure(label.surface_dice, 3),
        _figure(label.hd95_mm, 2),
        _figure(label.assd_mm, 2),
        _figure(label.volume_error_percent, 1, sign="+"),
        str(label.one_sided or "-"),
    ]


def _figure(value: float, decimals: int, sign: str = "") -> str:
    return f"{value:{sign}.{decimals}f}" if not math.isnan(value) else "-"


def _print_notes(result: Evaluation) -> None:
    if result.unlisted:
        values = ", ".join(f"{value} (in {count} case(s))" for value, count in result.unlisted.items())
        console.print(f"[yellow]Not measured[/yellow], as no label has the value: {values}", highlight=False)
    if result.without_reference:
        names = escape(_listed(result.without_reference))
        console.print(f"[yellow]Left out[/yellow], as there is no reference: {names}", highlight=False)


def _print_failures(result: Evaluation) -> None:
    total = len(result.cases) + len(result.failures)
    if result.failures:
        console.print(f"[bold red]{len(result.failures)} of {total} case(s) failed[/bold red]", highlight=False)
    for failure in result.failures[:_SHOWN_FAILURES]:
        console.print(f"  {escape(failure.case)}: {escape(failure.reason)}", soft_wrap=True, highlight=False)
    if len(result.failures) > _SHOWN_FAILURES:
        console.print(f"  and {len(result.failures) - _SHOWN_FAILURES} more; --csv names them all")


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN_FAILURES])
    return shown if len(names) <= _SHOWN_FAILURES else f"{shown} and {len(names) - _SHOWN_FAILURES} more"
