"""What proving costs: each object of a mask, made and written, then read back and compared.

python benchmarks/proof.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from record import write
from rtstruct import LABELS, SHAPE, SPACING_MM, organs

from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.origin import read_origin
from medseg.dicom.output_options import RtstructOptions, SegOptions, SrOptions
from medseg.dicom.policy import Policies
from medseg.dicom.proof import prove_segmentation, prove_structure_set
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.read import read_stack
from medseg.dicom.report_proof import prove_report
from medseg.dicom.rtstruct import make_structure_set
from medseg.dicom.scan import scan_pile
from medseg.dicom.seg import make_segmentation
from medseg.dicom.sr import make_measurement_report
from medseg.dicom.stack import stack_series
from medseg.dicom.write import write_series
from medseg.labels import LabelMap, LabelSet
from medseg.maker import Maker
from medseg.measurements import measure
from medseg.nifti import write_nifti
from medseg.nifti_proof import prove_label_map
from medseg.volume import Volume

RUNS = 3


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        array = organs()
        image = Volume(np.asfortranarray(array.astype(np.int16) * 10), np.diag([*SPACING_MM, 1.0]), modality="CT")
        write_series(image, folder / "series", identity="benchmark")
        (series,) = scan_pile(folder / "series").series
        with quiet_pydicom():
            stack = stack_series(series, Policies())
        origin, image = read_origin(stack), read_stack(stack)
        names = LabelSet.from_names({value: f"organ {value}" for value in range(1, LABELS + 1)})
        labels, maker = LabelMap(Volume(array, origin.grid.affine), names), Maker("m", "0" * 64)
        path = folder / "object"

        def seg(**options: str) -> Callable[[], object]:
            made = SegOptions(**options)
            return lambda: save_object(
                make_segmentation(origin, labels, Identity(origin, maker, "a"), made).dataset, path
            )

        def report() -> None:
            made = make_measurement_report(
                origin, measure(labels, image), Identity(origin, maker, "sr"), SrOptions()
            )
            save_object(made.dataset, path)

        def contours() -> None:
            save_object(
                make_structure_set(origin, labels, Identity(origin, maker, "rt"), RtstructOptions()).dataset, path
            )

        nifti = folder / "labels.nii.gz"
        objects: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "NIfTI label map": (lambda: write_nifti(nifti, labels), lambda: prove_label_map(nifti, labels)),
            "SEG, BINARY": (seg(), lambda: prove_segmentation(path, origin, labels)),
            "SEG, LABELMAP": (
                seg(type="LABELMAP"),
                lambda: prove_segmentation(path, origin, labels, options=SegOptions(type="LABELMAP")),
            ),
            "RTSTRUCT": (contours, lambda: prove_structure_set(path, origin, labels)),
            "SR": (report, lambda: prove_report(path, origin, labels, image=image)),
        }
        rows = []
        for what, (make, prove) in objects.items():
            runs = [(seconds(make), seconds(prove)) for _ in range(RUNS)]
            made, proved = (statistics.median(part) for part in zip(*runs, strict=True))
            rows.append((what, f"{made:.1f}", f"{proved:.1f}", f"{proved / made:.1f}"))
    write(
        "proof",
        f"What proving costs: {LABELS} labels on {SHAPE[2]} slices of {SHAPE[0]} x {SHAPE[1]}",
        ("object", "made and written, CPU s", "read back and compared, CPU s", "share"),
        rows,
        f"Medians of {RUNS} runs; processor time of one process.",
    )


if __name__ == "__main__":
    main()
