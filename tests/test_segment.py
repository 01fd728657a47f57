"""Segmenting: the label map lies on the input's own grid, whatever that is; a bad study stops no other."""

import numpy as np
import pytest
import torch

import medseg
from medseg.batch import find_studies, segment_all
from medseg.dicom.read import read_folder
from medseg.dicom.write import write_series
from medseg.errors import DeviceError, GridError, InputError, UsageError
from medseg.nifti import read_nifti, write_nifti
from medseg.segment import nifti_study
from medseg.volume import Volume
from tests.builders import save_tiny_model, tiny_case

OBLIQUE = np.array([[0.9, -0.3, 0.1, -40], [0.35, 0.9, 0.2, 12], [-0.1, -0.2, 1.4, 88], [0, 0, 0, 1.0]])
AFFINES = {
    "straight": np.diag([1.5, 1.5, 2.0, 1.0]),
    "LPS, anisotropic": np.array([[-0.8, 0, 0, 90], [0, -0.8, 0, 70], [0, 0, 5, -300], [0, 0, 0, 1.0]]),
    "sagittal": np.array([[0, 0, 2.2, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]),
    "sheared": OBLIQUE,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder)
    return folder


@pytest.fixture
def image():
    return tiny_case(0)[0]


@pytest.mark.parametrize("kind", AFFINES)
def test_label_map_lies_on_the_grid_of_the_nifti_it_came_from(model, image, tmp_path, kind):
    write_nifti(tmp_path / "in" / "scan.nii.gz", Volume(image.array, AFFINES[kind]))
    given = read_nifti(tmp_path / "in" / "scan.nii.gz")
    segmenter = medseg.load_model(model, "cpu")
    (outcome,) = segment_all(segmenter, find_studies([tmp_path / "in"]), tmp_path / "out")
    written = read_nifti(outcome.segmentation.output)
    assert written.array.dtype == np.uint8
    assert written.array.shape == given.array.shape
    assert np.array_equal(written.affine, given.affine)
    assert set(np.unique(written.array)) <= {0, 1, 3}
    assert np.array_equal(written.array, segmenter.segment(given).array)
    assert sum(outcome.segmentation.volumes_ml.values()) == pytest.approx(
        (written.array > 0).sum() * given.grid.voxel_volume_ml
    )


def test_what_is_bright_is_found_where_it_lies(image, tmp_path):
    """A network that is a threshold on the z-score: the label map must be the threshold of the image."""
    package = save_tiny_model(tmp_path, channels=(4, 4))

    class Threshold(torch.nn.Module):
        def forward(self, x):
            return torch.cat((torch.zeros_like(x), x - 0.5, torch.full_like(x, -9.0)), dim=1)

    straight = Volume(image.array, AFFINES["LPS, anisotropic"])
    spaced = package.model_copy(
        update={"preprocessing": package.preprocessing.model_copy(update={"spacing_mm": ("keep",) * 3})}
    )
    got = medseg.Segmenter(spaced, [Threshold()], torch.device("cpu")).segment(straight)
    z = (image.array - image.array.mean()) / image.array.std()
    assert np.array_equal(got.array, np.where(z > 0.5, 1, 0))


def test_dicom_series_and_nifti_of_the_same_image_get_the_same_labels(model, image, tmp_path):
    volume = Volume(np.round(image.array) + 100, AFFINES["LPS, anisotropic"], modality="MR")
    write_series(volume, tmp_path / "series", identity="x")
    read = read_folder(tmp_path / "series")
    segmenter = medseg.load_model(model)
    (outcome,) = segment_all(segmenter, find_studies([tmp_path / "series"]), tmp_path / "out")
    written = read_nifti(outcome.segmentation.output)
    assert written.grid.difference(read.grid) is None
    assert written.grid.difference(volume.grid) is None
    assert np.array_equal(written.array, segmenter.segment(Volume(volume.array, volume.affine)).array)
    assert "PHANTOM" not in outcome.segmentation.output.name.upper()


def test_one_bad_file_among_many_is_refused_and_the_others_are_done(model, image, tmp_path):
    for name in ("a", "b", "c"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image)
    whole = (tmp_path / "in" / "b.nii.gz").read_bytes()
    (tmp_path / "in" / "b.nii.gz").write_bytes(whole[:-500])
    outcomes = segment_all(medseg.load_model(model), find_studies([tmp_path / "in"]), tmp_path / "out")
    assert [o.error is None for o in outcomes] == [True, False, True]
    assert "corrupt or truncated" in str(outcomes[1].error)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz"]


def test_channels_are_grouped_by_case_and_must_share_a_grid(tmp_path, image):
    package = save_tiny_model(tmp_path / "m")
    spec = package.network.model_copy(update={"in_channels": 2})
    two = package.model_copy(update={"modalities": ("MR", "MR"), "network": spec})
    two.save(tmp_path / "m", {"fold_0": spec.build().state_dict()})
    for name in ("x_0000", "x_0001", "y_0000", "y_0001"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image)
    studies = find_studies([tmp_path / "in"], channels=2)
    assert [[f.name for f in s.files] for s in studies] == [
        ["x_0000.nii.gz", "x_0001.nii.gz"],
        ["y_0000.nii.gz", "y_0001.nii.gz"],
    ]
    segmenter = medseg.load_model(tmp_path / "m")
    outcomes = segment_all(segmenter, studies, tmp_path / "out")
    assert [o.segmentation.output.name for o in outcomes] == ["x.nii.gz", "y.nii.gz"]
    moved = Volume(image.array, np.diag([1, 1, 1, 1.0]))
    with pytest.raises(GridError, match="resample one onto the other"):
        segmenter.segment([image, moved])
    with pytest.raises(InputError, match=r"expected 2 channel\(s\): MR, MR"):
        segmenter.segment(image)


def test_an_image_of_another_modality_is_refused(model, image):
    with pytest.raises(InputError, match="expected a MR image, as the model was trained on, found CT"):
        medseg.load_model(model).segment(Volume(image.array, image.affine, modality="CT"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_values_that_are_no_numbers_is_refused(model, image, value):
    array = image.array.copy(order="K")
    array[3, 4, 5] = value
    with pytest.raises(InputError, match="expected finite values"):
        medseg.load_model(model).segment(Volume(array, image.affine))


def test_folds_are_averaged(image, tmp_path):
    package = save_tiny_model(tmp_path)
    states = {}
    for n in range(2):
        torch.manual_seed(n)
        states[f"fold_{n}"] = package.network.build().state_dict()
    package.save(tmp_path, states)
    segmenter = medseg.load_model(tmp_path)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        both = torch.stack([network.eval()(x) for network in segmenter.networks])
        torch.testing.assert_close(segmenter._predict(x), both.mean(0))


def test_outputs_never_overwrite_inputs_or_one_another(model, image, tmp_path):
    for folder in ("a", "b"):
        write_nifti(tmp_path / folder / "scan.nii.gz", image)
    with pytest.raises(UsageError, match="2 inputs called scan"):
        find_studies([tmp_path / "a", tmp_path / "b"])
    study = nifti_study((tmp_path / "a" / "scan.nii.gz",))
    segmenter = medseg.load_model(model)
    with pytest.raises(UsageError, match="the input itself"):
        segment_all(segmenter, [study], tmp_path / "a")
    other = nifti_study((tmp_path / "b" / "scan.nii.gz",))
    with pytest.raises(UsageError, match="a folder for several studies"):
        segment_all(segmenter, [study, other], tmp_path / "x.nii.gz")


def test_cuda_asked_for_and_absent(model):
    if torch.cuda.is_available():
        pytest.skip("CUDA is present")
    with pytest.raises(DeviceError, match="use --device cpu"):
        medseg.load_model(model, "cuda")
    with pytest.raises(DeviceError, match="auto, cpu, cuda or cuda:N"):
        medseg.load_model(model, "gpu")
