"""Writing torsos: a data set as the Medical Segmentation Decathlon lays them out, and cases as DICOM series."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medseg.dicom.write import write_series
from medseg.errors import UsageError
from medseg.files import make_folder, write_text
from medseg.labels import LabelMap
from medseg.nifti import write_nifti
from medseg.phantom.labels import TORSO_LABELS
from medseg.phantom.torso import draw_torso
from medseg.volume import Volume

DATASET_FILE = "dataset.json"
_DECATHLON_MODALITY = {"CT": "CT", "MR": "MRI"}


def write_dataset(
    folder: Path,
    cases: int,
    seed: int,
    *,
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 4.0),
    modality: str = "CT",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a data set of torsos in the layout of the Medical Segmentation Decathlon.

    ``imagesTr/torso_000.nii.gz``, ``labelsTr/torso_000.nii.gz`` and so on; ``dataset.json`` comes last, so that an
    interrupted run leaves no data set. Case i is the same whatever `cases` is.

    Args:
        folder: Where to; made where it is missing.
        cases: How many, 1 or more.
        seed: Chooses the torsos.
        spacing_mm: Voxel size.
        modality: ``CT`` or ``MR``.
        progress: Called with (cases done, cases) after each case.

    Returns:
        The path of ``dataset.json``.

    Raises:
        UsageError: `cases` is not positive, or `draw_torso` does not take the other arguments.
        StorageError: A file cannot be written.
    """
    if cases < 1:
        raise UsageError("cases", expected="1 or more", found=str(cases), remedy="ask for at least one case")
    description = make_folder(folder) / DATASET_FILE
    description.unlink(missing_ok=True)
    for case in range(cases):
        image, labels = draw_torso(case_seed(seed, case), spacing_mm, modality)
        write_nifti(folder / "imagesTr" / f"{_name(case)}.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"{_name(case)}.nii.gz", labels)
        if progress:
            progress(case + 1, cases)
    write_text(description, json.dumps(_description(cases, seed, modality), indent=2) + "\n")
    return description


def write_dicom_case(
    folder: Path,
    case: int,
    seed: int,
    *,
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 4.0),
    modality: str = "CT",
) -> Path:
    """Write one torso as a DICOM series, and its labels as NIfTI on the series' grid.

    The series lies in ``folder/torso_NNN/`` and the labels in ``folder/torso_NNN_labels.nii.gz``. The torso is case
    `case` of `write_dataset` with the same seed; its axes are turned to LPS+, in which scanners store axial slices.

    Returns:
        The folder of the series.

    Raises:
        UsageError: The folder of the series is there and not empty, or `draw_torso` does not take the arguments.
        StorageError: A file cannot be written.
    """
    image, labels = draw_torso(case_seed(seed, case), spacing_mm, modality)
    series = folder / _name(case)
    identity = "-".join(str(part) for part in ("torso", seed, case, modality, *spacing_mm))
    write_series(_to_lps(image), series, identity=identity)
    write_nifti(folder / f"{_name(case)}_labels.nii.gz", LabelMap(_to_lps(labels.volume), labels.labels))
    return series


def case_seed(seed: int, case: int) -> int:
    """Return the seed of one case of a data set."""
    return int(np.random.SeedSequence([seed, case]).generate_state(1)[0])


def _name(case: int) -> str:
    return f"torso_{case:03d}"


def _to_lps(volume: Volume) -> Volume:
    """Return the same voxels at the same places, with i and j counted from the other end."""
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn[:2, 3] = np.array(volume.array.shape[:2]) - 1
    array = np.asfortranarray(volume.array[::-1, ::-1, :])
    return Volume(array, volume.affine @ turn, modality=volume.modality, source=volume.source)


def _description(cases: int, seed: int, modality: str) -> dict[str, Any]:
    return {
        "name": "Torso phantom",
        "description": "Synthetic torsos drawn by medseg; labels exact by construction; no patient data",
        "reference": f"medseg phantom --cases {cases} --seed {seed} --modality {modality}",
        "licence": "CC0-1.0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": _DECATHLON_MODALITY[modality]},
        "labels": {"0": "background", **{str(label.index): label.name for label in TORSO_LABELS}},
        "numTraining": cases,
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{_name(case)}.nii.gz", "label": f"./labelsTr/{_name(case)}.nii.gz"}
            for case in range(cases)
        ],
        "test": [],
    }
