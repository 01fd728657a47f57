"""The CSV table that holds the cases of a large data set, beside its manifest."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medseg.data.schema import CaseEntry
from medseg.errors import ConfigError, ManifestError
from medseg.files import write_text


def read_cases(path: Path, channels: int) -> list[tuple[int, CaseEntry]]:
    """Read a table of cases.

    The columns are ``id``, ``image_0`` and so on for each channel, and, where wanted, ``patient``, ``label``,
    ``image_0_sha256`` ... and ``label_sha256``. An empty cell is an unset value; of an image,
    a channel that the case has not.

    Args:
        path: A CSV file in UTF-8 with a header row.
        channels: Number of images that each case has.

    Returns:
        The line that each case stands on, and the case.

    Raises:
        ManifestError: The file cannot be read.
        ConfigError: A column or a value is wrong; names every problem with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            path, expected="a table of cases in UTF-8", found=type(error).__name__, remedy="correct cases_csv"
        ) from error
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found: list[tuple[int, CaseEntry]] = []
    problems: list[str] = []
    try:
        problems += _column_problems(path, rows.fieldnames or (), channels)
        for row in rows if not problems else ():
            try:
                found.append((rows.line_num, CaseEntry.model_validate(_values(row, channels))))
            except ValidationError as error:
                problems += _row_problems(path, rows.line_num, error)
    except csv.Error as error:
        problems.append(f"{path}:{rows.reader.line_num}: not a valid row: {error}")
    if problems:
        raise ConfigError(path, problems)
    return found


def write_cases(path: Path, cases: Sequence[CaseEntry]) -> None:
    """Write a table that `read_cases` reads; columns that would be empty are left out.

    Raises:
        StorageError: The file cannot be written.
    """
    rows = [_cells(case) for case in cases]
    used = {column for row in rows for column, cell in row.items() if cell}
    columns = [column for column in _columns(len(cases[0].images)) if column in used]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def _columns(channels: int) -> list[str]:
    images = [f"image_{channel}" for channel in range(channels)]
    return ["id", "patient", *images, "label", *(f"{name}_sha256" for name in images), "label_sha256"]


def _column_problems(path: Path, found: Sequence[str], channels: int) -> list[str]:
    valid = _columns(channels)
    needed = ["id", *(f"image_{channel}" for channel in range(channels))]
    twice = sorted({column for column in found if list(found).count(column) > 1})
    return [
        *(f"{path}:1: {name}: unknown column; {_nearest(name, valid)}" for name in found if name not in valid),
        *(f"{path}:1: {name}: this column stands twice" for name in twice),
        *(f"{path}:1: {name}: this column is required and is not there" for name in needed if name not in found),
    ]


def _nearest(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean '{near[0]}'?" if near else f"valid columns: {', '.join(valid)}"


def _values(row: dict[str | Any, str | Any], channels: int) -> dict[str, object]:
    """Turn the cells of a row into the keys of a `CaseEntry`."""
    cells = {column: cell for column, cell in row.items() if cell}
    images = [cells.pop(f"image_{channel}", None) for channel in range(channels)]
    checksums = [cells.pop(f"image_{channel}_sha256", None) for channel in range(channels)]
    known = {"image_sha256": checksums} if any(checksums) else {}
    surplus = {"surplus cells": cells.pop(None)} if None in cells else {}
    return {**cells, **surplus, **known, "images": images}


def _cells(case: CaseEntry) -> dict[str, str]:
    cells = {"id": case.id, "patient": case.patient, "label": case.label, "label_sha256": case.label_sha256}
    for channel, image in enumerate(case.images):
        cells[f"image_{channel}"] = image
        cells[f"image_{channel}_sha256"] = case.image_sha256[channel] if case.image_sha256 else None
    return {column: cell or "" for column, cell in cells.items()}


def _row_problems(path: Path, line: int, error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        if location[:1] == ["images"]:
            location = ["image_" + "".join(location[1:])]
        elif location[:1] == ["image_sha256"]:
            location = [f"image_{''.join(location[1:])}_sha256"]
        message = item["msg"].removeprefix("Value error, ")
        given = item.get("input")
        found = f", found {given!r}" if isinstance(given, str) else ""
        yield f"{path}:{line}: {'.'.join(location) or 'the row'}: {message}{found}"
