"""The ``medseg`` command. Each subcommand has a file of its own that parses, calls and prints."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextvars import ContextVar
from typing import NoReturn

import typer
from rich.markup import escape

from medseg import __version__
from medseg.cli import (
    batch,
    check,
    dataset,
    demo,
    dicom,
    evaluate,
    listing,
    model,
    overlay,
    phantom,
    plan,
    report,
    segment,
    select,
    train,
)
from medseg.cli.console import errors
from medseg.errors import MedsegError, is_out_of_memory

MEMORY_STATUS = 4
BUG_STATUS = 70

_debug: ContextVar[bool] = ContextVar("debug", default=False)

app = typer.Typer(
    name="medseg",
    help="Medical image segmentation: train on CT and MR, segment NIfTI and DICOM, measure the masks.\n\n"
    "New here? Run [bold]medseg demo[/bold]: it makes a data set, trains, segments and evaluates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("select")(select.select)
app.command("plan")(plan.plan)
app.command("segment")(segment.segment)
app.add_typer(batch.app, name="batch")
app.command("check")(check.check)
app.command("evaluate")(evaluate.evaluate)
app.command("overlay")(overlay.overlay)
app.command("report")(report.report)
app.add_typer(dicom.app, name="dicom")
app.add_typer(dataset.app, name="dataset")
app.add_typer(model.app, name="model")
app.command("phantom")(phantom.phantom)
app.command("list")(listing.list_shipped)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medseg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
    ),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what is being done."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of a bug."),
) -> None:
    _debug.set(debug)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; leaves the process with the exit status of the design.

    0 all done; 2 usage or configuration; 3 some inputs were refused or failed; 4 out of memory or disk; 5 nothing
    could be done; 70 a bug; 130 interrupted.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: large pages, a sixth less time on the CPU
    warnings.showwarning = _show_warning
    try:
        app(args=arguments)
    except MedsegError as error:
        _leave(f"[bold red]error[/bold red] {escape(f'[{error.code}] {error}')}", error.exit_status)
    except Exception as error:
        if _debug.get():
            raise
        if is_out_of_memory(error):
            _leave("[bold red]error[/bold red] out of memory: use smaller patches, tiles or volumes", MEMORY_STATUS)
        what = escape(f"{type(error).__name__}: {error}")
        _leave(f"[bold red]bug[/bold red] {what}; run again with medseg --debug ... and report it", BUG_STATUS)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    errors.print(f"[yellow]warning[/yellow] {escape(str(message))}", highlight=False, soft_wrap=True)


def _leave(message: str, status: int) -> NoReturn:
    errors.print(message, highlight=False, soft_wrap=True)
    sys.exit(status)
