"""``medseg dataset``: describe a data set once, and know that it is whole before training on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console, progress_bar
from medseg.cli.import_dicom import import_dicom
from medseg.errors import UsageError

if TYPE_CHECKING:
    from medseg.data.check import Fault
    from medseg.data.manifest import Manifest

_SOME_FAULTY = 3
_COMMENT = "Written by `medseg dataset import`. Each fold lists the patients that it is validated on."
_MANIFEST_HELP = "A manifest (YAML), or the name of a shipped one, such as hippocampus."

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Describe a data set in a manifest, and check its files.\n\n"
    "A manifest is a YAML file with the facts that training needs: where each case's files are, what the label "
    "values mean, which patients each fold is validated on, and the checksum of every file.",
)

app.command("import-dicom")(import_dicom)


@app.command("import")
def import_(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with dataset.json, imagesTr and labelsTr: Decathlon or nnU-Net raw layout; or a BIDS data "
            "set with labels below derivatives."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write, NAME.yaml.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the data set. Default: as dataset.json says.", show_default=False)
    ] = None,
    folds: Annotated[
        int, typer.Option(min=0, help="Cross-validation folds to draw and write down; 0 for none.")
    ] = 5,
    seed: Annotated[int, typer.Option(help="Another seed draws other folds.")] = 0,
    patient_regex: Annotated[
        str | None,
        typer.Option(
            help="Finds the patient in a case id; the first group counts. All cases of a patient go into the same "
            "fold. Default: each case is a patient of its own.",
            show_default=False,
        ),
    ] = None,
    derivative: Annotated[
        str | None,
        typer.Option(
            help="BIDS: folder below derivatives that holds the labels. Default: the only one that has any.",
            show_default=False,
        ),
    ] = None,
    no_root: Annotated[
        bool,
        typer.Option("--no-root", help="Leave the data folder out; whoever uses the manifest passes --data-root."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a manifest and its table of cases that are there already.")
    ] = False,
) -> None:
    """Make a manifest of a data set that is there already.

    Reads the layout of the Medical Segmentation Decathlon, that of nnU-Net's raw
    data and BIDS with derivatives. The checksum of every file is written down. More than 50 cases go
    into a CSV file beside the manifest. What is there already is not replaced
    without --overwrite: the folds that models were trained on must not change
    unseen.

    [bold]Examples:[/bold]

    medseg dataset import Task04_Hippocampus -o hippocampus.yaml

    medseg dataset import Dataset101_Liver -o liver.yaml --patient-regex '^(P[0-9]+)_'
    """
    from medseg.data.importers import ImportOptions, import_folder
    from medseg.data.manifest import relative_root, save_manifest, table_path

    _require_yaml(output)
    if not overwrite:
        _require_new(output, table_path(output))
    options = ImportOptions(name=name, patient_regex=patient_regex, folds=folds, seed=seed, derivative=derivative)
    with progress_bar() as bar:
        task = bar.add_task("reading", total=None, note="")
        manifest = import_folder(folder, options, lambda done, total: bar.update(task, completed=done, total=total))
    root = None if no_root else relative_root(folder, output)
    written = save_manifest(output, manifest.model_copy(update={"root": root}), _COMMENT)
    console.print(_summary(manifest), _label_table(manifest))
    _say(f"Written: {', '.join(str(path) for path in written)}")
    _say(f"Next: medseg dataset check {output}{'' if root else f' --data-root {folder}'}")


@app.command("check")
def check(
    manifest: Annotated[str, typer.Argument(help=_MANIFEST_HELP)],
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data. Default: the manifest's own root.", show_default=False),
    ] = None,
) -> None:
    """Read every case and name every fault: all of them, not the first.

    Looked for: files that are missing, damaged or changed; images and labels on
    different grids; label values outside the table; empty labels; NaN; constant
    and duplicate images; a patient in two folds or on both sides of one; cases
    in no fold.

    [bold]Example:[/bold] medseg dataset check hippocampus --data-root Task04_Hippocampus

    [bold]Exit status:[/bold] 0 no fault; 2 wrong usage or manifest; 3 faults found.
    """
    from medseg.data.check import check_dataset
    from medseg.data.manifest import load_manifest

    dataset = load_manifest(manifest, data_root)
    with progress_bar() as bar:
        task = bar.add_task("checking", total=None, note="")
        faults = check_dataset(dataset, lambda done, total: bar.update(task, completed=done, total=total))
    if not faults:
        console.print(f"[green]No fault[/green] in {len(dataset.cases)} case(s)", highlight=False)
        return
    console.print(_fault_table(faults))
    cases = len({fault.case for fault in faults})
    console.print(f"[bold red]{len(faults)} fault(s)[/bold red] in {cases} case(s)", highlight=False)
    raise typer.Exit(_SOME_FAULTY)


@app.command("show")
def show(manifest: Annotated[str, typer.Argument(help=_MANIFEST_HELP)]) -> None:
    """Print what a manifest says; the data need not be there.

    [bold]Example:[/bold] medseg dataset show hippocampus
    """
    from medseg.data.manifest import read_manifest

    facts = read_manifest(manifest)
    console.print(_summary(facts), _label_table(facts))


def _require_yaml(output: Path) -> None:
    if output.suffix not in (".yaml", ".yml"):
        raise UsageError(
            "--output", expected="a name that ends with .yaml", found=output.name, remedy=f"try {output.name}.yaml"
        )


def _require_new(*files: Path) -> None:
    for file in files:
        if file.exists():
            raise UsageError(
                file,
                expected="a new file",
                found="one that is there",
                remedy="choose another name, or pass --overwrite",
            )


def _summary(manifest: Manifest) -> Table:
    table = Table(show_header=False, title=escape(manifest.name), title_justify="left")
    rows = {
        "description": manifest.description,
        "licence": manifest.license,
        "channels": ", ".join(f"{channel.name} ({channel.modality.value})" for channel in manifest.channels),
        "cases": f"{len(manifest.entries)} of {len({entry.owner for entry in manifest.entries})} patient(s)",
        "folds": _folds(manifest),
        "regions": "; ".join(f"{one.name} ({', '.join(map(str, one.labels))})" for one in manifest.regions),
        "ignored value": str(manifest.ignore_value or ""),
    }
    for key, value in rows.items():
        table.add_row(key, escape(value or "-"))
    return table


def _folds(manifest: Manifest) -> str:
    if manifest.splits is None:
        return ""
    sizes = ", ".join(f"{fold}: {len(names)}" for fold, names in sorted(manifest.splits.folds.items()))
    return f"{sizes} for validation" + (
        f", seed {manifest.splits.seed}" if manifest.splits.seed is not None else ""
    )


def _label_table(manifest: Manifest) -> Table:
    table = Table("value", "label", "code", "side")
    for label in manifest.labels:
        code = f"{label.code.scheme} {label.code.value} {label.code.meaning}" if label.code else "-"
        table.add_row(
            str(label.index), escape(label.name), escape(code), label.laterality.value if label.laterality else "-"
        )
    return table


def _fault_table(faults: Sequence[Fault]) -> Table:
    counts = Counter(fault.code.value for fault in faults)
    title = ", ".join(f"{count} {code}" for code, count in counts.most_common())
    table = Table("case", "fault", "what was found", title=title, title_justify="left")
    for fault in faults:
        table.add_row(escape(fault.case), fault.code.value, escape(fault.message))
    return table


def _say(text: str) -> None:
    console.print(escape(text), soft_wrap=True, highlight=False)
