"""Metrics against MONAI, against closed forms and against a double loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from numpy.typing import NDArray

from medseg.errors import GridError, UsageError
from medseg.metrics import all_label_metrics, dice_per_label, label_metrics

ANISOTROPIC = (0.7, 1.3, 3.0)
Mask = NDArray[np.bool_]


def blobs(seed: int, shape: tuple[int, int, int] = (20, 17, 12)) -> tuple[Mask, Mask]:
    """Two overlapping ragged masks, some of which touch the edge of the image."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    masks = []
    for _ in range(2):
        centre = np.array(shape) / 2 + rng.uniform(-3, 3, 3)
        radius = rng.uniform(3, 8)
        distance = np.linalg.norm(grid - centre[:, None, None, None], axis=0)
        masks.append(distance + rng.normal(0, 0.7, shape) < radius)
    return masks[0], masks[1]


def cube(shape: tuple[int, int, int], start: tuple[int, int, int], size: int) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(s, s + size) for s in start)] = True
    return mask


def brute_border(mask: Mask) -> list[tuple[int, int, int]]:
    border = []
    for index in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                neighbour = index.copy()
                neighbour[axis] += step
                outside = (neighbour < 0).any() or (neighbour >= mask.shape).any()
                if outside or not mask[tuple(neighbour)]:
                    border.append(tuple(int(n) for n in index))
    return sorted(set(border))


def brute_distances(from_mask: Mask, to_mask: Mask, spacing: tuple[float, float, float]) -> list[float]:
    """The distance from each border voxel of one mask to the nearest border voxel of the other."""
    return [
        min(
            math.sqrt(sum(((a - b) * s) ** 2 for a, b, s in zip(one, other, spacing, strict=True)))
            for other in brute_border(to_mask)
        )
        for one in brute_border(from_mask)
    ]


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), ANISOTROPIC, (2.5, 0.9, 0.4)])
def test_every_figure_equals_monais(seed: int, spacing: tuple[float, float, float]) -> None:
    prediction, reference = blobs(seed)
    tolerance = 1.37  # no sum of squares of these spacings comes near it
    ours = label_metrics(prediction, reference, spacing, tolerance)
    y_pred, y = (torch.from_numpy(m)[None, None].float() for m in (prediction, reference))
    shared = {"include_background": True, "spacing": spacing}
    assert ours.dice == pytest.approx(compute_dice(y_pred, y).item(), rel=1e-6)
    assert ours.hd95_mm == pytest.approx(
        compute_hausdorff_distance(y_pred, y, percentile=95, **shared).item(), rel=1e-5
    )
    assert ours.assd_mm == pytest.approx(
        compute_average_surface_distance(y_pred, y, symmetric=True, **shared).item(), rel=1e-5
    )
    assert ours.surface_dice == pytest.approx(
        compute_surface_dice(y_pred, y, [tolerance], use_subvoxels=False, **shared).item(), rel=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    spacing=st.tuples(*[st.floats(0.3, 5.0)] * 3),
    order=st.sampled_from("CF"),
    share=st.floats(0.2, 0.95),
)
def test_surface_figures_equal_a_double_loop(
    seed: int,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    order: str,
    share: float,
) -> None:
    rng = np.random.default_rng(seed)
    prediction, reference = (np.array(rng.random(shape) < share, order=order) for _ in range(2))
    prediction[0, 0, 0] = reference[-1, -1, -1] = True
    forth = brute_distances(prediction, reference, spacing)
    back = brute_distances(reference, prediction, spacing)
    ours = label_metrics(prediction, reference, spacing, tolerance_mm=2.0)
    within = sum(d <= 2.0 + 1e-4 for d in forth + back)
    assert ours.assd_mm == pytest.approx(sum(forth + back) / len(forth + back), rel=1e-5, abs=1e-6)
    assert ours.hd95_mm == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)), rel=1e-5)
    assert ours.surface_dice == pytest.approx(within / len(forth + back), abs=1e-12)


def test_a_shifted_cube_has_the_figures_worked_out_by_hand() -> None:
    """A cube of 10 voxels moved by 2 voxels of 0.5 mm along i; each border has 10^3 - 8^3 = 488 voxels.

    Of these, seen from either cube, the face that sticks out (100 voxels) is 2 voxels from the other's, the
    36 wall voxels behind it 1 voxel, and the inner 8 x 8 of the opposite face, inside the other cube, 2 voxels.
    The rest of the walls, and the rim of that opposite face, lie on the other's walls.
    """
    spacing = (0.5, 1.0, 2.0)
    prediction, reference = cube((20, 20, 20), (5, 4, 3), 10), cube((20, 20, 20), (3, 4, 3), 10)
    ours = label_metrics(prediction, reference, spacing, tolerance_mm=0.6)
    assert ours.dice == 2 * 800 / 2000
    total = 36 * 0.5 + 100 * 1.0 + 64 * 1.0
    assert ours.assd_mm == pytest.approx(total / 488)
    assert ours.hd95_mm == pytest.approx(1.0)
    assert ours.surface_dice == pytest.approx((488 - 164) / 488)
    assert ours.volume_ml == pytest.approx(1.0)
    assert ours.volume_error_percent == 0.0


def test_a_ball_in_a_larger_ball_is_as_far_as_the_radii_differ() -> None:
    distance = np.linalg.norm(np.indices((64, 64, 64)) - 32, axis=0)
    ours = label_metrics(distance <= 20, distance <= 25, (1.0, 1.0, 1.0), tolerance_mm=3.0)
    assert ours.assd_mm == pytest.approx(5.0, abs=0.3)  # the surface is one of voxel centres
    assert ours.hd95_mm == pytest.approx(5.0, abs=0.5)
    assert ours.surface_dice == 0.0
    assert ours.volume_error_percent == pytest.approx(100 * (20**3 / 25**3 - 1), abs=1.0)
    assert ours.reference_ml == pytest.approx(4 / 3 * math.pi * 25**3 / 1000, rel=0.01)


def test_a_mask_equals_itself() -> None:
    mask, _ = blobs(3)
    ours = label_metrics(mask, mask, ANISOTROPIC, tolerance_mm=0.0)
    assert (ours.dice, ours.surface_dice, ours.hd95_mm, ours.assd_mm) == (1.0, 1.0, 0.0, 0.0)
    assert ours.volume_ml == pytest.approx(mask.sum() * 0.7 * 1.3 * 3.0 / 1000)


@pytest.mark.parametrize("spacing", [0.1, 0.3, 0.7, 0.9, float(np.float32(0.7)), float(np.float32(1.1))])
def test_a_distance_of_exactly_the_tolerance_is_within_it(spacing: float) -> None:
    prediction, reference = cube((9, 3, 3), (7, 1, 1), 1), cube((9, 3, 3), (1, 1, 1), 1)
    tolerance = round(6 * spacing, 3)
    assert label_metrics(prediction, reference, (spacing, 1.0, 1.0), tolerance).surface_dice == 1.0
    assert label_metrics(prediction, reference, (spacing, 1.0, 1.0), tolerance - 0.01).surface_dice == 0.0


def test_a_mask_in_the_corner_is_cropped_and_padded_without_changing_a_figure() -> None:
    corner = label_metrics(cube((9, 9, 9), (0, 0, 0), 4), cube((9, 9, 9), (0, 0, 1), 4), ANISOTROPIC, 1.0)
    middle = label_metrics(cube((30, 40, 50), (9, 9, 9), 4), cube((30, 40, 50), (9, 9, 10), 4), ANISOTROPIC, 1.0)
    assert corner == middle


def test_empty_masks_follow_the_rule() -> None:
    empty, full = np.zeros((5, 5, 5), dtype=bool), cube((5, 5, 5), (1, 1, 1), 2)
    both = label_metrics(empty, empty, ANISOTROPIC, 1.0)
    assert all(math.isnan(value) for value in vars(both).values())
    assert (both.is_defined, both.is_one_sided) == (False, False)
    missed = label_metrics(empty, full, ANISOTROPIC, 1.0)
    assert (missed.dice, missed.surface_dice, missed.hd95_mm, missed.assd_mm) == (0, 0, math.inf, math.inf)
    assert (missed.volume_ml, missed.volume_error_percent) == (0.0, -100.0)
    invented = label_metrics(full, empty, ANISOTROPIC, 1.0)
    assert (invented.dice, invented.surface_dice, invented.hd95_mm, invented.assd_mm) == (
        0,
        0,
        math.inf,
        math.inf,
    )
    assert (invented.reference_ml, invented.volume_error_percent) == (0.0, math.inf)
    assert invented.is_one_sided
    assert missed.is_one_sided


def test_label_maps_are_compared_label_by_label() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = (np.asfortranarray(rng.integers(0, 4, (8, 9, 7)).astype(np.uint8)) for _ in range(2))
    together = all_label_metrics(prediction, reference, (1, 2, 3, 200), ANISOTROPIC, 2.0)
    assert list(together) == [1, 2, 3, 200]
    for index in (1, 2, 3):
        alone = label_metrics(prediction == index, reference == index, ANISOTROPIC, 2.0)
        assert together[index] == alone
    assert not together[200].is_defined
    nothing = np.zeros_like(prediction)
    assert not all_label_metrics(nothing, nothing, (1,), ANISOTROPIC)[1].is_defined


@pytest.mark.parametrize("shape", [(8, 9, 7), (5, 6), (130, 129, 300)])
def test_cheap_dice_equals_the_definition(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    prediction = rng.integers(0, 6, shape).astype(np.uint8)
    reference = np.asfortranarray(rng.integers(0, 4, shape).astype(np.int64))
    dice = dice_per_label(prediction, reference, (1, 3, 4, 9))
    for index in (1, 3):
        a, b = prediction == index, reference == index
        assert dice[index] == 2 * (a & b).sum() / (a.sum() + b.sum())
    assert dice[4] == 0.0
    assert math.isnan(dice[9])


def test_bad_arguments_are_refused() -> None:
    mask = np.ones((3, 3, 3), dtype=bool)
    with pytest.raises(GridError, match="shape"):
        label_metrics(mask, mask[:2], (1, 1, 1), 1.0)
    with pytest.raises(GridError, match="3-D"):
        label_metrics(mask[0], mask[0], (1, 1, 1), 1.0)
    with pytest.raises(GridError, match="spacing"):
        all_label_metrics(mask.astype(int), mask.astype(int), (1,), (1.0, 0.0, 1.0))
    with pytest.raises(UsageError, match="tolerance"):
        label_metrics(mask, mask, (1, 1, 1), -1.0)
    with pytest.raises(GridError, match="shape"):
        dice_per_label(mask.astype(int), mask[:2].astype(int), (1,))
