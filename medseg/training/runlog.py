"""What a run leaves to read: ``metrics.jsonl``, and what its trackers keep."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol

from medseg.files import storage_error, write_text
from medseg.training.tracking import TensorBoard, Tracker

METRICS_FILE = "metrics.jsonl"
VALIDATED = "dice"  # the key that a record of a validation has


class Records(Protocol):
    """What the figures of a run are written to."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record numbers of one step."""


class NoRecords:
    """Records nothing: where another process of the training does."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Do nothing."""


class RunLog:
    """Appends one line a record to ``metrics.jsonl`` and gives the same numbers to the trackers.

    Args:
        folder: Of the run.
        step: Records of later steps, left by a run that was cut off, are dropped.
        validated_step: Likewise for the records of validations; None drops all of them.
        trackers: From `medseg.training.tracking.open_trackers`, closed with the log; TensorBoard where None.
    """

    def __init__(
        self,
        folder: Path,
        step: int = 0,
        validated_step: int | None = None,
        trackers: Sequence[Tracker] | None = None,
    ) -> None:
        self._path = folder / METRICS_FILE
        self._keep_until(step, -1 if validated_step is None else validated_step)
        self._trackers = [TensorBoard(folder, step)] if trackers is None else trackers

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # one that fails does not keep the others open
            for tracker in self._trackers:
                stack.callback(tracker.close)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record numbers of one step; NaN becomes null.

        Raises:
            StorageError: The disk is full.
        """
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step} | finite) + "\n")
        except OSError as error:
            raise storage_error(self._path, error) from error
        known = {key: value for key, value in finite.items() if value is not None}
        for tracker in self._trackers:
            tracker.log(step, known)

    def _keep_until(self, step: int, validated_step: int) -> None:
        if not self._path.is_file():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines if line.endswith("}")]
        kept = [item for item in records if item["step"] <= (validated_step if VALIDATED in item else step)]
        write_text(self._path, "".join(json.dumps(item) + "\n" for item in kept))
