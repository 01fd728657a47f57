"""The embedded data set: a synthetic human torso, as NIfTI data set and as DICOM series.

It needs no download and holds no patient: shapes drawn from a seed, with labels that are exact by construction.
Liver and spleen have the same intensity, so do the kidneys, and the aorta is close to them, so that a network has
to learn shape and place and not a threshold.
"""

from __future__ import annotations

from medseg.phantom.dataset import write_dataset, write_dicom_case
from medseg.phantom.labels import TORSO_LABELS
from medseg.phantom.torso import draw_torso

__all__ = ["TORSO_LABELS", "draw_torso", "write_dataset", "write_dicom_case"]
