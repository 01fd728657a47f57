"""Pictures that show a mask on its image, for people who look at many: each says that it is not for diagnosis."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from medseg.labels import LabelMap
from medseg.report.overlay import overlay_figure
from medseg.report.slices import PLANES
from medseg.volume import Volume

NOTICE = "not for diagnostic use"
"""Burnt into every picture."""

_MOST_CAPTION = 48  # characters, so that the notice is always seen


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture.

    Attributes:
        name: What it shows: ``overview`` or the name of a plane; a stem of a file name.
        pixels: (rows, columns, 3), red, green, blue.
    """

    name: str
    pixels: NDArray[np.uint8] = field(repr=False)

    @cached_property
    def png(self) -> bytes:
        """As a PNG file; the same pixels give the same bytes."""
        stream = io.BytesIO()
        metadata: dict[str, Any] = {"Software": None}
        imsave(stream, self.pixels, format="png", metadata=metadata)
        return stream.getvalue()


def overview(image: Volume, labels: LabelMap, caption: str = "") -> Picture:
    """Draw axial, coronal and sagittal slices through the centre of the mask as one picture.

    Args:
        image: The image; beside it and the mask, only the slices shown are in memory.
        labels: The mask, on its grid.
        caption: Stands before the notice; no patient data.

    Raises:
        GridError: The mask does not lie on the image's grid.
    """
    return Picture("overview", _pixels(overlay_figure(image, labels, title=_title(caption))))


def plane_pictures(image: Volume, labels: LabelMap, caption: str = "") -> tuple[Picture, ...]:
    """Draw the same slices as a larger picture each: axial, coronal, sagittal; see `overview`."""
    title = _title(caption)
    return tuple(
        Picture(plane.name, _pixels(overlay_figure(image, labels, title=title, planes=(plane,))))
        for plane in PLANES
    )


def _title(caption: str) -> str:
    return f"{caption[:_MOST_CAPTION]} · {NOTICE}" if caption else NOTICE[0].upper() + NOTICE[1:]


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    figure.savefig(stream, format="rgba", dpi=figure.dpi, facecolor="auto")
    width, height = figure.canvas.get_width_height()
    pixels = np.frombuffer(stream.getvalue(), dtype=np.uint8).reshape(height, width, 4)
    return np.ascontiguousarray(pixels[:, :, :3])
