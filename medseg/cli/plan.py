"""``medseg plan``: measure a data set and print the plan of a training, with the reason for every number."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from medseg.cli.console import console, progress_bar
from medseg.cli.planning import DIMS_HELP, DRY_RUN_HELP, MEMORY_HELP, show_plan


def plan(
    config: Annotated[
        str | None, typer.Argument(help="A training YAML that leaves something open, or none to plan everything.")
    ] = None,
    manifest: Annotated[str | None, typer.Option(help="A data manifest or its name.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data, where the manifest does not say it.")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Validation fold; the others are measured.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the complete configuration to this YAML file.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help=MEMORY_HELP)] = None,
    dims: Annotated[int | None, typer.Option(min=2, max=3, help=DIMS_HELP)] = None,
    resolution: Annotated[
        str, typer.Option(help="full, or low: a network that sees more of the volume, more coarsely.")
    ] = "full",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; with --memory, cuda plans for a card that is not here.")
    ] = "auto",
    dry_run: Annotated[bool, typer.Option(help=DRY_RUN_HELP)] = True,
) -> None:
    """Measure a data set and plan a training: spacing, patch, batch, network and schedule, each with its reason.

    Example: [bold]medseg plan --manifest hippocampus --data-root /data/hippocampus -o my.yaml[/bold]

    Every number can be set in a configuration; what is set stays, and the rest is planned around it.
    [bold]medseg train[/bold] plans by itself what its configuration leaves open.
    """
    from medseg.cli.train import ProgressObserver
    from medseg.files import write_text
    from medseg.plan.prepare import PlanOptions, resolution_named
    from medseg.plan.request import Request, plan_request
    from medseg.yamlfile import yaml_text

    given = {"data.manifest": manifest, "data.root": str(data_root) if data_root else None, "data.fold": fold}
    options = PlanOptions(device, memory, dims, resolution_named(resolution), dry_run)
    with progress_bar() as progress:
        planned = plan_request(Request(config, given, options=options), ProgressObserver(progress))
    show_plan(planned)
    if output is not None:
        comment = "Planned by `medseg plan`; every number may be changed."
        write_text(output, yaml_text(planned.config.model_dump(mode="json"), comment))
        console.print(f"configuration: {escape(str(output))}", soft_wrap=True, highlight=False)
