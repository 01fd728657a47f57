"""``medseg segment``: images and a model, or a pipeline -> label maps and whatever else is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from medseg.cli.dryrun import DryRun, Memory, RoiFrom, RoiLabels, RoiMargin, SkipAir, print_dry_run
from medseg.cli.few import segment_few
from medseg.cli.packaging import PACKAGES_NOTE, found_packages
from medseg.cli.pipelines import (
    OutputKinds,
    PerOrgan,
    PipelineName,
    SaveProbabilities,
    asked_recipe,
    package_of,
)
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
from medseg.errors import UsageError

if TYPE_CHECKING:
    from medseg.loading import InferenceOptions
    from medseg.recipe import Recipe
    from medseg.study import Study


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
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of what is written; a .nii.gz file for one input.")
    ],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Model package, or the run folder that holds it.")
    ] = None,
    pipeline: PipelineName = None,
    outputs: OutputKinds = None,
    per_organ: PerOrgan = False,
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
    save_probabilities: SaveProbabilities = False,
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

    --outputs adds DICOM objects, pictures and reports, a folder a study: each is read back and compared with the
    mask before it is released. --pipeline takes all of this from a file; see medseg check.

    One bad input does not stop the others: the exit status is 3 when some were refused, 5 when all were.

    Of DICOM the one series a study is taken that is of the model's modality; where several are, a recipe chooses.

    From 3 studies on, and with --pipeline, --outputs, --per-organ or --from-file always, OUTPUT/ledger.sqlite
    keeps what became of each: the same command goes on where it was interrupted, however it was. See
    medseg batch status OUTPUT, and OUTPUT/batch.html at the end.

    Example: [bold]medseg segment --model runs/liver CT_FOLDER scan.nii.gz -o masks[/bold]

    Example: [bold]medseg segment -m runs/liver CT_FOLDER -o masks --outputs nifti,seg,rtstruct,report[/bold]

    Example: [bold]medseg segment --pipeline ct_torso_demo STUDIES -o masks[/bold]
    """
    from medseg.batch.find import given_inputs, iterate_studies
    from medseg.loading import InferenceOptions
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
    asked = asked_recipe(model, pipeline, recipe, outputs, per_organ=per_organ, probabilities=save_probabilities)
    asked, packages = found_packages(asked, ctx.meta.get(PACKAGES_NOTE))
    rules, policies = rules_and_policies(
        pipeline or recipe,
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
    rules = asked.rules if asked else rules
    studies = iterate_studies(paths, package_of(model, asked), rules, policies, progress=scanned)
    if dry_run:
        _dry_run(model, asked, options, studies)
        return
    _make_folder(output, is_recipe=asked is not None)
    limit_s = parse_time(time_limit, "--time-limit") if time_limit else None
    is_watched = limit_s is not None or in_process is False or retries != USUAL_RETRIES
    _check_processes(is_nifti(output), cluster, limit_s, in_process, is_watched=is_watched)
    first = list(islice(studies, FEW))
    is_batch = asked or from_file or cluster or is_watched or has_ledger(output)
    if model and (is_nifti(output) or (len(first) < FEW and not is_batch)):
        few = [*first, *studies]
        scanned.stop()
        raise typer.Exit(segment_few(model, options, few, output))
    batch = Batch(
        asked or model or Path(), output, options, policies, retries, limit_s, in_process, cluster, packages
    )
    raise typer.Exit(batch.run(chain(first, studies), ctx.params, again=not resume, found=scanned.stop))


def _check_processes(
    is_file: bool, cluster: str | None, limit_s: float | None, in_process: bool | None, *, is_watched: bool
) -> None:
    """Refuse options of processes that contradict one another, or that one output file cannot have."""
    if cluster and (is_file or in_process is not None):
        expected = "a folder as -o, and neither --in-process nor --processes"
        raise UsageError("--cluster", expected=expected, found="one of these", remedy="leave it out")
    if (limit_s and in_process) or (is_watched and is_file):
        raise UsageError(
            "--time-limit, --retries, --processes",
            expected="a folder as -o, and with --time-limit no --in-process",
            found="something else",
            remedy="leave one of them out: only another process can end a study that takes too long",
        )


def _make_folder(output: Path, *, is_recipe: bool) -> None:
    """Make the folder of what is written; a recipe has no one file."""
    from medseg.files import make_folder
    from medseg.nifti import is_nifti

    if is_recipe and is_nifti(output):
        expected, found = "a folder, as several files are made of a study", "the name of one file"
        raise UsageError("-o", expected=expected, found=found, remedy="name a folder")
    make_folder(output.parent if is_nifti(output) else output)


def _dry_run(
    model: Path | None, recipe: Recipe | None, options: InferenceOptions, studies: Iterable[Study]
) -> None:
    from medseg.batch.network import load_drawing

    saves = options.save_probabilities or (recipe is not None and recipe.needs_probabilities)
    print_dry_run(load_drawing(recipe or model or Path(), options), studies, probabilities=saves)
