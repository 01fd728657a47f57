"""Where files lie: folders, zip archives, DICOMDIRs and single files, hostile ones among them."""

from __future__ import annotations

import gc
import io
import logging
import os
import pickle
import random
import stat
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet

from medseg.dicom import source
from medseg.dicom.source import FileSource, Pile, Source, ZipSource, find_sources
from medseg.errors import DicomError
from medseg.findings import FindingCode

CANARY = "CANARY"
"""Stands in the name of every file and member below the path that is named."""
CT = Path(str(get_testdata_file("CT_small.dcm")))
MR = Path(str(get_testdata_file("MR_small.dcm")))
FLAGS, METHOD, PACKED, UNPACKED, OFFSET = (8, "<H"), (10, "<H"), (20, "<L"), (24, "<L"), (42, "<L")
"""Fields of an entry in a zip archive's list of members: place and format (APPNOTE.TXT, 4.3.12)."""


def codes(pile: Pile) -> list[FindingCode]:
    return [finding.code for finding in pile.findings]


def content(one: Source) -> bytes:
    with one.open() as stream:
        return stream.read()


def contents(pile: Pile) -> list[bytes]:
    return [content(one) for one in pile.sources]


def count_of(pile: Pile, code: FindingCode) -> int:
    (message,) = [finding.message for finding in pile.findings if finding.code is code]
    return next(int(word) for word in message.split() if word.isdigit())


def attempt(action: Callable[[], Any]) -> Any:
    """Return what an action returns; None where it refuses, which must not tell a name."""
    try:
        return action()
    except (DicomError, OSError) as error:
        shown = str(error) + repr(error)
    assert CANARY not in shown
    return None


def make_zip(
    path: Path, members: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, data)
    return path


def patch(path: Path, index: int, **values: int) -> Path:
    """Change fields of the entry with a number in the list of members, and nowhere else."""
    data, at = bytearray(path.read_bytes()), -1
    for _ in range(index + 1):
        at = data.index(b"PK\1\2", at + 1)
    for name, value in values.items():
        place, form = globals()[name]
        struct.pack_into(form, data, at + place, value)
    path.write_bytes(data)
    return path


def make_dicomdir(path: Path, references: list[Any], **changes: Any) -> Path:
    """Write a DICOMDIR with one record for each reference."""
    dataset, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        pydicom.uid.MediaStorageDirectoryStorage,
        "1.2.3",
    )
    meta.TransferSyntaxUID = changes.get("syntax", pydicom.uid.ExplicitVRLittleEndian)
    dataset.file_meta = meta
    dataset.DirectoryRecordSequence = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such names are against the standard
        for reference in references:
            record = Dataset()
            record.DirectoryRecordType = "IMAGE"
            if reference is not None:
                record.ReferencedFileID = reference
            dataset.DirectoryRecordSequence.append(record)
        dataset.save_as(path, enforce_file_format=True)
    return path


def write_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder in which permissions count: root, whom they do not bind, becomes nobody."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, 65534, 65534)
            os.setresuid(65534, 65534, 0)
        try:
            yield folder
        finally:
            if is_root:
                os.setresuid(0, 0, 0)
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o700)


class TestFolder:
    def test_the_whole_tree_in_order(self, tmp_path: Path) -> None:
        names = ["b.dcm", "z.dcm", "a/2", "a/10", "a/c/1", "d/1"]
        write_files(tmp_path, *names)
        pile = find_sources(tmp_path)
        found = [str(one.path.relative_to(tmp_path)) for one in pile.sources if isinstance(one, FileSource)]
        assert found == ["b.dcm", "z.dcm", "a/10", "a/2", "a/c/1", "d/1"]
        assert [data.decode() for data in contents(pile)] == found
        assert [one.size for one in pile.sources] == [len(name) for name in found]
        assert [Path(one.folder).relative_to(tmp_path) for one in pile.sources] == [Path(n).parent for n in found]
        assert pile.findings == ()

    def test_archives_and_dicomdirs_in_it_are_files(self, tmp_path: Path) -> None:
        make_zip(tmp_path / "a.zip", {"x": b"x"})
        make_dicomdir(tmp_path / "DICOMDIR", [["NOT", "THERE"]])
        pile = find_sources(tmp_path)
        assert contents(pile) == [(tmp_path / name).read_bytes() for name in ("DICOMDIR", "a.zip")]
        assert pile.findings == ()

    def test_links_to_folders_are_counted_and_links_to_files_taken(self, tmp_path: Path) -> None:
        write_files(tmp_path, "pile/a/x", "pile/b/y", "elsewhere/z")
        pile = tmp_path / "pile"
        (pile / "a" / "up").symlink_to(pile)
        (pile / "a" / "self").symlink_to(pile / "a")
        (pile / "b" / "file").symlink_to(tmp_path / "elsewhere" / "z")
        (pile / "b" / "broken").symlink_to(tmp_path / "nowhere")
        os.mkfifo(pile / "pipe")
        found = find_sources(pile)
        assert contents(found) == [b"pile/a/x", b"elsewhere/z", b"pile/b/y"]
        assert set(codes(found)) == {FindingCode.OUTSIDE_REFERENCE, FindingCode.UNREADABLE_FILE}
        assert count_of(found, FindingCode.OUTSIDE_REFERENCE) == 2
        assert count_of(found, FindingCode.UNREADABLE_FILE) == 2

    def test_a_link_to_itself_is_unreadable(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        assert codes(find_sources(tmp_path)) == [FindingCode.UNREADABLE_FILE]

    def test_what_may_not_be_read_is_counted(self, as_nobody: Path) -> None:
        write_files(as_nobody, "a", "b", "c", "closed/x")
        for name in ("a", "b", "closed"):
            (as_nobody / name).chmod(0)
        pile = find_sources(as_nobody)
        assert contents(pile) == [b"c"]
        assert codes(pile) == [FindingCode.UNREADABLE_FILE]
        assert count_of(pile, FindingCode.UNREADABLE_FILE) == 3

    def test_what_may_not_be_read_and_is_named_is_refused(self, as_nobody: Path) -> None:
        write_files(as_nobody, "file", "folder/x")
        for name in ("file", "folder"):
            (as_nobody / name).chmod(0)
            with pytest.raises(DicomError, match="Permission denied"):
                find_sources(as_nobody / name)
        with pytest.raises(DicomError, match="Permission denied"):
            find_sources(as_nobody / "folder" / "x")

    def test_more_folders_in_one_another_than_python_calls(self, tmp_path: Path) -> None:
        deepest = tmp_path.joinpath(*["d"] * 1100)
        places = [deepest, *deepest.parents][:1100]
        for place in reversed(places):
            place.mkdir()
        (deepest / "x").write_bytes(b"deep")
        found = contents(find_sources(tmp_path))
        (deepest / "x").unlink()
        for place in places:  # by hand: pytest's own cleaning would recurse
            place.rmdir()
        assert found == [b"deep"]

    def test_no_file_is_asked_for_more_than_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_files(tmp_path, "a", "b")

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError("asked the disk")

        for name in ("stat", "lstat"):
            monkeypatch.setattr(Path, name, refuse)
        monkeypatch.setattr(io, "FileIO", refuse)
        monkeypatch.setattr(Path, "is_dir", lambda self: True)
        assert len(find_sources(tmp_path).sources) == 2


class TestZip:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_members_are_read_in_place(self, tmp_path: Path, method: int) -> None:
        members = {"b/2": MR.read_bytes(), "b/1": b"", "a": CT.read_bytes()}
        path = make_zip(tmp_path / "pile.bin", members, method)  # the name does not matter
        with zipfile.ZipFile(path, "a") as archive:
            archive.mkdir("b/folder")
        pile = find_sources(path)
        assert pile.findings == ()
        assert contents(pile) == [members[name] for name in ("a", "b/1", "b/2")]
        assert [one.size for one in pile.sources] == [len(members[name]) for name in ("a", "b/1", "b/2")]
        first, *others = [one.folder for one in pile.sources]
        assert others[0] == others[1] != first

    def test_pydicom_reads_from_it(self, tmp_path: Path) -> None:
        pile = find_sources(make_zip(tmp_path / "a.zip", {CANARY: CT.read_bytes()}))
        with pile.sources[0].open() as stream:
            dataset = pydicom.dcmread(stream)
        assert (dataset.pixel_array == pydicom.dcmread(CT).pixel_array).all()
        assert CANARY not in str(vars(dataset).get("filename"))

    def test_names_that_lead_out_are_only_names(self, tmp_path: Path) -> None:
        names = ["../evil", "/etc/evil", "C:\\evil", "..\\..\\evil", "a/../../evil", "~root/evil", "?evil", "???"]
        (tmp_path / "in").mkdir()
        path = make_zip(tmp_path / "in" / "a.zip", [(name, bytes([number])) for number, name in enumerate(names)])
        path.write_bytes(path.read_bytes().replace(b"?evil", b"\0evil").replace(b"???", b"\0\0\0"))
        pile = find_sources(path)
        assert sorted(contents(pile)) == [bytes([number]) for number in range(len(names))]
        assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["in", "in/a.zip"]

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        target = str(tmp_path / "secret")
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(info, target)
        assert contents(find_sources(tmp_path / "a.zip")) == [target.encode()]

    def test_two_members_of_one_name_are_two(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="Duplicate"):
            path = make_zip(tmp_path / "a.zip", [("x", b"one"), ("x", b"two")])
        assert contents(find_sources(path)) == [b"one", b"two"]

    @pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
    def test_encrypted_members_are_left_out(self, tmp_path: Path, flag: int) -> None:
        path = make_zip(tmp_path / "a.zip", {"a": b"a", "b": b"b", "c": b"c"})
        pile = find_sources(patch(patch(path, 0, FLAGS=flag), 2, FLAGS=flag))
        assert contents(pile) == [b"b"]
        assert codes(pile) == [FindingCode.ENCRYPTED]
        assert count_of(pile, FindingCode.ENCRYPTED) == 2

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_other_packings_are_left_out(self, tmp_path: Path, method: int) -> None:
        pile = find_sources(make_zip(tmp_path / "a.zip", {"a": b"a"}, method))
        assert pile.sources == ()
        assert codes(pile) == [FindingCode.UNREADABLE_FILE]

    def test_too_large_members_are_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = make_zip(tmp_path / "a.zip", {"a": bytes(1000), "b": bytes(1001)})
        monkeypatch.setattr(source, "MAX_FILE_BYTES", 1000)
        pile = find_sources(path)
        assert [one.size for one in pile.sources] == [1000]
        assert codes(pile) == [FindingCode.TOO_LARGE]

    def test_too_many_members_are_refused_before_they_are_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = make_zip(tmp_path / "a.zip", {str(number): b"" for number in range(5)})
        monkeypatch.setattr(source, "MAX_MEMBERS", 5)
        assert len(find_sources(path).sources) == 5
        monkeypatch.setattr(source, "MAX_MEMBERS", 4)
        monkeypatch.setattr(zipfile, "ZipInfo", None)
        with pytest.raises(DicomError, match="more than 4 files"):
            find_sources(path)

    def test_a_list_out_of_proportion_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = make_zip(tmp_path / "a.zip", {"n" * 1200: b""})
        assert len(find_sources(path).sources) == 1
        monkeypatch.setattr(source, "MAX_MEMBERS", 2)
        with pytest.raises(DicomError, match="more than 2 files"):
            find_sources(path)

    def test_a_cut_archive_is_refused(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "a.zip", {"a": CT.read_bytes(), "b": b"b"})
        whole = path.read_bytes()
        for length in (4, 30, len(whole) // 2, len(whole) - 100, len(whole) - 22, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(DicomError, match="a whole zip archive") as caught:
                find_sources(path)
            assert caught.value.remedy

    def test_any_damage_to_its_end_is_refused_or_harmless(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "a.zip", {"CANARY\xe9": b"one" * 50, "b": b"two"})
        whole, draw = path.read_bytes(), random.Random(0)
        start = whole.index(b"PK\1\2")
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(draw.randint(1, 3)):
                data[draw.randrange(start, len(data))] = draw.choice([0, 1, 0x7F, 0xFF, draw.randrange(256)])
            path.write_bytes(data)
            pile = attempt(lambda: find_sources(path))
            for one in pile.sources if isinstance(pile, Pile) else ():
                assert attempt(lambda one=one: content(one)) in (b"one" * 50, b"two", b"", None)

    def test_the_volumes_of_a_split_archive_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zip"
        end = struct.pack("<4s4H2LH", b"PK\5\6", 1, 1, 1, 1, 46, 0, 0)
        path.write_bytes(bytes(100) + struct.pack("<4sLQL", b"PK\6\7", 1, 0, 2) + end)
        with pytest.raises(DicomError, match="multiple disks"):
            find_sources(path)

    def test_an_archive_behind_other_bytes(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "a.exe", {"a": b"a"})
        path.write_bytes(b"MZ" + bytes(1000) + path.read_bytes())
        assert contents(find_sources(path)) == [b"a"]

    def test_a_dicom_file_that_ends_as_an_archive_is_a_dicom_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.dcm"
        path.write_bytes(CT.read_bytes() + make_zip(tmp_path / "a.zip", {"a": b"a"}).read_bytes())
        assert find_sources(path) == Pile((FileSource(path),), ())

    def test_overlapping_members_are_left_out(self, tmp_path: Path) -> None:
        """As in the bomb of D. Fifield (2019), where one packed block serves thousands of members."""
        path = make_zip(tmp_path / "a.zip", {"a": b"a" * 100, "b": b"b" * 100, "c": b"c" * 100})
        pile = find_sources(patch(path, 1, OFFSET=0))
        assert contents(pile) == [b"a" * 100, b"c" * 100]
        assert codes(pile) == [FindingCode.UNREADABLE_FILE]
        path = make_zip(tmp_path / "b.zip", {"a": b"a" * 100, "b": b"b" * 100, "c": b"c" * 100}, zipfile.ZIP_STORED)
        pile = find_sources(patch(path, 0, PACKED=200, UNPACKED=200))
        assert count_of(pile, FindingCode.UNREADABLE_FILE) == 1
        assert len(pile.sources) == 2

    @pytest.mark.parametrize("values", [{"OFFSET": 1 << 31}, {"PACKED": 1 << 31}])
    def test_members_outside_the_archive_are_left_out(self, tmp_path: Path, values: dict[str, int]) -> None:
        pile = find_sources(patch(make_zip(tmp_path / "a.zip", {"a": b"a", "b": b"b"}), 1, **values))
        assert contents(pile) == [b"a"]
        assert codes(pile) == [FindingCode.UNREADABLE_FILE]

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("said", [1, 999])
    def test_a_size_said_too_small_is_an_error_and_never_more_bytes(
        self, tmp_path: Path, method: int, said: int
    ) -> None:
        path = patch(make_zip(tmp_path / "a.zip", {"a": bytes(range(250)) * 4}, method), 0, UNPACKED=said)
        (one,) = find_sources(path).sources
        assert one.size == said
        with one.open() as stream:
            got = [attempt(lambda: stream.read(300)) for _ in range(10)]
        assert None in got
        assert sum(map(len, filter(None, got))) < said

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_a_size_said_too_large_adds_nothing(self, tmp_path: Path, method: int) -> None:
        path = patch(make_zip(tmp_path / "a.zip", {"a": b"a" * 1000}, method), 0, UNPACKED=1 << 31)
        assert contents(find_sources(path)) == [b"a" * 1000]

    def test_a_bomb_does_not_unpack_in_memory(self, tmp_path: Path) -> None:
        path = patch(make_zip(tmp_path / "a.zip", {"a": bytes(50 << 20)}), 0, UNPACKED=10)
        (one,) = find_sources(path).sources
        tracemalloc.start()
        try:
            for length in (-1, 1 << 20, 5):
                with one.open() as stream, pytest.raises(OSError, match="damaged"):
                    stream.read(length)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_damaged_members_are_errors(self, tmp_path: Path, method: int) -> None:
        path = make_zip(tmp_path / "a.zip", {CANARY: CT.read_bytes()}, method)
        whole = path.read_bytes()
        for place in range(0, whole.index(b"PK\1\2"), 997):
            data = bytearray(whole)
            data[place] ^= 0xFF
            path.write_bytes(data)
            (one,) = find_sources(path).sources
            with pytest.raises(OSError, match="damaged") as caught:
                content(one)
            assert CANARY not in repr(caught.value)

    def test_an_archive_that_shrinks_or_goes(self, tmp_path: Path) -> None:
        path = make_zip(tmp_path / "a.zip", {"a": CT.read_bytes()}, zipfile.ZIP_STORED)
        (one,) = find_sources(path).sources
        for length in (20000, 35, 20, 0):
            os.truncate(path, length)
            with pytest.raises(OSError, match="damaged"):
                content(one)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            one.open()

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_it_seeks_as_a_file_does(self, tmp_path: Path, method: int) -> None:
        draw = random.Random(1)
        data = draw.randbytes(700_000)  # more than two blocks
        (one,) = find_sources(make_zip(tmp_path / "a.zip", {"a": data}, method)).sources
        truth = io.BytesIO(data)
        with one.open() as stream:
            assert stream.seekable()
            for _ in range(300):
                base = draw.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
                start = {os.SEEK_SET: 0, os.SEEK_CUR: truth.tell(), os.SEEK_END: len(data)}[base]
                target = draw.choice([0, draw.randrange(len(data)), len(data), min(start + 100, len(data))])
                assert stream.seek(target - start, base) == truth.seek(target - start, base)
                length = draw.choice([0, 1, 100, 10_000, 300_000, -1])
                assert stream.read(length) == truth.read(length)
                assert stream.tell() == truth.tell()

    def test_many_threads_read_one_archive_at_once(self, tmp_path: Path) -> None:
        draw = random.Random(2)
        members = {f"{number:03}": draw.randbytes(draw.randrange(1, 50_000)) for number in range(60)}
        path = make_zip(tmp_path / "a.zip", members, zipfile.ZIP_STORED)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(f"deflated {name}", data)
        sources = find_sources(path).sources

        def read(one: Source) -> bytes:
            with one.open() as stream:
                end = stream.seek(0, os.SEEK_END)
                stream.seek(0)
                return b"".join(stream.read(1000) for _ in range(0, end, 1000))

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(read, sources * 5)) == [*members.values(), *members.values()] * 5


class TestDicomdir:
    @pytest.fixture
    def disc(self, tmp_path: Path) -> Path:
        """The DICOMDIR of a file set of real files."""
        files = FileSet()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for path in (CT, MR, *sorted(CT.parent.glob("dicomdirtests/7*/*/*"))):
                if path.is_file():
                    files.add(path)
            files.write(tmp_path / "disc")
        return tmp_path / "disc" / "DICOMDIR"

    def test_every_file_that_it_names(self, disc: Path) -> None:
        (disc.parent / "viewer.exe").write_bytes(b"MZ")
        pile = find_sources(disc)
        below = {path.read_bytes() for path in disc.parent.rglob("*") if path.is_file()}
        assert len(pile.sources) > 5
        assert {*contents(pile)} == below - {b"MZ", disc.read_bytes()}
        assert pile.findings == ()

    def test_a_list_by_another_writer(self) -> None:
        """All that come with pydicom: big endian, implicit, without offsets, without a patient, out of order."""
        folder = CT.parent / "dicomdirtests"
        usual = {one.path for one in find_sources(folder / "DICOMDIR").sources if isinstance(one, FileSource)}
        assert len(usual) == len([path for path in folder.glob("[79]*/*/*") if path.is_file()]) > 20
        for path in sorted(folder.glob("DICOMDIR-*")):
            pile = find_sources(path)
            assert pile.findings == ()
            assert {one.path for one in pile.sources} == (set() if "empty" in path.name else usual)  # type: ignore[attr-defined]

    def test_its_own_name_does_not_matter(self, disc: Path) -> None:
        count = len(find_sources(disc).sources)
        assert len(find_sources(disc.rename(disc.with_name("index.dat"))).sources) == count

    def test_a_copy_in_lower_case(self, disc: Path) -> None:
        expected = sorted(contents(find_sources(disc)))
        for path in sorted(disc.parent.rglob("*"), key=lambda path: len(path.parts), reverse=True):
            path.rename(path.with_name(path.name.lower()))
        pile = find_sources(disc.with_name("dicomdir"))
        assert sorted(contents(pile)) == expected
        assert pile.findings == ()

    def test_names_with_versions(self, tmp_path: Path) -> None:
        write_files(tmp_path, "dir/im1;1", "dir/IM2.;1", "dir/Im3")
        pile = find_sources(make_dicomdir(tmp_path / "X", [["DIR", "IM1"], ["DIR", "IM2"], ["DIR", "IM3;1"]]))
        assert contents(pile) == [b"dir/im1;1", b"dir/IM2.;1", b"dir/Im3"]

    def test_the_very_name_comes_first(self, tmp_path: Path) -> None:
        write_files(tmp_path, "IM1", "Im1", "im1", "im1;1")
        path = make_dicomdir(tmp_path / "X", ["im1", "Im1", "IM1", "im1;1"])
        assert contents(find_sources(path)) == [b"im1", b"Im1", b"IM1", b"im1;1"]

    def test_a_file_named_twice_is_one(self, tmp_path: Path) -> None:
        write_files(tmp_path, "dir/im1")
        path = make_dicomdir(tmp_path / "X", [["dir", "im1"], ["dir", "im1"], "dir/im1", ["DIR", "IM1"], None, ""])
        pile = find_sources(path)
        assert contents(pile) == [b"dir/im1"]
        assert pile.findings == ()
        pile = find_sources(make_dicomdir(tmp_path / "X", ["dir/im2", ["dir", "im2"]]))
        assert count_of(pile, FindingCode.MISSING_FILE) == 1

    def test_missing_files_are_counted(self, disc: Path) -> None:
        count = len(find_sources(disc).sources)
        files = sorted(path for path in disc.parent.rglob("*") if path.is_file() and path != disc)
        for path in files[:3]:
            path.unlink()
        files[0].mkdir()
        pile = find_sources(disc)
        assert len(pile.sources) == count - 3
        assert codes(pile) == [FindingCode.MISSING_FILE]
        assert count_of(pile, FindingCode.MISSING_FILE) == 3

    @pytest.mark.parametrize(
        "reference",
        [
            ["..", "secret"],
            ["A", "..", "..", "secret"],
            ["", "secret"],
            "/etc/passwd",
            "../secret",
            "A/../../secret",
            ["C:", "secret"],
            "C:secret",
            ".",
            [".", "A"],
            [" .. ", "secret"],
            ["A", "", "x"],
            ["out", "secret"],
            "outfile",
            ["A", "outfile"],
            ["back", "A", "x"],
        ],
    )
    def test_references_that_lead_out_are_left_out(self, tmp_path: Path, reference: Any) -> None:
        write_files(tmp_path, "secret", "disc/A/x", "beside/secret")
        disc = tmp_path / "disc"
        (disc / "out").symlink_to(tmp_path / "beside")
        (disc / "outfile").symlink_to(tmp_path / "secret")
        (disc / "A" / "outfile").symlink_to("../../secret")
        (disc / "back").symlink_to("..")
        pile = find_sources(make_dicomdir(disc / "DICOMDIR", [reference, ["A", "x"]]))
        assert contents(pile) == [b"disc/A/x"]
        assert codes(pile) == [FindingCode.OUTSIDE_REFERENCE]

    def test_links_within_and_a_linked_folder(self, tmp_path: Path) -> None:
        write_files(tmp_path, "disc/A/x")
        (tmp_path / "disc" / "B").symlink_to("A")
        (tmp_path / "disc" / "y").symlink_to("B/x")
        (tmp_path / "disc" / "loop").symlink_to("loop")
        (tmp_path / "named").symlink_to("disc")
        make_dicomdir(tmp_path / "disc" / "DICOMDIR", [["B", "x"], "y", "loop", ["loop", "x"]])
        pile = find_sources(tmp_path / "named" / "DICOMDIR")
        assert contents(pile) == [b"disc/A/x"] * 2
        assert codes(pile) == [FindingCode.MISSING_FILE]

    def test_a_folder_beside_with_the_same_beginning_is_outside(self, tmp_path: Path) -> None:
        write_files(tmp_path, "disc2/x", "disc/y")
        (tmp_path / "disc" / "link").symlink_to("../disc2")
        pile = find_sources(make_dicomdir(tmp_path / "disc" / "DICOMDIR", [["link", "x"]]))
        assert pile.sources == ()
        assert codes(pile) == [FindingCode.OUTSIDE_REFERENCE]

    def test_a_cut_one_is_refused(self, disc: Path) -> None:
        """Pydicom returns the records that are left, without a word."""
        whole = disc.read_bytes()
        for length in (400, len(whole) // 2, len(whole) - 200, len(whole) - 2):
            disc.write_bytes(whole[:length])
            with pytest.raises(DicomError, match="a whole DICOMDIR"):
                find_sources(disc)

    def test_any_damage_is_refused_or_harmless(self, tmp_path: Path) -> None:
        write_files(tmp_path, "disc/A/CANARY1", "disc/A/CANARY2")
        path = make_dicomdir(tmp_path / "disc" / "X", [["A", "CANARY1"], ["A", "CANARY2"]])
        whole, draw = path.read_bytes(), random.Random(3)
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(draw.randint(1, 3)):
                data[draw.randrange(350, len(data))] = draw.choice([0, 0x5C, 0xFF, draw.randrange(256)])
            path.write_bytes(data)
            pile = attempt(lambda: find_sources(path))
            if isinstance(pile, Pile):
                assert {*contents(pile)} <= {b"disc/A/CANARY1", b"disc/A/CANARY2"}
                assert CANARY not in repr(pile)

    def test_one_without_records_is_empty_and_one_without_their_list_damaged(self, tmp_path: Path) -> None:
        path = make_dicomdir(tmp_path / "X", [])
        assert find_sources(path) == Pile((), ())
        dataset = pydicom.dcmread(path)
        del dataset.DirectoryRecordSequence
        dataset.save_as(path)
        with pytest.raises(DicomError, match="damaged"):
            find_sources(path)

    def test_a_deflated_one_is_refused_and_not_inflated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = make_dicomdir(tmp_path / "X", ["A"], syntax=pydicom.uid.DeflatedExplicitVRLittleEndian)
        monkeypatch.setattr(pydicom, "dcmread", lambda *_: pytest.fail("it was read"))
        with pytest.raises(DicomError, match="damaged"):
            find_sources(path)

    def test_a_huge_one_is_refused(self, tmp_path: Path) -> None:
        path = make_dicomdir(tmp_path / "X", ["A"])
        os.truncate(path, source.MAX_DICOMDIR_BYTES + 1)
        with pytest.raises(DicomError, match="at most"):
            find_sources(path)


class TestSingle:
    @pytest.mark.parametrize("data", [CT.read_bytes(), b"", b"text", CT.read_bytes()[132:]])
    def test_any_other_file_is_one(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "x"
        path.write_bytes(data)
        pile = find_sources(path)
        assert pile == Pile((FileSource(path),), ())
        assert contents(pile) == [data]

    @pytest.mark.parametrize("name", ["nowhere", "file/below", "nul\0", "loop", "n" * 300])
    def test_no_such_path(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(DicomError, match="expected a folder or file to read") as caught:
            find_sources(tmp_path / name)
        assert caught.value.found
        assert caught.value.remedy

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(DicomError, match="a device or a pipe"):
            find_sources(tmp_path / "pipe")


class TestNames:
    """No name below the path that the user named is ever shown."""

    def test_findings_and_reprs_are_free_of_names(self, tmp_path: Path) -> None:
        write_files(tmp_path, f"{CANARY}/{CANARY}1")
        (tmp_path / CANARY / f"{CANARY}link").symlink_to(tmp_path)
        (tmp_path / CANARY / f"{CANARY}loop").symlink_to(f"{CANARY}loop")
        members = {f"{CANARY}/{number}": b"x" * 100 for number in range(5)}
        archive = make_zip(tmp_path / "a.zip", members)
        for index, values in enumerate(
            ({"FLAGS": 1}, {"METHOD": 99}, {"OFFSET": 1 << 30}, {"UNPACKED": 0xFFFFFFFE})
        ):
            patch(archive, index, **values)
        directory = make_dicomdir(tmp_path / "DICOMDIR", [["..", CANARY], [CANARY, "NOT"], [CANARY, f"{CANARY}1"]])
        for path in (tmp_path / CANARY, archive, directory):
            pile = find_sources(path)
            assert len(pile.sources) >= 1
            assert len(pile.findings) >= 2
            shown = [repr(pile), *map(repr, pile.sources), *(f"{f} {f!r}" for f in pile.findings)]
            assert CANARY not in "".join(shown).replace(str(tmp_path), "")

    def test_pydicom_is_silent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        path, read, calls = make_dicomdir(tmp_path / "DICOMDIR", ["X"]), pydicom.dcmread, []

        def read_and_tell(name: Path) -> Dataset:
            calls.append(name)
            warnings.warn(CANARY, UserWarning, stacklevel=1)
            logging.getLogger("pydicom").warning(CANARY)
            return read(name)

        monkeypatch.setattr(pydicom, "dcmread", read_and_tell)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            find_sources(path)
        assert len(calls) == 1
        assert [str(warning.message) for warning in caught] + caplog.messages == []

    def test_errors_of_a_source_are_free_of_names(self, tmp_path: Path) -> None:
        write_files(tmp_path, f"a/{CANARY}1", f"a/{CANARY}2")
        one, two = find_sources(tmp_path / "a").sources
        (tmp_path / "a" / f"{CANARY}1").unlink()
        (tmp_path / "a" / f"{CANARY}2").unlink()
        (tmp_path / "a" / f"{CANARY}2").mkdir()
        for gone, kind in ((one, FileNotFoundError), (two, IsADirectoryError)):
            for action in (gone.open, lambda gone=gone: gone.size):
                with pytest.raises(kind) as caught:
                    action()
                assert CANARY not in repr(caught.value) + str(caught.value)

    @pytest.mark.parametrize("is_zip", [False, True])
    def test_streams_are_free_of_names(self, tmp_path: Path, is_zip: bool) -> None:
        """Pydicom puts a stream's name into warnings, and Python that of a stream that nobody closed."""
        data = CT.read_bytes()[:3000]
        write_files(tmp_path, f"a/{CANARY}")
        (tmp_path / "a" / CANARY).write_bytes(data)
        path = make_zip(tmp_path / "a.zip", {CANARY: data}) if is_zip else tmp_path / "a"
        (one,) = find_sources(path).sources
        with warnings.catch_warnings(record=True) as caught, one.open() as stream:
            warnings.simplefilter("always")
            dataset = pydicom.dcmread(stream)
            shown = repr(stream) + repr(getattr(stream, "raw", "")) + str(dataset.filename)
            del one, dataset
            left = next(iter(find_sources(path).sources)).open()
            del left
            gc.collect()
        assert [warning.category for warning in caught] != [] or is_zip
        assert CANARY not in shown + "".join(str(warning.message) for warning in caught)


def test_sources_go_to_other_processes(tmp_path: Path) -> None:
    write_files(tmp_path, "a/x")
    for path in (tmp_path / "a", make_zip(tmp_path / "a.zip", {"x": b"a/x"})):
        (one,) = find_sources(path).sources
        assert isinstance(one, FileSource | ZipSource)
        assert content(pickle.loads(pickle.dumps(one))) == b"a/x"
