"""The overlay picture: every voxel where a radiologist looks for it, whatever the orientation of the file."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medseg.errors import GridError
from medseg.labels import Label, LabelMap, LabelSet
from medseg.nifti import read_nifti
from medseg.report.overlay import overlay_figure, write_overlay
from medseg.report.slices import PLANES, centre_of, cut, displayed, grey_window
from medseg.volume import Volume

SHAPE = (30, 40, 20)  # right, front, head
SPACING_MM = (2.0, 1.0, 3.0)
BLOCK = (slice(3, 9), slice(26, 36), slice(12, 18))  # on the patient's left, in front, towards the head
RED = LabelSet((Label(index=1, name="block", color="#ff0000"), Label(index=2, name="rest", color="#00ff00")))
ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "SLA", "AIL"]


def volume(array: NDArray[np.generic], modality: str | None = None) -> Volume:
    return Volume(array, np.diag([*SPACING_MM, 1.0]), modality)


def reoriented(given: Volume, orientation: str) -> Volume:
    """The same voxels at the same millimetres, stored along other axes."""
    order = [next(w for w, pair in enumerate(("RL", "AP", "SI")) if code in pair) for code in orientation]
    affine, array = given.affine[:, [*order, 3]].copy(), given.array.transpose(order)
    for axis, code in enumerate(orientation):
        if code in "LPI":
            affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
            affine[:, axis] *= -1
            array = np.flip(array, axis)
    return Volume(array, affine, given.modality)


def block_map() -> LabelMap:
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[BLOCK] = 1
    return LabelMap(volume(array), RED)


def rendered(figure: Figure) -> NDArray[np.int64]:
    """Pixels (row, column, red green blue) of the figure."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(np.int64)  # type: ignore[attr-defined]


def panel(figure: Figure, name: str) -> NDArray[np.int64]:
    """Pixels of one panel, first row on top."""
    axes = next(axes for axes in figure.axes if axes.get_label() == name)
    box = axes.get_window_extent()
    pixels = rendered(figure)
    height = pixels.shape[0]
    return pixels[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)]


def red_centre(pixels: NDArray[np.int64]) -> tuple[float, float]:
    """Where the middle of the red pixels lies, from 0 (left, top) to 1 (right, bottom)."""
    rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1] > 60)
    return (columns.min() + columns.max() + 1) / 2 / pixels.shape[1], (
        rows.min() + rows.max() + 1
    ) / 2 / pixels.shape[0]


def test_the_patients_left_is_on_the_right_and_front_and_head_are_up() -> None:
    figure = overlay_figure(volume(np.zeros(SHAPE)), block_map())
    # The block's middle is at (6, 31, 15) of (30, 40, 20), from the right, back and feet... as fractions
    # of the way to the patient's right 0.2, to the front 0.775 and to the head 0.75.
    assert red_centre(panel(figure, "axial")) == pytest.approx((0.8, 0.225), abs=0.01)
    assert red_centre(panel(figure, "coronal")) == pytest.approx((0.8, 0.25), abs=0.01)
    assert red_centre(panel(figure, "sagittal")) == pytest.approx((0.225, 0.25), abs=0.01)


def test_panels_are_as_wide_and_high_as_the_patient() -> None:
    figure = overlay_figure(volume(np.zeros(SHAPE)), block_map())
    for name, width_mm, height_mm in (("axial", 60, 40), ("coronal", 60, 60), ("sagittal", 40, 60)):
        height, width, _ = panel(figure, name).shape
        assert width / height == pytest.approx(width_mm / height_mm, rel=0.02)
        rows, columns = np.nonzero(panel(figure, name)[..., 0] - panel(figure, name)[..., 1] > 60)
        block_mm = {"axial": (12, 10), "coronal": (12, 18), "sagittal": (10, 18)}[name]
        assert np.ptp(columns) / width * width_mm == pytest.approx(block_mm[0], abs=1.0)
        assert np.ptp(rows) / height * height_mm == pytest.approx(block_mm[1], abs=1.0)


@pytest.mark.parametrize("orientation", ORIENTATIONS[1:])
def test_the_picture_does_not_depend_on_how_the_file_is_stored(orientation: str) -> None:
    rng = np.random.default_rng(0)
    image, labels = volume(rng.normal(size=SHAPE)), block_map()
    turned = LabelMap(reoriented(labels.volume, orientation), RED)
    assert turned.grid.orientation == orientation
    expected = rendered(overlay_figure(image, labels))
    assert np.array_equal(rendered(overlay_figure(reoriented(image, orientation), turned)), expected)


def test_display_order_goes_to_the_left_the_back_and_the_feet() -> None:
    given = volume(np.arange(np.prod(SHAPE)).reshape(SHAPE))
    for orientation in ORIENTATIONS:
        turned = reoriented(given, orientation)
        view = displayed(turned.array, turned.grid)
        assert view.shape == SHAPE
        assert view[0, 0, 0] == given.array[-1, -1, -1]
        assert view[-1, 0, 0] == given.array[0, -1, -1]
        assert view[0, -1, 0] == given.array[-1, 0, -1]
        assert view[0, 0, -1] == given.array[-1, -1, 0]


def test_an_oblique_image_is_shown_along_its_nearest_axes() -> None:
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    straight = block_map()
    labels = LabelMap(Volume(straight.array, turn @ straight.affine), RED)
    figure = overlay_figure(Volume(np.zeros(SHAPE), turn @ straight.affine), labels)
    assert red_centre(panel(figure, "axial")) == pytest.approx((0.8, 0.225), abs=0.01)


def test_the_slices_go_through_the_labelled_region() -> None:
    two = np.zeros((20, 9, 9), dtype=np.uint8)
    two[2:4, 4, 4] = two[15:19, 5, 4] = 1  # the centroid along i, 12.17, lies in the gap: 15 is nearest
    assert centre_of([two]) == (15, 5, 4)
    assert centre_of([np.zeros((20, 9, 9)), two]) == (15, 5, 4)
    assert centre_of([np.zeros((20, 9, 8))]) == (10, 4, 4)
    for plane in PLANES:
        assert cut(two, plane, centre_of([two])).any()


def test_ct_is_shown_in_a_soft_tissue_window_and_the_rest_by_percentiles() -> None:
    values = np.linspace(-1000, 3000, int(np.prod(SHAPE))).reshape(SHAPE)
    assert grey_window(volume(values, "CT")) == (-160.0, 240.0)
    assert grey_window(volume(values, "MR")) == pytest.approx((-960.0, 2960.0))
    assert grey_window(volume(np.full(SHAPE, 7.0))) == (7.0, 8.0)
    spoilt = values.copy()
    spoilt[0, 0, 0] = np.nan
    assert np.isfinite(grey_window(volume(spoilt))).all()
    nothing = LabelMap(volume(np.zeros(SHAPE, dtype=np.uint8)), RED)
    for value, grey in ((-160.0, 0), (40.0, 128), (240.0, 255)):
        pixels = panel(overlay_figure(volume(np.full(SHAPE, value), "CT"), nothing), "axial")
        assert np.median(pixels) == pytest.approx(grey, abs=1)


def test_the_legend_names_the_labels_that_are_seen() -> None:
    labels = block_map()
    figure = overlay_figure(volume(np.zeros(SHAPE)), labels)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["block"]
    nothing = LabelMap(volume(np.zeros(SHAPE, dtype=np.uint8)), RED)
    assert not overlay_figure(volume(np.zeros(SHAPE)), nothing).legends


def test_a_reference_is_a_second_row_of_the_same_slices() -> None:
    labels = block_map()
    other = np.zeros(SHAPE, dtype=np.uint8)
    other[BLOCK] = 1
    other[20:26, 4:14, 12:18] = 1
    figure = overlay_figure(volume(np.zeros(SHAPE)), labels, LabelMap(volume(other), RED), title="both")
    names = [axes.get_label() for axes in figure.axes]
    assert names == ["axial", "coronal", "sagittal", "reference axial", "reference coronal", "reference sagittal"]
    above, below = panel(figure, "axial"), panel(figure, "reference axial")
    assert above.shape == below.shape
    assert red_centre(above) == pytest.approx((0.8, 0.225), abs=0.01)
    left_half = below[:, : below.shape[1] // 2]
    assert red_centre(left_half) == pytest.approx((2 * (1 - 23 / 30), 1 - 9 / 40), abs=0.02)


def test_a_label_map_of_another_grid_is_refused() -> None:
    labels = block_map()
    moved = LabelMap(dataclasses.replace(labels.volume, affine=np.diag([2.0, 1.0, 3.1, 1.0])), RED)
    with pytest.raises(GridError, match="grid of the image"):
        overlay_figure(volume(np.zeros(SHAPE)), labels, moved)


@pytest.mark.parametrize("name", ["_block", "$x^{$y", "a$b$_{", "$a$", "50 % & #"])
def test_names_are_no_formulas_and_none_is_left_out(name: str) -> None:
    labels = LabelMap(block_map().volume, LabelSet((Label(index=1, name=name, color="#ff0000"),)))
    figure = overlay_figure(volume(np.zeros(SHAPE)), labels, title=name)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [name]
    assert rendered(figure).shape[0] > 0
    (text,) = legend.get_texts()
    assert text.get_window_extent().width > 10  # it is drawn


def test_a_single_slice_and_a_long_body_can_be_drawn() -> None:
    for shape in ((30, 40, 1), (5, 4, 300)):
        array = np.ones(shape, dtype=np.uint8)
        figure = overlay_figure(volume(array), LabelMap(volume(array), RED))
        width, height = figure.get_size_inches()
        assert rendered(figure).shape[1] == round(width * figure.dpi)
        assert height < 6.0


def test_a_png_is_written_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_overlay(tmp_path / name, volume(np.zeros(SHAPE)), block_map(), title="case")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    first = (tmp_path / "a.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert first == (tmp_path / "b.png").read_bytes()


def test_pyplot_is_not_imported() -> None:
    code = "import medseg.report.overlay, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.data
def test_the_liver_of_a_real_ct_is_on_the_left_of_the_picture(data_root: Path, tmp_path: Path) -> None:
    image = dataclasses.replace(read_nifti(data_root / "ct/example_ct_sm.nii.gz"), modality="CT")
    segmentation = read_nifti(data_root / "ct/example_seg.nii.gz")
    liver = LabelMap(segmentation, LabelSet((Label(index=5, name="liver", color="#ff0000"),)))
    across, _ = red_centre(panel(overlay_figure(image, liver), "axial"))
    assert across < 0.45
    write_overlay(tmp_path / "ct.png", image, liver)
    assert (tmp_path / "ct.png").stat().st_size > 50_000
