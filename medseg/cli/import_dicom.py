"""``medseg dataset import-dicom``: annotated studies, as RTSTRUCT or SEG, become a data set to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console, progress_bar
from medseg.cli.policies import rules_and_policies
from medseg.errors import NOTHING_DONE, SOME_FAILED, UsageError

if TYPE_CHECKING:
    from medseg.data.annotated import AnnotatedPile
    from medseg.data.dicom_import import ImportRow
    from medseg.data.structure_map import StructureMap
    from medseg.dicom.series_rules import SeriesRules

MANIFEST = "manifest.yaml"

_AUTO = "auto"
_COMMENT = "Written by `medseg dataset import-dicom`. Each fold lists the patients that it is validated on."


def import_dicom(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders (with subfolders), zips, DICOMDIRs or files: images and label objects."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the data set, new or empty.", show_default=False),
    ] = None,
    structures: Annotated[
        str | None,
        typer.Option(
            "--map",
            "-m",
            help="YAML file that says which structures become which label, or auto: a label a name, where all "
            "series have the same names.",
            show_default=False,
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Print the names of all structures with counts and codes, and stop.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the data set. Default: that of its folder.", show_default=False)
    ] = None,
    folds: Annotated[int, typer.Option(min=0, help="Cross-validation folds, by patient; 0 for none.")] = 5,
    seed: Annotated[int, typer.Option(help="Another seed draws other folds.")] = 0,
    modality: Annotated[
        Literal["CT", "MR"] | None,
        typer.Option(help="Take series of this modality only. Default: CT or MR, not both.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="Rules and policies for the series: a YAML file, or a shipped one."),
    ] = None,
    patient_key: Annotated[
        Path | None,
        typer.Option(
            help="File with a secret that patients' ids are hashed with: whoever lacks it cannot find an id by "
            "trying all. Keep it, to import more studies of the same patients.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a data set of DICOM studies whose labels are RTSTRUCT or SEG objects.

    Every series with labels becomes a case: image and label map as NIfTI on the
    series' own grid. Contours are filled on the slices that they lie on, tilted
    and oblique ones too. A series is refused, with the reason, where its labels
    cannot be put onto it without a doubt; import.csv says of each what became of it.

    [bold]Examples:[/bold]

    medseg dataset import-dicom export/ --list

    medseg dataset import-dicom export/ -o liver --map structures.yaml

    [bold]Exit status:[/bold] 0 all taken; 2 wrong usage or map; 3 some refused; 5 none taken.
    """
    from medseg.data.dicom_import import DicomImportOptions
    from medseg.data.dicom_import import import_dicom as run
    from medseg.data.manifest import save_manifest
    from medseg.files import require_new_folder

    if not list_ and (output is None or structures is None):
        raise UsageError(
            "import-dicom",
            expected="--output and --map, or --list",
            found="neither" if output is None and structures is None else "one of them",
            remedy="list the structures first, write a map, then import",
        )
    if output is not None:
        require_new_folder(output)
    fixed = _load_map(structures) if structures not in (None, _AUTO) else None
    rules, policies = rules_and_policies(recipe)
    with _told() as tell:
        pile = _scan(folders, rules, modality, tell)
        if list_ or output is None:
            _print_names(pile)
            return
        structure_map = fixed or _automatic(pile)
        options = DicomImportOptions(name, folds, seed, _key(patient_key), policies)
        result = run(pile, structure_map, output, options, tell)
    _print_rows(result.rows)
    for finding in pile.findings:
        console.print(escape(str(finding)), highlight=False)
    if result.manifest is None:
        raise typer.Exit(NOTHING_DONE)
    save_manifest(output / MANIFEST, result.manifest, _COMMENT)
    drawn = len(result.manifest.splits.folds) if result.manifest.splits else 0
    if drawn < folds:
        _say(f"Folds: {drawn or 'none'}, not {folds}: there are too few patients")
    _say(f"Written: {output / MANIFEST}, {output / 'import.csv'}")
    _say(f"Next: medseg dataset check {output / MANIFEST}")
    if any(row.has_labels and not row.is_taken for row in result.rows):
        raise typer.Exit(SOME_FAILED)


def _scan(
    folders: Sequence[Path],
    rules: SeriesRules | None,
    modality: str | None,
    tell: Callable[[str, int, int], None],
) -> AnnotatedPile:
    from medseg.data.annotated import find_annotated
    from medseg.dicom.series_rules import SeriesRules

    rules = rules or SeriesRules()
    if modality:
        rules = rules.model_copy(update={"modality": (modality,)})
    return find_annotated(folders, rules, tell)


def _load_map(path: str | None) -> StructureMap:
    from medseg.data.structure_map import StructureMap
    from medseg.yamlfile import load_yaml

    return load_yaml(Path(path or ""), StructureMap)


def _automatic(pile: AnnotatedPile) -> StructureMap:
    from medseg.data.structure_map import automatic_map

    return automatic_map([one.structures for one in pile.annotated])


def _key(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        found = type(error).__name__
        raise UsageError("--patient-key", expected="a readable file", found=found, remedy="check it") from error
    if not key:
        raise UsageError("--patient-key", expected="a secret", found="an empty file", remedy="write one into it")
    return key


@contextmanager
def _told() -> Iterator[Callable[[str, int, int], None]]:
    with progress_bar() as bar:
        task = bar.add_task("reading", total=None, note="")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _print_names(pile: AnnotatedPile) -> None:
    from medseg.data.structure_map import count_structures

    groups = [[link.structure for link in one.links] for one in pile.series if one.links]
    groups += [[link.structure] for link in pile.orphans]
    table = Table("structure", "series", "codes")
    for count in count_structures(groups):
        table.add_row(escape(count.shown), str(count.series), escape("\n".join(count.codes)))
    console.print(table)
    errors = Counter(link.error.reason for one in pile.series for link in one.links if link.error)
    errors += Counter(link.error.reason for link in pile.orphans if link.error)
    refused = ", ".join(f"{count} {reason}" for reason, count in errors.items())
    _say(f"{len(pile.annotated)} of {len(pile.series)} series have structures")
    if refused:
        _say(f"structures that cannot be drawn: {refused}")
    for finding in pile.findings:
        console.print(escape(str(finding)), highlight=False)


def _print_rows(rows: Sequence[ImportRow]) -> None:
    table = Table()
    table.add_column("study", no_wrap=True)
    table.add_column("series", no_wrap=True)
    table.add_column("decision", overflow="fold")
    table.add_column("ignored", overflow="fold")
    for row in rows:
        if row.has_labels:
            table.add_row(row.study, row.series or row.modality, _decision(row), escape(", ".join(row.ignored)))
    console.print(table)
    taken, labelled = sum(row.is_taken for row in rows), sum(row.has_labels for row in rows)
    without = len(rows) - labelled
    _say(f"{taken} of {labelled} taken" + (f"; {without} series without labels" if without else ""))


def _decision(row: ImportRow) -> str:
    if not row.is_taken:
        return f"[red]refused[/red] {escape(f'{row.reason}: {row.detail}')}"
    voxels = ", ".join(f"{name} {count}" for name, count in row.voxels.items())
    findings = "\n".join(map(str, row.findings))
    return f"[green]taken[/green] {escape(voxels)}" + (f"\n[dim]{escape(findings)}[/dim]" if findings else "")


def _say(text: str) -> None:
    console.print(escape(text), soft_wrap=True, highlight=False)
