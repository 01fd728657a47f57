"""Segmenting: the label map lies on the input's own grid, whatever that is; a bad study stops no other."""

import numpy as np
import pytest
import torch

import medseg
from medseg import batch
from medseg.batch import segment_all
from medseg.dicom.write import write_series
from medseg.errors import DeviceError, GridError, InputError, UsageError
from medseg.nifti import read_nifti, write_nifti
from medseg.study import nifti_study
from medseg.volume import Volume
from tests.builders import save_tiny_model, tiny_case, tiny_package
from tests.dicom.one import read_folder

OBLIQUE = np.array([[0.9, -0.3, 0.1, -40], [0.35, 0.9, 0.2, 12], [-0.1, -0.2, 1.4, 88], [0, 0, 0, 1.0]])
AFFINES = {
    "straight": np.diag([1.5, 1.5, 2.0, 1.0]),
    "LPS, anisotropic": np.array([[-0.8, 0, 0, 90], [0, -0.8, 0, 70], [0, 0, 5, -300], [0, 0, 0, 1.0]]),
    "sagittal": np.array([[0, 0, 2.2, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]),
    "sheared": OBLIQUE,
}


def find_studies(inputs, channels=1):
    """Find the studies for a tiny model of so many channels."""
    package = tiny_package()
    return batch.find_studies(inputs, package.model_copy(update={"modalities": ("MR",) * channels}))


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
    with pytest.raises(GridError, match="resample it onto that grid"):
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
    assert len(find_studies([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "scan.nii.gz"])) == 2
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


def test_two_series_without_a_uid_get_label_maps_of_their_own(model, image, tmp_path):
    import pydicom

    for number in range(2):
        volume = Volume(np.round(image.array) + 100 + number, AFFINES["LPS, anisotropic"], modality="MR")
        for file in write_series(volume, tmp_path / f"study_{number}", identity=f"{number}"):
            header = pydicom.dcmread(file)
            header.SeriesInstanceUID = ""
            header.save_as(file)
    studies = find_studies([tmp_path / "study_0", tmp_path / "study_1"])
    outcomes = segment_all(medseg.load_model(model), studies, tmp_path / "out")
    assert len({o.segmentation.output for o in outcomes}) == 2
    assert "series-uid-missing" in str(outcomes[0].segmentation.findings[0])


def test_the_same_series_twice_is_refused_the_second_time(model, image, tmp_path):
    volume = Volume(np.round(image.array) + 100, AFFINES["LPS, anisotropic"], modality="MR")
    for name in ("a", "b"):
        write_series(volume, tmp_path / name, identity="same")
    outcomes = segment_all(
        medseg.load_model(model), find_studies([tmp_path / "a", tmp_path / "b"]), tmp_path / "out"
    )
    assert outcomes[0].segmentation
    assert "another study of this batch" in str(outcomes[1].error)


@pytest.mark.parametrize(
    "names", [("p0001", "p0002"), ("x_0001", "x_0002"), ("x_0000", "x_0001", "x_0002"), ("a", "b")]
)
def test_files_that_are_not_the_channels_of_one_case_are_refused(names, image, tmp_path):
    for name in (*names, "good_0000", "good_0001"):
        write_nifti(tmp_path / f"{name}.nii.gz", image)
    studies = find_studies([tmp_path], channels=2)
    good = [study for study in studies if not study.problem]
    assert [[file.name for file in study.files] for study in good] == [["good_0000.nii.gz", "good_0001.nii.gz"]]
    assert "name each channel's file so" in str(next(study.problem for study in studies if study.problem))


def test_a_channel_may_be_missing_where_the_model_was_trained_for_that(image, tmp_path):
    package = save_tiny_model(tmp_path / "m")
    spec = package.network.model_copy(update={"in_channels": 4})
    flagged = package.preprocessing.model_copy(update={"channel_flags": True})
    changes = {"modalities": ("MR", "MR"), "network": spec, "preprocessing": flagged}
    two = package.model_copy(update=changes)
    two.save(tmp_path / "m", {"fold_0": spec.build().state_dict()})
    for name in ("x_0000", "x_0001", "y_0001", "z_0002"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image)
    studies = batch.find_studies([tmp_path / "in"], two)
    assert [(study.present, bool(study.problem)) for study in studies] == [
        ((), False), ((False, True), False), ((), True),
    ]  # fmt: skip
    segmenter = medseg.load_model(tmp_path / "m")
    outcomes = segment_all(segmenter, studies, tmp_path / "out")
    assert [o.segmentation.output.name for o in outcomes[:2]] == ["x.nii.gz", "y.nii.gz"]
    labels = read_nifti(outcomes[1].segmentation.output).array
    assert np.array_equal(labels, segmenter.segment([None, image]).array)


@pytest.mark.parametrize("size_mm", [1e3, 1e6])
def test_a_voxel_size_in_a_wrong_unit_stops_no_other_study(model, image, tmp_path, size_mm):
    write_nifti(tmp_path / "in" / "a.nii.gz", Volume(image.array, np.diag([size_mm, size_mm, size_mm, 1])))
    write_nifti(tmp_path / "in" / "b.nii.gz", image)
    write_nifti(tmp_path / "in" / "._b.nii.gz", image)  # what macOS leaves beside a file
    outcomes = segment_all(medseg.load_model(model), find_studies([tmp_path / "in"]), tmp_path / "out")
    assert "check the unit of the voxel size" in str(outcomes[0].error)
    assert [o.error is None for o in outcomes] == [False, True]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")],
)
def test_a_study_that_does_not_fit_into_memory_stops_no_other(model, image, tmp_path, monkeypatch, error):
    for name in ("a", "b"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image)
    segmenter = medseg.load_model(model)
    real, calls = segmenter.segment, []

    def first_fails(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(segmenter, "segment", first_fails)
    outcomes = segment_all(segmenter, find_studies([tmp_path / "in"]), tmp_path / "out")
    assert (outcomes[0].error.code, outcomes[0].error.exit_status) == ("MEMORY", 4)
    assert outcomes[1].segmentation


def test_a_model_of_any_modality_takes_any(image, tmp_path):
    save_tiny_model(tmp_path, modality="OT")
    segmenter = medseg.load_model(tmp_path)
    assert segmenter.segment(Volume(image.array, image.affine, modality="CT")).grid.difference(image.grid) is None


def test_an_oblique_series_with_rounded_tags_stays_on_the_separable_path():
    from medseg.data.resample import GridMap
    from medseg.data.spacing import spaced_grid
    from medseg.volume import Grid

    rng = np.random.default_rng(0)
    for _ in range(50):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        row, column, _ = np.round(turn.T, 4)  # as a scanner writes ImageOrientationPatient
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = row, column
        affine[:3, 2] = np.round(59 * 3 * turn[:, 2], 3) / 59  # and ImagePositionPatient of the last slice
        native = Grid((256, 256, 60), affine)
        assert GridMap(spaced_grid(native, (1.0, 1.0, 1.0)), native).target_axes == (0, 1, 2)
