"""`Job`: one study to be segmented; `JobResult`: what became of it. Both may cross processes and machines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.reference import SeriesReference, recall, refer_to, stamp_of
from medseg.dicom.series import Series
from medseg.dicom.stack import stack_series
from medseg.errors import InputError, MedsegError
from medseg.findings import Finding, FindingCode
from medseg.study import Study, output_name, study_name


@dataclass(frozen=True)
class Job:
    """One study to be segmented, found but not read.

    Attributes:
        key: Identity of the input: changes when a file does.
        name: For people, free of patient data.
        target: File name of the label map, or name of the folder of its own that all outputs lie in; no other
            study may have it. "" where a problem is that of a whole folder or archive.
        source: What the user named.
        files: NIfTI files, one a channel; empty for DICOM.
        present: Which channels the files are; empty where they are all.
        series: Of DICOM, which files it is made of: a packed `SeriesReference`.
        problem: Why it cannot be segmented, where that is known already.
    """

    key: str
    name: str
    target: str
    source: Path
    files: tuple[Path, ...] = ()
    present: tuple[bool, ...] = ()
    series: bytes = field(default=b"", repr=False)
    problem: InputError | None = None

    def study(self, policies: Policies) -> Study:
        """Return the study, ready to be read; of DICOM, headers are read again.

        Raises:
            DicomError: A file is gone or has changed since it was found.
        """
        if not self.series:
            return Study(self.source, self.files, present=self.present, problem=self.problem)
        with quiet_pydicom():
            stack = stack_series(recall(SeriesReference.unpack(self.series)), policies)
        return Study(self.source, stack=stack)


@dataclass(frozen=True)
class Output:
    """A file that was written for a study.

    Attributes:
        path: Where, relative to the output folder; or absolute.
        sha256: Of its bytes.
        size_bytes: Length.
    """

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class JobResult:
    """What became of a study.

    Attributes:
        key: Of the job.
        outputs: What was written; empty where there is an error.
        volumes_ml: Volume of every label, by name.
        findings: What was odd about the input.
        timings_s: Seconds by stage: ``read``, ``segment``, ``write``; and what the writer says of its own parts.
        rung: How it was made to fit into memory; "" for as planned.
        device: That computed.
        error: Why there is no label map.
        made: Where each output lies until the ledger moves it to its place; empty where they are there already.
        held: Codes of why its outputs are held back for review; empty where they are not.
    """

    key: str
    outputs: tuple[Output, ...] = ()
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)
    rung: str = ""
    device: str = ""
    error: MedsegError | None = None
    made: tuple[Path, ...] = ()
    held: tuple[str, ...] = ()

    @property
    def why_held(self) -> str:
        """Why it is held back, for people: the findings that led to it; "" where it is not."""
        told = [finding for finding in self.findings if finding.code.value in self.held]
        codes = {finding.code.value for finding in told}
        return "; ".join([*(code for code in self.held if code not in codes), *map(str, told)])

    def without_outputs(self) -> JobResult:
        """Return what can be said of a study whose outputs never came to their place."""
        return replace(self, outputs=(), made=(), held=())

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON, without the error."""
        return {
            "outputs": [{"path": o.path, "sha256": o.sha256, "size_bytes": o.size_bytes} for o in self.outputs],
            "volumes_ml": dict(self.volumes_ml),
            "findings": [{"code": f.code.value, "message": f.message, "where": f.where} for f in self.findings],
            "timings_s": {stage: round(seconds, 4) for stage, seconds in self.timings_s.items()},
            "rung": self.rung,
            "device": self.device,
            "held": list(self.held),
        }


def result_of(key: str, record: Mapping[str, Any]) -> JobResult:
    """Return the result that `JobResult.record` made plain values of."""
    return JobResult(
        key,
        outputs=tuple(Output(**output) for output in record.get("outputs", ())),
        volumes_ml=record.get("volumes_ml", {}),
        findings=tuple(
            Finding(FindingCode(f["code"]), f["message"], f["where"]) for f in record.get("findings", ())
        ),
        timings_s=record.get("timings_s", {}),
        rung=record.get("rung", ""),
        device=record.get("device", ""),
        held=tuple(record.get("held", ())),
    )


def case_folder(study: Study) -> str:
    """Return the name of a study's own folder, free of patient data; it never leads out of the output folder."""
    name = study_name(study).replace(" ", "_")
    return name if name.strip(".") else f"case_{_hash(name)[:8]}"


def job_of(study: Study, target_of: Callable[[Study], str] = output_name) -> Job:
    """Return the job of a study; the headers of a DICOM series are no longer held.

    Args:
        study: From `medseg.batch.find.iterate_studies`.
        target_of: Names the place of its outputs: `medseg.study.output_name` a file, `case_folder` a folder.
    """
    name, target, source = study_name(study), target_of(study), study.source.resolve()
    files = tuple(file.absolute() for file in study.files)
    if study.problem:
        stamps = _stamped(study) if study.files else [str(source)]
        key = _hash("problem", *stamps, study.problem.code, study.problem.expected, study.problem.found)
        place = target if study.files else ""
        return Job(key, name, place, source, files, study.present, problem=study.problem)
    if study.stack:
        series = study.stack.series
        packed = refer_to(series).pack()
        return Job(_hash("dicom", series.name, *_series_stamps(series)), name, target, source, series=packed)
    key = _hash("nifti", *_stamped(study), *map(str, study.present))
    return Job(key, name, target, source, files, study.present)


def _hash(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _stamped(study: Study) -> list[str]:
    return [f"{path.resolve()} {_stamp(path)}" for path in study.files]


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns}"


def _series_stamps(series: Series) -> list[str]:
    """Return size and time of every file, and the UIDs, in an order that no folder changes."""
    stamps = {
        frame.header.source: f"{frame.header.sop_instance_uid} {stamp_of(frame.header)}" for frame in series.frames
    }
    return [*sorted(stamps.values()), *map(str, sorted(frame.number for frame in series.frames))]
