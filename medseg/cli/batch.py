"""``medseg batch``: what became of the studies of a batch, and another try of those that failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.batching import COMMAND_NOTE, has_ledger, restored
from medseg.cli.batchview import print_summary
from medseg.cli.console import console
from medseg.cli.packaging import PACKAGES_NOTE
from medseg.cli.segment import segment
from medseg.errors import UsageError

if TYPE_CHECKING:
    from medseg.batch.ledger import Ledger

app = typer.Typer(
    help="What became of the studies of a batch (medseg segment with several inputs); another try of some.",
    no_args_is_help=True,
)

_Output = Annotated[Path, typer.Argument(help="Output folder of the batch.")]


@app.command()
def status(
    output: _Output,
    as_json: Annotated[bool, typer.Option("--json", help="Every study, for programs.")] = False,
) -> None:
    """Show how many studies are done, planned, held back, refused or quarantined, and why; also while it runs.

    Example: [bold]medseg batch status masks[/bold]
    """
    with _opened(output) as ledger:
        rows = ledger.rows()
        if as_json:
            counts = {state.value: count for state, count in ledger.summary().items()}
            report = {"summary": counts, "studies": [row.record() for row in rows]}
            console.print_json(json.dumps(report))
        else:
            print_summary(rows, with_problems=True)


@app.command()
def retry(
    ctx: typer.Context,
    output: _Output,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Quarantined studies alone, and not those that were refused.")
    ] = False,
    held: Annotated[
        bool, typer.Option("--held", help="Studies that are held back for review, and not those that were refused.")
    ] = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="Plan them alone; do not run the batch.")] = False,
) -> None:
    """Try again what was refused, failed or quarantined: with the batch's own command, which the ledger keeps.

    What is held back for review is tried again with --held alone.

    Example: [bold]medseg batch retry masks[/bold]
    """
    from medseg.batch.rows import PROBLEMS, State

    chosen = [*[State.QUARANTINED] * quarantined, *[State.HELD] * held]
    with _opened(output) as ledger:
        count = ledger.retry(chosen or PROBLEMS)
        command, packages = ledger.note(COMMAND_NOTE), ledger.note(PACKAGES_NOTE)
    console.print(f"{count} studies planned again", highlight=False)
    if plan_only or not count:
        return
    if command is None:
        raise UsageError(output, expected="the batch's command", found="none", remedy="run medseg segment again")
    ctx.params = restored(command) | {"resume": True}
    ctx.meta[PACKAGES_NOTE] = packages
    segment(ctx, **ctx.params)


def _opened(output: Path) -> Ledger:
    from medseg.batch.ledger import Ledger

    if not has_ledger(output):
        raise UsageError(
            output, expected="the output folder of a batch", found="no ledger", remedy="name another folder"
        )
    return Ledger(output)
