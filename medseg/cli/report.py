"""``medseg report``: the page of a training, written again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medseg.cli.console import console, errors
from medseg.errors import UsageError

if TYPE_CHECKING:
    from medseg.data.manifest import Dataset


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of medseg train, or the folder of its folds.")],
    manifest: Annotated[
        str | None, typer.Option(help="A data manifest or its name, in place of the config's.", show_default=False)
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data, where config and manifest do not say it.")
    ] = None,
) -> None:
    """Write RUN/report.html: curves, Dice per class and case, the worst cases, plan, environment, timings.

    Training writes it at its end; this writes it again, of a run that was interrupted too. Without the data, the
    worst cases are named but not drawn.

    Example: [bold]medseg report runs/my --data-root /data/my[/bold]
    """
    from medseg.report.training import write_training_report

    page = write_training_report(run, _dataset(run, manifest, data_root))
    console.print(f"report: {escape(str(page))}", soft_wrap=True, highlight=False)


def _dataset(run: Path, manifest: str | None, data_root: Path | None) -> Dataset | None:
    """Return the data of a run; None, said on stderr, where nothing was asked for and it is not there any more."""
    from medseg.data.manifest import load_manifest
    from medseg.report.runfolder import read_source

    try:
        source, root = (manifest, None) if manifest else read_source(run)
        return load_manifest(source, data_root or root)
    except UsageError as error:
        if manifest or data_root:
            raise
        errors.print(f"[yellow]without pictures[/yellow] {escape(str(error))}", highlight=False, soft_wrap=True)
        return None
