"""``medseg overlay``: a picture of a label map over its image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from medseg.cli.console import console


def overlay(
    image: Annotated[Path, typer.Argument(help="NIfTI file, or where one DICOM series lies.")],
    mask: Annotated[Path, typer.Argument(help="Label map on the image's grid.")],
    labels: Annotated[
        str, typer.Option(help="What the values mean: a model folder, a dataset.json or a data manifest.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = Path("overlay.png"),
    reference: Annotated[
        Path | None, typer.Option(help="A second label map, shown in a second row.", show_default=False)
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the picture.")] = "",
) -> None:
    """Draw axial, coronal and sagittal slices with the labels on top, in radiological convention.

    Example: [bold]medseg overlay scan.nii.gz mask.nii.gz --labels my_model -o scan.png[/bold]
    """
    from medseg.label_files import load_labels
    from medseg.labels import LabelMap
    from medseg.nifti import read_nifti
    from medseg.reading import read_volume
    from medseg.report.overlay import write_overlay

    label_set = load_labels(labels)
    shown = LabelMap(read_nifti(mask), label_set)
    second = LabelMap(read_nifti(reference), label_set) if reference else None
    write_overlay(output, read_volume(image), shown, second, title)
    console.print(f"picture: {escape(str(output))}", highlight=False, soft_wrap=True)
