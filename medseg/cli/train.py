"""``medseg train``: a configuration and a data set -> a run folder with a model package."""

from __future__ import annotations

import math
import re
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from medseg.cli.console import console, errors, progress_bar
from medseg.cli.planning import DIMS_HELP, DRY_RUN_HELP, MEMORY_HELP, show_plan
from medseg.errors import UsageError

if TYPE_CHECKING:
    from medseg.data.manifest import Dataset
    from medseg.plan.request import Request
    from medseg.train import TrainResult

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_PERMILLE = 1000
_AGAIN, _INTERRUPTED = 75, 130


def train(
    config: Annotated[
        str | None,
        typer.Argument(
            help="A training YAML, or its name in configs/ (see medseg list). What it leaves open is planned; "
            "without one, everything is."
        ),
    ] = None,
    manifest: Annotated[
        str | None, typer.Option(help="A data manifest or its name, in place of the config's.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder; runs/NAME by default.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data, where the manifest does not say it.")
    ] = None,
    fold: Annotated[
        str | None, typer.Option(help="Validation fold, in place of the config's; all trains every fold.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Wall-clock time for all of it, such as 20min; epochs no longer count.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs, in place of the config's.")] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Fine-tune: begin with the weights of this model package.")
    ] = None,
    coarse: Annotated[
        Path | None, typer.Option(help="Second stage of a cascade: run folder of the first one, of all folds.")
    ] = None,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Train both stages, the first in low/; needs --fold all.")
    ] = False,
    memory: Annotated[str | None, typer.Option(help=MEMORY_HELP)] = None,
    dims: Annotated[int | None, typer.Option(min=2, max=3, help=DIMS_HELP)] = None,
    dry_run: Annotated[bool, typer.Option(help=DRY_RUN_HELP)] = True,
    track: Annotated[
        str | None, typer.Option(help="mlflow: figures go there too; tensorboard is always written.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
) -> None:
    """Train a network; the run folder ends up holding a model package and report.html.

    Examples: [bold]medseg train --manifest hippocampus --data-root /data/hippocampus[/bold] plans everything;
    [bold]medseg train hippocampus_unet3d --data-root /data/hippocampus --budget 20min[/bold] follows a config.

    Ctrl-C saves and leaves with status 130, SIGTERM with 75, which batch schedulers take as "start again";
    [bold]--resume[/bold] goes on exactly there. Under torchrun all GPUs train one network; see docs/distributed.md.
    """
    from medseg.plan.prepare import PlanOptions
    from medseg.plan.request import Request, cascade_of
    from medseg.train import cross_validate
    from medseg.train import train as run_training
    from medseg.training.interrupt import leaving_on_sigterm
    from medseg.training.world import joined

    seconds = parse_time(budget) if budget else None
    given = {
        "data.manifest": manifest,
        "data.root": str(data_root) if data_root else None,
        "data.fold": parse_fold(fold),
        "data.coarse": str(coarse) if coarse else None,
        "training.epochs": epochs,
        "training.track": track,
        "init_from.model": str(init_from) if init_from else None,
    }
    options = PlanOptions(device, memory, dims, dry_run=dry_run)
    request = Request(config, given, output, fold == "all", resume, options)
    with leaving_on_sigterm(_AGAIN), joined(device) as world, progress_bar() as progress:
        observer = ProgressObserver(progress)
        fit = partial(cross_validate if fold == "all" else run_training, device=device, resume=resume)
        stages = cascade_of(request) if cascade else (request,)
        result, folder, dataset = _train_stages(stages, fit, observer, seconds)
        is_first = world.is_first
    if not is_first:
        raise typer.Exit(_status(result))
    if result.interrupted:
        again: dict[str, object] = {
            "--manifest": manifest,
            "--data-root": data_root,
            "--fold": fold,
            "--budget": budget,
        }
        again |= {"--epochs": epochs, "--init-from": init_from, "--track": track}
        again |= {"--coarse": coarse, "--cascade": cascade or None}
        command = resume_command(config, folder, again | {"--device": device})
        errors.print(f"stopped and saved; go on with: {escape(command)}", soft_wrap=True, highlight=False)
        raise typer.Exit(_status(result))
    print_dice(result.dice, "Validation Dice, whole volumes on their own grids")
    console.print(f"model: {escape(str(result.model))}", soft_wrap=True, highlight=False)
    _report(folder, dataset)


def _train_stages(
    stages: Sequence[Request], fit: Callable[..., TrainResult], observer: ProgressObserver, budget_s: float | None
) -> tuple[TrainResult, Path, Dataset]:
    """Train one stage after the other until one is interrupted; each has its share of the time that is left.

    Returns:
        The last stage's result, its run folder, that of the run to resume where it was interrupted, and its data.
    """
    from medseg.plan.request import open_request

    start = time.monotonic()
    for number, stage in enumerate(stages):
        experiment, dataset, folder = open_request(stage, observer, show_plan)
        left = budget_s and (budget_s - (time.monotonic() - start)) / (len(stages) - number)
        result = fit(experiment, dataset, folder, observer, budget_s=left)
        if result.interrupted:
            return result, stages[-1].output or folder, dataset
    return result, folder, dataset


def _report(folder: Path, dataset: Dataset) -> None:
    from medseg.report.training import write_training_report
    from medseg.training.tracking import attach

    page = write_training_report(folder, dataset)
    attach(folder, page)
    console.print(f"report: {escape(str(page))}", soft_wrap=True, highlight=False)


def _status(result: TrainResult) -> int:
    """Return the exit status: 128 + SIGINT, or 75 (EX_TEMPFAIL of sysexits.h) for a scheduler's SIGTERM."""
    if not result.interrupted:
        return 0
    return _AGAIN if result.stopped_by == signal.SIGTERM else _INTERRUPTED


def parse_fold(text: str | None) -> int | None:
    """Return the number of a fold; None for ``all``, or where nothing is given.

    Raises:
        UsageError: It is neither a number nor ``all``.
    """
    if text is None or text == "all":
        return None
    if not text.isdecimal():
        raise UsageError("--fold", expected="a number or all", found=f"'{text}'", remedy="write it so")
    return int(text)


def resume_command(config: str | None, folder: Path, options: Mapping[str, object]) -> str:
    """Return the command that goes on with a run, quoted for a shell; options that are None were not given.

    One that is True is a flag.
    """
    words = ["medseg", "train", *([config] if config else []), "-o", str(folder)]
    for name, value in options.items():
        if value is not None:
            words += [name] if value is True else [name, str(value)]
    return shlex.join([*words, "--resume"])


class ProgressObserver:
    """Shows a training as one bar, with what is going on beside it.

    Args:
        progress: A running bar of `medseg.cli.console.progress_bar`.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: TaskID | None = None
        self._cases: TaskID | None = None

    def preparing(self, what: str, done: int, total: int) -> None:
        """Show how many cases are done; the bar goes away with the last one."""
        if self._cases is None:
            self._cases = self._progress.add_task(what, total=total, note="")
        self._progress.update(self._cases, completed=done, description=what)
        if done == total:
            self._progress.remove_task(self._cases)
            self._cases = None

    def stepped(self, fraction: float, epoch: int, loss: float, waiting: float) -> None:
        """Show the share done, the loss, and the share of the time that steps waited for data."""
        if self._steps is None:
            self._steps = self._progress.add_task("training", total=_PERMILLE, note="")
        done = int(_PERMILLE * fraction)
        self._progress.update(
            self._steps, completed=done, note=f"epoch {epoch} loss {loss:.3f} waiting {waiting:.0%}"
        )

    def validated(self, epoch: int, dice: Mapping[str, float], is_best: bool) -> None:
        """Print one line a validation."""
        from medseg.training.validate import mean_dice

        figures = escape("  ".join(f"{name} {_figure(value, 3)}" for name, value in dice.items()))
        mean = _figure(mean_dice(dice), 4)
        mark = "  [green]best[/green]" if is_best else ""
        self._progress.console.print(f"epoch {epoch}: Dice {mean}  ({figures}){mark}", highlight=False)


def print_dice(dice: Mapping[str, float], title: str) -> None:
    """Print a table of Dice by label, with the mean."""
    from medseg.training.validate import mean_dice

    table = Table("label", "Dice", title=title)
    for name, value in dice.items():
        table.add_row(escape(name), _figure(value, 4))
    table.add_section()
    table.add_row("mean", _figure(mean_dice(dice), 4))
    console.print(table)


def _figure(value: float, decimals: int) -> str:
    """Return a number, or NaN for a label that no case and no prediction holds."""
    return "NaN" if math.isnan(value) else f"{value:.{decimals}f}"


def parse_time(text: str, option: str = "--budget") -> float:
    """Return the seconds of a time such as ``90s``, ``20min`` or ``1.5h``, given as an option.

    Raises:
        UsageError: It is none.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|min|h)\s*", text)
    if not match or float(match[1]) == 0:
        raise UsageError(
            option, expected="a time such as 90s, 20min or 1.5h", found=f"'{text}'", remedy="write it so"
        )
    return float(match[1]) * _UNITS[match[2]]
