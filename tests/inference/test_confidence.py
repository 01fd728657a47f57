"""The probability at boundaries while logits stream, against a loop over the voxels of whole logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from medseg.inference import confidence
from medseg.inference.confidence import BoundaryMeter
from medseg.inference.tiles import Slab
from medseg.volume import Volume
from tests.test_segmenter import REGIONS, package, segmenter, volume, z_scores

FACES = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))


def smooth_logits(channels: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Logits whose winners form blobs of a few voxels."""
    noise = torch.from_numpy(np.random.default_rng(seed).normal(0, 6, (channels, *shape)))
    return torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1).numpy().astype(np.float32)


def by_loop(logits: np.ndarray, names: dict[int, str], regions: bool = False) -> dict[str, float]:
    """The definition, voxel by voxel."""
    exact = logits.astype(np.float64)
    chances = expit(exact) if regions else softmax(exact, axis=0)
    if regions:
        index = np.zeros(exact.shape[1:], int)
        for region in range(len(exact)):
            index[exact[region] > 0] = region + 1
    else:
        index = exact.argmax(axis=0)
    found: dict[int, list[float]] = {}
    for place in np.ndindex(index.shape):
        own = index[place]
        near = [tuple(np.add(place, step)) for step in FACES]
        near = [other for other in near if all(0 <= n < size for n, size in zip(other, index.shape, strict=True))]
        if own and any(index[other] != own for other in near):
            found.setdefault(int(own), []).append(chances[(own - 1 if regions else own, *place)])
    return {name: float(np.mean(found[n])) for n, name in names.items() if n in found}


def slabs_of(logits: np.ndarray, depths: list[int]):
    start = 0
    for depth in depths:
        yield Slab(start, torch.from_numpy(logits[..., start : start + depth]))
        start += depth


def measured(logits: np.ndarray, depths: list[int], names: dict[int, str], *, regions: bool = False):
    meter = BoundaryMeter(names, regions=regions)
    handed_on = torch.cat([slab.logits for slab in meter.measure(slabs_of(logits, depths))], dim=-1)
    np.testing.assert_array_equal(handed_on.numpy(), logits)
    return meter.means


NAMES = {1: "one", 2: "two", 3: "three"}


@pytest.mark.parametrize("depths", [[11], [1] * 11, [4, 1, 6], [2, 2, 7]])
@pytest.mark.parametrize("at_once", [1, 1 << 22])
@pytest.mark.parametrize("regions", [False, True])
def test_the_mean_is_that_of_a_loop_however_the_image_is_cut(depths, at_once, regions, monkeypatch):
    monkeypatch.setattr(confidence, "_VOXELS_AT_ONCE", at_once)
    logits = smooth_logits(3 if regions else 4, (7, 8, 11))
    expected = by_loop(logits, NAMES, regions)
    assert len(expected) == 3
    assert measured(logits, depths, NAMES, regions=regions) == pytest.approx(expected, abs=2e-6)


def test_logits_of_16_bits_and_of_other_strides_are_measured_as_their_values_are():
    logits = smooth_logits(4, (6, 5, 9)).astype(np.float16)
    turned = np.ascontiguousarray(logits.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)
    assert measured(turned, [3, 6], NAMES) == pytest.approx(by_loop(logits, NAMES), abs=2e-6)


def test_a_label_that_fills_the_image_or_wins_nowhere_has_no_boundary():
    logits = np.zeros((3, 4, 4, 4), np.float32)
    logits[2] = 1
    assert measured(logits, [2, 2], {1: "none", 2: "all"}) == {}


def test_a_cube_of_one_probability_has_it():
    """A cube of 4 x 4 x 4 whose inside is sure and whose 56 outer voxels are not."""
    logits = np.zeros((2, 10, 10, 10), np.float32)
    logits[1] = -20
    logits[1, 3:7, 3:7, 3:7] = np.log(3)
    logits[1, 4:6, 4:6, 4:6] = 20
    assert measured(logits, [5, 5], {1: "cube"}) == pytest.approx({"cube": 0.75}, abs=1e-6)


def test_each_run_begins_anew():
    meter = BoundaryMeter(NAMES)
    logits = smooth_logits(4, (5, 6, 7))
    half = meter.measure(slabs_of(logits[..., :4], [2, 2]))
    next(half)  # memory ran out, say
    list(meter.measure(slabs_of(logits, [3, 4])))
    assert meter.means == pytest.approx(by_loop(logits, NAMES), abs=2e-6)


@pytest.mark.parametrize("regions", [(), REGIONS])
def test_a_segmenter_measures_what_its_network_gives(regions):
    made = segmenter(package(regions=regions))
    image = volume(3)
    assert made.segment(image).confidence == {}
    made.measures_confidence = True
    found = made.segment(image)
    logits = made.networks[0](z_scores(image)[None, None].float()).detach().numpy()[0]
    names = {1: "ball", 2: "box"}
    assert found.confidence == pytest.approx(by_loop(logits, names, bool(regions)), abs=1e-4)
    assert len(found.confidence) > 0
    np.testing.assert_array_equal(found.array, segmenter(package(regions=regions)).segment(image).array)


def test_it_is_that_of_the_last_run_where_memory_ran_out():
    made = segmenter(package())
    made.measures_confidence = True
    image = volume(3)
    expected = made.segment(image).confidence
    real, calls = made.networks[0], []

    class Tight(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            if len(calls) == 1:
                raise MemoryError
            return real(x)

    made.networks = [Tight()]
    made.window = made.window.model_copy(update={"batch_size": 2})
    deep = Volume(np.concatenate([image.array] * 2, axis=2), image.affine, modality="MR")
    assert set(made.segment(deep).confidence) == set(expected)
    assert len(calls) > 2
