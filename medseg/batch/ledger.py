"""`Ledger`: what became of every study of a batch, on the disk before and after each step.

One SQLite file in the output folder, with a write-ahead log and every commit flushed (``synchronous=FULL``). A
study is counted as attempted before it is begun, so that one that takes the whole machine down is known afterwards.

States: *planned* → *running* → *done* | *held* (segmented, the outputs held back for review) | *refused* (the input
cannot be segmented right, which another try does not change) | *failed* (a crash, a hang, out of memory: tried
again) → *quarantined* after three strikes.

Several processes of one machine may share a ledger: a study in work is leased, and the lease is renewed; where it
has run out, or where the process is gone, the study is claimed again. SQLite's write-ahead log does not work across
machines: there one process owns the ledger and hands out the work.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.batch.database import chunks, connect, storing, writing
from medseg.batch.delivery import Deliveries
from medseg.batch.job import Job, JobResult
from medseg.batch.owner import this_process
from medseg.batch.placing import Placing, drop_files
from medseg.batch.planning import Terms, put, require_alone, share_targets, stays, take_back
from medseg.batch.rows import Row, State, row_of
from medseg.batch.schema import (
    CLAIM,
    END,
    FORGET_PROBLEMS,
    LEDGER_FILE,
    LEFT,
    NEXT,
    OWNED,
    RENEW,
    REQUEUE,
    WANTED_AGAIN,
)
from medseg.errors import MedsegError

LEASE_S = 120.0
STRIKES = 3

_AT_ONCE = 200


class Ledger:
    """What became of every study of a batch.

    Args:
        folder: The output folder.
        model: Hash of the model.
        settings: Hash of how it is run; a study that was done with another model or otherwise is planned anew.
            What follows a colon counts only where tiles had to be made smaller; see `Terms`.
        strikes: How often a study may fail before it is quarantined.
        lease_s: How long a study is another's without a sign of life.
        clock: Seconds since 1970.
        busy_s: How long to wait for another process that writes.

    Attributes:
        deliveries: Folders elsewhere that outputs go to; none until they are named.

    Raises:
        StorageError: The file cannot be opened, or is damaged. Every method raises it where the file cannot
            be read or written any more.
        UsageError: A later version of medseg has made it.
    """

    def __init__(
        self,
        folder: Path,
        model: str = "",
        settings: str = "",
        *,
        strikes: int = STRIKES,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.time,
        busy_s: float = 60.0,
    ) -> None:
        self.path = folder / LEDGER_FILE
        self.owner = this_process()
        self.folder = folder
        self.deliveries = Deliveries()
        self._terms = Terms(model, settings)
        self._strikes, self._lease_s, self._clock = strikes, lease_s, clock
        self._beat = 0.0
        self._database = connect(self.path, busy_s=busy_s)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the write-ahead log goes into it."""
        self._database.close()

    def plan(self, jobs: Iterable[Job], *, again: bool = False) -> None:
        """Take jobs up: only these are claimed. What is done, or refused, with this model and settings stays so.

        What is done is looked at: it stays where its outputs are there and have the hashes they had. Earlier
        studies whose label map these will replace are forgotten.

        Args:
            jobs: One with a problem is refused at once, and so is one whose target another of them has.
            again: Do what is done or refused once more.

        Raises:
            UsageError: Another process works on this folder with another model or other settings.
        """
        with self._writing() as database:
            require_alone(database, self.folder, self._terms, self._clock())
        for some in chunks(jobs, _AT_ONCE):
            seen = {job.key: self.row(job.key) for job in some}
            kept = {job.key for job in some if not again and self._stays(job, seen[job.key])}
            with self._writing() as database:
                for job in some:
                    now = self.row(job.key)  # another process may have planned or claimed it meanwhile
                    if now is None or (job.key not in kept and _trace(now) == _trace(seen[job.key])):
                        put(database, job, self._terms, self._clock())
                    database.execute("INSERT OR IGNORE INTO mine VALUES (?)", (job.key,))
        with self._writing() as database:
            database.execute(FORGET_PROBLEMS)
            share_targets(database, self.folder, self._clock())

    def claim(self, *, alone: bool = False) -> str | None:
        """Take the next study in work, its attempt counted and on the disk; those never tried come first.

        Args:
            alone: Nothing else is in work in this process: if it ends, the study is to blame.

        Returns:
            Its key; None where none is left, though others may still work on some: see `is_over`.
        """
        now = self._clock()
        with self._writing() as database:
            take_back(database, self.folder, self._strikes, owner=self.owner, now=now)
            row = database.execute(NEXT, (self._terms.model, self._terms.settings)).fetchone()
            if row is None:
                return None
            database.execute(CLAIM, (self.owner, now + self._lease_s, alone, now, row["key"]))
        return str(row["key"])

    def is_over(self) -> bool:
        """Whether every study that was planned here has ended, whoever worked on it."""
        with storing(self.path):
            found = self._database.execute(LEFT, (self._terms.model, self._terms.settings)).fetchone()
        return not found[0]

    def heartbeat(self) -> None:
        """Renew the leases of what this process has in work, if a quarter of a lease has gone by since."""
        now = self._clock()
        if now < self._beat + self._lease_s / 4:
            return
        self._beat = now
        with self._writing() as database:
            database.execute(RENEW, (now + self._lease_s, self.owner))

    def finish(self, result: JobResult) -> State | None:
        """Record a study that is done or held back, and move its outputs to their place, both or neither.

        Returns:
            The state; None where another process has taken the study over: what was made of it here is not used.

        Raises:
            StorageError: An output cannot be moved, or the ledger cannot be written.
            InputError: An output of another study, or a strange file elsewhere, lies in the place of one.
        """
        key, held = result.key, bool(result.held)
        self.deliveries.require()
        placing = Placing(self.folder, result)
        with self._writing() as database:
            if not database.execute(OWNED, (key, self.owner)).fetchone():
                return None
            placing.announce(database)
        state, why = (State.HELD, ("HELD", result.why_held)) if held else (State.DONE, ("", ""))
        settings = self._terms.settings_of(result)
        try:
            with placing:
                placing.copy()
                return self._end(key, state, why, result.record(), settings=settings, placing=placing)
        except BaseException:
            with suppress(MedsegError), self._writing() as database:
                if database.execute(OWNED, (key, self.owner)).fetchone():
                    placing.forget(database)
            raise

    def refuse(self, key: str, error: MedsegError, record: Mapping[str, Any] | None = None) -> State | None:
        """Record a study that cannot be segmented right; an earlier label map of it is deleted."""
        return self._end(key, State.REFUSED, (error.code, str(error)), record or {})

    def fail(self, key: str, code: str, message: str, record: Mapping[str, Any] | None = None) -> State | None:
        """Record a strike against a study; the third one quarantines it. An earlier label map of it is deleted.

        Args:
            key: Of the study.
            code: Such as ``CRASH``, ``TIME``, ``MEMORY``.
            message: For people, free of patient data.
            record: What is known of it all the same.
        """
        row = self.row(key)
        if row is None:
            return None
        state = State.QUARANTINED if row.strikes + 1 >= self._strikes else State.FAILED
        return self._end(key, state, (code, message), record or {}, strike=1)

    def requeue(self, keys: Sequence[str]) -> None:
        """Give studies back that were begun and are not at fault; the attempt does not count."""
        with self._writing() as database:
            database.executemany(REQUEUE, [(key, self.owner) for key in keys])

    def retry(self, states: Iterable[State]) -> int:
        """Let the next `plan` take studies of some states up anew, without strikes; return how many they are.

        Until then, and where no command plans them, they keep their state and reason.
        """
        with self._writing() as database:
            for state in states:
                database.execute(WANTED_AGAIN, (state.value,))
            return int(database.execute("SELECT count(*) FROM again").fetchone()[0])

    def rows(self, *, mine: bool = False) -> list[Row]:
        """Return every study, in the order of planning; `mine` for those that were planned here alone."""
        join = "JOIN mine USING (key) " if mine else ""
        with storing(self.path):
            found = self._database.execute(f"SELECT studies.* FROM studies {join}ORDER BY number, name")
            return [row_of(dict(row)) for row in found]

    def row(self, key: str) -> Row | None:
        """Return one study; None where there is none of that key."""
        with storing(self.path):
            found = self._database.execute("SELECT * FROM studies WHERE key = ?", (key,)).fetchone()
        return row_of(dict(found)) if found else None

    def summary(self, *, mine: bool = False) -> dict[State, int]:
        """Return how many studies there are of each state."""
        join = "JOIN mine USING (key) " if mine else ""
        with storing(self.path):
            counts = dict(
                tuple(row)
                for row in self._database.execute(f"SELECT state, count(*) FROM studies {join}GROUP BY state")
            )
        return {state: counts.get(state.value, 0) for state in State}

    def note(self, name: str, value: Any = None) -> Any:
        """Keep a JSON value under a name, or return the one that is kept; None without any."""
        if value is not None:
            with self._writing() as database:
                database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))
            return value
        with storing(self.path):
            found = self._database.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return json.loads(found["value"]) if found else None

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return writing(self._database, self.path)

    def _stays(self, job: Job, row: Row | None) -> bool:
        if row is None:
            return False
        with storing(self.path):
            is_wanted = self._database.execute("SELECT 1 FROM again WHERE key = ?", (job.key,)).fetchone()
        return not is_wanted and stays(row, job, self._terms, self.folder)

    def _end(
        self,
        key: str,
        state: State,
        why: tuple[str, str],
        record: Mapping[str, Any],
        *,
        strike: int = 0,
        settings: str = "",
        placing: Placing | None = None,
    ) -> State | None:
        """Record how a study ended that this process has in work; nothing where it lost it to another one."""
        settings = settings or self._terms.settings
        values = (state.value, *why, json.dumps(record), self._clock(), __version__, strike, settings)
        if placing is None:  # else a file of a share that is away would look like one that is deleted
            self.deliveries.require()
        with self._writing() as database:
            if not database.execute(END, (*values, key, self.owner)).rowcount:
                return None
            if placing:
                placing.move(database)
            else:
                drop_files(database, self.folder, key)
        return state


def _trace(row: Row | None) -> tuple[State, int, str] | None:
    """Return what another process would change by planning or claiming a study."""
    return (row.state, row.attempts, row.worker) if row else None
