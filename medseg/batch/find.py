"""Inputs -> studies, one after the other, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from medseg.dicom.policy import Policies
from medseg.dicom.select import SeriesRules
from medseg.dicom.source import FileSource, Source, find_sources
from medseg.dicom.studies import SMALL_PILE
from medseg.errors import DicomError, InputError, UsageError
from medseg.model import ModelPackage
from medseg.nifti import case_name, is_nifti
from medseg.reading import nifti_files
from medseg.segment import dicom_studies
from medseg.study import Study, nifti_study

Progress = Callable[[int, int], None]

_PREAMBLE_BYTES, _DICOM_MARK = 128, b"DICM"
_CHANNEL_NAME = re.compile(r"(.+)_\d{4}")


def find_studies(
    inputs: Iterable[Path],
    package: ModelPackage,
    rules: SeriesRules | None = None,
    policies: Policies | None = None,
    *,
    progress: Progress | None = None,
) -> list[Study]:
    """Find the studies that inputs stand for, all at once; see `iterate_studies`."""
    return list(iterate_studies(inputs, package, rules, policies, progress=progress))


def iterate_studies(
    inputs: Iterable[Path],
    package: ModelPackage,
    rules: SeriesRules | None = None,
    policies: Policies | None = None,
    *,
    progress: Progress | None = None,
    small: int = SMALL_PILE,
) -> Iterator[Study]:
    """Find the studies that inputs stand for, one after the other.

    Memory holds the headers of one DICOM study at a time, or of one pile of at most `small` files.

    Args:
        inputs: NIfTI files, folders of NIfTI files, or DICOM: folders with their subfolders, zips, DICOMDIRs. With
            several channels, the NIfTI files of a study are named ``CASE_0000``, ``CASE_0001``, ...; some may be
            missing where the model was trained for that.
        package: The model, which says what it takes.
        rules: Which DICOM series are wanted. By default the one series of each study that is of the model's
            modality; a study with several of them is refused.
        policies: What to do about irregular series; the safest by default.
        progress: Called with (DICOM headers read, headers) of the input in work.
        small: Files of a pile that is read once.

    Yields:
        Each study; one with a problem where it cannot be segmented.

    Files that are named twice are found once. A folder that holds NIfTI files directly is read as these, and as
    DICOM too where there is any in it.
    """
    known: set[tuple[Path, ...]] = set()
    for path in inputs:
        studies = _nifti_studies(path, package)
        for study in studies:
            files = tuple(file.resolve() for file in study.files)
            if files and files in known:
                continue
            known.add(files)
            yield study
        if not studies or (path.is_dir() and _holds_dicom(path)):
            yield from dicom_studies(path, package, rules, policies, progress=progress, small=small)


def given_inputs(inputs: Sequence[Path], from_file: Path | None = None) -> list[Path]:
    """Return the inputs of a command: those that it names, then those of its list.

    Raises:
        UsageError: There are none, or the list cannot be read.
    """
    paths = [*inputs, *(listed_inputs(from_file) if from_file else ())]
    if not paths:
        raise UsageError(
            "INPUTS", expected="images", found="none", remedy="name files or folders, or give --from-file"
        )
    return paths


def listed_inputs(file: Path) -> list[Path]:
    """Return the paths of a list: one a line, relative ones from the list's own folder; # begins a comment.

    Raises:
        UsageError: The list cannot be read, or is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "other data"
        raise UsageError(file, expected="a text file with a path a line", found=found, remedy="check it") from error
    paths = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not paths:
        raise UsageError(file, expected="a path a line", found="none", remedy="write the inputs into it")
    return [file.parent / path for path in paths]


def _nifti_studies(path: Path, package: ModelPackage) -> list[Study]:
    """Return the studies of NIfTI files at a path; none where it holds no such files."""
    try:
        files = nifti_files(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        problem = InputError(path, expected="a file or folder that can be read", found=reason, remedy="check it")
        return [Study(path, problem=problem)]
    channels = len(package.modalities)
    if channels == 1 or not path.is_dir():
        return [nifti_study((file,)) for file in files]
    return list(_by_case(files, channels, may_lack=package.preprocessing.channel_flags))


def _holds_dicom(path: Path) -> bool:
    """Whether a folder of NIfTI files holds DICOM as well, told by the mark of such files (PS3.10, 7.1)."""
    try:
        return any(map(_is_dicom, find_sources(path).sources))
    except DicomError:
        return False


def _is_dicom(source: Source) -> bool:
    if isinstance(source, FileSource) and is_nifti(source.path):
        return False
    try:
        with source.open() as stream:
            return stream.read(len(_DICOM_MARK) + _PREAMBLE_BYTES)[_PREAMBLE_BYTES:] == _DICOM_MARK
    except OSError:
        return False


def _by_case(files: Sequence[Path], channels: int, *, may_lack: bool) -> Iterator[Study]:
    """Group ``CASE_0000``, ``CASE_0001``, ...; a case that lacks one, or a name of another form, is refused."""
    cases: dict[str, list[Path]] = {}
    for file in files:
        match = _CHANNEL_NAME.fullmatch(case_name(file))
        cases.setdefault(match[1] if match else case_name(file), []).append(file)
    for case, found in cases.items():
        wanted = [f"{case}_{channel:04d}" for channel in range(channels)]
        names = [case_name(file) for file in found]
        if names == wanted:
            yield nifti_study(tuple(found))
        elif may_lack and set(names) < set(wanted):
            yield nifti_study(tuple(found), tuple(name in names for name in wanted))
        else:
            problem = InputError(
                found[0],
                expected=f"{channels} files: {', '.join(wanted)}",
                found=", ".join(names),
                remedy="name each channel's file so",
            )
            yield Study(found[0], tuple(found), problem=problem)
