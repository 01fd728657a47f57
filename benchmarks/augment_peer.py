"""batchgeneratorsv2's side of augment.py: nnU-Net's own transforms, timed in the environment that nnU-Net lives in.

``python augment_peer.py PATCH.npz`` reads names of rows from its standard input, makes each change once on a fresh copy
of the patch and prints the seconds of wall clock and of CPU that it took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

TURN = (-np.pi / 6, np.pi / 6)
FACTOR, GAMMA = BGContrast((0.75, 1.25)), BGContrast((0.7, 1.5))


def gamma(inverted: bool) -> GammaTransform:
    return GammaTransform(GAMMA, float(inverted), synchronize_channels=False, p_per_channel=1, p_retain_stats=1)


def transforms(size: tuple[int, ...]) -> dict[str, Callable[..., dict[str, torch.Tensor]]]:
    """Each row with the arguments that nnU-Net's trainer gives, but probability 1; the last is the trainer's own."""
    space = SpatialTransform(
        size,
        0,
        False,
        p_rotation=1,
        rotation=TURN,
        p_scaling=1,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        bg_style_seg_sampling=False,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    return {
        "rotation and scaling": space,
        "noise": GaussianNoiseTransform((0, 0.1), 1, synchronize_channels=True),
        "blur": GaussianBlurTransform((0.5, 1.0), p_per_channel=1, benchmark=True),
        "brightness": MultiplicativeBrightnessTransform(FACTOR, synchronize_channels=False),
        "contrast": ContrastTransform(FACTOR, preserve_range=True, synchronize_channels=False),
        "low resolution": SimulateLowResolutionTransform((0.5, 1), False, True, None, p_per_channel=1),
        "inverted gamma": gamma(inverted=True),
        "gamma": gamma(inverted=False),
        "default preset": nnUNetTrainer.get_training_transforms(
            size, TURN, None, (0, 1, 2), do_dummy_2d_data_aug=False
        ),
    }


def warm_up(change: object, image: torch.Tensor) -> None:
    """Let the blur find, kernel by kernel, whether FFTs are faster: it does so once in a training."""
    for step in getattr(change, "transforms", [change]):
        blur = getattr(step, "transform", step)
        if isinstance(blur, GaussianBlurTransform):
            share, blur.p_per_channel = blur.p_per_channel, 1
            for _ in range(12):
                blur(image=image.clone())
            blur.p_per_channel = share


def main(path: str) -> None:
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002  the transforms draw from it
    torch.manual_seed(0)
    patch = np.load(path)
    image, label = torch.from_numpy(patch["image"]), torch.from_numpy(patch["label"])[None].to(torch.int16)
    rows = transforms(tuple(image.shape[1:]))
    for change in rows.values():
        warm_up(change, image)
    print("ready", flush=True)
    for line in sys.stdin:
        change, fresh = rows[line.strip()], {"image": image.clone(), "segmentation": label.clone()}
        wall, cpu = time.perf_counter(), time.process_time()
        change(**fresh)
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
