"""BIDS data sets with labels under ``derivatives``, as they are (https://bids-specification.readthedocs.io, 1.10).

Raw images lie in ``sub-XX[/ses-YY]/anat``; the label maps of a derivative in the same folders below
``derivatives/NAME``: as ``*_dseg.nii.gz`` with a table ``*_dseg.tsv``, or as one ``*_label-NAME_mask.nii.gz``.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.data.layouts import FoundCase, FoundDataset, name_first
from medseg.errors import ManifestError
from medseg.nifti import case_name, is_nifti

DESCRIPTION = "dataset_description.json"

_FOLDERS = ("anat", "ct")
_NO_IMAGES = {"dseg", "mask", "probseg", "defacemask"}
_OWN_SPACES = {"orig", "individual"}
_OF_CASE = ("sub", "ses")


@dataclass(frozen=True)
class _File:
    """A file by its name: ``sub-01_ses-a_desc-manual_dseg.nii.gz``."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def case(self) -> str:
        """Subject and session."""
        return "_".join(f"{key}-{self.entities[key]}" for key in _OF_CASE if key in self.entities)

    @property
    def channel(self) -> str:
        """What tells it from other images of its case."""
        return "_".join([*(f"{k}-{v}" for k, v in self.entities.items() if k not in _OF_CASE), self.suffix])


def read_bids(folder: Path, derivative: str | None = None) -> FoundDataset:
    """List the annotated cases of a BIDS data set: a case a session, a patient a subject, channels by name.

    Channels are all those that a case with labels has; other cases may lack some. Cases without labels are left
    out, and counted in the description.

    Args:
        folder: Holds dataset_description.json, the subjects and ``derivatives``.
        derivative: Folder below ``derivatives`` that holds the labels; the only one that has any where it is None.

    Raises:
        ManifestError: A file that is needed is missing or wrong, labels lie in another space than the raw images, a
            case has several label maps, or the tables of labels differ.
    """
    facts = _facts(folder)
    home = _derivative(folder, derivative)
    labels = _one_a_case(folder, _label_files(home))
    images = _by_case(file for file in _files(folder) if file.suffix not in _NO_IMAGES)
    bare = sorted(set(labels) - set(images))
    if bare:
        raise _wrong(folder, "raw images of every case with labels", f"none for {name_first(bare)}", "add them")
    channels = sorted({file.channel for case in labels for file in images[case]})
    _check_spaces(folder, labels.values(), images)
    cases = []
    for case, label in sorted(labels.items()):
        own = {file.channel: file.path.relative_to(folder).as_posix() for file in images[case]}
        if len(own) < len(images[case]):
            raise _wrong(folder, "one image a channel", f"{case} with an image twice", "take one of them out")
        chosen = [own.get(channel) for channel in channels]
        label_path = label.path.relative_to(folder).as_posix()
        cases.append(FoundCase(case, chosen, label_path, f"sub-{label.entities['sub']}"))
    without = len(set(images) - set(labels))
    note = f"labels of derivatives/{home.name}; {without} case(s) without labels left out"
    names = _label_names(home, list(labels.values()))
    return FoundDataset(folder, facts["Name"], note, facts["License"], channels, names, cases)


def _facts(folder: Path) -> dict[str, str]:
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise _wrong(folder, f"a valid {DESCRIPTION}", type(error).__name__, "correct it") from error
    if not isinstance(content, dict):
        raise _wrong(folder, f"keys and values in {DESCRIPTION}", type(content).__name__, "correct it")
    name = str(content.get("Name") or folder.resolve().name)
    return {"Name": name, "License": str(content.get("License") or "")}


def _derivative(folder: Path, name: str | None) -> Path:
    root = folder / "derivatives"
    homes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if name is not None:
        homes = [path for path in homes if path.name == name]
    with_labels = [path for path in homes if _label_files(path)]
    if len(with_labels) != 1:
        found = name_first([path.name for path in with_labels]) if with_labels else "none"
        remedy = "pass --derivative" if with_labels else "add sub-XX/anat/*_dseg.nii.gz below derivatives/NAME"
        raise _wrong(folder, "one derivative with labels", found, remedy)
    return with_labels[0]


def _files(root: Path) -> list[_File]:
    """Return the NIfTI files of subjects, with or without sessions."""
    paths = [
        path
        for kind in _FOLDERS
        for pattern in (f"sub-*/{kind}/*", f"sub-*/ses-*/{kind}/*")
        for path in root.glob(pattern)
        if is_nifti(path) and not path.name.startswith(".") and path.is_file()
    ]
    files = [file for path in sorted(paths) if (file := _parsed(path, case_name(path))) and "sub" in file.entities]
    strays = [file.path.name for file in files if not set(file.case.split("_")) <= set(file.path.parts)]
    if strays:
        expected = "files in the folders of the subject and session in their names"
        raise _wrong(root, expected, f"others: {name_first(strays)}", "rename them")
    return files


def _parsed(path: Path, stem: str) -> _File | None:
    *pairs, suffix = stem.split("_")
    if not all("-" in pair for pair in pairs):
        return None
    return _File(path, dict(pair.split("-", 1) for pair in pairs), suffix)


def _label_files(home: Path) -> list[_File]:
    files = _files(home)
    return [f for f in files if f.suffix == "dseg" or (f.suffix == "mask" and "label" in f.entities)]


def _by_case(files: Iterable[_File]) -> dict[str, list[_File]]:
    found: defaultdict[str, list[_File]] = defaultdict(list)
    for file in files:
        found[file.case].append(file)
    return found


def _one_a_case(folder: Path, files: Sequence[_File]) -> dict[str, _File]:
    by_case = _by_case(files)
    several = [f"{case} ({', '.join(f.path.name for f in own)})" for case, own in by_case.items() if len(own) > 1]
    if several:
        remedy = "keep one in the derivative; merge several masks into one dseg"
        raise _wrong(folder, "one label map a case", f"several for {name_first(several)}", remedy)
    return {case: own[0] for case, own in by_case.items()}


def _check_spaces(folder: Path, labels: Iterable[_File], images: Mapping[str, Sequence[_File]]) -> None:
    for label in labels:
        own = _OWN_SPACES | {image.suffix for image in images[label.case]}
        space = label.entities.get("space")
        if space is not None and space not in own:
            found = f"{label.path.name} in the space {space}"
            raise _wrong(folder, "labels on the raw images", found, "resample it")


def _label_names(home: Path, files: Sequence[_File]) -> dict[int, str]:
    """Return {value: name}, which must be the same for all label files."""
    paths = sorted(home.rglob("*dseg.tsv"))
    tables = [table for path in paths if (table := _parsed(path, path.name.removesuffix(".tsv")))]
    known: dict[Path, dict[int, str]] = {}
    different: dict[tuple[tuple[int, str], ...], _File] = {}
    for file in files:
        if file.suffix == "mask":
            names = {1: file.entities["label"]}
        else:
            path = _table_of(home, file, tables)
            names = known.setdefault(path, {}) or _read_table(path)
            known[path] = names
        different.setdefault(tuple(sorted(names.items())), file)
    if len(different) > 1:
        examples = name_first([file.path.name for file in different.values()])
        raise _wrong(home, "the same labels in all cases", f"other ones for {examples}", "make them the same")
    return dict(next(iter(different)))


def _table_of(home: Path, file: _File, tables: Sequence[_File]) -> Path:
    """Return the table of a label map: the nearest one above that says nothing else (inheritance principle)."""
    fitting = [
        table
        for table in tables
        if table.path.parent in file.path.parents and table.entities.items() <= file.entities.items()
    ]
    if not fitting:
        raise _wrong(home, "a table of its labels, *_dseg.tsv", f"none for {file.path.name}", "add one")
    return max(fitting, key=lambda table: (len(table.path.parts), len(table.entities))).path


def _read_table(path: Path) -> dict[int, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        names = {int(row["index"]): row["name"].strip() for row in rows}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, csv.Error) as error:
        raise ManifestError(
            path, expected="columns index and name", found=type(error).__name__, remedy="correct the table"
        ) from error
    if len(names) < len(rows) or not all(names.values()):
        raise ManifestError(
            path, expected="an index and a name each", found="one twice or empty", remedy="correct the table"
        )
    return names


def _wrong(folder: Path, expected: str, found: str, remedy: str) -> ManifestError:
    return ManifestError(folder, expected=expected, found=found, remedy=remedy)
