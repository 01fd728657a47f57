"""`SeriesReader`: the reader of medseg for MONAI's ``LoadImage`` and ``LoadImaged``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medseg.dicom.policy import Policies
from medseg.dicom.select import SeriesRules
from medseg.errors import MedsegError
from medseg.reading import read_volume
from medseg.volume import Volume, require_same_grid

_NO_CHANNEL = float("nan")  # MONAI's mark for data without a channel axis


class SeriesReader(ImageReader):  # type: ignore[misc]  # MONAI has no types
    """Read a DICOM series, or a NIfTI file, as MONAI wants it: exactly, or refused.

    ``LoadImaged(keys="image", reader=SeriesReader())`` takes a folder, a zip or a DICOMDIR that holds one series of
    which the rules take one; a list of paths becomes channels.

    Args:
        rules: Which series is wanted where there are several; all by default.
        policies: What to do about irregular series; the safest by default.
    """

    def __init__(self, rules: SeriesRules | None = None, policies: Policies | None = None) -> None:
        super().__init__()
        self.rules = rules
        self.policies = policies

    def verify_suffix(self, filename: Any) -> bool:
        """Take any path: DICOM files and folders have no suffix of their own."""
        return True

    def read(self, data: Any, **kwargs: Any) -> list[Volume] | MedsegError:
        """Read one volume for each path; an error is kept for `get_data`.

        MONAI takes an exception of `read` as a sign to try its other readers, which would then read wrongly what
        was refused here.
        """
        paths = [data] if isinstance(data, str | Path) else list(data)
        try:
            return [read_volume(Path(path), self.rules, self.policies) for path in paths]
        except MedsegError as error:
            return error

    def get_data(self, img: list[Volume] | MedsegError) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the values (i, j, k), or (channel, i, j, k) for several volumes, and MONAI's metadata in RAS+ mm.

        Raises:
            InputError: A path cannot be read right, or holds several volumes.
            GridError: Several volumes do not lie on one grid.
        """
        if isinstance(img, MedsegError):
            raise img
        first = img[0]
        for other in img[1:]:
            require_same_grid(first.grid, other.grid, owner=first.source, where=other.source)
        is_single = len(img) == 1
        array = first.array if is_single else np.stack([volume.array for volume in img])
        meta = {
            MetaKeys.AFFINE: first.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: first.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(first.grid.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: _NO_CHANNEL if is_single else 0,
            "modality": first.modality or "",
            "findings": [str(finding) for volume in img for finding in volume.findings],
        }
        return array, meta
