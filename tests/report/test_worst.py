"""The picture of a bad case: where the largest error is, and that prediction and reference can be told apart."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medseg.data.manifest import Case
from medseg.errors import GridError, InputError
from medseg.labels import Label, LabelMap, LabelSet
from medseg.nifti import write_nifti
from medseg.report.overlay import overlay_figure
from medseg.report.slices import display_axes, displayed, displayed_index
from medseg.report.worst import error_picture, largest_error
from medseg.volume import Grid, Volume
from tests.builders import LABELS, tiny_dataset

GREEN = LabelSet((Label(index=1, name="organ", color="#00ff00"),))


def test_a_blob_counts_more_than_a_long_border():
    wrong = np.zeros((40, 30, 20), dtype=bool)
    wrong[2, :, :] = True  # a sheet of 600 voxels
    wrong[20:27, 10:17, 8:13] = True  # a block of 245
    assert largest_error(wrong, (1.0, 1.0, 1.0)) == (23, 13, 10)


def test_depth_is_in_millimetres_as_scipy_measures_it():
    rng = np.random.default_rng(0)
    wrong = ndimage.gaussian_filter(rng.normal(size=(24, 20, 16)), 1.5) > 0.02
    wrong[[0, -1]] = wrong[:, [0, -1]] = False
    wrong[:, :, [0, -1]] = False
    for spacing in ((1.0, 1.0, 1.0), (0.5, 1.0, 4.0)):
        depth = ndimage.distance_transform_edt(wrong, sampling=spacing)
        assert depth[largest_error(wrong, spacing)] == pytest.approx(depth.max())


def test_nothing_wrong_is_nowhere():
    assert largest_error(np.zeros((3, 3, 3), dtype=bool), (1.0, 1.0, 1.0)) is None


def test_the_index_of_a_voxel_in_display_order():
    shape = (4, 5, 6)
    for signs in ((1, 1, 1), (-1, -1, 1), (1, -1, -1)):
        for order in ((0, 1, 2), (2, 0, 1)):
            affine = np.zeros((4, 4))
            affine[list(order), [0, 1, 2]] = signs
            affine[3, 3] = 1
            grid = Grid(shape, affine)
            array = np.arange(np.prod(shape)).reshape(shape)
            view = displayed(array, grid)
            assert view.shape == tuple(shape[axis] for axis in display_axes(grid))
            assert view[displayed_index((3, 1, 2), grid)] == array[3, 1, 2]


def drawn(predicted, reference):
    """Pixels of the axial panel: prediction as an area, reference as a line."""
    volume = [
        Volume(np.asfortranarray(array), np.eye(4)) for array in (np.zeros(predicted.shape), predicted, reference)
    ]
    figure = overlay_figure(
        volume[0], LabelMap(volume[1], GREEN), LabelMap(volume[2], GREEN), centre=(15, 15, 5), outlined=True
    )
    figure.canvas.draw()
    axes = next(axes for axes in figure.axes if axes.get_label() == "axial")
    box, pixels = axes.get_window_extent(), np.asarray(figure.canvas.buffer_rgba()).astype(int)
    height = pixels.shape[0]
    panel = pixels[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)]
    assert len(figure.axes) == 3
    return panel[..., 1] - panel[..., 0]  # greenness


def test_the_prediction_is_an_area_and_the_reference_a_line():
    block, nothing = np.zeros((30, 30, 10), dtype=np.uint8), np.zeros((30, 30, 10), dtype=np.uint8)
    block[5:25, 5:25, 2:8] = 1
    middle = (slice(40, 60), slice(40, 60))  # percent of the panel: well inside the block
    for predicted, reference, inside, most in ((block, nothing, True, 120), (nothing, block, False, 256)):
        green = drawn(predicted, reference)
        rows, columns = (
            slice(size * span.start // 100, size * span.stop // 100)
            for size, span in zip(green.shape, middle, strict=True)
        )
        assert bool(green[rows, columns].mean() > 40) is inside
        assert green.max() <= most
        assert green.max() > 60


def test_the_picture_is_cut_to_the_labels_and_a_margin(tmp_path):
    dataset = tiny_dataset(tmp_path, cases=3)
    case = dataset.cases[0]
    png = error_picture(case, case.label, dataset, LABELS)
    assert Image.open(io.BytesIO(png)).format == "PNG"
    assert error_picture(case, case.label, dataset, LABELS) == png


def test_slices_go_through_the_error(tmp_path, monkeypatch):
    size = (90, 80, 70)
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    reference = np.zeros(size, dtype=np.uint8, order="F")
    reference[40:60, 30:50, 30:40] = 1
    predicted = reference.copy(order="F")
    predicted[44:49, 34:39, 32:37] = 0
    for name, array in (("image", reference * 100.0), ("label", reference), ("predicted", predicted)):
        write_nifti(tmp_path / f"{name}.nii.gz", Volume(np.asfortranarray(array), affine))
    seen = {}

    def spy(image, labels, reference, **how):
        seen.update(how, image=image)
        return overlay_figure(image, labels, reference, **how)

    monkeypatch.setattr("medseg.report.worst.overlay_figure", spy)
    dataset = tiny_dataset(tmp_path / "tiny", cases=3)
    case = Case("a", "a", (tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz")
    error_picture(case, tmp_path / "predicted.nii.gz", dataset, LABELS)
    # 20 mm around the labels: 20 voxels along i and j, 10 along k
    assert seen["image"].grid.shape == (60, 60, 30)
    world = seen["image"].grid.world(np.array(seen["centre"]))
    assert world == pytest.approx(affine[:3, :3] @ (46, 36, 34))
    assert seen["image"].modality == "MR"


def test_a_prediction_of_another_grid_or_no_reference_is_refused(tmp_path):
    dataset = tiny_dataset(tmp_path, cases=3)
    case = dataset.cases[0]
    write_nifti(tmp_path / "other.nii.gz", Volume(np.zeros((4, 4, 4), np.uint8, order="F"), np.eye(4)))
    with pytest.raises(GridError, match="prediction: expected the grid of the image"):
        error_picture(case, tmp_path / "other.nii.gz", dataset, LABELS)
    with pytest.raises(InputError, match="found no such file"):
        error_picture(case, tmp_path / "none.nii.gz", dataset, LABELS)
    with pytest.raises(InputError, match="a reference"):
        error_picture(replace(case, label=None), case.label, dataset, LABELS)
