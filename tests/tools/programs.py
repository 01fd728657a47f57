"""Programs that nobody here wrote: whether they are there, and running them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

_LONGEST_S = 120
_DSRDUMP_QUIRK = "W: The VR checker does not support this Specific Character Set: ISO_IR 192"


def need(*programs: str) -> None:
    """Skip the test, and say why, where a program is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; .ci/run installs dcmtk, dicom3tools and Orthanc")


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program; neither its exit status nor its messages are judged."""
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_LONGEST_S,
        check=False,
    )


def dciodvfy(path: Path) -> tuple[list[str], list[str]]:
    """Return the errors, and the other lines, that the validator of single objects says about a file."""
    need("dciodvfy")
    answer = run("dciodvfy", path)
    lines = (answer.stdout + answer.stderr).splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    return errors, [line for line in lines if not line.startswith("Error")]


def dcentvfy(paths: Iterable[Path]) -> str:
    """Return what the validator of the patient, the study and the series over several files finds wrong."""
    need("dcentvfy")
    answer = run("dcentvfy", *paths)
    return answer.stdout + answer.stderr


def dsrdump(path: Path) -> str:
    """Return a structured report as dcmtk reads it; errors and warnings fail the test."""
    need("dsrdump")
    answer = run("dsrdump", path)
    assert answer.returncode == 0, answer.stderr
    assert [line for line in answer.stderr.splitlines() if line != _DSRDUMP_QUIRK] == []
    return answer.stdout
