"""NIfTI against nibabel and SimpleITK, which read and write it on their own, and against damaged files."""

from __future__ import annotations

import errno
import gzip
import io
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import NiftiError, StorageError
from medseg.findings import FindingCode
from medseg.labels import LabelMap, LabelSet
from medseg.nifti import case_name, is_nifti, read_nifti, read_nifti_grid, write_nifti
from medseg.volume import Volume
from tests.affines import affine_of, invertible, right_angled, rotation, tilted

TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
SHAPE = (5, 4, 3)
OBLIQUE = affine_of(rotation((20, -15, 30)), (0.7, 1.3, 5.0), (-100, 20, 30)).astype(np.float32).astype(np.float64)
IN_ONE_FOLDER = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def values(kind: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Values over the whole range of a type."""
    dtype = np.dtype(kind)
    rng = np.random.default_rng(0)
    if dtype.kind == "f":
        return rng.normal(0, 1e4, shape).astype(dtype)
    info = np.iinfo(dtype)
    array = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    array.flat[:2] = info.min, info.max
    return array


def written_by_nibabel(
    path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE, *, order: str = "<", version: int = 1, **header
) -> Path:
    """Write with nibabel; keywords set header fields afterwards, in the bytes."""
    image_type, header_type = {
        1: (nib.Nifti1Image, nib.Nifti1Header),
        2: (nib.Nifti2Image, nib.Nifti2Header),
    }[version]
    empty = header_type(endianness=order)
    empty.set_data_dtype(array.dtype)
    image = image_type(array, affine, header=empty)
    content = bytearray(image.to_bytes())
    if header:
        size = 348 if version == 1 else 540
        fields = header_type.from_fileobj(io.BytesIO(content[:size]), check=False)
        for name, value in header.items():
            fields[name] = value
        content[:size] = fields.binaryblock
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def header_of(path: Path) -> nib.Nifti1Header:
    content = path.read_bytes()
    return nib.Nifti1Header(gzip.decompress(content)[:348] if path.suffix == ".gz" else content[:348])


# --- names ---


def test_names():
    assert is_nifti(Path("a.b/x.NII.GZ"))
    assert is_nifti(Path("x.nii"))
    assert not is_nifti(Path("x.gz"))
    assert not is_nifti(Path("nii"))
    assert case_name(Path("a/case.1.nii.gz")) == case_name(Path("case.1.nii")) == "case.1"
    assert case_name(Path("X.NII.GZ")) == "X"


# --- reading what nibabel wrote ---


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_version_and_byte_order(tmp_path, kind, version, order, suffix):
    array = values(kind)
    path = written_by_nibabel(tmp_path / f"a{suffix}", array, order=order, version=version)
    volume = read_nifti(path)
    assert volume.array.dtype == np.dtype(kind)
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    assert volume.array.flags.f_contiguous
    assert volume.source == str(path)
    assert volume.findings == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "f4"])
@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -1024.0), (-2.0, 3.0), (1.0, 7.0), (1e-3, 0.0)])
def test_scaled_values_are_nibabels_in_float32(tmp_path, kind, order, slope, intercept):
    path = written_by_nibabel(tmp_path / "a.nii", values(kind), order=order, scl_slope=slope, scl_inter=intercept)
    got, expected = read_nifti(path).array, nib.load(path).get_fdata()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=3e-7, atol=1e-4 * abs(slope))


@pytest.mark.parametrize(
    ("slope", "intercept"), [(0, 5), (np.nan, np.nan), (1, 0), (0, 0), (np.nan, 3), (np.inf, 0)]
)
def test_no_scaling_keeps_the_stored_type(tmp_path, slope, intercept):
    array = values("i2")
    path = written_by_nibabel(tmp_path / "a.nii", array, scl_slope=slope, scl_inter=intercept)
    got = read_nifti(path).array
    assert got.dtype == np.int16
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("intercept", [np.nan, np.inf])
def test_a_slope_with_an_intercept_that_is_no_number_is_refused_as_nibabel_does(tmp_path, intercept):
    path = written_by_nibabel(tmp_path / "a.nii", values("i2"), scl_slope=2, scl_inter=intercept)
    with pytest.raises(nib.spatialimages.HeaderDataError):
        nib.load(path)
    with pytest.raises(NiftiError, match="scl_inter"):
        read_nifti(path)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 1, 1), (6, 5, 1, 1, 1, 1, 1)])
def test_two_dimensional_images_are_one_slice(tmp_path, shape):
    array = values("i2", shape)
    volume = read_nifti(written_by_nibabel(tmp_path / "a.nii.gz", array))
    np.testing.assert_array_equal(volume.array[..., 0], array.reshape(6, 5))
    np.testing.assert_array_equal(volume.affine, OBLIQUE)


def test_a_two_dimensional_image_of_simpleitk(tmp_path):
    image = sitk.GetImageFromArray(values("i2", (6, 5)))
    image.SetSpacing((0.5, 2.0))
    image.SetOrigin((10.0, -20.0))
    sitk.WriteImage(image, str(tmp_path / "a.nii"))
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.array.shape == (5, 6, 1)
    assert volume.spacing_mm[:2] == pytest.approx((0.5, 2.0))
    np.testing.assert_allclose(volume.grid.world((0, 0, 0))[:2], (-10.0, 20.0), atol=1e-5)


def test_one_time_point_is_read_and_several_are_refused(tmp_path):
    array = values("i2", (5, 4, 3, 1))
    volume = read_nifti(written_by_nibabel(tmp_path / "a.nii", array))
    np.testing.assert_array_equal(volume.array, array[..., 0])
    for shape in ((5, 4, 3, 2), (5, 4, 3, 1, 3), (5, 4, 3, 1, 1, 1, 2)):
        with pytest.raises(NiftiError, match="split it into one file per time point or channel"):
            read_nifti(written_by_nibabel(tmp_path / "a.nii", values("i2", shape)))


def test_a_header_extension_is_skipped(tmp_path):
    image = nib.Nifti1Image(values("i2"), OBLIQUE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").array, values("i2"))


def test_an_offset_longer_than_a_block_is_skipped(tmp_path):
    path = written_by_nibabel(tmp_path / "a.nii", values("i2"), vox_offset=(5 << 20) + 352)
    content = path.read_bytes()
    path.write_bytes(content[:352] + bytes(5 << 20) + content[352:])
    np.testing.assert_array_equal(read_nifti(path).array, values("i2"))


# --- where the voxels are ---


def forms(path: Path, sform: np.ndarray | None, qform: np.ndarray | None, units: str = "mm") -> Path:
    image = nib.Nifti1Image(values("i2"), None)
    image.header.set_zooms(np.linalg.norm((OBLIQUE if qform is None else qform)[:3, :3], axis=0))
    image.set_sform(sform, 0 if sform is None else 2)
    image.set_qform(qform, 0 if qform is None else 1)
    image.header.set_xyzt_units(units, "sec")
    nib.save(image, path)
    return path


def test_sform_only_qform_only_and_both(tmp_path):
    for number, (sform, qform) in enumerate([(OBLIQUE, None), (None, OBLIQUE), (OBLIQUE, OBLIQUE)]):
        path = forms(tmp_path / f"{number}.nii", sform, qform)
        volume = read_nifti(path)
        np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
        np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-4)
        assert volume.findings == ()


def test_the_sform_comes_first_and_a_disagreement_is_told(tmp_path):
    moved = affine_of(np.eye(3), (1, 1, 1), (0, 0, 5))
    volume = read_nifti(forms(tmp_path / "a.nii", np.eye(4), moved))
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    (finding,) = volume.findings
    assert finding.code is FindingCode.FORMS_DISAGREE
    assert "5 mm" in finding.message
    near = affine_of(np.eye(3), (1, 1, 1), (0, 0, 0.05))
    assert read_nifti(forms(tmp_path / "b.nii", np.eye(4), near)).findings == ()


@pytest.mark.parametrize(
    "bad",
    [
        {"quatern_b": 2.0, "quatern_c": 2.0},
        {"quatern_b": np.nan},
        {"qoffset_x": np.inf},
        {"pixdim": [1, 0, 1, 1, 1, 1, 1, 1]},
        {"pixdim": [1, -1, 1, 1, 1, 1, 1, 1]},
    ],
)
def test_a_broken_qform_beside_a_good_sform_is_a_finding_and_alone_an_error(tmp_path, bad):
    path = written_by_nibabel(tmp_path / "a.nii", values("i2"), sform_code=1, qform_code=1, **bad)
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.affine, OBLIQUE)
    assert [finding.code for finding in volume.findings] == [FindingCode.FORMS_DISAGREE]
    path = written_by_nibabel(tmp_path / "a.nii", values("i2"), sform_code=0, qform_code=1, **bad)
    with pytest.raises(NiftiError, match="finite, invertible affine"):
        read_nifti(path)


def test_neither_form_is_told_and_read_as_nibabel_reads_it(tmp_path):
    path = forms(tmp_path / "a.nii", None, None)
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.affine, nib.load(path).affine)
    (finding,) = volume.findings
    assert finding.code is FindingCode.NO_ORIENTATION
    assert volume.grid.orientation in finding.message


@pytest.mark.parametrize("units", ["unknown", "mm", "meter", "micron"])
@pytest.mark.parametrize("which", ["sform", "qform", "both"])
def test_lengths_in_other_units_become_millimetres_as_in_simpleitk(tmp_path, units, which):
    path = forms(
        tmp_path / "a.nii", None if which == "qform" else OBLIQUE, None if which == "sform" else OBLIQUE, units
    )
    volume = read_nifti(path)
    peer = sitk.ReadImage(str(path))
    np.testing.assert_allclose(volume.spacing_mm, peer.GetSpacing(), rtol=1e-5)
    corner = np.array(peer.TransformIndexToPhysicalPoint((4, 3, 2))) * (-1, -1, 1)
    np.testing.assert_allclose(volume.grid.world((4, 3, 2)), corner, rtol=1e-5)
    assert volume.findings == ()


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ((np.nan, 0, 0, 0), "not finite"),
        ((1, 0, 0, np.inf), "not finite"),
        ((0, 0, 0, 0), "singular"),
        ((0, 1, 0, 0), "singular"),
    ],
)
def test_affines_that_place_nothing_are_refused(tmp_path, row, found):
    path = written_by_nibabel(tmp_path / "a.nii", values("u1"), np.eye(4), srow_x=row)
    with pytest.raises(NiftiError, match="correct sform or qform") as caught:
        read_nifti(path)
    assert found in caught.value.found


# --- writing ---


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("kind", TYPES)
def test_nibabel_reads_what_was_written(tmp_path, kind, suffix):
    array = values(kind)
    path = tmp_path / "new" / f"a{suffix}"
    write_nifti(path, Volume(array, OBLIQUE))
    image = nib.load(path)
    assert image.get_data_dtype() == np.dtype(kind)
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)
    for affine in (image.affine, image.get_sform(), read_nifti(path).affine):
        np.testing.assert_array_equal(affine, OBLIQUE)
    np.testing.assert_allclose(image.get_qform(), OBLIQUE, atol=1e-4)
    assert image.header.get_intent()[0] == "none"
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    assert nib.Nifti1Header.diagnose_binaryblock(image.header.binaryblock) == ""
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [">i2", ">f4", ">u8", "<i2"])
def test_memory_and_byte_order_change_nothing_in_the_file(tmp_path, kind, order):
    array = np.asarray(values(kind[1:]).astype(kind), order=order)
    write_nifti(tmp_path / "a.nii", Volume(array, OBLIQUE))
    write_nifti(tmp_path / "b.nii", Volume(np.asfortranarray(values(kind[1:])), OBLIQUE))
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").array, array)
    assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()


def test_a_view_with_steps_is_written_as_it_looks(tmp_path):
    array = values("i2", (10, 8, 6))[::-2, 1::2, ::-1]
    write_nifti(tmp_path / "a.nii.gz", Volume(array, OBLIQUE))
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj), array)


@pytest.mark.parametrize("degrees", [0.02, 5, -30])
def test_shear_is_kept_and_never_stands_in_a_qform(tmp_path, degrees):
    affine = tilted(degrees, (0.7, 0.7, 5), (-100, 50, 3)).astype(np.float32).astype(np.float64)
    write_nifti(tmp_path / "a.nii.gz", Volume(values("i2"), affine))
    header = header_of(tmp_path / "a.nii.gz")
    assert header["qform_code"] == 0
    assert header["sform_code"] == 1
    volume = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.affine, affine)
    assert volume.grid.is_sheared
    assert volume.findings == ()


@settings(max_examples=40, **IN_ONE_FOLDER)
@given(affine=st.one_of(right_angled(), invertible()))
def test_any_affine_comes_back_bit_for_bit_as_float32(tmp_path, affine):
    write_nifti(tmp_path / "a.nii", Volume(values("u1"), affine))
    volume = read_nifti(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.affine, affine.astype(np.float32).astype(np.float64))
    assert volume.findings == ()


@settings(max_examples=40, **IN_ONE_FOLDER)
@given(affine=right_angled())
def test_simpleitk_sees_every_voxel_at_the_same_place(tmp_path, affine):
    array = values("i2")
    write_nifti(tmp_path / "a.nii", Volume(array, affine))
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array.T)
    grid = read_nifti(tmp_path / "a.nii").grid
    for index in ((0, 0, 0), (4, 3, 2), (4, 0, 0), (1, 3, 1)):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(lps * (-1, -1, 1), grid.world(index), atol=2e-3)


@settings(max_examples=25, **IN_ONE_FOLDER)
@given(affine=right_angled())
def test_what_simpleitk_wrote_lies_at_the_same_place(tmp_path, affine):
    image = sitk.GetImageFromArray(values("i2").T)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "a.nii"))
    volume = read_nifti(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.array, values("i2"))
    for index in ((0, 0, 0), (4, 3, 2)):
        point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(volume.grid.world(index), point, atol=2e-3)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_same_volume_gives_the_same_bytes_under_any_name(tmp_path, suffix, monkeypatch):
    volume = Volume(values("i2"), OBLIQUE)
    write_nifti(tmp_path / f"a{suffix}", volume)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_nifti(tmp_path / f"longer_name{suffix}", volume)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"longer_name{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("kind", "shape", "found"),
    [
        ("?", SHAPE, "bool"),
        ("f2", SHAPE, "float16"),
        ("c8", SHAPE, "complex64"),
        ("g", SHAPE, "float128"),
        ("u1", (32768, 1, 1), "32768"),
        ("u1", (1, 2, 40000), "40000"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, kind, shape, found):
    if kind == "g" and np.dtype("g").itemsize == 8:
        pytest.skip("long double is double here")
    with pytest.raises(NiftiError) as caught:
        write_nifti(tmp_path / "a.nii", Volume(np.zeros(shape, kind), np.eye(4)))
    assert found in caught.value.found
    assert list(tmp_path.iterdir()) == []


def test_the_longest_axis_that_the_format_holds(tmp_path):
    write_nifti(tmp_path / "a.nii", Volume(np.zeros((1, 1, 32767), "u1"), np.eye(4)))
    assert read_nifti(tmp_path / "a.nii").array.shape == nib.load(tmp_path / "a.nii").shape == (1, 1, 32767)


# --- label maps ---


@pytest.mark.parametrize(
    ("largest", "kind"), [(1, "u1"), (255, "u1"), (256, "u2"), (65_535, "u2"), (65_536, "u4"), (2**32 - 1, "u4")]
)
@pytest.mark.parametrize("held_as", ["i8", "u4", ">u4"])
def test_a_label_map_is_written_in_the_smallest_type_with_the_intent_label(tmp_path, largest, kind, held_as):
    array = np.zeros(SHAPE, held_as)
    array[1, 2, 1] = largest
    labels = LabelSet.from_names({1: "a", largest: "b"})
    write_nifti(tmp_path / "a.nii.gz", LabelMap(Volume(array, OBLIQUE), labels))
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.dtype(kind)
    assert image.header["intent_code"] == 1002
    assert image.header["cal_max"] == pytest.approx(largest)
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)
    np.testing.assert_array_equal(image.affine, OBLIQUE)
    assert sitk.ReadImage(str(tmp_path / "a.nii.gz"))[1, 2, 1] == largest


def test_the_type_follows_the_labels_and_not_the_voxels(tmp_path):
    labels = LabelSet.from_names({300: "rare"})
    write_nifti(tmp_path / "a.nii", LabelMap(Volume(np.zeros(SHAPE, np.uint8), OBLIQUE), labels))
    assert read_nifti(tmp_path / "a.nii").array.dtype == np.uint16


@pytest.mark.parametrize("value", [np.int16(300), np.int16(-1), np.uint8(2), np.float32(0.5), np.float32(np.nan)])
def test_values_that_are_no_labels_are_refused_and_never_wrapped(tmp_path, value):
    array = np.full(SHAPE, value)
    with pytest.raises(NiftiError, match="whole label values from 0 to 1"):
        write_nifti(tmp_path / "a.nii", LabelMap(Volume(array, OBLIQUE), LabelSet.from_names({1: "a"})))
    assert list(tmp_path.iterdir()) == []


# --- files that are damaged or hostile ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with a.nii and a.nii.gz of some kilobytes."""
    folder = tmp_path_factory.mktemp("whole")
    for suffix in (".nii", ".nii.gz"):
        write_nifti(folder / f"a{suffix}", Volume(values("i2", (16, 12, 10)), OBLIQUE))
    return folder


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_cut_short_anywhere(tmp_path, whole, suffix):
    content = (whole / f"a{suffix}").read_bytes()
    path = tmp_path / f"a{suffix}"
    places = [*range(0, 60), *range(60, len(content) - 20, 97), *range(len(content) - 20, len(content))]
    for length in places:
        path.write_bytes(content[:length])
        with pytest.raises(NiftiError):
            read_nifti(path)
    path.write_bytes(content)
    read_nifti(path)


def test_a_flipped_bit_in_a_packed_file_is_refused_or_changes_no_voxel(tmp_path, whole):
    content = bytearray((whole / "a.nii.gz").read_bytes())
    path = tmp_path / "a.nii.gz"
    places = np.random.default_rng(0).integers(10, len(content), 300).tolist()
    read = []
    for position in [*range(10), *places]:  # the gzip header has 10 bytes
        flipped = content.copy()
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            np.testing.assert_array_equal(read_nifti(path).array, values("i2", (16, 12, 10)))
        except NiftiError:
            continue
        read.append(position)
    assert sum(position < 10 for position in read) == 6  # four bytes of time, two that nobody reads
    assert sum(position >= 10 for position in read) <= 3  # bits of the Huffman tables that stand for nothing


def test_a_wrong_checksum_or_length_trailer(tmp_path, whole):
    content = (whole / "a.nii.gz").read_bytes()
    for trailer in (b"\0\0\0\0" + content[-4:], content[-8:-4] + b"\1\0\0\0"):
        (tmp_path / "a.nii.gz").write_bytes(content[:-8] + trailer)
        with pytest.raises(NiftiError, match="copy or export it again"):
            read_nifti(tmp_path / "a.nii.gz")


def test_the_checksum_is_verified_where_the_voxels_end_long_before_the_stream(tmp_path):
    path = tmp_path / "a.nii.gz"
    raw = written_by_nibabel(tmp_path / "a.nii", values("u1")).read_bytes() + os.urandom(8 << 20)
    packed = bytearray(gzip.compress(raw, 1))
    path.write_bytes(packed)
    np.testing.assert_array_equal(read_nifti(path).array, values("u1"))
    packed[-5] ^= 1
    path.write_bytes(packed)
    with pytest.raises(NiftiError):
        read_nifti(path)


def test_several_gzip_members_and_padding_zeros_are_read(tmp_path, whole):
    raw = (whole / "a.nii").read_bytes()
    pieces = b"".join(gzip.compress(raw[start : start + 1000]) for start in range(0, len(raw), 1000))
    for tail in (b"", bytes(512)):
        (tmp_path / "a.nii.gz").write_bytes(pieces + tail)
        np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").array, values("i2", (16, 12, 10)))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "content", [b"", b"\x5c", b"hello world" * 100, bytes(1000), b"\xff" * 1000, b"\x1f\x8b\x08\x00" + bytes(500)]
)
def test_what_is_no_nifti_file_at_all(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(NiftiError):
        read_nifti(tmp_path / f"a{suffix}")
    if suffix == ".nii.gz":
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
        with pytest.raises(NiftiError):
            read_nifti(tmp_path / "a.nii.gz")


def test_a_name_that_hides_what_is_inside(tmp_path, whole):
    (tmp_path / "plain.nii.gz").write_bytes((whole / "a.nii").read_bytes())
    (tmp_path / "packed.nii").write_bytes((whole / "a.nii.gz").read_bytes())
    for path in tmp_path.iterdir():
        with pytest.raises(NiftiError):
            read_nifti(path)


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "folder.nii").mkdir()
    for path in (tmp_path / "none.nii", tmp_path / "folder.nii"):
        with pytest.raises(NiftiError, match="no such file; check the path"):
            read_nifti(path)


def test_one_half_of_a_pair(tmp_path):
    nib.save(nib.Nifti1Pair(values("i2"), OBLIQUE), tmp_path / "a.hdr")
    (tmp_path / "a.nii").write_bytes(
        (tmp_path / "a.hdr").read_bytes() + bytes(4) + (tmp_path / "a.img").read_bytes()
    )
    with pytest.raises(NiftiError, match=r"convert the \.hdr/\.img pair"):
        read_nifti(tmp_path / "a.nii")
    nib.save(nib.AnalyzeImage(values("i2"), np.eye(4)), tmp_path / "b.hdr")
    (tmp_path / "b.nii").write_bytes((tmp_path / "b.hdr").read_bytes() + (tmp_path / "b.img").read_bytes())
    with pytest.raises(NiftiError):
        read_nifti(tmp_path / "b.nii")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_huge_sizes_are_refused_before_anything_is_allocated(tmp_path, monkeypatch, version, count):
    size = 32767 if version == 1 else 2**40
    dim = [count, *[size] * min(count, 3), *[1] * (7 - min(count, 3))]
    path = written_by_nibabel(tmp_path / "a.nii.gz", values("u1"), version=version, dim=dim)
    monkeypatch.setattr(np, "empty", lambda *args, **kwargs: pytest.fail("memory was asked for"))
    if version == 1 and count == 2:  # 32767 x 32767 is not too large: the limit decides
        with pytest.raises(NiftiError, match="at most 1000000 voxels"):
            read_nifti(path, max_voxels=1_000_000)
    else:
        with pytest.raises(NiftiError, match=f"{size} x {size}"):
            read_nifti(path)


def test_the_limit_counts_voxels(tmp_path):
    path = written_by_nibabel(tmp_path / "a.nii", values("u1"))
    read_nifti(path, max_voxels=60)
    with pytest.raises(NiftiError, match="at most 59 voxels, found 5 x 4 x 3"):
        read_nifti(path, max_voxels=59)


@pytest.mark.parametrize(
    "dim",
    [
        [3, -5, 4, 3, 1, 1, 1, 1],
        [3, 0, 4, 3, 1, 1, 1, 1],
        [4, 5, 4, 3, 0, 1, 1, 1],
        [1, 60, 1, 1, 1, 1, 1, 1],
        [0, 5, 4, 3, 1, 1, 1, 1],
        [8, 5, 4, 3, 1, 1, 1, 1],
        [-3, 5, 4, 3, 1, 1, 1, 1],
        [32767, 5, 4, 3, 1, 1, 1, 1],
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_sizes_that_make_no_image(tmp_path, dim, order):
    path = written_by_nibabel(tmp_path / "a.nii", values("u1"), order=order)
    content = path.read_bytes()
    path.write_bytes(content[:40] + np.array(dim, f"{order}i2").tobytes() + content[56:])
    with pytest.raises(NiftiError, match="2 to 7 positive sizes"):
        read_nifti(path)


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf, -1, 0, 347, 1e6, 1e12, 1e30])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_voxel_offset_outside_the_file(tmp_path, offset, suffix):
    path = written_by_nibabel(tmp_path / f"a{suffix}", values("u1"), vox_offset=offset)
    with pytest.raises(NiftiError, match="voxel offset lies outside the file"):
        read_nifti(path)


def test_a_voxel_offset_of_64_bits(tmp_path):
    path = written_by_nibabel(tmp_path / "a.nii", values("u1"), version=2, vox_offset=2**62)
    with pytest.raises(NiftiError, match="voxel offset lies outside the file"):
        read_nifti(path)


COLOURS = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize("kind", [COLOURS, "c8", "c16"])
def test_colours_and_complex_numbers_are_refused(tmp_path, kind):
    path = written_by_nibabel(tmp_path / "a.nii.gz", np.zeros(SHAPE, kind))
    with pytest.raises(NiftiError, match="export one grey channel"):
        read_nifti(path)


@pytest.mark.parametrize("code", [0, 1, 3, 1536, 2048, 2304, 9999, -4])
def test_unknown_types_are_refused(tmp_path, code):
    with pytest.raises(NiftiError):
        read_nifti(written_by_nibabel(tmp_path / "a.nii", values("u1"), datatype=code))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # nibabel's, on signalling NaN
@pytest.mark.filterwarnings("ignore:overflow encountered in multiply")  # a slope of 1e38 makes infinite values
@settings(max_examples=300, **IN_ONE_FOLDER)
@given(changes=st.dictionaries(st.integers(0, 351), st.integers(0, 255), min_size=1, max_size=6))
def test_a_header_of_any_bytes_is_read_or_refused_and_nothing_else(tmp_path, whole, changes):
    content = bytearray((whole / "a.nii").read_bytes())
    for position, value in changes.items():
        content[position] = value
    (tmp_path / "a.nii").write_bytes(content)
    with suppress(NiftiError):
        read_nifti(tmp_path / "a.nii", max_voxels=1 << 20)


# --- disks ---


def test_a_disk_that_fills_up_keeps_what_was_there(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here; the test below simulates a full disk")
    try:
        for suffix in (".nii", ".nii.gz"):
            path = disk / f"a{suffix}"
            write_nifti(path, Volume(values("u1"), OBLIQUE))
            with pytest.raises(StorageError, match="the disk is full"):
                write_nifti(path, Volume(values("f8", (64, 64, 64)), OBLIQUE))
            np.testing.assert_array_equal(read_nifti(path).array, values("u1"))
            assert [p.name for p in disk.iterdir()] == [path.name]
            path.unlink()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, suffix):
    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = Path.open

    def open_(path, mode="r", *args, **kwargs):
        if "w" not in mode:
            return real(path, mode, *args, **kwargs)
        real(path, mode).close()
        return Full()

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        write_nifti(tmp_path / f"a{suffix}", Volume(values("i2"), OBLIQUE))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="a file is in the place of the folder"):
        write_nifti(tmp_path / "file" / "a.nii", Volume(values("u1"), OBLIQUE))


@pytest.mark.parametrize(
    ("shape", "dtype", "slope", "code", "units", "image_bytes"),
    [
        ((5, 6, 7), np.int16, 1, 1, "mm", 2),
        ((5, 6, 7, 1), np.float64, 1, 1, "micron", 8),
        ((5, 6), np.uint8, 0.5, 0, "meter", 4),
    ],
)
def test_the_grid_alone_is_that_of_the_volume(shape, dtype, slope, code, units, image_bytes, tmp_path):
    image = nib.Nifti1Image(np.ones(shape, dtype), np.diag([1.0, 2.0, 3.0, 1.0]))
    image.header.set_sform(image.affine, code=code)
    image.header.set_qform(image.affine, code=0)
    image.header.set_xyzt_units(units)
    image.header.set_slope_inter(slope, 0)
    image.to_filename(tmp_path / "a.nii.gz")
    volume = read_nifti(tmp_path / "a.nii.gz")
    grid, found = read_nifti_grid(tmp_path / "a.nii.gz")
    assert grid.difference(volume.grid) is None
    assert found == image_bytes == volume.array.itemsize


@pytest.mark.parametrize("kind", ["several volumes", "colours", "a pair", "damaged", "missing"])
def test_the_grid_alone_is_refused_as_the_volume_is(kind, tmp_path):
    path = tmp_path / "a.nii.gz"
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]) if kind == "colours" else np.uint8
    image = nib.Nifti1Image(np.zeros((4, 4, 4, 2 if kind == "several volumes" else 1), dtype), np.eye(4))
    data = bytearray(image.to_bytes())
    if kind == "a pair":
        data[344:348] = b"ni1\0"
    packed = gzip.compress(bytes(data))
    path.write_bytes(packed[:12] + b"\xff" * 30 + packed[42:] if kind == "damaged" else packed)
    path = tmp_path / "none.nii" if kind == "missing" else path
    with pytest.raises(NiftiError) as whole:
        read_nifti(path)
    with pytest.raises(NiftiError) as alone:
        read_nifti_grid(path)
    assert str(alone.value) == str(whole.value)
