"""``medseg phantom``: make the embedded data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.console import console, progress_bar
from medseg.files import require_new_folder

DICOM_FOLDER = "dicom"


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write to; new or empty.")],
    cases: Annotated[int, typer.Option(min=1, help="How many torsos.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the torsos; the same seed, the same bytes.")] = 0,
    spacing: Annotated[float, typer.Option(help="Voxel size in mm.")] = 4.0,
    modality: Annotated[str, typer.Option(help="CT or MR.")] = "CT",
    dicom: Annotated[bool, typer.Option("--dicom", help="Also write one more torso as a DICOM series.")] = False,
) -> None:
    """Make a data set of synthetic torsos with exact labels, to try everything out without any patient's data."""
    from medseg.phantom import write_dataset, write_dicom_case

    require_new_folder(out)
    spacing_mm, modality = (spacing, spacing, spacing), modality.upper()
    with progress_bar() as bar:
        task = bar.add_task("drawing torsos", total=cases + dicom, note="")
        write_dataset(
            out,
            cases,
            seed,
            spacing_mm=spacing_mm,
            modality=modality,
            progress=lambda done, _: bar.update(task, completed=done),
        )
        series = (
            write_dicom_case(out / DICOM_FOLDER, cases, seed, spacing_mm=spacing_mm, modality=modality)
            if dicom
            else None
        )
    console.print(f"{cases} cases: {out / 'dataset.json'}", highlight=False, soft_wrap=True)
    if series:
        console.print(f"1 DICOM series: {series}", highlight=False, soft_wrap=True)
