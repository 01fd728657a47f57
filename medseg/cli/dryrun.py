"""``medseg segment --dry-run``, and the options that say in how much memory and where a model looks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console

if TYPE_CHECKING:
    from medseg.inference.preflight import Preflight
    from medseg.merged import MergedSegmenter
    from medseg.segmenter import Segmenter
    from medseg.study import Study

Memory = Annotated[
    str | None,
    typer.Option(
        help="That a study may take on the device, such as 4GB: fewer tiles at once, logits summed on the host, "
        "smaller tiles, in this order, until it fits."
    ),
]
SkipAir = Annotated[
    bool, typer.Option("--skip-air", help="Of CT: tiles that hold nothing but air are background without a look.")
]
RoiFrom = Annotated[
    Path | None,
    typer.Option(help="Package of a coarse model: only the box around what it finds is segmented."),
]
RoiLabels = Annotated[
    str | None,
    typer.Option(help="Labels of the coarse model that count, such as liver,spleen; all by default."),
]
RoiMargin = Annotated[float, typer.Option(min=0.0, help="Millimetres around the box.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what each study takes in memory and time; segment nothing.")
]

_SCALES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_HOUR_S = 3600


def print_dry_run(
    segmenter: Segmenter | MergedSegmenter, studies: Iterable[Study], *, probabilities: bool = False
) -> None:
    """Print, of each study, its grids, tiles, bytes and seconds, and whether it fits.

    Args:
        segmenter: The model.
        studies: What it would segment.
        probabilities: Whether it would save them.

    Raises:
        MedsegError: Never for a study: what is wrong with one is printed in its place.
    """
    from medseg.errors import InputError
    from medseg.inference.headers import study_grid
    from medseg.study import study_name

    for study in studies:
        try:
            grid, image_bytes = study_grid(study)
            flight = segmenter.preflight(grid, image_bytes, probabilities=probabilities)
        except InputError as error:
            console.print(f"{escape(study_name(study))}: {escape(str(error))}", soft_wrap=True)
            continue
        console.print(_table(study_name(study), flight))


def _table(name: str, flight: Preflight) -> Table:
    needs, rung = flight.needs, flight.rung
    table = Table("what", "how much", title=escape(name))
    table.add_row("native grid", _by(flight.work.native.shape))
    table.add_row("network grid", _by(flight.work.network.shape))
    table.add_row("tiles", f"{flight.tiles} of {_by(rung.tile)}, {rung.batch_size} at once")
    table.add_row("device", f"{rung.device}, {rung.name}")
    for place, parts in (("host", needs.host), (str(rung.device), needs.device)):
        for what, count in parts.items():
            table.add_row(f"{place}: {what}", _bytes(count))
    table.add_row("host: while preparing", _bytes(needs.preparing))
    table.add_row("host: peak", _bytes(needs.host_bytes))
    table.add_row("network", _time(flight.seconds))
    limit = "unknown" if flight.limit_bytes is None else _bytes(flight.limit_bytes)
    table.add_row("fits", f"{'yes' if flight.fits else '[red]no[/red]'}: {_bytes(needs.limited_bytes)} of {limit}")
    return table


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(str(size) for size in sizes)


def _bytes(count: int) -> str:
    scale, unit = next(((s, u) for s, u in _SCALES if count >= s), _SCALES[-1])
    return f"{count / scale:.1f} {unit}"


def _time(seconds: float) -> str:
    return f"about {seconds:.1f} s" if seconds < _HOUR_S else f"about {seconds / _HOUR_S:.1f} h"
