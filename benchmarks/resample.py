"""Resampling to a spacing: medseg's exact separable interpolation against MONAI's Spacingd and SimpleITK."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd
from record import median_seconds, write

from medseg.data.spacing import ExactSpacingd

CASES = [
    ("CT 512x512x128, 0.8x0.8x2.5 -> 1.5 mm", (512, 512, 128), (0.8, 0.8, 2.5), (1.5, 1.5, 1.5)),
    ("CT 512x512x64, 0.8x0.8x5 -> 1 mm", (512, 512, 64), (0.8, 0.8, 5.0), (1.0, 1.0, 1.0)),
    ("MR 256x256x160, 1 -> 0.8 mm", (256, 256, 160), (1.0, 1.0, 1.0), (0.8, 0.8, 0.8)),
]


def itk(values: np.ndarray, old: tuple[float, ...], new: tuple[float, ...], shape: tuple[int, ...]) -> None:
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing(old)
    sitk.Resample(image, shape, sitk.Transform(), sitk.sitkLinear, (0.0, 0.0, 0.0), new, np.eye(3).ravel().tolist())


rows = []
for name, size, old, new in CASES:
    values = np.asfortranarray(np.random.default_rng(0).random(size, dtype=np.float32))
    x = MetaTensor(torch.from_numpy(values)[None], affine=np.diag([*old, 1.0]))
    ours, theirs = ExactSpacingd(["image"], new), Spacingd(["image"], new, mode="bilinear")
    got, expected = ours({"image": x})["image"], theirs({"image": x})["image"]
    worst = float((got.as_tensor() - expected.as_tensor()).abs().max())
    shape = tuple(got.shape[1:])
    a = median_seconds(lambda: ours({"image": x}))
    b = median_seconds(lambda: theirs({"image": x}))
    c = median_seconds(lambda: itk(values, old, new, shape))
    rows.append((name, f"{a:.2f}", f"{b:.2f}", f"{c:.2f}", f"{b / a:.1f}", f"{c / a:.1f}", f"{worst:.0e}"))
write(
    "resample",
    "Resampling an image to a spacing",
    (
        "image",
        "medseg s",
        "MONAI Spacingd s",
        "SimpleITK s",
        "MONAI / medseg",
        "SimpleITK / medseg",
        "largest difference",
    ),
    rows,
    "Medians of 5 runs; values from 0 to 1. The difference is to MONAI's result, on the same grid.",
)
