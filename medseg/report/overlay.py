"""A picture of a label map on its image: axial, coronal and sagittal slices, coloured and outlined.

`medseg.report.slices` says which way up the slices are. All panels of a figure share one scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medseg.files import atomic_path
from medseg.labels import Label, LabelMap
from medseg.report.slices import (
    PLANES,
    Plane,
    centre_of,
    cut,
    display_axes,
    displayed,
    displayed_index,
    grey_window,
)
from medseg.volume import Volume, require_same_grid

_WIDTH_INCH = 10.0
_MOST_ROW_INCH = 4.6
_MOST_ROWS_INCH = 6.8
_MOST_SINGLE_INCH = 8.0
_MARGIN_INCH = 0.15
_GAP_INCH = 0.10
_TITLE_INCH = 0.30
_LINE_INCH = 0.22
_CHARACTER_INCH = 0.075
_SWATCH_INCH = 0.55
_DPI = 150
_THIN_INCH = 0.5
_FACE, _TEXT, _FAINT = "#0e1116", "#e3e7ec", "#b8c1cb"
_FILL_ALPHA = 0.34
_BAR_LENGTHS_MM = (200, 100, 50, 20, 10, 5, 2, 1)
_HALO = [withStroke(linewidth=1.6, foreground=(0, 0, 0, 0.7))]

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Scene:
    """What all panels share, in display order."""

    image: NDArray[Any]
    spacing_mm: tuple[float, ...]
    centre: tuple[int, ...]
    window: tuple[float, float]
    planes: Sequence[Plane]

    def size_mm(self, plane: Plane) -> tuple[float, float]:
        """Width and height of a panel."""
        sizes = [n * spacing for n, spacing in zip(self.image.shape, self.spacing_mm, strict=True)]
        return sizes[plane.across], sizes[plane.down]


@dataclass(frozen=True)
class _Row:
    """One label map: its heading, its values in display order, and the labels that its slices show."""

    name: str
    array: NDArray[Any]
    labels: list[Label]
    outline: NDArray[Any] | None = None  # drawn as lines, and `array` as areas without lines


def overlay_figure(
    image: Volume,
    labels: LabelMap,
    reference: LabelMap | None = None,
    title: str = "",
    *,
    centre: Sequence[int] | None = None,
    outlined: bool = False,
    planes: Sequence[Plane] = PLANES,
) -> Figure:
    """Draw axial, coronal and sagittal slices through the centre of the labelled region, or through a voxel.

    The grey window is that of soft tissue (level 40 HU, width 400 HU) where the image's modality is CT, else it
    goes from the 1st to the 99th percentile. Values that the label set does not name are not drawn. The legend
    names the labels that the slices show.

    Args:
        image: The image.
        labels: Label map on its grid.
        reference: A second label map on the same grid, drawn as a second row of the same slices.
        title: Heading; no patient data.
        centre: Index (i, j, k) of the voxel that the slices go through.
        outlined: Draw the reference as lines over the areas of the first label map, not as a second row.
        planes: All three, or one.

    Returns:
        A figure on an Agg canvas; its axes are labelled ``axial``, ``coronal`` and ``sagittal``, in the second
        row ``reference axial`` and so on.

    Raises:
        GridError: A label map does not lie on the image's grid.
    """
    maps = {"": labels} if reference is None else {"prediction": labels, "reference": reference}
    for label_map in maps.values():
        where = label_map.volume.source or "label map"
        require_same_grid(image.grid, label_map.grid, owner="the image", where=where)
    arrays = [displayed(label_map.array, image.grid) for label_map in maps.values()]
    scene = _Scene(
        image=displayed(image.array, image.grid),
        spacing_mm=tuple(image.spacing_mm[axis] for axis in display_axes(image.grid)),
        centre=centre_of(arrays) if centre is None else displayed_index(centre, image.grid),
        window=grey_window(image),
        planes=planes,
    )
    if outlined:
        return _figure(scene, [_Row("", arrays[0], _shown(scene, arrays, labels), arrays[-1])], title)
    rows = [
        _Row(name, array, _shown(scene, [array], label_map))
        for (name, label_map), array in zip(maps.items(), arrays, strict=True)
    ]
    return _figure(scene, rows, title)


def write_overlay(
    path: Path, image: Volume, labels: LabelMap, reference: LabelMap | None = None, title: str = ""
) -> None:
    """Write `overlay_figure` as a PNG file, atomically; the same input gives the same bytes.

    Args:
        path: The file to write.
        image: The image.
        labels: Label map on its grid.
        reference: A second label map on the same grid, drawn as a second row.
        title: Heading; no patient data.

    Raises:
        GridError: A label map does not lie on the image's grid.
        StorageError: The file cannot be written.
    """
    figure = overlay_figure(image, labels, reference, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _shown(scene: _Scene, arrays: list[NDArray[Any]], labels: LabelMap) -> list[Label]:
    values = np.concatenate(
        [np.unique(cut(array, plane, scene.centre)) for array in arrays for plane in scene.planes]
    )
    return [label for label in labels.labels if label.index in values]


def _figure(scene: _Scene, rows: list[_Row], title: str) -> Figure:
    legend = list({label.name: label for row in rows for label in row.labels}.values())
    columns, lines = _legend_shape(legend)
    boxes, row_inch = _boxes_inch(scene, min(_MOST_ROW_INCH, _MOST_ROWS_INCH / len(rows)))
    head = _TITLE_INCH if rows[0].name else 0.0
    top = _MARGIN_INCH + (_TITLE_INCH if title else 0.0)
    height = top + len(rows) * (head + row_inch + _MARGIN_INCH) + lines * _LINE_INCH
    figure = Figure(figsize=(_WIDTH_INCH, height), dpi=_DPI, facecolor=_FACE)
    FigureCanvasAgg(figure)
    heading: dict[str, Any] = {"color": _TEXT, "size": 13, "weight": "bold", "ha": "center", "va": "center"}
    figure.text(0.5, 1 - top / 2 / height, title, parse_math=False, **heading)
    for number, row in enumerate(rows):
        row_top = top + number * (head + row_inch + _MARGIN_INCH) + head
        figure.text(
            boxes[0][0] / _WIDTH_INCH, 1 - (row_top - 0.08) / height, row.name, color=_TEXT, size=10, va="bottom"
        )
        for plane, (x, y, width, tall) in zip(scene.planes, boxes, strict=True):
            bottom = height - (row_top + y + tall)
            place = (x / _WIDTH_INCH, bottom / height, width / _WIDTH_INCH, tall / height)
            axes = figure.add_axes(place, label=f"{row.name} {plane.name}".removeprefix("prediction").strip())
            _draw_panel(axes, scene, plane, row)
    _draw_legend(figure, legend, columns)
    return figure


def _boxes_inch(scene: _Scene, most_inch: float) -> tuple[list[Rectangle], float]:
    """Lay out a row of at most `most_inch`: x, y from its top left, width and height of each panel; its height.

    Side by side, or, where both fit beside the axial slice, the coronal slice above the sagittal one.
    """
    if len(scene.planes) == 1:
        wide, tall = scene.size_mm(scene.planes[0])
        scale = min((_WIDTH_INCH - 2 * _MARGIN_INCH) / wide, _MOST_SINGLE_INCH / tall)
        return [((_WIDTH_INCH - scale * wide) / 2, 0.0, scale * wide, scale * tall)], scale * tall
    (a, a_tall), (c, c_tall), (s, s_tall) = (scene.size_mm(plane) for plane in PLANES)
    stacked = c_tall + s_tall <= a_tall
    wide, tall = (a + max(c, s), a_tall) if stacked else (a + c + s, max(a_tall, c_tall))
    room = _WIDTH_INCH - 2 * _MARGIN_INCH - (1 if stacked else 2) * _GAP_INCH
    scale = min(room / wide, most_inch / tall)
    left = _MARGIN_INCH + (room - scale * wide) / 2
    right = left + scale * a + _GAP_INCH
    row = scale * tall
    axial = (left, (row - scale * a_tall) / 2, scale * a, scale * a_tall)
    if stacked:
        top = max(0.0, (row - scale * (c_tall + s_tall) - _GAP_INCH) / 2)
        coronal = (right, top, scale * c, scale * c_tall)
        sagittal = (right, row - top - scale * s_tall, scale * s, scale * s_tall)
    else:
        coronal = (right, (row - scale * c_tall) / 2, scale * c, scale * c_tall)
        sagittal = (right + scale * c + _GAP_INCH, (row - scale * s_tall) / 2, scale * s, scale * s_tall)
    return [axial, coronal, sagittal], row


def _draw_panel(axes: Axes, scene: _Scene, plane: Plane, row: _Row) -> None:
    picture = cut(scene.image, plane, scene.centre)
    filled = cut(row.array, plane, scene.centre)
    lines = filled if row.outline is None else cut(row.outline, plane, scene.centre)
    low, high = scene.window
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="bicubic", aspect="auto")
    for label in row.labels:
        _draw_label(axes, filled == label.index, label, fill=True)
        _draw_label(axes, lines == label.index, label, fill=False)
    axes.set_xlim(-0.5, picture.shape[1] - 0.5)
    axes.set_ylim(picture.shape[0] - 0.5, -0.5)
    axes.set_axis_off()
    _write_marks(axes, plane)
    if plane is scene.planes[0]:
        _draw_scale_bar(axes, scene, plane)


def _draw_label(axes: Axes, mask: NDArray[np.bool_], label: Label, *, fill: bool) -> None:
    """Fill or outline a mask along the line half way between the centres of its voxels and their neighbours."""
    y, x = np.nonzero(mask)
    if not y.size:
        return
    top, left = int(y.min()), int(x.min())
    level = np.pad(mask[top : y.max() + 1, left : x.max() + 1], 1).astype(np.float32)
    rows, columns = (np.arange(size) + start - 1 for size, start in zip(level.shape, (top, left), strict=True))
    if fill:
        axes.contourf(columns, rows, level, levels=[0.5, 1.5], colors=[label.rgb], alpha=_FILL_ALPHA)
    else:
        axes.contour(columns, rows, level, levels=[0.5], colors=[label.rgb], linewidths=1.2)


def _write_marks(axes: Axes, plane: Plane) -> None:
    style: dict[str, Any] = {"transform": axes.transAxes, "path_effects": _HALO, "size": 9, "va": "center"}
    left, right = plane.letters
    height_inch = axes.get_window_extent().height / _DPI
    if height_inch < _THIN_INCH:
        axes.text(0.015, 0.5, f"{left}  {plane.name}", color=_TEXT, **style)
    else:
        axes.text(0.015, 0.5, left, color=_TEXT, **style)
        axes.text(0.015, 1 - 0.12 / height_inch, plane.name, color=_FAINT, **style)
    axes.text(0.985, 0.5, right, color=_TEXT, ha="right", **style)


def _draw_scale_bar(axes: Axes, scene: _Scene, plane: Plane) -> None:
    width_mm, _ = scene.size_mm(plane)
    length = next((n for n in _BAR_LENGTHS_MM if n <= width_mm / 3), _BAR_LENGTHS_MM[-1])
    end = 0.97
    start = end - length / width_mm
    axes.plot([start, end], [0.035, 0.035], color=_TEXT, lw=2, transform=axes.transAxes, path_effects=_HALO)
    style: dict[str, Any] = {"transform": axes.transAxes, "path_effects": _HALO, "size": 8, "color": _TEXT}
    axes.text((start + end) / 2, 0.05, f"{length} mm", ha="center", va="bottom", **style)


def _legend_shape(labels: list[Label]) -> tuple[int, int]:
    """Return the number of columns and lines of the legend."""
    if not labels:
        return 1, 0
    widest = max(len(label.name) for label in labels) * _CHARACTER_INCH + _SWATCH_INCH
    columns = max(1, min(len(labels), int((_WIDTH_INCH - 2 * _MARGIN_INCH) / widest)))
    lines = math.ceil(len(labels) / columns)
    return math.ceil(len(labels) / lines), lines


def _draw_legend(figure: Figure, labels: list[Label], columns: int) -> None:
    if not labels:
        return
    # names are set later: matplotlib leaves out those that begin with "_"
    handles = [Patch(facecolor=(*one.rgb, _FILL_ALPHA), edgecolor=one.rgb, label="name") for one in labels]
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        ncols=columns,
        frameon=False,
        labelcolor=_TEXT,
        fontsize=9,
        borderaxespad=0.2,
        handlelength=1.2,
        columnspacing=1.4,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)  # a name is no formula
        text.set_text(label.name)
