"""The wheel holds what a user needs: built, installed outside the checkout, run there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"medseg"}
    for folder in ("configs", "data_manifests", "pipelines"):
        shipped = {Path(n).name for n in names if n.startswith(f"medseg/_shipped/{folder}/")}
        assert shipped == {p.name for p in (ROOT / folder).iterdir()}
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_runs_outside_the_checkout(wheel, tmp_path):
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(target), str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(target), "COLUMNS": "200"}

    def output_of(*command: object) -> str:
        return subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    where = output_of(sys.executable, "-c", "import medseg; print(medseg.__file__)")
    assert where.startswith(str(target))
    listed = output_of(target / "bin" / "medseg", "list")
    for name in ("torso_unet3d", "hippocampus", "unet", "ce_dice"):
        assert name in listed
