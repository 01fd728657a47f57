"""The streamed sliding window against MONAI's, and against the whole logits interpolated at once."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage
from scipy.ndimage import map_coordinates

from medseg.crf import CRF, mean_field
from medseg.data.resample import GridMap
from medseg.data.transforms import Prepared
from medseg.inference.labelling import label_on_grid, last_regions, winners
from medseg.inference.refinement import RefinedEngine
from medseg.inference.tiles import SlidingWindow, TileEngine, gaussian_importance, tile_starts
from medseg.volume import Grid

torch.manual_seed(0)
NETWORK = torch.nn.Conv3d(1, 4, 5, padding=2).requires_grad_(False)
IMAGE = torch.randn(1, 21, 18, 25)


def engine(tile=(8, 10, 12), dims=3, predict=NETWORK, **window) -> TileEngine:
    return TileEngine(predict, tile, SlidingWindow(**window), dims)


def whole_logits(e: TileEngine, image: torch.Tensor) -> torch.Tensor:
    slabs = list(e.slabs(image))
    starts = np.cumsum([0] + [s.logits.shape[-1] for s in slabs])
    assert [s.start for s in slabs] == starts[:-1].tolist()
    return torch.cat([s.logits for s in slabs], dim=-1)


@pytest.mark.parametrize(
    ("tile", "overlap", "batch", "shape"),
    [
        ((8, 10, 12), 0.5, 1, (20, 20, 24)),
        ((8, 12, 16), 0.25, 3, (20, 21, 28)),
        ((32, 10, 12), 0.5, 2, (21, 25, 30)),
        ((40,) * 3, 0.5, 1, (21, 18, 25)),
    ],
)
def test_equals_monai(tile, overlap, batch, shape):
    """Where whole steps reach the end of the image: elsewhere MONAI puts the last tile flush with it."""
    image, weights = torch.randn(1, *shape), gaussian_importance(tile)
    got = whole_logits(engine(tile, overlap=overlap, batch_size=batch), image)
    expected = sliding_window_inference(
        image[None], tile, batch, NETWORK, overlap=overlap, mode="gaussian", roi_weight_map=weights
    )[0]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_constant_prediction_stays_constant():
    e = engine(predict=lambda x: torch.full((len(x), 2, *x.shape[2:]), 0.7))
    torch.testing.assert_close(whole_logits(e, IMAGE), torch.full((2, 21, 18, 25), 0.7))


def test_two_dimensional_network_predicts_every_slice():
    plane = torch.nn.Conv2d(1, 3, 3, padding=1).requires_grad_(False)
    got = whole_logits(engine((21, 18, 1), 2, plane, batch_size=4), IMAGE)
    expected = torch.stack([plane(IMAGE[None, ..., k])[0] for k in range(25)], dim=-1)
    torch.testing.assert_close(got, expected)


def test_a_network_that_sees_neighbouring_slices():
    plane = torch.nn.Conv2d(6, 3, 3, padding=1).requires_grad_(False)
    image = torch.randn(2, 21, 18, 7)
    e = TileEngine(plane, (21, 18, 1), SlidingWindow(batch_size=2), 2, 3)
    black = torch.zeros(2, 21, 18)
    slices = [black, *image.unbind(-1), black]
    expected = [
        plane(torch.stack([slices[k + n][c] for c in (0, 1) for n in (0, 1, 2)])[None])[0] for k in range(7)
    ]
    torch.testing.assert_close(whole_logits(e, image), torch.stack(expected, dim=-1))


def test_refinement_is_the_mean_field_of_the_whole_image():
    crf, spacing = CRF(iterations=2), (1.0, 1.5, 2.0)
    e = RefinedEngine(engine(), crf, spacing)
    expected = mean_field(whole_logits(e.engine, IMAGE).softmax(0), IMAGE, crf, spacing)
    torch.testing.assert_close(whole_logits(e, IMAGE).exp(), expected)


def test_refinement_of_regions_is_the_mean_field_of_each_against_its_outside():
    crf, spacing = CRF(iterations=2), (1.0, 1.5, 2.0)
    e = RefinedEngine(engine(), crf, spacing, regions=True)
    probabilities = whole_logits(e.engine, IMAGE).sigmoid()
    expected = [mean_field(torch.stack((1 - p, p)), IMAGE, crf, spacing)[1] for p in probabilities]
    torch.testing.assert_close(whole_logits(e, IMAGE).sigmoid(), torch.stack(expected))


def test_mirroring_is_the_mean_over_all_flips():
    e = engine((21, 18, 25), mirror_axes=(0, 2))
    flips = [[], [2], [4], [2, 4]]
    expected = torch.stack([NETWORK(IMAGE[None].flip(f)).flip(f)[0] for f in flips]).mean(0)
    torch.testing.assert_close(whole_logits(e, IMAGE), expected)


def test_tiles_cover_everything_and_the_last_is_flush():
    for size in range(1, 60):
        for tile in (4, 7, 16):
            starts = tile_starts(size, tile, 0.5)
            covered = {v for s in starts for v in range(s, s + tile)}
            assert covered >= set(range(size))
            assert starts[-1] == max(0, size - tile)


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "starts"),
    [(110, 64, 0.5, [0, 23, 46]), (17, 4, 0.5, [0, 2, 4, 6, 7, 9, 11, 13]), (10, 4, 0.75, [0, 1, 2, 3, 4, 5, 6])],
)
def test_tiles_are_spread_evenly(size, tile, overlap, starts):
    """Numbers of nnU-Net's ``compute_steps_for_sliding_window``; the first is its comment's example."""
    assert tile_starts(size, tile, overlap) == starts
    assert tile_starts(9, 1, 0.5) == list(range(9))


def test_importance_is_a_gaussian_of_an_eighth_of_the_tile():
    """As nnU-Net has it: scipy's filter of one voxel, height 10, in 16 bits, never 0."""
    for tile in ((16, 1, 9), (40, 32, 24)):
        impulse = np.zeros(tile)
        impulse[tuple(n // 2 for n in tile)] = 1
        expected = ndimage.gaussian_filter(impulse, [n / 8 for n in tile], mode="constant")
        expected = (expected / expected.max() * 10).astype(np.float16)
        expected[expected == 0] = expected[expected > 0].min()
        np.testing.assert_array_equal(gaussian_importance(tile).numpy(), expected)


def native_grid(kind: str) -> tuple[Grid, Grid]:
    prepared = Grid((21, 18, 25), np.array([[2, 0, 0, -20], [0, 2, 0, 5], [0, 0, 2, 60], [0, 0, 0, 1.0]]))
    affine = {
        "same": prepared.affine,
        "finer, flipped, permuted": [[0, -0.9, 0, 18], [0, 0, 1.7, 6], [1.1, 0, 0, 63], [0, 0, 0, 1]],
        "larger than the image": [[1.5, 0, 0, -30], [0, 1.5, 0, -4], [0, 0, 3, 40], [0, 0, 0, 1]],
        "sheared": [[1, 0, 0, -15], [0, 1, 0.3, 6], [0, 0, 1.2, 62], [0, 0, 0, 1]],
        "rotated": [[0.8, 0.6, 0, -15], [-0.6, 0.8, 0, 20], [0, 0, 2, 60], [0, 0, 0, 1]],
    }[kind]
    return prepared, Grid((30, 26, 34), np.array(affine))


@pytest.mark.parametrize(
    "kind", ["same", "finer, flipped, permuted", "larger than the image", "sheared", "rotated"]
)
def test_labels_are_those_of_logits_interpolated_to_the_native_grid(kind):
    prepared, native = native_grid(kind)
    e = engine(overlap=0.5)
    values = np.array([0, 3, 5, 9], dtype=np.uint8)
    got = label_on_grid(e, Prepared(IMAGE, prepared), native, values)
    assert got.dtype == np.uint8
    assert got.flags.f_contiguous

    matrix = GridMap(prepared, native).matrix
    coordinates = matrix[:3, :3] @ np.indices(native.shape).reshape(3, -1) + matrix[:3, 3:]
    logits = whole_logits(e, IMAGE).numpy().astype(np.float64)
    at_native = np.stack([map_coordinates(c, coordinates, order=1, mode="nearest") for c in logits])
    expected = values[at_native.argmax(0)]
    size = np.array(prepared.shape)[:, None]
    expected[((coordinates < -0.5) | (coordinates > size - 0.5)).any(0)] = 0
    two = np.sort(at_native, axis=0)[-2:]
    sure = (two[1] - two[0] > 1e-4) | (expected == 0)
    assert (got.reshape(-1)[sure] == expected[sure]).all()
    assert sure.mean() > 0.99
    assert len(np.unique(got)) == 4


@pytest.mark.parametrize("kind", ["same", "finer, flipped, permuted", "sheared"])
def test_regions_are_painted_one_over_the_other_where_their_probability_is_above_half(kind):
    prepared, native = native_grid(kind)
    e = engine(overlap=0.5)
    values = np.array([0, 3, 5, 9, 4], dtype=np.uint8)
    got = label_on_grid(e, Prepared(IMAGE, prepared), native, values, choose=last_regions)

    matrix = GridMap(prepared, native).matrix
    coordinates = matrix[:3, :3] @ np.indices(native.shape).reshape(3, -1) + matrix[:3, 3:]
    logits = whole_logits(e, IMAGE).numpy().astype(np.float64)
    at_native = np.stack([map_coordinates(c, coordinates, order=1, mode="nearest") for c in logits])
    expected = np.zeros(at_native.shape[1], dtype=np.uint8)
    for region, value in zip(at_native, (3, 5, 9, 4), strict=True):
        expected[1 / (1 + np.exp(-region)) > 0.5] = value
    size = np.array(prepared.shape)[:, None]
    expected[((coordinates < -0.5) | (coordinates > size - 0.5)).any(0)] = 0
    sure = (np.abs(at_native) > 1e-4).all(0) | (expected == 0)
    assert (got.reshape(-1)[sure] == expected[sure]).all()
    assert sure.mean() > 0.99
    assert set(np.unique(got)) == {0, 3, 5, 9, 4}


@pytest.mark.parametrize("channels", [2, 25, 300])
def test_winners_are_those_of_numpy_argmax_ties_included(channels):
    logits = torch.randint(0, 4, (channels, 7, 6, 5)).float()  # small integers: many ties
    assert np.array_equal(winners(logits), logits.numpy().argmax(axis=0))


def test_a_native_grid_that_misses_the_image_is_background():
    prepared, native = native_grid("same")
    far = Grid(native.shape, native.affine + np.array([[0, 0, 0, 500.0]] * 3 + [[0, 0, 0, 0]]))
    got = label_on_grid(engine(), Prepared(IMAGE, prepared), far, np.array([0, 1, 2, 3], dtype=np.uint8))
    assert not got.any()
