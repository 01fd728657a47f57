"""The exceptions that medseg raises on purpose, each with a stable code and an exit status.

::

    MedsegError                      70  a bug, unless a subclass says otherwise
    ├── UsageError                    2  the command or the API call cannot be carried out as given
    │   ├── ConfigError               2  a YAML file is wrong
    │   ├── ManifestError             2  a data set description is missing or wrong
    │   └── DeviceError               2  the device asked for is not there
    ├── InputError                    5  one input cannot be processed (3 when others could)
    │   ├── OutOfMemoryError            4  it does not fit into memory
    │   ├── UnreadableError           5  a file cannot be read for now: its storage is away, or nobody may
    │   ├── NiftiError                5  a NIfTI file cannot be read right
    │   ├── DicomError                5  a DICOM series cannot be read right
    │   ├── GridError                 5  two images do not lie on the same grid
    │   ├── ProofError                5  an object that was read back is not the mask that it was made from
    │   └── ModelError                5  a model package is damaged or does not fit
    ├── TrainingError                 5  training cannot go on
    ├── ClusterError                  5  a cluster cannot be joined, or none of its machines can be used
    └── StorageError                  4  a file cannot be written

Every message says, in this order, what was expected, what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

SOME_FAILED = 3
"""Exit status: finished, but some inputs were refused or failed."""

_SIGNS_OF_NO_MEMORY = ("can't allocate memory", "out of memory", "alloc_failed")

NOTHING_DONE = 5
"""Exit status: nothing could be done."""


def listed(names: Sequence[str], most: int = 6) -> str:
    """Join names for a message, the first ones only where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class MedsegError(Exception):
    """Base of all errors that medseg raises on purpose.

    Args:
        where: What the error is about: a file, a key, an argument. Never patient data.
        expected: What should have been there.
        found: What was there.
        remedy: What the user can do about it.
    """

    code = "MEDSEG"
    exit_status = 70

    def __init__(self, where: object, *, expected: str, found: str, remedy: str) -> None:
        self.where = str(where)
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(where, expected, found, remedy)

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.where, self.expected, self.found, self.remedy)


def _rebuild(kind: type[MedsegError], where: str, expected: str, found: str, remedy: str) -> MedsegError:
    return kind(where, expected=expected, found=found, remedy=remedy)


class UsageError(MedsegError):
    """The command or call cannot be carried out as given."""

    code = "USAGE"
    exit_status = 2


class ConfigError(UsageError):
    """A YAML file has unknown keys, wrong types or values that do not fit together.

    Args:
        path: The file.
        problems: One line for each problem, every one found in the file.
    """

    code = "CONFIG"

    def __init__(self, path: object, problems: list[str]) -> None:
        super().__init__(
            path,
            expected="a valid file",
            found=f"{len(problems)} problem(s)",
            remedy="correct the lines named",
        )
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.where, self.problems)


class ManifestError(UsageError):
    """A data set manifest, or the data that it points to, is missing or wrong."""

    code = "MANIFEST"


class DeviceError(UsageError):
    """The device asked for is not available."""

    code = "DEVICE"


class InputError(MedsegError):
    """One input cannot be processed; the others of a batch can."""

    code = "INPUT"
    exit_status = 5


class OutOfMemoryError(InputError):
    """An input does not fit into memory."""

    code = "MEMORY"
    exit_status = 4


class UnreadableError(InputError):
    """A file of an input cannot be read for now, which says nothing of the input: another try may do."""

    code = "UNREADABLE"


class NiftiError(InputError):
    """A NIfTI file is corrupt, truncated or holds what a volume cannot be made of."""

    code = "NIFTI"


class DicomError(InputError):
    """A DICOM series cannot be read with every voxel in its right place.

    Args:
        where: The path that the user named, or the hashed name of a series.
        expected: What should have been there.
        found: What was there.
        remedy: What the user can do about it.
        reason: The stable code of the finding that led to it (`medseg.findings.FindingCode`).
    """

    code = "DICOM"

    def __init__(self, where: object, *, expected: str, found: str, remedy: str, reason: str = "") -> None:
        super().__init__(where, expected=expected, found=found, remedy=remedy)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_dicom, (self.where, self.expected, self.found, self.remedy, self.reason)


def _rebuild_dicom(where: str, expected: str, found: str, remedy: str, reason: str) -> DicomError:
    return DicomError(where, expected=expected, found=found, remedy=remedy, reason=reason)


class GridError(InputError):
    """Two images that must share a grid do not."""

    code = "GRID"


class ProofError(InputError):
    """An object that was read back from disk is not the mask that it was made from; it is not released."""

    code = "PROOF"


class ModelError(InputError):
    """A model package is damaged, of another version, or does not fit the input."""

    code = "MODEL"


class TrainingError(MedsegError):
    """Training cannot go on: nothing to learn from, or the loss is no longer a number."""

    code = "TRAINING"
    exit_status = 5


class ClusterError(MedsegError):
    """A cluster cannot be joined, or none of its machines can be used; what was in work is planned again."""

    code = "CLUSTER"
    exit_status = 5


class StorageError(MedsegError):
    """A file cannot be written: the disk is full, read-only, or the folder is not permitted."""

    code = "STORAGE"
    exit_status = 4


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception says that memory is used up: Python's, torch's on CUDA, or torch's on the CPU.

    On the CPU torch raises a plain `RuntimeError`, as CUDA's libraries do, which only its text tells from others.
    """
    if error is None:
        return False
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return named or any(sign in text for sign in _SIGNS_OF_NO_MEMORY)
