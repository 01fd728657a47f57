"""``medseg dicom``: what a pile of DICOM holds, and which of its series would be read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console, progress_bar
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
from medseg.errors import NOTHING_DONE

if TYPE_CHECKING:
    from medseg.findings import Finding

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look into a pile of DICOM before anything is read: a folder tree, a zip, a DICOMDIR or a file.\n\n"
    "Nothing is written, and series are named by a hash of their UID.",
)

_PATH = Annotated[
    Path, typer.Argument(help="Folder (with its subfolders), zip, DICOMDIR or DICOM file.", show_default=False)
]
_SHOW_PHI = Annotated[bool, typer.Option("--show-phi", help="Show UIDs, which identify the patient.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command("scan")
def scan(path: _PATH, as_json: _JSON = False, show_phi: _SHOW_PHI = False) -> None:
    """List the image series of a pile, from headers only.

    A series that is not one volume (several phases, echoes, orientations, ...) is
    listed as its volumes. Files that are no images are counted below the table.

    [bold]Examples:[/bold]

    medseg dicom scan /media/cdrom/DICOMDIR

    medseg dicom scan export.zip --json
    """
    from medseg.dicom.listing import SCHEMA_VERSION, finding_record, series_record
    from medseg.dicom.scan import scan_pile

    with progress_bar() as progress:
        task = progress.add_task("headers", total=None, note="")
        found = scan_pile(path, progress=lambda done, total: progress.update(task, completed=done, total=total))
    records = [series_record(series, show_phi=show_phi) for series in found.series]
    if as_json:
        _print_json(
            schema_version=SCHEMA_VERSION,
            files=found.files,
            series=records,
            findings=[finding_record(finding) for finding in found.findings],
        )
    else:
        _print_table(records, show_phi)
        _print_rest(f"{len(records)} volume(s) in {found.files} file(s)", found.findings)


@app.command("plan")
def plan(
    path: _PATH,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="Rules that choose series: a YAML file, or the name of a shipped one."),
    ] = None,
    as_json: _JSON = False,
    show_phi: _SHOW_PHI = False,
    on_tilt: OnTilt = None,
    on_irregular: OnIrregular = None,
    on_missing_slice: OnMissingSlice = None,
    on_duplicate: OnDuplicate = None,
    on_damaged: OnDamaged = None,
    on_four_dimensional: OnFourDimensional = None,
    on_no_rescale: OnNoRescale = None,
) -> None:
    """Say of every series whether it is taken, or which rule left it and what the rule saw.

    A dry run of reading: the geometry is checked from the headers, pixels are not
    decoded but for slices at the same place. The exit status is 5 when no series
    is taken.

    [bold]Examples:[/bold]

    medseg dicom plan studies/ --recipe ct_thin_axial

    medseg dicom plan study.zip --on-missing-slice fill --json
    """
    from medseg.dicom.listing import SCHEMA_VERSION, decision_record, finding_record
    from medseg.dicom.plan import plan_pile

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
    with progress_bar() as progress:
        task = progress.add_task("headers", total=None, note="")
        found = plan_pile(
            path,
            rules,
            policies,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    records = [decision_record(decision, show_phi=show_phi) for decision in found.decisions]
    if as_json:
        findings = [finding_record(finding) for finding in found.findings]
        _print_json(schema_version=SCHEMA_VERSION, series=records, findings=findings)
    else:
        _print_table(records, show_phi)
        _print_rest(f"{len(found.taken)} of {len(records)} volume(s) taken", found.findings)
    if not found.taken:
        raise typer.Exit(NOTHING_DONE)


def _print_json(**content: Any) -> None:
    typer.echo(json.dumps(content, indent=2))


def _print_table(records: list[dict[str, Any]], show_phi: bool) -> None:
    """Print one row a series; a plan's says what becomes of it."""
    has_decisions = any("taken" in record for record in records)
    table = Table()
    table.add_column("study", no_wrap=not show_phi)
    table.add_column("series", no_wrap=not show_phi)
    table.add_column("image", overflow="fold")
    table.add_column("decision" if has_decisions else "findings", overflow="fold")
    for record in records:
        study, series = record["study"], record["series"]
        if show_phi:
            study, series = record["study_instance_uid"] or study, record["series_instance_uid"] or series
        findings = ", ".join(finding["code"] for finding in record["findings"])
        last = [_decision(record)] if has_decisions else []
        last += [f"[dim]{escape(findings)}[/dim]"] if findings else []
        table.add_row(escape(study), escape(series), escape(_image(record)), "\n".join(last))
    console.print(table)


def _image(record: dict[str, Any]) -> str:
    spacing = [*reversed(record["pixel_spacing_mm"]), record.get("slice_spacing_mm")]
    size = f"{record['columns']}x{record['rows']}x{record['slices']}"
    millimetres = "x".join(f"{value:.4g}" for value in spacing if value)
    what = " ".join(
        filter(None, [record["modality"], record["plane"], size, f"{millimetres} mm" if millimetres else ""])
    )
    return "\n".join(filter(None, [what, record["description"], record["split"]]))


def _decision(record: dict[str, Any]) -> str:
    if record["taken"]:
        return "[green]taken[/green]"
    return escape(": ".join(filter(None, [record["rule"], record["seen"]])))


def _print_rest(summary: str, findings: Iterable[Finding]) -> None:
    for finding in findings:
        console.print(escape(str(finding)), highlight=False)
    console.print(summary, highlight=False)
