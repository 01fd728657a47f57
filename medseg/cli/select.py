"""``medseg select``: finished runs -> the configuration or the ensemble that cross-validation prefers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from medseg.cli.console import console, progress_bar

if TYPE_CHECKING:
    from medseg.bootstrap import Interval
    from medseg.selection.ranking import Selection, Standing


def select(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs, trained on the same data and folds.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the package to write.")],
    manifest: Annotated[
        str | None,
        typer.Option(help="The data manifest or its name. Default: that of the first run.", show_default=False),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data, where run and manifest do not say it.")
    ] = None,
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble/--no-ensemble",
            help="Try pairs of runs that share their preprocessing, too; it predicts the validation cases again.",
        ),
    ] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; for the ensembles.")] = "auto",
) -> None:
    """Choose among finished runs by their cross-validation, and write the best as one model package.

    The highest mean Dice over cases and labels wins. Only the largest component of a label is kept where that
    raises its Dice over the validation cases. All numbers are in MODEL/selection.json.

    [bold]Example:[/bold] medseg select runs/unet runs/resunet -o models/hippocampus

    [bold]Exit status:[/bold] 0 chosen and written; 2 a run is not finished, or they were not validated on the same
    data; 4 the package cannot be written; 5 a model or a case cannot be read.
    """
    from medseg.selection.select import SELECTION_FILE
    from medseg.selection.select import select as choose

    tasks: dict[str, TaskID] = {}
    with progress_bar() as bar:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(escape(what), total=total, note="")
            bar.update(tasks[what], completed=done)

        selection = choose(
            runs,
            output,
            manifest=manifest,
            data_root=data_root,
            ensemble=ensemble,
            device=device,
            progress=show,
        )
    _print(selection)
    console.print(f"model: {escape(str(output))}", soft_wrap=True, highlight=False)
    console.print(f"all numbers: {escape(str(output / SELECTION_FILE))}", soft_wrap=True, highlight=False)


def _print(selection: Selection) -> None:
    console.print(_table(selection))
    for pair in selection.not_averaged:
        console.print(f"not averaged: {escape(pair.name)}: {escape(pair.reason)}", soft_wrap=True, highlight=False)
    for effect in selection.largest_component:
        if effect.label in selection.keep_largest:
            change = f"Dice {effect.dice_before:.4f} to {effect.dice_after:.4f}"
            console.print(f"largest component only: {escape(effect.label)}, {change}", highlight=False)


def _table(selection: Selection) -> Table:
    folds = f"{len(selection.folds)} fold(s)" if len(selection.folds) > 1 else "one fold only"
    table = Table(
        title=f"{selection.cases} case(s) of {selection.patients} patient(s), {folds}",
        caption=f"differences with {100 * selection.confidence:g} % intervals, bootstrap over patients",
    )
    table.add_column("run")
    table.add_column("Dice", justify="right", style="bold")
    table.add_column("difference", justify="right")
    table.add_column(f"surface Dice\nat {selection.tolerance_mm:g} mm", justify="right")
    table.add_column("difference", justify="right")
    table.add_column("")
    for standing in selection.candidates:
        is_chosen = standing.name == selection.chosen
        table.add_row(
            escape(standing.name),
            f"{standing.mean_dice:.4f}",
            "" if is_chosen else _interval(standing.dice_difference),
            f"{standing.mean_surface_dice:.4f}",
            "" if is_chosen else _interval(standing.surface_dice_difference),
            _note(standing, is_chosen),
        )
    return table


def _note(standing: Standing, is_chosen: bool) -> str:
    if is_chosen:
        return "[green]chosen[/green]"
    return "not told apart" if standing.dice_difference.holds_zero else "worse"


def _interval(interval: Interval) -> str:
    return f"{interval.difference:+.4f}\n[dim]{interval.low:+.4f} to {interval.high:+.4f}[/dim]"
