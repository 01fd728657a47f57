"""What is drawn: keyed, as often and as strong as the settings say, apart by change and by channel."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from medseg.data.augment import Augmentation, Draw, draw
from medseg.data.augment.geometry import thin_axes

CUBE = (1, 24, 24, 24)
MM = (1.0, 1.0, 1.0)
OF_ONE_CHANGE = {
    "rotation": "matrix",
    "elastic": "elastic",
    "bias": "bias",
    "noise": "noise_std",
    "blur": "blur",
    "brightness": "brightness",
    "contrast": "contrast",
    "low_resolution": "low_resolution",
    "inverted_gamma": "inverted_gamma",
    "gamma": "gamma",
}


def everything(**settings) -> Augmentation:
    names = (*OF_ONE_CHANGE, "scaling", "channel")
    return Augmentation(**{f"{name}_probability": 1.0 for name in names} | {"flip_axes": (0, 1, 2)} | settings)


def flat(value: object) -> object:
    """A field of a draw as something that == compares."""
    if hasattr(value, "control"):
        return (value.control.tolist(), value.cell)
    return value.tolist() if isinstance(value, np.ndarray) else value


def as_dict(d: Draw) -> dict[str, object]:
    return {field.name: flat(getattr(d, field.name)) for field in fields(d)}


def in_mm(matrix: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    spacing = np.array(spacing_mm)
    return matrix * spacing[:, None] / spacing


def five_sigma(share: float, count: int) -> float:
    return 5 * (share * (1 - share) / count) ** 0.5


def test_the_same_key_draws_the_same_and_another_key_another():
    one, two = (draw(everything(), CUBE, MM, (5, 6, 7)) for _ in range(2))
    assert as_dict(one) == as_dict(two)
    others = [draw(everything(), CUBE, MM, key) for key in [(5, 6, 7), (4, 6, 7), (5, 7, 6), (5, 6, 8), (5, 5, 7)]]
    for name in ("brightness", "gamma", "noise_seed", "blur"):
        assert len({getattr(d, name) for d in others}) == 5
    assert len({d.matrix.tobytes() for d in others}) == 5


def test_the_changes_of_one_patch_are_independent():
    d = draw(everything(brightness=(0.7, 1.5), contrast=(0.7, 1.5)), CUBE, MM, (1, 2, 3))
    assert len({d.brightness, d.contrast, d.inverted_gamma, d.gamma}) == 4  # all of one range


@pytest.mark.parametrize(("change", "field"), OF_ONE_CHANGE.items())
def test_turning_one_change_off_leaves_the_others_as_they_are(change, field):
    full = draw(everything(scaling_probability=0), CUBE, MM, (1, 2, 3))
    less = draw(everything(scaling_probability=0, **{f"{change}_probability": 0}), CUBE, MM, (1, 2, 3))
    nothing = as_dict(Draw())
    expected = as_dict(full) | {field: nothing[field]}
    if change == "noise":
        expected["noise_seed"] = 0
    if change == "rotation":  # the deformation is then not turned with the patch
        turned = np.tensordot(full.matrix, less.elastic.control, 1)
        np.testing.assert_allclose(turned, full.elastic.control, atol=1e-12)
        expected["elastic"] = flat(less.elastic)
    assert as_dict(less) == expected


def test_nothing_is_nothing():
    assert draw(Augmentation(preset="none"), CUBE, MM, (0, 0, 0)) == Draw()


@pytest.mark.parametrize("channels", [1, 3])
def test_how_often(channels):
    count = 2000
    a = Augmentation(flip_axes=(0, 2))
    draws = [draw(a, (channels, 24, 24, 24), MM, (0, 0, index)) for index in range(count)]
    shares = {
        "brightness": 0.15,
        "contrast": 0.15,
        "blur": 0.2,
        "low_resolution": 0.25,
        "inverted_gamma": 0.1,
        "gamma": 0.3,
        "matrix": 1 - 0.8 * 0.8,
        "elastic": 0.0,
        "bias": 0.0,
    }
    for field, share in shares.items():
        found = sum(getattr(d, field) is not None for d in draws) / count
        assert found == pytest.approx(share, abs=five_sigma(share, count)), field
    assert sum(d.noise_std > 0 for d in draws) / count == pytest.approx(0.1, abs=five_sigma(0.1, count))
    for flips, share in {0: 0.5, 1: 0.0, 2: 0.5}.items():
        assert sum(flips in d.flips for d in draws) / count == pytest.approx(share, abs=five_sigma(share, count))
    assert sum(d.flips == (0, 2) for d in draws) / count == pytest.approx(0.25, abs=five_sigma(0.25, count))
    blurred = [sigmas != (0, 0, 0) for d in draws if d.blur for sigmas in d.blur]
    assert np.mean(blurred) == pytest.approx(0.5, abs=five_sigma(0.5, len(blurred)))
    reduced = [shares != (1, 1, 1) for d in draws if d.low_resolution for shares in d.low_resolution]
    assert np.mean(reduced) == pytest.approx(0.5, abs=five_sigma(0.5, len(reduced)))


def test_rotation_and_scaling_happen_apart():
    a, count = Augmentation(), 2000
    matrices = [m for m in (draw(a, CUBE, MM, (0, 1, index)).matrix for index in range(count)) if m is not None]
    scales = np.array([np.cbrt(np.linalg.det(m)) for m in matrices])
    turned = np.array([not np.allclose(m, np.eye(3) * s) for m, s in zip(matrices, scales, strict=True)])
    scaled = ~np.isclose(scales, 1)
    assert turned.sum() / count == pytest.approx(0.2, abs=five_sigma(0.2, count))
    assert scaled.sum() / count == pytest.approx(0.2, abs=five_sigma(0.2, count))
    assert (turned & scaled).sum() / count == pytest.approx(0.04, abs=five_sigma(0.04, count))


def test_how_strong():
    a = everything(noise_std=0.2, gamma=(0.5, 3.0), brightness=(1.1, 1.2))
    draws = [draw(a, CUBE, MM, (0, 0, index)) for index in range(600)]
    gammas = np.array([d.gamma[0] for d in draws])
    assert 0.5 <= gammas.min() < 0.51
    assert 2.95 < gammas.max() <= 3.0
    assert (gammas < 1).mean() == pytest.approx(0.5, abs=five_sigma(0.5, 600))  # as nnU-Net: half of them below 1
    assert all(1.1 <= d.brightness[0] <= 1.2 for d in draws)
    assert 0 <= min(d.noise_std for d in draws) < 0.01
    assert 0.19 < max(d.noise_std for d in draws) <= 0.2
    sigmas = np.array([d.blur[0] for d in draws])
    assert 0.5 <= sigmas.min() < 0.51 < 0.99 < sigmas.max() <= 1
    assert np.abs(np.corrcoef(sigmas.T) - np.eye(3)).max() < 0.2  # an axis each its own
    kept = np.array([d.low_resolution[0] for d in draws])
    assert 0.5 <= kept.min() < 0.51
    assert (kept == kept[:, :1]).all()  # all axes alike


def test_channels_are_drawn_for_apart():
    d = draw(everything(), (4, 24, 24, 24), MM, (0, 0, 0))
    for values in (d.brightness, d.contrast, d.inverted_gamma, d.gamma, d.blur, d.low_resolution):
        assert len(set(values)) == 4


@pytest.mark.parametrize("shape", [(10, 10), (40, 25), (8, 8, 8), (160, 90, 30)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.5, 2.0)])
def test_a_matrix_is_a_rotation_and_a_scale_in_mm_within_the_limits(shape, spacing):
    dims = len(shape)
    a = everything(rotation_degrees=20, scale=(0.9, 1.5))
    scales = []
    for index in range(100):
        matrix = in_mm(draw(a, (1, *shape), spacing[:dims], (0, 0, index)).matrix, spacing[:dims])
        scale = np.linalg.det(matrix) ** (-1 / dims)
        turn = matrix * scale
        np.testing.assert_allclose(turn @ turn.T, np.eye(dims), atol=1e-9)
        degrees = np.rad2deg(np.arccos(np.clip((np.trace(turn) - (dims - 2)) / 2, -1, 1)))
        assert degrees <= 20 * (1 if dims == 2 else 3) + 1e-6
        scales.append(scale)
    assert 0.9 <= min(scales) < 0.95
    assert 1.42 < max(scales) <= 1.5


@pytest.mark.parametrize(
    ("spacing", "thin"),
    [
        ((1, 1, 1), (0, 1, 2)),
        ((1, 1, 3), (0, 1, 2)),
        ((1, 1, 3.1), (0, 1)),
        ((5, 0.5, 0.5), (1, 2)),
        ((2, 0.5), (1,)),
    ],
)
def test_axes_over_three_times_coarser_are_thick(spacing, thin):
    assert thin_axes(spacing) == thin


@pytest.mark.parametrize("thick", [0, 1, 2])
def test_thick_slices_are_turned_scaled_deformed_and_reduced_in_their_plane_only(thick):
    spacing = [0.8, 0.8, 0.8]
    spacing[thick] = 5.0
    plane = [axis for axis in range(3) if axis != thick]
    angles = []
    for index in range(60):
        d = draw(everything(), (1, 32, 32, 32), spacing, (0, 0, index))
        np.testing.assert_array_equal(d.matrix[thick], np.eye(3)[thick])
        np.testing.assert_array_equal(d.matrix[:, thick], np.eye(3)[thick])
        assert not d.elastic.control[thick].any()
        assert d.elastic.control[plane].any()
        assert d.low_resolution[0][thick] == 1 > d.low_resolution[0][plane[0]]
        turn = d.matrix[np.ix_(plane, plane)]
        angles.append(np.rad2deg(np.arctan2(turn[1, 0], turn[0, 0])))
    assert min(angles) < -120
    assert max(angles) > 120


@pytest.mark.parametrize(
    ("shape", "limit"), [((32, 32), 180), ((48, 32), 180), ((49, 32), 15), ((32, 64), 15), ((32, 32, 32), 30)]
)
def test_without_a_limit_angles_are_nnunets(shape, limit):
    a = Augmentation(preset="none", rotation_probability=1)
    largest = 0.0
    for index in range(80):
        matrix = draw(a, (1, *shape), MM[: len(shape)], (0, 0, index)).matrix
        angle = np.arctan2(matrix[1, 0], matrix[0, 0])  # the first of the turns about three axes
        largest = max(largest, abs(np.rad2deg(angle)))
    assert 0.9 * limit < largest <= limit + 1e-6


def test_what_a_draw_lacks_does_not_happen():
    assert replace(Draw(), gamma=(1.2,)) != Draw()
    assert all(value in (None, (), 0, 0.0) for value in as_dict(Draw()).values())
