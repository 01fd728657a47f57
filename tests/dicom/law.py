"""The law that every reader of DICOM images must keep, stated with pydicom alone.

PS3.3 C.7.6.2.1.1: a slice's own position, orientation and pixel spacing say where each of its pixels lies in the
patient. PS3.3 C.11.1.1.2: its own slope and intercept say what each stored value means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medseg.volume import Volume

Points = NDArray[np.float64]

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice, from its own tags.

    Attributes:
        name: File and frame, for messages.
        position_mm: Of the first pixel, LPS.
        directions: Of a row and of a column (2, 3), LPS.
        spacing_mm: Between columns, between rows.
        slope: Rescale slope.
        intercept: Rescale intercept.
        stored: Values before rescale [row, column].
    """

    name: str
    position_mm: Points
    directions: Points
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float
    stored: NDArray[Any]

    def world_mm(self, i: NDArray[Any], j: NDArray[Any]) -> Points:
        """Return where the pixels of columns i and rows j lie (..., 3), RAS."""
        x, y = self.directions
        along_row = np.multiply.outer(i * self.spacing_mm[0], x)
        along_column = np.multiply.outer(j * self.spacing_mm[1], y)
        return np.asarray((self.position_mm + along_row + along_column) * _LPS_TO_RAS)

    def values(self) -> NDArray[np.float64]:
        """Return the values after rescale [row, column]."""
        return np.asarray(self.stored * self.slope + self.intercept, dtype=np.float64)


def frames_of(path: Path) -> list[Frame]:
    """Read the frames of a single-frame or multi-frame file, in the order of the file."""
    dataset = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    planes = _stored(dataset).reshape(-1, dataset.Rows, dataset.Columns)
    return [_frame(dataset, number, plane, f"{path.name}[{number}]") for number, plane in enumerate(planes)]


def slice_positions(path: Path) -> Points:
    """Return the position of each frame of a file (frames, 3), LPS."""
    return np.array([frame.position_mm for frame in frames_of(path)])


def check_law(
    sources: Iterable[Path | Frame],
    volume: Volume,
    samples: int = 300,
    *,
    tolerance_voxels: float = 0.01,
    tolerance_of_values: float = 1e-6,
) -> None:
    """Check that random pixels of each slice lie where the volume says, and mean what it says.

    Args:
        sources: Files, or frames of multi-frame files (`frames_of`): all slices of the volume and no others.
        volume: What a reader made of them, without resampling; i is the column and j the row.
        samples: Pixels of each slice, beside its corners.
        tolerance_voxels: How far a pixel may lie from its voxel.
        tolerance_of_values: How far a value may be off, as a fraction of it or of the largest one in its slice.

    Raises:
        AssertionError: The law is broken; the message says where.
    """
    nested = [[source] if isinstance(source, Frame) else frames_of(source) for source in sources]
    frames = [frame for some in nested for frame in some]
    inverse = np.linalg.inv(volume.affine)
    generator = np.random.default_rng(0)
    seen: dict[int, str] = {}
    for frame in frames:
        rows, columns = frame.stored.shape
        assert volume.array.shape[:2] == (columns, rows), (
            f"{frame.name}: {columns} columns and {rows} rows are a volume of shape {volume.array.shape}"
        )
        corners = [[0, columns - 1, 0, columns - 1], [0, 0, rows - 1, rows - 1]]
        i, j = np.hstack([corners, generator.integers([[columns], [rows]], size=(2, samples))])
        index = frame.world_mm(i, j) @ inverse[:3, :3].T + inverse[:3, 3]
        k = _checked_place(frame, volume, np.stack([i, j], axis=1), index, tolerance_voxels)
        assert k not in seen, f"{frame.name} and {seen[k]} both lie at k = {k}"
        seen[k] = frame.name
        _check_values(frame, volume.array[i, j, k], (i, j, k), tolerance_of_values)
    missing = sorted(set(range(volume.array.shape[2])) - set(seen))
    assert not missing, f"no slice lies at k = {missing} of {volume.array.shape[2]}"


def draw_markers(
    paths: Iterable[Path], centres_mm: Sequence[Sequence[float]], *, sigma_mm: float = 3.5, peak: float = 1000.0
) -> None:
    """Replace the pixels of files by Gaussian blobs on 0, each slice where its own tags say.

    Args:
        paths: Uncompressed little endian files, single-frame or multi-frame.
        centres_mm: Of the blobs, RAS.
        sigma_mm: Of the blobs.
        peak: Value after rescale at the centre.
    """
    for path in paths:
        dataset = pydicom.dcmread(path)
        planes = []
        for frame in frames_of(path):
            pixels = np.indices(frame.stored.shape)
            world = frame.world_mm(i=pixels[1], j=pixels[0])
            squares = [np.sum((world - centre) ** 2, axis=-1) for centre in np.asarray(centres_mm, dtype=float)]
            values = peak * np.sum([np.exp(-square / (2 * sigma_mm**2)) for square in squares], axis=0)
            planes.append(np.rint((values - frame.intercept) / frame.slope))
        stored = np.stack(planes)
        kind = np.iinfo(f"{'iu'[not dataset.PixelRepresentation]}{dataset.BitsAllocated // 8}")
        if stored.min() < kind.min or stored.max() > kind.max:
            raise ValueError(f"{path.name}: blobs of {peak:g} do not fit {kind.dtype}")
        dataset.PixelData = stored.astype(kind.dtype).tobytes()
        dataset.save_as(path)


def centroid_mm(volume: Volume, near: Sequence[float], radius: float = 14.0, background: float = 0.0) -> Points:
    """Return the centre of mass of a blob (3,), RAS.

    Args:
        volume: Read or resampled.
        near: Where it is expected, RAS; the ball that is weighed then follows the blob.
        radius: Of that ball; four sigma lose nothing.
        background: Value that weighs nothing.
    """
    world = volume.grid.world(np.moveaxis(np.indices(volume.array.shape), 0, -1))
    weights = np.clip(volume.array.astype(np.float64) - background, 0, None)
    centre = np.asarray(near, dtype=np.float64)
    for _ in range(20):
        inside = weights * (np.sum((world - centre) ** 2, axis=-1) < radius**2)
        if not inside.any():
            raise ValueError(f"nothing within {radius:g} mm of {np.round(centre, 1).tolist()}")
        moved = np.einsum("ijk,ijkw->w", inside, world) / inside.sum()
        step, centre = float(np.linalg.norm(moved - centre)), moved
        if step < 1e-4:
            break
    return centre


def _frame(dataset: Dataset, number: int, plane: NDArray[Any], name: str) -> Frame:
    """Read a frame's tags: its own functional group goes before the shared one; without groups, the file's."""
    position = _group(dataset, number, "PlanePositionSequence")
    orientation = _group(dataset, number, "PlaneOrientationSequence")
    measures = _group(dataset, number, "PixelMeasuresSequence")
    rescale = _group(dataset, number, "PixelValueTransformationSequence")
    row_mm, column_mm = (float(value) for value in measures.PixelSpacing)
    return Frame(
        name=name,
        position_mm=np.array(position.ImagePositionPatient, dtype=float),
        directions=np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3),
        spacing_mm=(column_mm, row_mm),
        slope=float(rescale.get("RescaleSlope", 1)),
        intercept=float(rescale.get("RescaleIntercept", 0)),
        stored=plane,
    )


def _group(dataset: Dataset, number: int, keyword: str) -> Dataset:
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return dataset
    own = dataset.PerFrameFunctionalGroupsSequence[number]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    return next((groups[keyword].value[0] for groups in (own, shared) if keyword in groups), Dataset())


def _stored(dataset: Dataset) -> NDArray[Any]:
    """Return what the stored bits mean, without the bits around them (PS3.5 8.1.1)."""
    low_bit = dataset.HighBit + 1 - dataset.BitsStored
    if low_bit:  # pydicom takes no notice of it
        kind = f"{'<' if dataset.original_encoding[1] else '>'}u{dataset.BitsAllocated // 8}"
        words = np.frombuffer(dataset.PixelData, kind).astype(np.int64) >> low_bit
    else:
        words = dataset.pixel_array.astype(np.int64)
    values = words & ((1 << dataset.BitsStored) - 1)
    sign = 1 << (dataset.BitsStored - 1)
    return np.asarray((values ^ sign) - sign if dataset.PixelRepresentation else values)


def _checked_place(frame: Frame, volume: Volume, pixels: NDArray[Any], index: Points, tolerance: float) -> int:
    """Return the k of a slice whose pixels (n, 2) have the fractional voxel indices (n, 3)."""
    k = int(np.rint(index[:, 2].mean()))
    off = np.abs(index - np.column_stack([pixels, np.full(len(pixels), k)])).max(axis=1)
    worst = int(off.argmax())
    assert off[worst] <= tolerance, (
        f"{frame.name}: column {pixels[worst, 0]}, row {pixels[worst, 1]} lies at voxel "
        f"{np.round(index[worst], 3).tolist()}, {off[worst]:.3g} voxels from its place in slice {k}"
    )
    assert 0 <= k < volume.array.shape[2], f"{frame.name} lies at k = {k}, outside {volume.array.shape[2]} slices"
    return k


def _check_values(frame: Frame, found: NDArray[Any], at: tuple[Any, Any, int], tolerance: float) -> None:
    i, j, k = at
    all_values = frame.values()
    expected = all_values[j, i]
    allowed = tolerance * np.maximum(np.abs(expected), np.abs(all_values).max())
    off = np.abs(found.astype(np.float64) - expected) - allowed
    worst = int(off.argmax())
    assert np.isfinite(found).all(), f"{frame.name}: a value at k = {k} is not finite"
    assert off[worst] <= 0, (
        f"{frame.name}: {found[worst]} instead of {expected[worst]:.8g} at voxel ({i[worst]}, {j[worst]}, {k}); "
        f"{np.count_nonzero(off > 0)} of {len(off)} samples differ"
    )
