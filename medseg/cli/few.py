"""A few studies on the command line, one after the other, without a ledger: their label maps and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console, errors, progress_bar
from medseg.errors import NOTHING_DONE, SOME_FAILED, MedsegError

if TYPE_CHECKING:
    from medseg.batch.direct import Outcome
    from medseg.loading import InferenceOptions
    from medseg.study import Study

_MOST_TABLES = 3


def segment_few(model: Path, options: InferenceOptions, studies: Sequence[Study], output: Path) -> int:
    """Segment studies one after the other, without a ledger; return the exit status."""
    from medseg.batch.direct import segment_all
    from medseg.loading import load_segmenter

    segmenter = load_segmenter(model, options)
    with progress_bar() as progress:
        overall = progress.add_task("studies", total=len(studies), note="")
        tiles = progress.add_task("tiles", total=None, note="")

        def finished(outcome: Outcome) -> None:
            progress.advance(overall)
            if outcome.error:
                errors.print(refusal(outcome.study.source, outcome.error), highlight=False, soft_wrap=True)

        outcomes = segment_all(
            segmenter,
            studies,
            output,
            tiles=lambda done, total: progress.update(tiles, completed=done, total=total),
            finished=finished,
            save_probabilities=options.save_probabilities,
        )
    print_outcomes(outcomes)
    problems = [outcome.error for outcome in outcomes if outcome.error]
    if len(problems) < len(outcomes):
        return SOME_FAILED if problems else 0
    return problems[0].exit_status if len(problems) == 1 else NOTHING_DONE


def refusal(source: Path, error: MedsegError) -> str:
    """Return one line that names an input, and why it was refused."""
    text = str(error)
    place = "" if str(source) in text else f"{source}: "
    return f"[red]refused[/red] {escape(f'[{error.code}] {place}{text}')}"


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print the volumes of the first label maps, and what was odd about every input."""
    from medseg.labels import AS_PLANNED

    done = [outcome.segmentation for outcome in outcomes if outcome.segmentation]
    for result in done[:_MOST_TABLES]:
        table = Table("label", title=escape(result.output.name))
        table.add_column("volume ml", justify="right")
        for name, volume in result.volumes_ml.items():
            table.add_row(escape(name), f"{volume:.1f}" if volume else "[dim]absent[/dim]")
        console.print(table)
    for result in done:
        if result.rung != AS_PLANNED:
            console.print(f"{escape(result.output.name)}: to fit into memory: {result.rung}", soft_wrap=True)
        for finding in result.findings:
            console.print(f"{escape(result.output.name)}: {escape(str(finding))}", soft_wrap=True)
    where = escape(str(done[0].output if len(outcomes) == 1 else done[0].output.parent)) if done else "nothing"
    console.print(f"{len(done)} of {len(outcomes)} segmented: {where}", highlight=False, soft_wrap=True)
