"""Names of shipped YAML files, and paths of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg import shipped
from medseg.errors import UsageError
from medseg.shipped import Shelf, find_yaml, shelf_folder, shipped_names


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one manifest, and a current folder beside it."""
    folder = tmp_path / "checkout" / "medseg"
    folder.mkdir(parents=True)
    (tmp_path / "checkout" / "data_manifests").mkdir()
    (tmp_path / "checkout" / "data_manifests" / "liver.yaml").write_text("name: liver")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(shipped, "_PACKAGE", folder)
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.mark.parametrize("name", ["liver", "liver.yaml", "data_manifests/liver.yaml", "data_manifests/liver"])
def test_shipped_names(package: Path, name: str) -> None:
    assert find_yaml(name, Shelf.MANIFESTS) == package.parent / "data_manifests" / "liver.yaml"


def test_a_file_at_the_path_comes_first(package: Path) -> None:
    Path("liver.yaml").write_text("name: mine")
    assert find_yaml("liver.yaml", Shelf.MANIFESTS).read_text() == "name: mine"


def test_a_wheel_holds_the_files_inside_the_package(package: Path) -> None:
    inside = package / "_shipped" / "data_manifests"
    inside.mkdir(parents=True)
    (inside / "lung.yaml").write_text("name: lung")
    assert shelf_folder(Shelf.MANIFESTS) == inside
    assert shipped_names(Shelf.MANIFESTS) == ["lung"]
    assert find_yaml("lung", Shelf.MANIFESTS) == inside / "lung.yaml"


def test_unknown_names_get_the_nearest(package: Path) -> None:
    with pytest.raises(UsageError, match="did you mean liver"):
        find_yaml("livr", Shelf.MANIFESTS)
    with pytest.raises(UsageError, match="shipped ones: liver"):
        find_yaml("heart", Shelf.MANIFESTS)
    with pytest.raises(UsageError, match="no such file or name"):
        find_yaml("other/liver.yaml", Shelf.MANIFESTS)
    with pytest.raises(UsageError, match="no such file or name"):
        find_yaml("../liver", Shelf.MANIFESTS)


def test_the_checkout_ships_manifests() -> None:
    assert "hippocampus" in shipped_names(Shelf.MANIFESTS)
