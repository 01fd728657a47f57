"""The demo from end to end, with a training too short to be good."""

import csv

import numpy as np
import pytest

from medseg.cli import main
from medseg.nifti import read_nifti
from tests.dicom.one import read_folder


@pytest.mark.slow
def test_demo_leaves_what_it_says(tmp_path, capsys):
    folder = tmp_path / "demo"
    with pytest.raises(SystemExit) as caught:
        main(["demo", str(folder), "--budget", "25s"])
    assert not caught.value.code
    assert "Done in" in capsys.readouterr().out
    mask = read_nifti(folder / "mask.nii.gz")
    series = read_folder(folder / "data" / "dicom" / "torso_020")
    assert mask.grid.difference(series.grid) is None
    assert mask.array.dtype == np.uint8
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert len(rows) == 8
    assert (folder / "overlay.png").stat().st_size > 10_000
    assert (folder / "run" / "model" / "model.json").is_file()
