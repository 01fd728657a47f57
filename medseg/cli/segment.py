"""``medseg segment``: a model and images -> label maps on the images' own grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console, errors, progress_bar
from medseg.cli.policies import (
    OnDamaged,
    OnDuplicate,
    OnFourDimensional,
    OnIrregular,
    OnMissingSlice,
    OnNoRescale,
    OnTilt,
    rules_and_policies,
)
from medseg.errors import NOTHING_DONE, SOME_FAILED, MedsegError, UsageError

if TYPE_CHECKING:
    from medseg.batch import Outcome
    from medseg.dicom.policy import Policies
    from medseg.dicom.select import SeriesRules
    from medseg.model import ModelPackage
    from medseg.segment import Study

_MOST_TABLES = 3


def segment(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="NIfTI files, folders of NIfTI files, or DICOM: folders with subfolders, zips, DICOMDIRs.",
            readable=False,
        ),
    ],
    model: Annotated[Path, typer.Option("--model", "-m", help="Model package, or the run folder that holds it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the label maps; a .nii.gz file for one input.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="Rules that choose DICOM series: a YAML file, or a shipped name."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    overlap: Annotated[
        float | None, typer.Option(help="Of neighbouring tiles, 0 to 0.9; the model's own by default.")
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option("--mirror/--no-mirror", help="Test-time mirroring along the model's axes; on by default."),
    ] = None,
    on_tilt: OnTilt = None,
    on_irregular: OnIrregular = None,
    on_missing_slice: OnMissingSlice = None,
    on_duplicate: OnDuplicate = None,
    on_damaged: OnDamaged = None,
    on_four_dimensional: OnFourDimensional = None,
    on_no_rescale: OnNoRescale = None,
) -> None:
    """Segment images by sliding window; each label map lies on its image's own grid.

    One bad input does not stop the others: the exit status is 3 when some were refused, 5 when all were.

    Of DICOM the one series a study is taken that is of the model's modality; where several are, a recipe chooses.

    Example: [bold]medseg segment --model runs/liver CT_FOLDER scan.nii.gz -o masks[/bold]
    """
    from medseg.batch import segment_all
    from medseg.files import make_folder
    from medseg.loading import load_model
    from medseg.nifti import is_nifti

    if overlap is not None and not 0 <= overlap <= 0.9:
        raise UsageError("--overlap", expected="a share from 0 to 0.9", found=f"{overlap}", remedy="try 0.5")
    make_folder(output.parent if is_nifti(output) else output)
    axes = () if mirror is False else None
    segmenter = load_model(model, device, overlap=overlap, mirror_axes=axes)
    rules, policies = rules_and_policies(
        recipe,
        gantry_tilt=on_tilt,
        irregular=on_irregular,
        missing_slice=on_missing_slice,
        duplicate=on_duplicate,
        damaged_file=on_damaged,
        four_dimensional=on_four_dimensional,
        no_rescale=on_no_rescale,
    )
    studies = _find(inputs, segmenter.package, rules, policies)
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
        )
    print_outcomes(outcomes)
    problems = [outcome.error for outcome in outcomes if outcome.error]
    if len(problems) < len(outcomes):
        raise typer.Exit(SOME_FAILED if problems else 0)
    raise typer.Exit(problems[0].exit_status if len(problems) == 1 else NOTHING_DONE)


def _find(
    inputs: Sequence[Path], package: ModelPackage, rules: SeriesRules | None, policies: Policies
) -> list[Study]:
    from medseg.batch import find_studies

    with progress_bar() as progress:
        task = progress.add_task("DICOM headers", total=None, note="", visible=False)

        def scanned(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=True)

        return find_studies(inputs, package, rules, policies, progress=scanned)


def refusal(source: Path, error: MedsegError) -> str:
    """Return one line that names an input, and why it was refused."""
    text = str(error)
    place = "" if str(source) in text else f"{source}: "
    return f"[red]refused[/red] {escape(f'[{error.code}] {place}{text}')}"


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print the volumes of the first label maps, and what was odd about every input."""
    done = [outcome.segmentation for outcome in outcomes if outcome.segmentation]
    for result in done[:_MOST_TABLES]:
        table = Table("label", title=escape(result.output.name))
        table.add_column("volume ml", justify="right")
        for name, volume in result.volumes_ml.items():
            table.add_row(escape(name), f"{volume:.1f}" if volume else "[dim]absent[/dim]")
        console.print(table)
    for result in done:
        for finding in result.findings:
            console.print(f"{escape(result.output.name)}: {escape(str(finding))}", soft_wrap=True)
    where = escape(str(done[0].output if len(outcomes) == 1 else done[0].output.parent)) if done else "nothing"
    console.print(f"{len(done)} of {len(outcomes)} segmented: {where}", highlight=False, soft_wrap=True)
