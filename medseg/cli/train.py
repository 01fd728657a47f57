"""``medseg train``: a configuration and a data set -> a run folder with a model package."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from medseg.cli.console import console, errors, progress_bar
from medseg.errors import UsageError

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_PERMILLE = 1000


def train(
    config: Annotated[str, typer.Argument(help="A training YAML, or its name in configs/ (see medseg list).")],
    manifest: Annotated[
        str | None, typer.Option(help="A data manifest or its name, in place of the config's.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder; runs/NAME by default.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data, where the manifest does not say it.")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Validation fold, in place of the config's.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Wall-clock time for all of it, such as 20min; epochs no longer count.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
) -> None:
    """Train a network; the run folder ends up holding a model package.

    Example: [bold]medseg train hippocampus_unet3d --data-root /data/hippocampus --budget 20min[/bold]

    Ctrl-C saves and leaves; [bold]--resume[/bold] goes on exactly there.
    """
    from medseg.config import load_config
    from medseg.data.manifest import load_manifest
    from medseg.train import train as run_training

    seconds = parse_time(budget) if budget else None
    experiment = load_config(config)
    given = {"fold": fold, "manifest": manifest}
    data = experiment.data.model_copy(update={key: value for key, value in given.items() if value is not None})
    experiment = experiment.model_copy(update={"data": data})
    dataset = load_manifest(experiment.data.manifest, data_root or experiment.data.root)
    folder = output or Path("runs") / experiment.name
    with progress_bar() as progress:
        observer = ProgressObserver(progress)
        result = run_training(experiment, dataset, folder, observer, device=device, budget_s=seconds, resume=resume)
    if result.interrupted:
        options = {"--manifest": manifest, "--data-root": data_root, "--fold": fold, "--budget": budget}
        command = resume_command(config, folder, options | {"--device": device})
        errors.print(f"stopped and saved; go on with: {escape(command)}", soft_wrap=True, highlight=False)
        raise typer.Exit(130)
    print_dice(result.dice, "Validation Dice, whole volumes on their own grids")
    console.print(f"model: {escape(str(result.model))}", soft_wrap=True, highlight=False)


def resume_command(config: str, folder: Path, options: Mapping[str, object]) -> str:
    """Return the command that goes on with a run, quoted for a shell; options that are None were not given."""
    words = ["medseg", "train", config, "-o", str(folder)]
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
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

    def stepped(self, fraction: float, epoch: int, loss: float) -> None:
        """Show the share done and the loss."""
        if self._steps is None:
            self._steps = self._progress.add_task("training", total=_PERMILLE, note="")
        done = int(_PERMILLE * fraction)
        self._progress.update(self._steps, completed=done, note=f"epoch {epoch} loss {loss:.3f}")

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


def parse_time(text: str) -> float:
    """Return the seconds of a time such as ``90s``, ``20min`` or ``1.5h``.

    Raises:
        UsageError: It is none.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|min|h)\s*", text)
    if not match or float(match[1]) == 0:
        raise UsageError(
            "--budget", expected="a time such as 90s, 20min or 1.5h", found=f"'{text}'", remedy="write it so"
        )
    return float(match[1]) * _UNITS[match[2]]
