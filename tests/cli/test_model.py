"""``medseg model``: bring in nnU-Net's models, see what a package holds."""

import re

import pytest

from medseg.cli import main
from medseg.files import sha256_of
from medseg.nifti import read_nifti, write_nifti
from tests.builders import save_tiny_model, tiny_case
from tests.nnunet.frozen import Frozen


@pytest.fixture
def medseg(capsys, monkeypatch):
    """Run a command; return (exit status, what it printed, one line a line)."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(caught.value.code or 0), re.sub(r"[\s│]+", " ", out + err)

    return run


def test_import_show_segment(medseg, tmp_path):
    def one_channel(dataset):
        dataset["channel_names"] = {"0": "T1"}

    def one_scheme(plans):
        for key in ("normalization_schemes", "use_mask_for_norm"):
            plans["configurations"]["3d_fullres"][key] = plans["configurations"]["3d_fullres"][key][:1]

    frozen = Frozen("plain_3d_old")
    first = "encoder.stages.0.0.convs.0.conv.weight"
    weights = frozen.weights | {first: frozen.weights[first][:, :1]}
    changes = {"dataset": one_channel, "plans": one_scheme, "network_weights": weights}
    frozen.results(tmp_path / "Dataset901_Frozen", folds=(0, 1), **changes)
    model = tmp_path / "model"
    status, text = medseg(
        "model", "import-nnunet", tmp_path / "Dataset901_Frozen", "-o", model, "--folds", "1", "--name", "mine"
    )
    assert status == 0
    assert f"Written: {model}" in text
    status, text = medseg("model", "show", model)
    assert status == 0
    for part in ("mine", "modalities MR", "unet 3-D 4-8-10", "folds 1", "1 core", "2 rim", "fold 1, 1000 epochs"):
        assert part in text
    assert sha256_of(model / "model.json")[:12] in text
    write_nifti(tmp_path / "scan.nii.gz", tiny_case(0)[0])
    status, text = medseg("segment", tmp_path / "scan.nii.gz", "-m", model, "-o", tmp_path / "mask.nii.gz")
    assert (status, "1 of 1 segmented" in text) == (0, True)
    assert read_nifti(tmp_path / "mask.nii.gz").grid.difference(tiny_case(0)[0].grid) is None


def test_what_cannot_be_imported(medseg, tmp_path):
    folder = Frozen("plain_2d").results(tmp_path)
    status, text = medseg("model", "import-nnunet", folder, "-o", tmp_path / "model", "--folds", "first")
    assert (status, "expected numbers such as 0,1,2, or all, found first" in text) == (2, True)
    status, text = medseg("model", "import-nnunet", folder, "-o", tmp_path / "model", "--folds", "0,7")
    assert (status, "checkpoint_final.pth in fold_7" in text) == (5, True)
    status, text = medseg("model", "import-nnunet", folder, "-o", tmp_path / "model", "--checkpoint", "best")
    assert (status, "checkpoint_best.pth" in text) == (5, True)
    status, text = medseg("model", "import-nnunet", tmp_path / "nowhere", "-o", tmp_path / "model")
    assert (status, "found no such folder" in text) == (5, True)
    assert not (tmp_path / "model").exists()


def test_show_a_model_that_medseg_trained(medseg, tmp_path):
    save_tiny_model(tmp_path / "run" / "model")
    status, text = medseg("model", "show", tmp_path / "run")
    assert status == 0
    for part in ("tiny", "imported from -", "1.5 x 1.5 x 2 mm", "tiles of 16 x 16 x 16", "1 ball", "3 box"):
        assert part in text
    status, text = medseg("model", "show", tmp_path)
    assert (status, "expected a model folder with model.json" in text) == (5, True)


def test_help_teaches(medseg):
    for words in ([], ["import-nnunet"], ["show"]):
        status, text = medseg("model", *words, "--help")
        assert (status, "Usage: " in text) == (0, True)
    assert "Example" in medseg("model", "import-nnunet", "--help")[1]
