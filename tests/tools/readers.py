"""Independent readers of DICOM SEG, RTSTRUCT and SR: dcmqi and rt-utils, in an environment of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset

from medseg.volume import Grid
from tests.tools.programs import run
from tests.tools.sources import Case

_REPOSITORY = Path(__file__).resolve().parents[2]
_SIDE = Path(__file__).with_name("rt_utils_side.py")
_FINER = 5


def reader(program: str) -> Path:
    """Return a program of the environment; skip the test where there is none."""
    folder = Path(os.environ.get("MEDSEG_READERS", _REPOSITORY / ".venv-readers"))
    path = folder / "bin" / program
    if not path.exists():
        pytest.skip(f"{program} is not installed; see tests/tools/requirements.txt, or set MEDSEG_READERS")
    return path


def dcmqi_segments(path: Path, folder: Path, grid: Grid) -> dict[str, NDArray[np.bool_]]:
    """Read a DICOM SEG with dcmqi's segimage2itkimage; voxels are brought to a grid by patient millimetres.

    Args:
        path: The SEG.
        folder: For the NIfTI files that dcmqi makes; new.
        grid: What to return.

    Returns:
        The mask of each segment by its SegmentLabel.
    """
    program = reader("segimage2itkimage")
    folder.mkdir()
    answer = run(program, "--inputDICOM", path, "--outputDirectory", folder, "-t", "nii", "-p", "s")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    meta = json.loads((folder / "s-meta.json").read_text(encoding="utf-8"))
    masks = {}
    for items in meta["segmentAttributes"]:
        for item in items:
            image = nibabel.load(folder / f"s-{item['labelID']}.nii.gz")
            values = np.asanyarray(image.dataobj)  # the number of the segment, or fractions as they are stored
            voxels = np.argwhere(values > values.max() / 2)
            world = voxels @ image.affine[:3, :3].T + image.affine[:3, 3]
            masks[item["SegmentLabel"]] = on_grid(world, grid)
    return masks


def on_grid(world_mm: NDArray[np.float64], grid: Grid) -> NDArray[np.bool_]:
    """Return a mask that is set at positions (n, 3), RAS+ mm, each of them the centre of a voxel."""
    exact = grid.index(world_mm)
    nearest = np.rint(exact).astype(int)
    assert np.abs(exact - nearest).max() < 0.01
    assert nearest.min() >= 0
    mask = np.zeros(grid.shape, dtype=bool)
    mask[tuple(nearest.T)] = True  # raises beyond the grid
    return mask


def dcmqi_measurements(path: Path, folder: Path) -> dict[str, Any]:
    """Read a measurement report with dcmqi's tid1500reader."""
    program = reader("tid1500reader")
    answer = run(program, "--inputDICOM", path, "--outputMetadata", folder / "report.json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def rt_utils_structures(path: Path, case: Case, folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Read an RTSTRUCT with rt-utils, on pictures of its own; voxels are looked up there by patient millimetres.

    rt-utils rounds contours to whole pixels and fills their outermost ones too, swaps the two pixel spacings, and
    takes stacks for square and upright. So it gets pictures of the same planes that are square, upright and finer.

    Args:
        path: The RTSTRUCT.
        case: The classic series it was drawn on.
        folder: For the pictures; new.

    Returns:
        The mask of each structure by its name, on the grid of the case.
    """
    python = reader("python")
    folder.mkdir()
    pictures = list(_fine_pictures(case))
    for number, picture in enumerate(pictures):
        picture.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    answer = run(python, _SIDE, folder, path, folder / "masks.npz")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    with np.load(folder / "masks.npz") as found:
        numbers = {str(uid): number for number, uid in enumerate(found["uids"])}
        return {str(name): _sampled(found[str(name)], numbers, pictures, case) for name in found["names"]}


def _fine_pictures(case: Case) -> Iterator[Dataset]:
    """Make pictures of the planes of a case, one after the other along their normal."""
    columns, rows, _ = case.labels.grid.shape
    corners = np.array([[i, j, 0, 1.0] for i in (-1, columns) for j in (-1, rows)])  # a voxel more on every side
    planes = [case.origin.affine(number) for number in range(len(case.origin.frames))]
    along = planes[0][:3, :3] / np.linalg.norm(planes[0][:3, :3], axis=0)
    places = np.concatenate([corners @ plane[:3].T for plane in planes]) @ along  # mm along row, column, normal
    spacing = float(np.linalg.norm(planes[0][:3, :2], axis=0).min()) / _FINER
    size = int(np.ceil(np.ptp(places[:, :2], axis=0).max() / spacing)) + 1
    for number, plane in enumerate(planes):
        height = plane[:3, 3] @ along[:, 2]
        own = case.origin.dataset(number).SOPInstanceUID
        yield _picture(case.origin.datasets[0], own, along @ [*places[:, :2].min(axis=0), height], size, spacing)


def _picture(source: Dataset, own_uid: str, position: NDArray[np.float64], size: int, spacing: float) -> Dataset:
    """Make a picture of the study and series of a source, which has the header of the first file only."""
    picture = Dataset()
    picture.SOPInstanceUID = own_uid
    for keyword in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"):
        picture[keyword] = source[keyword]
    picture.FrameOfReferenceUID, picture.PatientName, picture.PatientID = source.FrameOfReferenceUID, "", ""
    picture.ImageOrientationPatient = source.ImageOrientationPatient
    picture.ImagePositionPatient = [f"{value:.10g}" for value in position]
    picture.PixelSpacing = [f"{spacing:.10g}"] * 2
    picture.Rows = picture.Columns = size
    picture.SamplesPerPixel, picture.PhotometricInterpretation, picture.PixelRepresentation = 1, "MONOCHROME2", 0
    picture.BitsAllocated = picture.BitsStored = 8
    picture.HighBit = 7
    picture.PixelData = bytes(size * size + size % 2)
    picture["PixelData"].VR = "OB"
    picture.file_meta = FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return picture


def _sampled(
    fine: NDArray[np.bool_], numbers: dict[str, int], pictures: list[Dataset], case: Case
) -> NDArray[np.bool_]:
    """Look the centres of the voxels of a case up in fine masks [row, column, picture]."""
    mask = np.zeros(case.labels.grid.shape, dtype=bool)
    columns, rows, slices = mask.shape
    i, j = np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij")
    for number in range(slices):
        picture = pictures[number]
        x, y = np.array(picture.ImageOrientationPatient, dtype=float).reshape(2, 3)
        affine = case.origin.affine(number)
        centres = i[..., None] * affine[:3, 0] + j[..., None] * affine[:3, 1] + affine[:3, 3]
        away = centres - np.array(picture.ImagePositionPatient, dtype=float)
        column, row = (np.rint(away @ axis / picture.PixelSpacing[0]).astype(int) for axis in (x, y))
        mask[:, :, number] = fine[row, column, numbers[picture.SOPInstanceUID]]
    return mask
