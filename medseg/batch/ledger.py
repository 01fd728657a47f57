"""`Ledger`: what became of every study of a batch, on the disk before and after each step.

One SQLite file in the output folder, with a write-ahead log and every commit flushed (``synchronous=FULL``). A
study is counted as attempted before it is begun, so that one that takes the whole machine down is known afterwards.

States: *planned* → *running* → *done* | *refused* (the input cannot be segmented right, which another try does not
change) | *failed* (a crash, a hang, out of memory: tried again) → *quarantined* after three strikes.

Several processes of one machine may share a ledger: a study in work is leased, and the lease is renewed; where it
has run out, or where the process is gone, the study is claimed again. SQLite's write-ahead log does not work across
machines: there one process owns the ledger and hands out the work.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.batch.job import Job, JobResult
from medseg.batch.owner import is_gone, this_process
from medseg.batch.rows import Row, State, row_of
from medseg.batch.schema import (
    CLAIM,
    END,
    FORGET_PROBLEMS,
    LEDGER_FILE,
    LEFT,
    NEXT,
    PUT,
    RENEW,
    REQUEUE,
    RETRY,
    RIVAL,
    TAKE_BACK,
    chunks,
    connect,
    storing,
)
from medseg.errors import InputError, MedsegError

LEASE_S = 120.0
STRIKES = 3
MOST_ATTEMPTS = 10
"""Of a study that was in work each time the whole program ended: it is quarantined then, whoever's fault it was."""

_AT_ONCE = 200


class Ledger:
    """What became of every study of a batch.

    Args:
        folder: The output folder.
        model: Hash of the model.
        settings: Hash of how it is run; a study that was done with another model or otherwise is planned anew.
        strikes: How often a study may fail before it is quarantined.
        lease_s: How long a study is another's without a sign of life.
        clock: Seconds since 1970.
        busy_s: How long to wait for another process that writes.

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
        self._folder, self._model, self._settings = folder, model, settings
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
        """
        for some in chunks(jobs, _AT_ONCE):
            seen = {job.key: self._trace(job.key) for job in some}
            stays = {job.key for job in some if not again and self._stays(job)}
            with self._writing() as database:
                for job in some:
                    if job.key not in stays and self._trace(job.key) == seen[job.key]:
                        self._put(database, job)
                    database.execute("INSERT OR IGNORE INTO mine VALUES (?)", (job.key,))
        with self._writing() as database:
            database.execute(FORGET_PROBLEMS)

    def claim(self, *, alone: bool = False) -> str | None:
        """Take the next study in work, its attempt counted and on the disk; those never tried come first.

        Args:
            alone: Nothing else is in work in this process: if it ends, the study is to blame.

        Returns:
            Its key; None where none is left, though others may still work on some: see `is_over`.
        """
        now = self._clock()
        with self._writing() as database:
            self._take_back(database, now)
            row = database.execute(NEXT, (self._model, self._settings)).fetchone()
            if row is None:
                return None
            database.execute(CLAIM, (self.owner, now + self._lease_s, alone, now, row["key"]))
        return str(row["key"])

    def is_over(self) -> bool:
        """Whether every study that was planned here has ended, whoever worked on it."""
        with storing(self.path):
            found = self._database.execute(LEFT, (self._model, self._settings)).fetchone()
        return not found[0]

    def heartbeat(self) -> None:
        """Renew the leases of what this process has in work, if a quarter of a lease has gone by since."""
        now = self._clock()
        if now < self._beat + self._lease_s / 4:
            return
        self._beat = now
        with self._writing() as database:
            database.execute(RENEW, (now + self._lease_s, self.owner))

    def finish(self, result: JobResult) -> State:
        """Record a study that is done; its outputs must be on the disk."""
        return self._end(result.key, State.DONE, ("", ""), result.record(), 0)

    def refuse(self, key: str, error: MedsegError, record: Mapping[str, Any] | None = None) -> State:
        """Record a study that cannot be segmented right."""
        return self._end(key, State.REFUSED, (error.code, str(error)), record or {}, 0)

    def fail(self, key: str, code: str, message: str, record: Mapping[str, Any] | None = None) -> State:
        """Record a strike against a study; the third one quarantines it.

        Args:
            key: Of the study.
            code: Such as ``CRASH``, ``TIME``, ``MEMORY``.
            message: For people, free of patient data.
            record: What is known of it all the same.
        """
        state = State.QUARANTINED if self.row(key).strikes + 1 >= self._strikes else State.FAILED
        return self._end(key, state, (code, message), record or {}, 1)

    def requeue(self, keys: Sequence[str]) -> None:
        """Give studies back that were begun and are not at fault; the attempt does not count."""
        with self._writing() as database:
            database.executemany(REQUEUE, [(key, self.owner) for key in keys])

    def retry(self, states: Iterable[State]) -> int:
        """Plan all studies of some states anew, without strikes; return how many they are."""
        with self._writing() as database:
            return sum(database.execute(RETRY, (state.value,)).rowcount for state in states)

    def rows(self, *, mine: bool = False) -> list[Row]:
        """Return every study, in the order of planning; `mine` for those that were planned here alone."""
        join = "JOIN mine USING (key) " if mine else ""
        with storing(self.path):
            found = self._database.execute(f"SELECT studies.* FROM studies {join}ORDER BY number, name")
            return [row_of(dict(row)) for row in found]

    def row(self, key: str) -> Row:
        """Return one study.

        Raises:
            KeyError: There is none of that key.
        """
        with storing(self.path):
            found = self._database.execute("SELECT * FROM studies WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        return row_of(dict(found))

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

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the database within one transaction, which is on the disk at the end or has never been."""
        with storing(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _trace(self, key: str) -> tuple[State, int, str] | None:
        """Return what another process would change by planning or claiming a study."""
        try:
            row = self.row(key)
        except KeyError:
            return None
        return row.state, row.attempts, row.worker

    def _stays(self, job: Job) -> bool:
        try:
            row = self.row(job.key)
        except KeyError:
            return False
        if (row.model, row.settings) != (self._model, self._settings) or job.problem:
            return False
        if row.state is State.DONE:
            return row.is_whole(self._folder)
        return row.state is not State.REFUSED or row.version == __version__

    def _put(self, database: sqlite3.Connection, job: Job) -> None:
        problem = job.problem or self._rival(database, job)
        if job.target and not problem:
            database.execute("DELETE FROM studies WHERE target = ? AND key != ?", (job.target, job.key))
        values = (job.key, job.name, str(job.source), job.target, self._model, self._settings, __version__)
        refusal = ("refused", problem.code, str(problem)) if problem else ("planned", "", "")
        database.execute(PUT, (*values, *refusal))

    def _rival(self, database: sqlite3.Connection, job: Job) -> InputError | None:
        """Return why a study cannot be written, where another one of this batch has the same target."""
        found = database.execute(RIVAL, (job.target, job.key)).fetchone()
        if not found:
            return None
        return InputError(
            job.source,
            expected="a label map of its own",
            found=f"{job.target}, which another study of this batch has",
            remedy="segment it into another folder",
        )

    def _take_back(self, database: sqlite3.Connection, now: float) -> None:
        """Plan studies again that are in nobody's work any more; quarantine what has come to that too often."""
        running = database.execute("SELECT * FROM studies WHERE state = 'running' AND worker != ?", (self.owner,))
        for row in running.fetchall():
            if row["lease"] >= now and not is_gone(row["worker"]):
                continue
            strikes = row["strikes"] + row["alone"]
            is_out = strikes >= self._strikes or row["attempts"] >= MOST_ATTEMPTS
            message = f"the program ended {row['attempts']} times while this study was in work" if is_out else ""
            state = State.QUARANTINED if is_out else State.PLANNED
            database.execute(TAKE_BACK, (state.value, strikes, "CRASH" if is_out else "", message, row["key"]))

    def _end(self, key: str, state: State, why: tuple[str, str], record: Mapping[str, Any], strike: int) -> State:
        """Record how a study ended that this process has in work; nothing where it lost it to another one."""
        values = (state.value, *why, json.dumps(record), self._clock(), __version__, strike)
        with self._writing() as database:
            database.execute(END, (*values, key, self.owner))
        return state
