"""``medseg demo``: the whole way, in the commands that a user would type."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.console import console
from medseg.files import require_new_folder

_CONFIG = "torso_unet3d"
_CASES = 20


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="New folder for all that is made.")] = Path("medseg_demo"),
    budget: Annotated[str, typer.Option(help="Wall-clock time of the training.")] = "200s",
) -> None:
    """Make a data set, train a 3-D U-Net, segment a DICOM series and measure the result.

    Takes under five minutes on two CPU cores. Every step is an ordinary command, printed before it runs: the same
    commands train on your own data and segment your own studies.
    """
    require_new_folder(folder)
    start = time.monotonic()
    medseg = context.find_root().command
    for step in _steps(folder, budget):
        console.rule(f"[bold]medseg {step[0]}")
        console.print(f"$ medseg {shlex.join(step)}", style="cyan", highlight=False, soft_wrap=True)
        status = medseg.main(step, prog_name="medseg", standalone_mode=False)
        if status:
            raise typer.Exit(status)
    console.rule()
    console.print(
        f"Done in {time.monotonic() - start:.0f} s. Look at {folder / 'overlay.png'}; the label map is "
        f"{folder / 'mask.nii.gz'}, the model {folder / 'run' / 'model'}.",
        highlight=False,
        soft_wrap=True,
    )


def _steps(folder: Path, budget: str) -> list[list[str]]:
    data, run, mask = folder / "data", folder / "run", folder / "mask.nii.gz"
    manifest, model = folder / "torso.yaml", folder / "run" / "model"
    series = data / "dicom" / f"torso_{_CASES:03d}"
    reference = data / "dicom" / f"torso_{_CASES:03d}_labels.nii.gz"
    steps = [
        ["phantom", data, "--cases", _CASES, "--spacing", "5", "--dicom"],
        ["dataset", "import", data, "-o", manifest],
        ["train", _CONFIG, "--manifest", manifest, "-o", run, "--budget", budget],
        ["segment", series, "--model", model, "-o", mask],
        ["evaluate", mask, reference, "--labels", model, "--tolerance", "5", "--csv", folder / "scores.csv"],
        ["overlay", series, mask, "--reference", reference, "--labels", model, "-o", folder / "overlay.png"],
    ]
    return [[str(word) for word in step] for step in steps]
