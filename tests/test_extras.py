"""An optional library that is missing is named with the command that installs it."""

import json

import pytest

from medseg.errors import UsageError
from medseg.extras import import_extra


def test_a_library_that_is_there_is_imported():
    assert import_extra("json", feature="--x", extra="x") is json


def test_a_library_that_is_missing_is_named_with_feature_extra_and_command():
    with pytest.raises(UsageError) as caught:
        import_extra("no_such_library.part", feature="--track mlflow", extra="track")
    text = str(caught.value)
    for part in ("--track mlflow", "[track]", "no_such_library", "pip install 'medseg[track]'"):
        assert part in text


def test_an_error_inside_a_library_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('broken')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="broken"):
        import_extra("broken_library", feature="--x", extra="x")
