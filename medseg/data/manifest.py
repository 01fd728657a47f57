"""The manifest of a data set: its facts in YAML, its cases, labels, folds and checksums, never its data.

`Manifest` is what the file says; `Dataset` is a manifest together with the folder that holds the files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from medseg.data.casetable import read_cases, write_cases
from medseg.data.schema import CaseEntry, Channel, Manifest, Modality, Splits
from medseg.errors import ConfigError, ManifestError
from medseg.labels import LabelSet
from medseg.regions import LabelScheme, Region, complete_regions
from medseg.shipped import Shelf, find_yaml
from medseg.yamlfile import dump_yaml, load_yaml

__all__ = [
    "Case",
    "CaseEntry",
    "Channel",
    "Dataset",
    "Manifest",
    "Modality",
    "Splits",
    "load_manifest",
    "read_manifest",
    "relative_root",
    "save_manifest",
    "table_path",
]

MOST_INLINE_CASES = 50


@dataclass(frozen=True)
class Case:
    """One case with its files.

    Attributes:
        id: Unique name.
        patient: Whose case it is; the case id where the manifest names no patient.
        images: One absolute path a channel; None for a channel that the case has not.
        label: Absolute path of the label map, or None.
        image_sha256: Checksum of each image file, None where there is no image; or empty.
        label_sha256: Checksum of the label file, or None.
        coarse: Label map of the first stage of a cascade; see `medseg.training.cascade`.
    """

    id: str
    patient: str
    images: tuple[Path | None, ...]
    label: Path | None
    image_sha256: tuple[str | None, ...] = ()
    label_sha256: str | None = None
    coarse: Path | None = None

    @property
    def present(self) -> tuple[bool, ...]:
        """Which channels the case has."""
        return tuple(image is not None for image in self.images)


@dataclass(frozen=True)
class Dataset:
    """A manifest and the folder that holds its files. `load_manifest` makes one.

    Attributes:
        manifest: The facts.
        root: Absolute folder that the paths of the manifest start from.
        cases: Every case, in the manifest's order.
    """

    manifest: Manifest
    root: Path
    cases: tuple[Case, ...]

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.manifest.name

    @property
    def labels(self) -> LabelSet:
        """What the label values mean."""
        return self.manifest.labels

    @property
    def regions(self) -> tuple[Region, ...]:
        """Unions of labels that are learnt in place of them, in the order of painting; may be empty."""
        return complete_regions(self.manifest.regions)

    @property
    def ignore_value(self) -> int | None:
        """Label value of the voxels that nobody judged."""
        return self.manifest.ignore_value

    @property
    def scheme(self) -> LabelScheme:
        """What is learnt and measured: the labels, or regions made of them, but for voxels that nobody judged."""
        return LabelScheme(self.labels, self.regions, self.ignore_value)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The images of a case, in order."""
        return self.manifest.channels

    @property
    def folds(self) -> tuple[int, ...]:
        """The numbers of the folds; empty where the manifest has no splits."""
        return tuple(sorted(self.manifest.splits.folds)) if self.manifest.splits else ()

    def fold(self, number: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """Return the training cases and the validation cases of a fold; cases without a label are in neither.

        Raises:
            ManifestError: There is no such fold, one side of it is empty, or a patient is on both sides.
        """
        chosen = self.manifest.validation_ids(number)
        labelled = [case for case in self.cases if case.label is not None]
        training = tuple(case for case in labelled if case.id not in chosen)
        validation = tuple(case for case in labelled if case.id in chosen)
        shared = {case.patient for case in training} & {case.patient for case in validation}
        if shared or not training or not validation:
            raise ManifestError(
                f"{self.name}: fold {number}",
                expected="training and validation cases of different patients",
                found=f"{len(training)} and {len(validation)}, {len(shared)} patient(s) in both",
                remedy="correct splits; `medseg dataset check` names the cases",
            )
        return training, validation


def load_manifest(name_or_path: str | Path, data_root: Path | None = None) -> Dataset:
    """Read a manifest and find its files.

    Args:
        name_or_path: A YAML file, or the name of a shipped manifest such as ``hippocampus``.
        data_root: Folder of the data; the manifest's own ``root`` where it is None.

    Raises:
        UsageError: There is no such file or name.
        ConfigError: The manifest or its table of cases is wrong; names every problem.
        ManifestError: No folder is given, it is not there, or it holds none of the files.
    """
    path = find_yaml(str(name_or_path), Shelf.MANIFESTS)
    manifest = read_manifest(path)
    root = _find_root(path, manifest, data_root)
    cases = tuple(_locate(entry, root) for entry in manifest.entries)
    if not any(image.is_file() for case in cases for image in case.images if image):
        raise ManifestError(
            root,
            expected=f"the files of {manifest.name}, such as {_some_image(manifest)}",
            found="none of them",
            remedy="pass the folder that the paths start from as --data-root",
        )
    return Dataset(manifest, root, cases)


def read_manifest(name_or_path: str | Path) -> Manifest:
    """Read a manifest, and its table of cases where it has one, without looking for the data.

    Args:
        name_or_path: As for `load_manifest`.

    Returns:
        The manifest with all its cases in `Manifest.cases`.

    Raises:
        UsageError: There is no such file or name.
        ConfigError: The manifest or its table of cases is wrong; names every problem.
        ManifestError: The table of cases cannot be read.
    """
    path = find_yaml(str(name_or_path), Shelf.MANIFESTS)
    manifest = load_yaml(path, Manifest)
    if manifest.cases_csv is None:
        return manifest
    table = path.parent / manifest.cases_csv
    rows = read_cases(table, len(manifest.channels))
    inline: dict[str, Any] = dict(manifest) | {"cases_csv": None, "cases": tuple(case for _, case in rows)}
    try:
        return Manifest.model_validate(inline)
    except ValidationError as error:
        lines = {row: line for row, (line, _) in enumerate(rows)}
        raise ConfigError(path, [_describe(item, path, table, lines) for item in error.errors()]) from error


def _describe(item: ErrorDetails, path: Path, table: Path, lines: dict[int, int]) -> str:
    match item["loc"]:
        case ("cases", int(row), *keys):
            return f"{table}:{lines[row]}: {'.'.join(map(str, keys))}: {item['msg']}"
        case keys:
            return f"{path}: {'.'.join(map(str, keys))}: {item['msg']}"


def save_manifest(path: Path, manifest: Manifest, comment: str = "") -> list[Path]:
    """Write a manifest; the cases go into a CSV file beside it where there are more than 50.

    Args:
        path: The YAML file. The table of ``NAME.yaml`` is called ``NAME.cases.csv``.
        manifest: What to write, with its cases in `Manifest.cases`.
        comment: First lines of the YAML file.

    Returns:
        The files written.

    Raises:
        StorageError: A file cannot be written.
    """
    tree = manifest.model_dump(mode="json", exclude_defaults=True)
    if manifest.splits:  # JSON has no number keys; YAML has
        tree["splits"]["folds"] = dict(manifest.splits.folds)
    if len(manifest.entries) <= MOST_INLINE_CASES:
        dump_yaml(path, tree, comment)
        return [path]
    table = table_path(path)
    write_cases(table, manifest.entries)
    in_table = {"cases_csv" if key == "cases" else key: value for key, value in tree.items()}
    dump_yaml(path, in_table | {"cases_csv": table.name}, comment)
    return [path, table]


def table_path(manifest_path: Path) -> Path:
    """Return where the table of cases of a large manifest lies: ``NAME.cases.csv`` beside ``NAME.yaml``."""
    return manifest_path.with_name(f"{manifest_path.stem}.cases.csv")


def relative_root(root: Path, manifest_path: Path) -> str | None:
    """Return the data folder relative to a manifest, or None where they share nothing but the disk."""
    folder, root = manifest_path.resolve().parent, root.resolve()
    if root.anchor != folder.anchor or os.path.commonpath([root, folder]) == root.anchor:
        return None
    return Path(os.path.relpath(root, folder)).as_posix()


def _find_root(path: Path, manifest: Manifest, data_root: Path | None) -> Path:
    if data_root is None and manifest.root is None:
        raise ManifestError(
            path,
            expected="the folder of the data",
            found="no root in the manifest",
            remedy=f"pass the folder that {_some_image(manifest)} lies in as --data-root",
        )
    root = (data_root if data_root is not None else path.parent / str(manifest.root)).resolve()
    if not root.is_dir():
        raise ManifestError(
            root,
            expected="the folder of the data",
            found="no such folder",
            remedy="correct --data-root or root",
        )
    return root


def _some_image(manifest: Manifest) -> str:
    return next(image for image in manifest.entries[0].images if image)


def _locate(entry: CaseEntry, root: Path) -> Case:
    return Case(
        id=entry.id,
        patient=entry.owner,
        images=tuple(root / image if image else None for image in entry.images),
        label=root / entry.label if entry.label else None,
        image_sha256=entry.image_sha256 or (),
        label_sha256=entry.label_sha256,
    )
