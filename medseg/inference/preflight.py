"""Pre-flight: the memory and the time that a study takes, before anything of it is allocated."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import nibabel as nib
import torch
from torch.nn import functional as F

from medseg.data.preprocessing import STORED, Preprocessing
from medseg.data.spacing import spaced_grid
from medseg.data.spline import faced_grid, header_spacing
from medseg.device import Precision, autocast, free_bytes
from medseg.errors import OutOfMemoryError
from medseg.inference.ladder import Rung
from medseg.inference.needs import Method, Needs, Work, forward_of, needs_of
from medseg.inference.tiles import tile_count
from medseg.volume import Affine, Grid

_BENCH_CHANNELS, _BENCH_SIZE = 32, 48
_BENCH_RUNS = 3


@dataclass(frozen=True)
class Preflight:
    """What is known of a study before it runs.

    Attributes:
        work: What is asked.
        rung: How it would run.
        tiles: Their number.
        needs: Bytes.
        seconds: Of the network.
        limit_bytes: What it may take: ``--memory``, or what is free; None where nobody says.
        fits: Whether it needs no more than it may take.
    """

    work: Work
    rung: Rung
    tiles: int
    needs: Needs
    seconds: float
    limit_bytes: int | None
    fits: bool

    def after(self, earlier: Preflight) -> Preflight:
        """Return what both take, where another model runs first: the larger of bytes, the sum of seconds."""
        return replace(
            self,
            needs=self.needs.or_more(earlier.needs),
            seconds=self.seconds + earlier.seconds,
            fits=self.fits and earlier.fits,
        )


@dataclass(frozen=True)
class Fit:
    """A rung, and whether a study fits there.

    Attributes:
        place: Of the rung among all.
        needs: Bytes.
        limit_bytes: That it may take; None where nobody says.
    """

    place: int
    needs: Needs
    limit_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether it needs no more than it may take."""
        return self.limit_bytes is None or self.needs.limited_bytes <= self.limit_bytes


def network_grid(preprocessing: Preprocessing, native: Grid) -> Grid:
    """Return the grid of an image as the network sees it, were nothing cropped from it.

    Args:
        preprocessing: Complete.
        native: Grid of the image.

    Raises:
        InputError: It would have too many voxels.
    """
    grid = native
    if preprocessing.orientation != STORED:
        wanted = nib.orientations.axcodes2ornt(preprocessing.orientation)
        turns = nib.orientations.ornt_transform(nib.io_orientation(native.affine), wanted)
        order = [int(axis) for axis in turns[:, 0].argsort()]
        grid = _grid(native.affine @ nib.orientations.inv_ornt_aff(turns, native.shape), native, order)
    if preprocessing.axes != (0, 1, 2):
        affine = grid.affine.copy()
        affine[:, :3] = affine[:, preprocessing.axes]
        grid = _grid(affine, grid, preprocessing.axes)
    spacing = preprocessing.spacing_mm or ("keep",) * 3
    if preprocessing.spline is None:
        return spaced_grid(grid, spacing)
    old = header_spacing(grid)
    return faced_grid(grid, [o if isinstance(s, str) else float(s) for o, s in zip(old, spacing, strict=True)])


def first_fitting(steps: Sequence[Rung], work: Work, method: Method, memory_bytes: int | None) -> Fit:
    """Return the first rung that a study fits on; the last where it fits on none.

    Args:
        steps: From `medseg.inference.ladder.rungs`.
        work: The study.
        method: What runs over it.
        memory_bytes: That it may take on the device of the first rung, beside the process and the model; what is
            free there if None. Elsewhere it may take what is free.
    """
    for place, rung in enumerate(steps):
        is_limited = memory_bytes is not None and rung.device == steps[0].device
        fit = Fit(place, needs_of(work, method, rung), memory_bytes if is_limited else free_bytes(rung.device))
        if fit.fits:
            break
    return fit


def rungs_that_fit(steps: Sequence[Rung], work: Work, method: Method, memory_bytes: int) -> list[Rung]:
    """Return the rungs from the first that fits on.

    Args:
        steps: From `medseg.inference.ladder.rungs`.
        work: The study.
        method: What runs over it.
        memory_bytes: As for `first_fitting`.

    Raises:
        OutOfMemoryError: None fits.
    """
    fit = first_fitting(steps, work, method, memory_bytes)
    if fit.fits:
        return list(steps[fit.place :])
    raise OutOfMemoryError(
        "--memory",
        expected=f"a study that fits into {(fit.limit_bytes or 0) / 1e9:.2f} GB",
        found=f"one that needs about {fit.needs.limited_bytes / 1e9:.2f} GB at the least",
        remedy="allow more, or segment a part of it with --roi-from",
    )


def preflight(steps: Sequence[Rung], work: Work, method: Method, memory_bytes: int | None = None) -> Preflight:
    """Return what a study takes, on the first rung that fits, or on the last.

    Args:
        steps: From `medseg.inference.ladder.rungs`.
        work: The study.
        method: What runs over it.
        memory_bytes: As for `first_fitting`.
    """
    fit = first_fitting(steps, work, method, memory_bytes)
    rung, window = steps[fit.place], method.window
    tiles = tile_count(work.network.shape, rung.tile, window.overlap)
    runs = math.ceil(tiles / rung.batch_size) * 2 ** len(window.mirror_axes) * method.networks
    flops = forward_of(method, rung).flops * runs
    rate = flops_per_second(str(rung.device), method.package.network.spatial_dims, method.precision)
    return Preflight(work, rung, tiles, fit.needs, flops / rate, fit.limit_bytes, fit.fits)


@lru_cache
def flops_per_second(device: str, dims: int, precision: Precision = "auto") -> float:
    """Measure the rate of a convolution from 32 to 32 channels on a device, the best of three.

    Args:
        device: Where.
        dims: 2 or 3.
        precision: Of the network.
    """
    size = (_BENCH_SIZE,) * 3 if dims == 3 else (_BENCH_SIZE * 6,) * 2
    target = torch.device(device)
    x = torch.randn(1, _BENCH_CHANNELS, *size, device=target)
    weight = torch.randn(_BENCH_CHANNELS, _BENCH_CHANNELS, *(3,) * dims, device=target)
    convolve = F.conv3d if dims == 3 else F.conv2d
    fastest = math.inf
    with torch.inference_mode(), autocast(precision, target):
        for _ in range(_BENCH_RUNS + 1):  # the first one warms up, and is never the fastest
            start = time.perf_counter()
            convolve(x, weight, padding=1)
            if target.type == "cuda":
                torch.cuda.synchronize(target)
            fastest = min(fastest, time.perf_counter() - start)
    return float(2 * _BENCH_CHANNELS**2 * 3**dims * math.prod(size)) / fastest


def _grid(affine: Affine, of: Grid, order: Sequence[int]) -> Grid:
    """Return a grid whose axes are those of another in a new order."""
    i, j, k = (of.shape[axis] for axis in order)
    return Grid((i, j, k), affine)
