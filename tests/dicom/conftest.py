"""A small written series that tests alter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from medseg.dicom.write import write_series
from tests.dicom.written_series import Alter, make_volume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A regular oblique CT series of six slices."""
    write_series(make_volume(), tmp_path / "series", identity="test")
    return tmp_path / "series"


@pytest.fixture
def alter(folder: Path) -> Alter:
    """Change attributes of some files of the series: `alter([0, 3], Rows=4)` or with a function."""

    def change(which: Any = None, function: Callable[[pydicom.Dataset], None] | None = None, **values: Any) -> None:
        files = sorted(folder.iterdir())
        for index in range(len(files)) if which is None else which:
            dataset = pydicom.dcmread(files[index])
            if function:
                function(dataset)
            for keyword, value in values.items():
                if value is None:
                    del dataset[keyword]
                else:
                    setattr(dataset, keyword, value)
            dataset.save_as(files[index])

    return change
