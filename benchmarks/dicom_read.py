"""Reading and scanning DICOM: medseg against SimpleITK's series reader and against pydicom's headers."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from record import median_seconds, run_apart, write

from medseg.dicom.scan import scan_pile
from medseg.reading import read_volume

SHAPE = (512, 512, 300)
FILES, FILES_A_SERIES = 10_000, 200
RUNS = 5
VOLUME_GB = float(np.prod(SHAPE)) * 4 / 1e9


def make_series(folder: Path) -> None:
    """Write a CT of 300 slices of 512x512, in a process of its own: a child's peak starts from its parent's."""
    run_apart(
        "import sys, numpy; from pathlib import Path; from medseg.dicom.write import write_series; "
        "from medseg.volume import Volume; "
        f"values = numpy.random.default_rng(0).integers(-1000, 2000, {SHAPE}, dtype=numpy.int16); "
        "volume = Volume(values, numpy.diag([-0.8, -0.8, 1.0, 1.0]), modality='CT'); "
        "write_series(volume, Path(sys.argv[1]), identity='benchmark')",
        folder,
    )


def make_headers(folder: Path) -> int:
    """Write 10,000 CT files with a scanner's full header (pydicom's CT_small.dcm); return elements a header."""
    template = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    folder.mkdir()
    for number in range(FILES):
        series, slice_number = divmod(number, FILES_A_SERIES)
        template.SeriesInstanceUID = generate_uid(entropy_srcs=[f"series {series}"])
        template.SOPInstanceUID = generate_uid(entropy_srcs=[f"instance {number}"])
        template.ImagePositionPatient = [0, 0, slice_number]
        template.save_as(folder / f"{number:05d}")
    return len(template)


def itk_files(folder: Path) -> list[str]:
    return list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))


def itk_read(files: list[str]) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    return reader.Execute()


def pydicom_headers(folder: Path, *, all_tags: bool) -> None:
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if all_tags:
            for _ in dataset:
                pass


def peak_gb(code: str) -> float:
    """Return how much an import alone takes less than the import with the work after it."""
    start = "import numpy, medseg.reading, SimpleITK; "
    return run_apart(start + code)[1] - run_apart(start)[1]


root = Path(tempfile.mkdtemp(prefix="medseg_benchmark_"))
try:
    series, headers = root / "series", root / "headers"
    make_series(series)
    our_peak = peak_gb(f"medseg.reading.read_volume({str(series)!r})")
    their_peak = peak_gb(
        "r = SimpleITK.ImageSeriesReader(); "
        f"r.SetFileNames(r.GetGDCMSeriesFileNames({str(series)!r})); image = r.Execute()"
    )
    files = itk_files(series)
    same = np.array_equal(sitk.GetArrayFromImage(itk_read(files)).T, read_volume(series).array)
    ours = median_seconds(lambda: read_volume(series), RUNS)
    theirs = median_seconds(lambda: itk_read(files), RUNS)
    sorted_too = median_seconds(lambda: itk_read(itk_files(series)), RUNS)
    elements = make_headers(headers)
    scanning = median_seconds(lambda: scan_pile(headers), 3)
    plain = median_seconds(lambda: pydicom_headers(headers, all_tags=False), 3)
    every_tag = median_seconds(lambda: pydicom_headers(headers, all_tags=True), 1)
finally:
    shutil.rmtree(root)
rows = [
    (
        f"300 slices 512x512 to a volume, s (same values: {same})",
        f"{ours:.2f}",
        f"{theirs:.2f}",
        f"{theirs / ours:.1f}",
    ),
    (
        "the same, SimpleITK sorting its files too, s",
        f"{ours:.2f}",
        f"{sorted_too:.2f}",
        f"{sorted_too / ours:.1f}",
    ),
    ("peak memory of it, GB", f"{our_peak:.2f}", f"{their_peak:.2f}", f"{their_peak / our_peak:.1f}"),
    ("peak memory / volume in float32", f"{our_peak / VOLUME_GB:.2f}", f"{their_peak / VOLUME_GB:.2f}", ""),
    (f"10,000 headers of {elements} elements, s", f"{scanning:.1f}", f"{plain:.1f}", f"{plain / scanning:.1f}"),
    (
        "the same, pydicom visiting every tag, s",
        f"{scanning:.1f}",
        f"{every_tag:.1f}",
        f"{every_tag / scanning:.1f}",
    ),
]
write(
    "dicom_read",
    "Reading and scanning DICOM",
    ("work", "medseg", "SimpleITK or pydicom", "ratio"),
    rows,
    "Medians of 5 runs (3 for headers, 1 for every tag), files in the page cache. medseg's reading includes scanning, "
    "sorting and checking the geometry; it gives float32 where SimpleITK gives int16. Peak memory is that of a process "
    "of its own less what its imports take. pydicom is `dcmread(stop_before_pixels=True)` in a loop.",
)
