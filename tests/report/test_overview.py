"""Pictures of a mask: what they show, that they say what they are not for, and what they cost."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from matplotlib.image import imread

from medseg.errors import GridError
from medseg.labels import Label, LabelMap, LabelSet
from medseg.report.overlay import overlay_figure
from medseg.report.overview import NOTICE, overview, plane_pictures
from medseg.report.slices import centre_of
from medseg.volume import Volume

RED = LabelSet((Label(index=1, name="block", color="#ff0000"),))
SHAPE = (40, 30, 20)


def images(shape: tuple[int, int, int] = SHAPE, block: slice = slice(4, 12)) -> tuple[Volume, LabelMap]:
    array = np.zeros(shape, dtype=np.uint8, order="F")
    array[block, 5:11, 3:9] = 1  # patient's left, as i grows to the right
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    return Volume(np.zeros(shape, dtype=np.float32, order="F"), affine), LabelMap(Volume(array, affine), RED)


def redness(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(pixels.astype(int), 2, 0)
    return (red > green + 40) & (red > blue + 40)


def test_each_plane_is_a_picture_of_its_own_and_all_are_one() -> None:
    image, labels = images()
    planes = plane_pictures(image, labels)
    assert [picture.name for picture in planes] == ["axial", "coronal", "sagittal"]
    for picture in (*planes, overview(image, labels)):
        rows, columns, colours = picture.pixels.shape
        assert (columns, colours, picture.pixels.dtype) == (1500, 3, np.uint8)
        assert rows > 300
        assert redness(picture.pixels).any()


def test_the_left_of_the_patient_is_on_the_right_of_the_picture() -> None:
    image, labels = images()
    axial, coronal, _ = plane_pictures(image, labels)
    for picture in (axial, coronal):
        columns = np.nonzero(redness(picture.pixels[100:-80]))[1]
        assert columns.mean() > picture.pixels.shape[1] / 2


def test_the_area_drawn_is_that_of_the_slice_through_the_centre() -> None:
    image, labels = images()
    for picture, (wide, tall), (whole_wide, whole_tall) in zip(
        plane_pictures(image, labels),
        [(8, 6), (8, 6), (6, 6)],
        [(40, 30), (40, 20), (30, 20)],
        strict=True,
    ):
        rows, columns = np.nonzero(redness(picture.pixels[100:-80]))
        width = np.ptp(columns) + 1
        height = np.ptp(rows) + 1
        assert width / height == pytest.approx(wide / tall, rel=0.03)
        scale = min(1455 / whole_wide, 1200 / whole_tall)
        assert width / scale == pytest.approx(wide, rel=0.03)


def test_the_notice_is_burnt_in_with_the_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = images()
    plain = overview(image, labels).pixels
    assert not np.array_equal(overview(image, labels, "torso").pixels, plain)
    titles = []

    def spy(*args, title: str, **options):
        titles.append(title)
        return overlay_figure(*args, title=title, **options)

    monkeypatch.setattr("medseg.report.overview.overlay_figure", spy)
    overview(image, labels, "torso " + 100 * "x")
    plane_pictures(image, labels)
    assert len(titles) == 4
    assert all(NOTICE in title.lower() for title in titles)
    assert max(map(len, titles)) < 80
    without = np.asarray(plain)[:50]
    assert (without > 150).sum() > 500  # letters on the dark ground above the slices


def test_the_png_holds_the_same_pixels_and_the_same_bytes_each_time() -> None:
    image, labels = images()
    first, second = overview(image, labels), overview(image, labels)
    assert first.png == second.png
    decoded = np.rint(imread(io.BytesIO(first.png), format="png") * 255).astype(np.uint8)
    assert np.array_equal(decoded[:, :, :3], first.pixels)
    assert b"matplotlib" not in first.png.lower()


def test_an_empty_mask_and_a_single_slice_can_be_drawn() -> None:
    image, labels = images((30, 30, 1), slice(0, 0))
    assert not redness(overview(image, labels).pixels).any()
    assert len(plane_pictures(image, labels)) == 3


def test_a_mask_of_another_grid_is_refused() -> None:
    image, _ = images()
    with pytest.raises(GridError, match="grid of the image"):
        overview(image, images((40, 30, 21))[1])


def test_the_centre_is_found_without_a_copy_of_the_volume() -> None:
    array = np.zeros((200, 150, 100), dtype=np.uint8, order="F")
    array[20:60, 30:90, 71:75] = 1
    view = array.transpose(2, 0, 1)[::-1]
    tracemalloc.start()
    assert centre_of([array]) == (39, 59, 72)  # the first of two slices that are as near to the centroid
    assert centre_of([view]) == (26, 39, 59)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 10
