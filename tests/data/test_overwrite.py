"""A manifest and its table of cases are not replaced unseen; a data set's folder that cannot be is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medseg.cli import dataset
from medseg.errors import StorageError, UsageError
from medseg.phantom import write_dataset


@pytest.mark.parametrize("there", ["set.yaml", "set.cases.csv"])
def test_import_replaces_nothing_unless_told_to(tmp_path: Path, there: str) -> None:
    write_dataset(tmp_path / "data", 1, 0, spacing_mm=(20.0, 20.0, 20.0))
    (tmp_path / there).write_text("mine")
    command = ["import", str(tmp_path / "data"), "-o", str(tmp_path / "set.yaml"), "--folds", "0"]
    refused = CliRunner().invoke(dataset.app, command)
    assert isinstance(refused.exception, UsageError)
    assert "pass --overwrite" in str(refused.exception)
    assert (tmp_path / there).read_text() == "mine"
    done = CliRunner().invoke(dataset.app, [*command, "--overwrite"])
    assert done.exit_code == 0, done.output
    assert "Torso phantom" in (tmp_path / "set.yaml").read_text()


def test_a_phantom_in_the_place_of_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(StorageError):
        write_dataset(tmp_path / "data", 1, 0)
