"""Labels that are drawn on the network's grid come back on the original, tilted slices exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

import medseg
from medseg.data.preprocessing import Preprocessing
from medseg.data.transforms import Prepared, build_transforms, prepare
from medseg.inference.labelling import label_on_grid
from medseg.inference.tiles import Slab
from medseg.volume import Volume
from tests.builders import save_tiny_model
from tests.dicom.builder import CORONAL, OBLIQUE, SeriesSpec, gantry_tilt, write_series
from tests.dicom.cases import read_one
from tests.dicom.law import frames_of

SERIES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "tilt 20": (gantry_tilt(20), {}),
    "tilt -18.5": (gantry_tilt(-18.5), {}),
    "tilt 5, wide": (gantry_tilt(5, table_step_mm=7), {}),
    "coronal, tilted": ({"orientation": CORONAL, "shear_mm_per_mm": (0.0, 0.3)}, {}),
    "oblique, tilted both ways": ({"orientation": OBLIQUE, "shear_mm_per_mm": (-0.2, 0.25)}, {}),
    "oblique": ({"orientation": OBLIQUE}, {}),
    "tilted, a slice missing": ({**gantry_tilt(20), "missing": [7]}, {"missing_slice": "fill"}),
}
SHAPE = (30, 28, 14)
SPACINGS = [(1.0, 1.0, 1.5), (1.7, 1.3, 3.0)]
VALUES = np.array([0, 3, 9], dtype=np.uint8)


class Drawn:
    """A network that knows where it is: logits are functions of the patient's millimetres, in slabs."""

    def __init__(self, logits: NDArray[np.float64]) -> None:
        self.logits = logits

    def slabs(self, image: torch.Tensor, advance: object = None) -> Iterator[Slab]:
        assert image.shape[1:] == self.logits.shape[1:]
        for start in range(0, self.logits.shape[3], 5):
            yield Slab(start, torch.from_numpy(self.logits[..., start : start + 5].astype(np.float32)))


def read_series(tmp_path: Path, kind: str) -> tuple[list[Path], Volume]:
    changes, policies = SERIES[kind]
    paths = write_series(tmp_path, SeriesSpec(shape=SHAPE, **changes))
    return paths, read_one(tmp_path, **policies)


def prepared_of(volume: Volume, spacing_mm: tuple[float, ...]) -> Prepared:
    rules = Preprocessing(spacing_mm=spacing_mm, intensity=({"kind": "zscore"},))
    prepared = prepare(build_transforms(rules, 1), [volume])
    assert not prepared.grid.is_sheared
    return prepared


def pixels_mm(paths: list[Path]) -> list[NDArray[np.float64]]:
    """Where each pixel [column, row] of each file lies, RAS, from the file's own tags."""
    indices = np.indices(SHAPE[:2])
    return [frame.world_mm(*indices) for path in paths for frame in frames_of(path)]


def own_slices(volume: Volume, labels: NDArray[Any]) -> list[NDArray[Any]]:
    """The label map on the slices that are files, in their order along the volume."""
    return [labels[:, :, int(s.place)] for s in volume.slices]


def within(prepared: Prepared, world_mm: NDArray[np.float64], beyond: float) -> NDArray[np.bool_]:
    """Whether points lie between the centres of the network's voxels, or so many voxels beyond them."""
    at = prepared.grid.index(world_mm)
    return np.asarray(((at >= -beyond) & (at <= np.array(prepared.grid.shape) - 1 + beyond)).all(-1))


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("kind", SERIES)
def test_half_spaces_come_back_on_the_slices_exactly(tmp_path: Path, kind: str, spacing_mm: Any) -> None:
    """Logits that are linear in millimetres are interpolated without error: only a tie may go either way."""
    paths, volume = read_series(tmp_path, kind)
    prepared = prepared_of(volume, spacing_mm)
    centre = volume.grid.world((np.array(SHAPE) - 1) / 2)
    normals = np.array([(0.0, 0.0, 0.0), (0.5, -0.7, 0.4), (-0.1, 0.3, 0.9)])
    world = prepared.grid.world(np.moveaxis(np.indices(prepared.grid.shape), 0, -1)) - centre
    engine = Drawn(np.moveaxis(world @ normals.T, -1, 0))
    labels = label_on_grid(engine, prepared, volume.grid, VALUES)  # type: ignore[arg-type]
    assert len(np.unique(labels)) == 3
    checked = 0
    for plane, found in zip(pixels_mm(paths), own_slices(volume, labels), strict=True):
        logits = (plane - centre) @ normals.T
        best = np.sort(logits, axis=-1)
        sure = (best[..., -1] - best[..., -2] > 1e-3) & within(prepared, plane, 1e-5)
        checked += np.count_nonzero(sure)
        assert np.array_equal(found[sure], VALUES[logits.argmax(-1)][sure])
    assert checked > 0.85 * SHAPE[0] * SHAPE[1] * len(paths)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("kind", SERIES)
def test_any_label_map_comes_back_as_interpolated_logits(tmp_path: Path, kind: str, spacing_mm: Any) -> None:
    paths, volume = read_series(tmp_path, kind)
    prepared = prepared_of(volume, spacing_mm)
    logits = np.random.default_rng(0).normal(size=(3, *prepared.grid.shape))
    labels = label_on_grid(Drawn(logits), prepared, volume.grid, VALUES)  # type: ignore[arg-type]
    for plane, found in zip(pixels_mm(paths), own_slices(volume, labels), strict=True):
        at = np.moveaxis(prepared.grid.index(plane), -1, 0)
        values = np.stack([map_coordinates(c, at, order=1, mode="nearest") for c in logits])
        best = np.sort(values, axis=0)
        sure = within(prepared, plane, 0.49) & (best[-1] - best[-2] > 1e-3)
        assert sure.mean() > 0.95
        assert np.array_equal(found[sure], VALUES[values.argmax(0)][sure])


@pytest.mark.parametrize("kind", ["tilt 20", "tilt -18.5", "oblique, tilted both ways"])
def test_a_threshold_of_a_slope_in_the_patient_is_a_plane_in_the_slices(tmp_path: Path, kind: str) -> None:
    """From files to labels: the image is a slope through the patient, the network a threshold."""
    changes, _ = SERIES[kind]
    stored = np.zeros(SHAPE, dtype=np.int16)
    paths = write_series(tmp_path / "in", SeriesSpec(shape=SHAPE, **changes))
    normal = np.array([0.3, -0.8, 0.6])
    for k, plane in enumerate(pixels_mm(paths)):
        stored[:, :, k] = np.rint(100 * plane @ normal)
    paths = write_series(tmp_path / "in", SeriesSpec(shape=SHAPE, modality="MR", stored=stored, **changes))
    volume = read_one(tmp_path / "in")
    package = save_tiny_model(tmp_path / "model", channels=(4, 4))

    class Threshold(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat((torch.zeros_like(x), x - 0.25, torch.full_like(x, -9.0)), dim=1)

    segmenter = medseg.Segmenter(package, [Threshold()], torch.device("cpu"))
    labels = segmenter.segment(volume)
    assert np.array_equal(labels.volume.affine, volume.affine)
    seen = prepare(build_transforms(package.preprocessing, 1), [volume]).image.numpy()
    assert seen.std() == pytest.approx(1, abs=1e-3)
    unscaled = package.model_copy(
        update={"preprocessing": package.preprocessing.model_copy(update={"intensity": (_as_it_is(),)})}
    )
    raw = prepare(build_transforms(unscaled.preprocessing, 1), [volume]).image.numpy()
    level = raw.mean(dtype=np.float64) + 0.25 * raw.std(dtype=np.float64)
    sure_pixels = 0
    for plane, found in zip(pixels_mm(paths)[2:-2], np.moveaxis(labels.array, 2, 0)[2:-2], strict=True):
        slope = 100 * plane @ normal
        sure = np.abs(slope - level) > 3  # stored values are whole numbers: 0.03 mm
        sure[[0, 1, 2, -3, -2, -1]] = sure[:, [0, 1, 2, -3, -2, -1]] = False  # past the border, values are repeated
        assert np.array_equal(found[sure], np.where(slope > level, 1, 0)[sure])
        sure_pixels += np.count_nonzero(sure & (np.abs(slope - level) < 300))
    assert sure_pixels > 100


def _as_it_is() -> Any:
    return Preprocessing(intensity=({"kind": "ct", "clip_hu": (-1e9, 1e9), "mean_hu": 0, "std_hu": 1},)).intensity[
        0
    ]
