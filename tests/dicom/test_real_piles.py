"""All real DICOM at hand through scan, plan and read: each folder's own outcome, the law, and other readers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medseg.dicom.plan import plan_pile
from medseg.dicom.policy import Policies
from medseg.dicom.read import read_stack
from medseg.dicom.scan import scan_pile
from medseg.volume import Volume
from tests.dicom.cases import check, check_interpolated, check_parts, codes, read, read_one, sop_instance_uid
from tests.dicom.test_real_series import between

pytestmark = pytest.mark.data


@dataclass(frozen=True)
class Outcome:
    """What must become of a folder: slices of each volume, reason of each refusal, findings of every volume."""

    slices: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()
    findings: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()


def four(*findings: str) -> Outcome:
    return Outcome((4,), findings=frozenset(findings))


NO_IMAGE = frozenset({"not-an-image"})
OUTCOMES: dict[str, Outcome] = {
    "ct/example_ct_dicom": Outcome((20,), findings=frozenset({"series-uid-missing", "sop-class-missing"})),
    "dicom/codecs/compressed/001": four(),
    "dicom/codecs/compressed_j2k/001": four(),
    "dicom/codecs/compressed_jpeg/001": four(),
    "dicom/codecs/compressed_jpegls/001": four(),
    "dicom/codecs/compressed_rle/001": four(),
    "dicom/codecs/rgb/001": Outcome(refused=("colour",)),
    "dicom/failing/notavolume/001": Outcome((1, 1, 1, 1), findings=frozenset({"split", "single-slice"})),
    "dicom/failing/slicecount/001": Outcome((2,)),
    "dicom/failing/sliceincrement/001": Outcome(refused=("missing-slice",)),
    "dicom/failing/sliceorientation/001": Outcome((2, 2), findings=frozenset({"split"})),
    "dicom/localizer_philips": Outcome(refused=("localizer",), skipped=NO_IMAGE),
    "dicom/tilt_ge": Outcome(refused=("irregular",)),
    "dicom/tilt_philips": Outcome((54,), findings=frozenset({"gantry-tilt"}), skipped=NO_IMAGE),
    "dicom/vendors/ge/001": four(),
    "dicom/vendors/ge/001_implicit": four(),
    "dicom/vendors/ge/001_single_slice": Outcome((1,), findings=frozenset({"single-slice"})),
    "dicom/vendors/generic/001": four(),
    "dicom/vendors/generic/001_implicit": four(),
    "dicom/vendors/generic/002_non_isotropic": four(),
    "dicom/vendors/siemens/001": four(),
    "dicom/vendors/siemens/001_implicit": four(),
    "dicom/vendors/siemens_mosaic/001": Outcome(refused=("mosaic", "mosaic")),
    "dicom/vendors/siemens_multiframe/001": Outcome((8,)),
    "mr_study/12-T1post-05670": Outcome((22,)),
    "mr_study/13_HCropVolume": Outcome((32,)),
    "mr_study/34909-T1prereg-84610": Outcome((22,)),
    "mr_study/36459-FLAIRreg-76244": Outcome((22,)),
    "mr_study/37916-T2reg-88910": Outcome((22,)),
}
OPINIONS = [
    name
    for name, outcome in OUTCOMES.items()
    if len(outcome.slices) == 1 and name.startswith("dicom/") and "tilt" not in name
]
"""Folders with another converter's output beside them."""
READ = [name for name, outcome in OUTCOMES.items() if outcome.slices]


def image_files(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """The files with pixels below a folder, by study and series, as pydicom reads them."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".gz")):
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        if "Rows" in dataset:
            key = str(dataset.get("StudyInstanceUID", "")), str(dataset.get("SeriesInstanceUID", ""))
            groups.setdefault(key, []).append(path)
    return groups


def files_of(folder: Path, volume: Volume) -> list[Path]:
    """The files that a volume is made of."""
    uids = {s.sop_instance_uid for s in volume.slices}
    return [path for group in image_files(folder).values() for path in group if sop_instance_uid(path) in uids]


def with_groups(path: Path, tmp_path: Path) -> Path:
    """A copy for `frames_of` where a multi-frame file has no shared groups at all, else the file itself."""
    dataset = pydicom.dcmread(path, force=True)
    if "PerFrameFunctionalGroupsSequence" not in dataset or "SharedFunctionalGroupsSequence" in dataset:
        return path
    dataset.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
    dataset.save_as(tmp_path / path.name)
    return tmp_path / path.name


def test_every_folder_has_its_outcome(data_root: Path) -> None:
    below = [data_root / "ct" / "example_ct_dicom", data_root / "dicom", data_root / "mr_study"]
    found = {str(p.parent.relative_to(data_root)) for b in below for p in b.rglob("*") if p.is_file()}
    found -= {name for name in found if all(p.suffix == ".gz" or p.is_dir() for p in (data_root / name).iterdir())}
    assert found == set(OUTCOMES)


@pytest.mark.parametrize("name", OUTCOMES)
def test_scan_plan_and_read(data_root: Path, tmp_path: Path, name: str) -> None:
    expected, folder = OUTCOMES[name], data_root / name
    scan, plan = scan_pile(folder), plan_pile(folder)
    assert {finding.code.value for finding in scan.findings} == expected.skipped
    assert sorted(len(d.series.frames) for d in plan.taken) == sorted(expected.slices)
    assert sorted(d.rule for d in plan.decisions if not d.is_taken) == sorted(expected.refused)
    assert len(scan.series) == len(plan.decisions) == len(expected.slices) + len(expected.refused)
    volumes, refused = read(folder)
    assert sorted(refused) == sorted(expected.refused)
    assert sorted(len(volume.slices) for volume in volumes) == sorted(expected.slices)
    for volume in volumes:
        assert codes(volume) == expected.findings
    groups = [files_of(folder, volume) for volume in volumes]
    if not refused:
        assert sum(map(len, groups)) == sum(len(group) for group in image_files(folder).values())
    check_parts(volumes, [[with_groups(path, tmp_path) for path in group] for group in groups])


@pytest.mark.parametrize("name", OPINIONS)
def test_another_converter_agrees_where_it_gave_an_opinion(data_root: Path, name: str) -> None:
    folder = data_root / name
    volume, image = read_one(folder), nib.load(folder.with_name(f"{folder.name}_ground_truth.nii.gz"))
    values = np.asanyarray(image.dataobj)
    assert values.size == volume.array.size
    assert np.allclose(values[tuple(between(volume, image))], volume.array.reshape(-1), rtol=1e-6, atol=1e-5)


def test_the_labels_of_the_ct_lie_on_its_grid(data_root: Path) -> None:
    volume = read_one(data_root / "ct" / "example_ct_dicom")
    labels = nib.load(data_root / "ct" / "example_seg_dicom.nii.gz")
    values = np.asanyarray(labels.dataobj)[tuple(between(volume, labels))].reshape(volume.array.shape)
    assert 60 < volume.array[values == 5].mean() < 120  # liver, HU


@pytest.mark.parametrize("name", [name for name in READ if len(OUTCOMES[name].slices) == 1])
def test_simpleitk_agrees_about_slices(data_root: Path, name: str) -> None:
    """ITK's reader is right about each slice by itself; about the direction of a tilted stack it is not."""
    folder = data_root / name
    volume, checked = read_one(folder), []
    for path in files_of(folder, volume)[::3]:
        image = sitk.ReadImage(str(path))
        corner = np.array(image.GetSize()) - 1
        first, last = (
            volume.grid.index(np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1))
            for index in ((0, 0, 0), (int(corner[0]), int(corner[1]), 0))
        )
        k = round(first[2])
        assert np.abs(first - (0, 0, k)).max() < 0.01
        assert np.abs(last - (*corner[:2], k)).max() < 0.01
        if corner[2] == 0:
            assert np.allclose(sitk.GetArrayFromImage(image)[0].T, volume.array[:, :, k], rtol=1e-5)
        checked.append(k)
    assert len(set(checked)) == len(checked) > 0


@pytest.mark.parametrize("name", ["ct/example_ct_dicom", "mr_study/12-T1post-05670", "mr_study/13_HCropVolume"])
def test_simpleitk_agrees_about_whole_series(data_root: Path, name: str) -> None:
    volume = read_one(data_root / name)
    paths = [str(path) for (group,) in [image_files(data_root / name).values()] for path in group]
    normal = np.cross(*np.array(pydicom.dcmread(paths[0]).ImageOrientationPatient, dtype=float).reshape(2, 3))
    paths.sort(key=lambda p: np.array(pydicom.dcmread(p, stop_before_pixels=True).ImagePositionPatient) @ normal)
    image = sitk.ReadImage(paths)
    assert np.allclose(sitk.GetArrayFromImage(image).transpose(2, 1, 0), volume.array, rtol=1e-6)
    i, j, k = (size - 1 for size in volume.array.shape)
    for index in ((0, 0, 0), (i, 0, 0), (0, j, 0), (0, 0, k), (i, j, k)):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        assert np.abs(volume.grid.index(lps * (-1, -1, 1)) - index).max() < 0.01


def test_ge_with_tilt_and_two_distances(data_root: Path) -> None:
    folder = data_root / "dicom" / "tilt_ge"
    volume = read_one(folder, irregular="resample")
    assert codes(volume) == {"gantry-tilt", "irregular", "several-acquisitions"}
    assert volume.grid.is_sheared
    paths = files_of(folder, volume)
    assert len(paths) == 28
    check_interpolated(paths, volume)
    step = volume.affine[:3, 2]
    assert np.allclose(step / np.linalg.norm(step), (0, 0, 1), atol=1e-6)  # the table's direction
    for policies in ({"irregular": "resample", "gantry_tilt": "refuse"}, {"gantry_tilt": "refuse"}):
        assert read(folder, **policies)[1][0] in ("gantry-tilt", "irregular")


def test_philips_with_tilt(data_root: Path) -> None:
    folder = data_root / "dicom" / "tilt_philips"
    volume = read_one(folder)
    assert volume.grid.is_sheared
    assert np.allclose(volume.affine[:3, 2], (0, 0, 2.5), atol=1e-6)
    assert read(folder, gantry_tilt="refuse") == ([], ["gantry-tilt"])


def test_a_gap_is_named_or_filled(data_root: Path) -> None:
    folder = data_root / "dicom" / "failing" / "sliceincrement" / "001"
    volume = read_one(folder, missing_slice="fill")
    assert codes(volume) == {"missing-slice", "several-acquisitions"}
    assert [s.place for s in volume.slices] == [0, 1, 2, 4]
    check_interpolated(files_of(folder, volume), volume)


def test_the_whole_mr_study_is_one_pile(data_root: Path) -> None:
    folder = data_root / "mr_study"
    volumes, refused = read(folder)
    assert not refused
    assert sorted(len(volume.slices) for volume in volumes) == [22, 22, 22, 22, 32]
    check_parts(volumes, image_files(folder).values(), samples=60)
    large = [volume for volume in volumes if len(volume.slices) == 22]
    assert all(volume.grid.difference(large[0].grid, tolerance_mm=0.05) is None for volume in large)


def test_all_of_dicom_is_one_pile(data_root: Path, tmp_path: Path) -> None:
    """Series that lie in several folders are put together where they are one, and refused where they conflict."""
    folder = data_root / "dicom"
    plan = plan_pile(folder, None, Policies())
    groups = image_files(folder)
    frames = [frame for decision in plan.decisions for frame in decision.series.frames]
    assert len({(frame.header.study_uid, frame.header.series_uid) for frame in frames}) == len(groups)
    assert len({frame.header.source for frame in frames}) == sum(len(paths) for paths in groups.values())
    left = {d.rule for d in plan.decisions if not d.is_taken}
    assert {"colour", "irregular", "localizer", "missing-slice", "mosaic"} <= left
    names = {path: sop_instance_uid(path) for group in groups.values() for path in group}
    for stack in plan.taken:
        volume = read_stack(stack)
        uids = {s.sop_instance_uid for s in volume.slices}
        own = {uid: path for path, uid in names.items() if uid in uids}  # of copies any one: they are the same
        check([with_groups(path, tmp_path) for path in own.values()], volume, samples=30)
    copies = [stack for stack in plan.taken if "duplicate" in {f.code.value for f in stack.findings}]
    assert copies
    for stack in copies:
        assert len(stack.series.frames) > stack.count
