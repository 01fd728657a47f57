"""``medseg segment``: a model and images -> label maps on the images' own grids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.batching import (
    FEW,
    USUAL_RETRIES,
    Batch,
    FromFile,
    InProcess,
    Resume,
    Retries,
    TimeLimit,
    has_ledger,
)
from medseg.cli.batchview import ScanBar
from medseg.cli.clustering import ClusterAddress
from medseg.cli.console import console, errors, progress_bar
from medseg.cli.dryrun import DryRun, Memory, RoiFrom, RoiLabels, RoiMargin, SkipAir, print_dry_run
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
from medseg.cli.train import parse_time
from medseg.errors import NOTHING_DONE, SOME_FAILED, MedsegError, UsageError

if TYPE_CHECKING:
    from medseg.batch.direct import Outcome
    from medseg.loading import InferenceOptions
    from medseg.study import Study

_MOST_TABLES = 3


def segment(
    ctx: typer.Context,
    *,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="NIfTI files, folders of NIfTI files, or DICOM: folders with subfolders, zips, DICOMDIRs.",
            readable=False,
            show_default=False,
        ),
    ] = None,
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
    memory: Memory = None,
    skip_air: SkipAir = False,
    roi_from: RoiFrom = None,
    roi_labels: RoiLabels = None,
    roi_margin: RoiMargin = 20.0,
    save_probabilities: Annotated[
        bool,
        typer.Option(
            "--save-probabilities",
            help="Of every class, float16 on the image's own grid: NAME.probabilities.h5 beside the label map.",
        ),
    ] = False,
    dry_run: DryRun = False,
    from_file: FromFile = None,
    resume: Resume = True,
    time_limit: TimeLimit = None,
    retries: Retries = USUAL_RETRIES,
    in_process: InProcess = None,
    cluster: ClusterAddress = None,
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

    From 3 studies on, or with --from-file, OUTPUT/ledger.sqlite keeps what became of each: the same command goes on
    where it was interrupted, however it was. See medseg batch status OUTPUT, and OUTPUT/batch.html at the end.

    Example: [bold]medseg segment --model runs/liver CT_FOLDER scan.nii.gz -o masks[/bold]
    """
    from medseg.batch.find import given_inputs, iterate_studies
    from medseg.files import make_folder
    from medseg.loading import InferenceOptions
    from medseg.model import load_package
    from medseg.nifti import is_nifti

    if overlap is not None and not 0 <= overlap <= 0.9:
        raise UsageError("--overlap", expected="a share from 0 to 0.9", found=f"{overlap}", remedy="try 0.5")
    options = InferenceOptions(
        device,
        overlap=overlap,
        mirror_axes=() if mirror is False else None,
        memory=memory,
        skip_air=skip_air,
        roi_from=roi_from,
        roi_labels=tuple(roi_labels.split(",")) if roi_labels else (),
        roi_margin_mm=roi_margin,
        save_probabilities=save_probabilities,
    )
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
    scanned = ScanBar()
    paths = given_inputs(inputs or (), from_file)
    studies = iterate_studies(paths, load_package(model), rules, policies, progress=scanned)
    if dry_run:
        _dry_run(model, options, studies)
        return
    make_folder(output.parent if is_nifti(output) else output)
    if cluster and (is_nifti(output) or in_process is not None):
        raise _not_with_cluster()
    limit_s = parse_time(time_limit, "--time-limit") if time_limit else None
    is_watched = limit_s is not None or in_process is False or retries != USUAL_RETRIES
    if (limit_s and in_process) or (is_watched and is_nifti(output)):
        raise _not_watched()
    first = list(islice(studies, FEW))
    is_batch = from_file or cluster or is_watched or has_ledger(output)
    if is_nifti(output) or (len(first) < FEW and not is_batch):
        few = [*first, *studies]
        scanned.stop()
        raise typer.Exit(_segment_few(model, options, few, output))
    batch = Batch(model, output, options, policies, retries, limit_s, in_process, cluster)
    raise typer.Exit(batch.run(chain(first, studies), ctx.params, again=not resume, found=scanned.stop))


def _not_with_cluster() -> UsageError:
    return UsageError(
        "--cluster",
        expected="a folder as -o, and neither --in-process nor --processes",
        found="one of these",
        remedy="leave it out",
    )


def _not_watched() -> UsageError:
    return UsageError(
        "--time-limit, --retries, --processes",
        expected="a folder as -o, and with --time-limit no --in-process",
        found="something else",
        remedy="leave one of them out: only another process can end a study that takes too long",
    )


def _dry_run(model: Path, options: InferenceOptions, studies: Iterable[Study]) -> None:
    from medseg.loading import load_segmenter

    print_dry_run(load_segmenter(model, options), studies, probabilities=options.save_probabilities)


def _segment_few(model: Path, options: InferenceOptions, studies: Sequence[Study], output: Path) -> int:
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
