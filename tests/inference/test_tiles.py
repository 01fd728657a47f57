"""The ring and the tiles against a loop over tiles that adds whole volumes, for either order of the channels."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from medseg.errors import ModelError
from medseg.inference.ring import Ring
from medseg.inference.tiles import SlidingWindow, TileEngine, gaussian_importance, tile_count, tile_starts

torch.manual_seed(0)
NETWORK = torch.nn.Conv3d(2, 4, 3, padding=1).requires_grad_(False)
IMAGE = torch.randn(2, 19, 23, 29)
TILE = (8, 10, 12)


def channels_last(x):
    """The network, its logits with the channels innermost."""
    return NETWORK(x).contiguous(memory_format=torch.channels_last_3d)


def whole(engine: TileEngine, image=IMAGE) -> torch.Tensor:
    slabs = list(engine.slabs(image))
    ends = [slab.start + slab.logits.shape[-1] for slab in slabs]
    assert [slab.start for slab in slabs] == [0, *ends[:-1]]
    return torch.cat([slab.logits for slab in slabs], dim=-1)


def by_hand(tile, overlap, chosen=lambda corner: True) -> torch.Tensor:
    """Mean logits by adding every tile to sums of the whole image in float64; NaN where no tile was."""
    weight = gaussian_importance(tile).double()
    sums, weights = torch.zeros(4, *IMAGE.shape[1:], dtype=torch.float64), torch.zeros(IMAGE.shape[1:]).double()
    axes = [tile_starts(n, t, overlap) for n, t in zip(IMAGE.shape[1:], tile, strict=True)]
    for corner in product(*axes):
        if chosen(corner):
            place = tuple(slice(c, c + t) for c, t in zip(corner, tile, strict=True))
            sums[(slice(None), *place)] += NETWORK(IMAGE[(slice(None), *place)][None])[0].double() * weight
            weights[place] += weight
    return sums / weights


@pytest.mark.parametrize("predict", [NETWORK, channels_last])
@pytest.mark.parametrize(("overlap", "batch"), [(0.5, 1), (0.25, 3), (0.75, 2), (0.0, 1)])
def test_logits_are_the_weighted_mean_of_tiles(predict, overlap, batch):
    engine = TileEngine(predict, TILE, SlidingWindow(overlap=overlap, batch_size=batch), 3)
    got = whole(engine)
    torch.testing.assert_close(got, by_hand(TILE, overlap).float(), atol=1e-5, rtol=1e-5)
    assert got.is_contiguous() or predict is NETWORK


def test_slabs_of_few_planes_are_the_same(monkeypatch):
    engine = TileEngine(channels_last, TILE, SlidingWindow(), 3)
    expected = whole(engine)
    monkeypatch.setattr("medseg.inference.ring.SLAB_BYTES", 4 * 4 * 19 * 23 * 2)  # two planes
    slabs = list(engine.slabs(IMAGE))
    assert max(slab.logits.shape[-1] for slab in slabs) == 2
    assert torch.equal(whole(engine), expected)


def test_tiles_that_do_not_overlap_are_put_down_bit_for_bit():
    image = IMAGE[:, :16, :20, :24]
    got = whole(TileEngine(NETWORK, TILE, SlidingWindow(overlap=0.0), 3), image)
    for corner in product((0, 8), (0, 10), (0, 12)):
        place = (slice(None), *(slice(c, c + t) for c, t in zip(corner, TILE, strict=True)))
        assert torch.equal(got[place], NETWORK(image[place][None])[0])


def test_an_image_smaller_than_a_tile_lies_in_zeros():
    image = IMAGE[:, :5, :, :7]
    got = whole(TileEngine(NETWORK, (8, 23, 12), SlidingWindow(), 3), image)
    padded = torch.zeros(2, 8, 23, 12)
    padded[:, 1:6, :, 2:9] = image
    torch.testing.assert_close(got, NETWORK(padded[None])[0][:, 1:6, :, 2:9])


@pytest.mark.parametrize(("dims", "slices"), [(3, 1), (2, 3)])
def test_no_more_of_the_image_is_copied_than_a_tile(monkeypatch, dims, slices):
    largest = []
    monkeypatch.setattr(
        "medseg.inference.tiles.F.pad", lambda x, pads, pad=F.pad: largest.append(x.numel()) or pad(x, pads)
    )
    predict = lambda x: x[:, :1]
    tile = (32, 6, 6 if dims == 3 else 1)
    for _ in TileEngine(predict, tile, SlidingWindow(), dims, slices).slabs(IMAGE):
        pass
    assert 0 < max(largest) <= 2 * 19 * 6 * 6


@pytest.mark.parametrize("predict", [NETWORK, channels_last])
def test_tiles_of_air_are_background_and_the_body_is_as_it_was(predict):
    body = torch.zeros(IMAGE.shape[1:], dtype=torch.bool)
    body[2:5, 12:20, 15:18] = True
    seen = []

    def counted(x):
        seen.append(len(x))
        return predict(x)

    window = SlidingWindow(batch_size=2)
    got = whole(TileEngine(counted, TILE, window, 3, body=body))
    plain = whole(TileEngine(predict, TILE, window, 3))
    holds = lambda corner: bool(body[tuple(slice(c, c + t) for c, t in zip(corner, TILE, strict=True))].any())
    expected = by_hand(TILE, 0.5, holds)
    corners = list(product(*[tile_starts(n, t, 0.5) for n, t in zip(IMAGE.shape[1:], TILE, strict=True)]))
    first = int(not any(holds(corner) for corner in corners if corner[2] == 0))
    assert sum(seen) == sum(map(holds, corners)) + first < len(corners)
    assert torch.equal(got[:, body], plain[:, body])
    empty = expected.isnan().any(dim=0)
    empty[tuple(slice(0, t) for t in TILE)] = False  # the tile that says how many channels there are
    assert empty.float().mean() > 0.1
    assert (got[:, empty].argmax(0) == 0).all()
    assert (got[:, empty].softmax(0)[0] > 0.999).all()
    shown = ~expected.isnan().any(dim=0)
    shown[tuple(slice(0, t) for t in TILE)] = False
    torch.testing.assert_close(got[:, shown], expected[:, shown].float(), atol=1e-5, rtol=1e-5)


def test_air_is_in_no_region():
    body = torch.zeros(IMAGE.shape[1:], dtype=torch.bool)
    body[2, 2, 2] = True
    got = whole(TileEngine(NETWORK, TILE, SlidingWindow(), 3, body=body, regions=True))
    assert (got[:, -4:, -4:, -4:] < 0).all()


@pytest.mark.parametrize("predict", [NETWORK, channels_last])
def test_sums_in_16_bits_are_those_in_32_but_for_their_rounding(predict):
    def run(dtype):
        ring = Ring((8, 15, 12), gaussian_importance(TILE), torch.device("cpu"), dtype)
        ring.weigh([(0, [(0, 0), (0, 5)])])
        for j in (0, 5):
            ring.add([(0, j)], predict(IMAGE[None, :, :8, j : j + 10, :12]))
        return torch.cat([logits for _, logits in ring.finish(12)], dim=-1)

    half, full = run(torch.float16), run(torch.float32)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=4e-3, rtol=4e-3)


def test_sums_beyond_16_bits_are_refused():
    ring = Ring((8, 10, 12), gaussian_importance(TILE), torch.device("cpu"), torch.float16)
    ring.weigh([(0, [(0, 0)])])
    ring.add([(0, 0)], torch.full((1, 2, *TILE), 7e4))
    with pytest.raises(ModelError, match="16 bits"):
        list(ring.finish(12))


@pytest.mark.parametrize(("value", "found"), [(torch.nan, "NaN"), (-torch.inf, "infinite")])
@pytest.mark.parametrize("predict", [NETWORK, channels_last])
def test_logits_that_are_no_numbers_are_refused(value, found, predict):
    def spoilt(tiles):
        logits = predict(tiles)
        logits[-1, -1, 3, 4, 5] = value
        return logits

    with pytest.raises(ModelError, match=f"expected finite values, found {found}") as caught:
        whole(TileEngine(spoilt, TILE, SlidingWindow(), 3))
    assert "cpu" not in str(caught.value).lower()


def test_large_logits_are_numbers():
    """Their sum is infinite in 32 bits, none of them is."""
    logits = torch.full((1, 2, *TILE), 3e38)
    ring = Ring((8, 10, 12), None, torch.device("cpu"))
    ring.add([(0, 0)], logits)
    assert torch.equal(torch.cat([part for _, part in ring.finish(12)], dim=-1), logits[0])


def test_number_of_tiles():
    calls = []
    engine = TileEngine(lambda x: calls.append(len(x)) or NETWORK(x), TILE, SlidingWindow(), 3)
    whole(engine)
    assert tile_count(IMAGE.shape[1:], TILE, 0.5) == len(calls)
    assert tile_count((4, 4, 4), TILE, 0.5) == 1
