"""One line of the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from medseg.batch.job import JobResult, result_of
from medseg.files import sha256_of


class State(Enum):
    """What became of a study, so far."""

    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    HELD = "held"
    REFUSED = "refused"
    FAILED = "failed"
    QUARANTINED = "quarantined"


WRITTEN = (State.DONE, State.HELD)
"""States of studies that have outputs; those of one that is held back are not where the others are delivered."""
ENDED = (*WRITTEN, State.REFUSED, State.QUARANTINED)
"""States that only another try changes."""
PROBLEMS = (State.REFUSED, State.FAILED, State.QUARANTINED)
"""States of studies that have no label map, and a reason why."""


@dataclass(frozen=True)
class Row:
    """One study of a ledger.

    Attributes:
        key: Identity of the input.
        name: For people, free of patient data.
        source: What the user named.
        target: Place of its outputs; see `Job`.
        state: What became of it.
        attempts: How often it was begun.
        strikes: How often it failed.
        model: Hash of the model.
        settings: Hash of how the model is run.
        version: Of medseg.
        worker: Who has it in work, or had it last.
        started: When it was last begun, seconds since 1970.
        ended: When it ended.
        code: Of the error; ``HELD`` of a study that is held back.
        message: Why there is no label map, or why it is held back.
        result: What there is.
    """

    key: str
    name: str
    source: str
    target: str
    state: State
    attempts: int
    strikes: int
    model: str
    settings: str
    version: str
    worker: str
    started: float | None
    ended: float | None
    code: str
    message: str
    result: JobResult

    def is_whole(self, folder: Path) -> bool:
        """Whether all outputs are in a folder, byte for byte as they were written."""
        try:
            return bool(self.result.outputs) and all(
                (folder / output.path).stat().st_size == output.size_bytes
                and sha256_of(folder / output.path) == output.sha256
                for output in self.result.outputs
            )
        except OSError:
            return False

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON and reports."""
        plain = {name: value for name, value in asdict(self).items() if name != "result"}
        return plain | {"state": self.state.value} | self.result.record()


def row_of(found: Mapping[str, Any]) -> Row:
    """Return the row of a line of the table."""
    plain = {name: found[name] for name in Row.__dataclass_fields__ if name not in ("state", "result")}
    return Row(**plain, state=State(found["state"]), result=result_of(found["key"], json.loads(found["result"])))
