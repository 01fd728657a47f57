"""Who reads what medseg makes: DICOM SEG and RTSTRUCT of awkward masks, read by programs that nobody here wrote.

dcmqi and rt-utils read them in tests/tools, too, at every run. This adds two that only work with pydicom 2, in an
environment of their own::

    python -m venv READERS
    READERS/bin/pip install "pydicom<3" pydicom-seg==0.4.1 dcmrtstruct2nii==5
    python benchmarks/readers.py READERS/bin/python
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import write
from medseg.dicom.object_parts import save_object
from tests.tools.objects import KINDS
from tests.tools.readers import on_grid
from tests.tools.sources import Case, make_case

SOURCES = ("ct", "mr_oblique", "ct_tilted")
PYDICOM_SEG = """
import sys
import numpy as np
import pydicom
import pydicom_seg

result = pydicom_seg.SegmentReader().read(pydicom.dcmread(sys.argv[1]))
np.savez(sys.argv[2], **{result.segment_infos[n].SegmentLabel: result.segment_data(n) for n in result.available_segments})
"""
DCMRTSTRUCT2NII = """
import sys
from dcmrtstruct2nii import dcmrtstruct2nii

dcmrtstruct2nii(sys.argv[1], sys.argv[2], sys.argv[3], convert_original_dicom=False)
"""


def by_pydicom_seg(python: str, case: Case, path: Path, folder: Path) -> dict[str, np.ndarray]:
    subprocess.run([python, "-c", PYDICOM_SEG, path, folder / "masks.npz"], check=True, capture_output=True)
    with np.load(folder / "masks.npz") as masks:
        return {name: masks[name].T > 0 for name in masks}


def by_dcmrtstruct2nii(python: str, case: Case, path: Path, folder: Path) -> dict[str, np.ndarray]:
    command = [python, "-c", DCMRTSTRUCT2NII, path, case.folder, folder / "nii"]
    subprocess.run(command, check=True, capture_output=True)
    masks = {}
    for file in sorted((folder / "nii").glob("mask_*.nii.gz")):
        image = nibabel.load(file)
        world = nibabel.affines.apply_affine(image.affine, np.argwhere(np.asanyarray(image.dataobj) > 0))
        masks[file.name[5:-7]] = on_grid(world, case.labels.grid)
    return masks


READERS = {"pydicom-seg": ("seg", by_pydicom_seg), "dcmrtstruct2nii": ("rtstruct", by_dcmrtstruct2nii)}


def rows(python: str, source: str, folder: Path) -> list[list[object]]:
    case, found = make_case(source, folder / "source", lambda: folder), []
    for reader, (kind, read) in READERS.items():
        path = folder / f"{kind}.dcm"
        save_object(KINDS[kind](case), path)
        try:
            masks = read(python, case, path, folder)
        except AssertionError:  # of `on_grid`
            found.append([source, kind, reader, "-", "-", "takes tilted slices for an upright stack"])
            continue
        for label in case.labels.labels:
            if label.index in case.present:
                mask = masks.get(label.name, masks.get(label.name.replace(" ", "-")))
                wanted = case.labels.array == label.index
                got = np.zeros_like(wanted) if mask is None or mask.shape != wanted.shape else mask
                dice = 2 * int((got & wanted).sum()) / int(got.sum() + wanted.sum())
                found.append(
                    [source, kind, reader, label.name, f"{int(wanted.sum())} / {int(got.sum())}", f"{dice:.4f}"]
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="of the environment with pydicom-seg and dcmrtstruct2nii")
    python = parser.parse_args().python
    table = []
    for source in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            table += rows(python, source, Path(folder))
    header = ["source", "object", "reader", "label", "voxels: mask / reader", "Dice"]
    notes = (
        "Masks with holes, islands, corners that touch, lines one voxel wide, random blobs (tests/tools/masks.py)."
    )
    write(
        "readers", "Independent readers of SEG and RTSTRUCT", header, table, notes, arguments=" READERS/bin/python"
    )


if __name__ == "__main__":
    main()
