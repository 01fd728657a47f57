"""Many studies, unattended: found in bounded memory, each in the ledger, and no bad one stops the others.

The public names are loaded when they are first used: a process that reads or writes needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.batch.direct import Outcome, segment_all
    from medseg.batch.find import find_studies, iterate_studies, listed_inputs
    from medseg.batch.job import Job, JobResult, job_of
    from medseg.batch.ledger import Ledger
    from medseg.batch.rows import Row, State
    from medseg.batch.worker import Crew, Worker

_HOMES = {
    "Crew": "medseg.batch.worker",
    "Job": "medseg.batch.job",
    "JobResult": "medseg.batch.job",
    "Ledger": "medseg.batch.ledger",
    "Outcome": "medseg.batch.direct",
    "Row": "medseg.batch.rows",
    "State": "medseg.batch.rows",
    "Worker": "medseg.batch.worker",
    "find_studies": "medseg.batch.find",
    "iterate_studies": "medseg.batch.find",
    "job_of": "medseg.batch.job",
    "listed_inputs": "medseg.batch.find",
    "segment_all": "medseg.batch.direct",
}

__all__ = [
    "Crew",
    "Job",
    "JobResult",
    "Ledger",
    "Outcome",
    "Row",
    "State",
    "Worker",
    "find_studies",
    "iterate_studies",
    "job_of",
    "listed_inputs",
    "segment_all",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medseg.batch' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
