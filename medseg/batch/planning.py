"""Which studies stay as they are, which are planned anew, and who gets the name of a label map or folder."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from medseg import __version__
from medseg.batch.job import Job, JobResult
from medseg.batch.owner import is_held
from medseg.batch.placing import drop_files
from medseg.batch.rows import WRITTEN, Row, State
from medseg.batch.schema import FREE, INHERIT, LEFTOVER, MOVING, PUT, RIVAL, TAKE_BACK, WAITING, WITHOUT_LABELS
from medseg.errors import InputError, UsageError
from medseg.findings import FindingCode

MOST_ATTEMPTS = 10
"""Of a study that was in work each time the whole program ended: it is quarantined then, whoever's fault it was."""
TARGET_CODE = "TARGET"
"""Of a study that is refused as another one has its label map's name: looked at anew each time."""


@dataclass(frozen=True)
class Terms:
    """What a label map is made with.

    Attributes:
        model: Hash of the model.
        settings: Hash of how it is run.
        settings_and_memory: Hash of how it is run; then, after a colon, the memory that it may take, which counts
            only where tiles had to be made smaller.
    """

    model: str
    settings_and_memory: str

    @property
    def settings(self) -> str:
        """The hash alone."""
        return self.settings_and_memory.partition(":")[0]

    def settings_of(self, result: JobResult) -> str:
        """Return the hash that a label map is recorded with."""
        is_smaller = any(finding.code is FindingCode.SMALLER_TILES for finding in result.findings)
        return self.settings_and_memory if is_smaller else self.settings


def stays(row: Row, job: Job, terms: Terms, folder: Path) -> bool:
    """Whether a study that the ledger has need not be planned anew; of one with outputs all of them are read."""
    if job.problem or (row.model, row.settings) != (terms.model, terms.settings_of(row.result)):
        return False
    if row.target != job.target:
        return False
    if row.state in WRITTEN:
        return row.is_whole(folder)
    return row.state is not State.REFUSED or (row.version == __version__ and row.code != TARGET_CODE)


def require_alone(database: sqlite3.Connection, folder: Path, terms: Terms, now: float) -> None:
    """Refuse to plan while another process works on the same folder with another model or otherwise.

    Raises:
        UsageError: One does.
    """
    running = database.execute("SELECT worker, lease, model, settings FROM studies WHERE state = 'running'")
    for row in running.fetchall():
        is_other = (row["model"], row["settings"]) != (terms.model, terms.settings)
        if is_other and is_held(row["worker"], row["lease"], now):
            raise UsageError(
                folder,
                expected="a folder that no other batch works on",
                found="one that works on it with another model or other settings",
                remedy="wait for it, end it, or choose another folder",
            )


def put(database: sqlite3.Connection, job: Job, terms: Terms, now: float) -> None:
    """Plan a study anew, or refuse it; one that another process has in work is left to it.

    A study whose label map's name another one has is refused for now; see `share_targets`.
    """
    database.execute("DELETE FROM again WHERE key = ?", (job.key,))
    found = database.execute("SELECT worker, lease FROM studies WHERE key = ? AND state = 'running'", (job.key,))
    row = found.fetchone()
    if row and is_held(row["worker"], row["lease"], now):
        return
    why = ("planned", "", "")
    if job.problem:
        why = ("refused", job.problem.code, str(job.problem))
    elif database.execute(RIVAL, (job.target, job.key)).fetchone():
        why = ("refused", TARGET_CODE, str(_taken(job)))
    values = (job.key, job.name, str(job.source), job.target, terms.model, terms.settings, __version__)
    database.execute(PUT, (*values, *why))


def share_targets(database: sqlite3.Connection, folder: Path, now: float) -> None:
    """Decide who gets a label map's name, once all studies are known.

    A study of an earlier command gives it to one of this command, unless it is in work; of several of this command
    the one that the ledger has known for longest keeps it. What lies in the output folder
    for a study that is now refused is deleted, and so is what a study has whose files were on their way when its
    process ended: half of them would stay delivered. Who cannot be rid of a file is told so.
    """
    for half in database.execute(MOVING).fetchall():
        if half["state"] != "running" or not is_held(half["worker"], half["lease"], now):
            drop_files(database, folder, half["key"])
    for old in database.execute(LEFTOVER).fetchall():
        if old["state"] != "running" or not is_held(old["worker"], old["lease"], now):
            database.execute(INHERIT, (old["heir"], old["key"]))
            database.execute("DELETE FROM studies WHERE key = ?", (old["key"],))
    for row in database.execute(WAITING, (TARGET_CODE,)).fetchall():
        if not database.execute(RIVAL, (row["target"], row["key"])).fetchone():
            database.execute(FREE, (row["key"],))
    for row in database.execute(WITHOUT_LABELS).fetchall():
        drop_files(database, folder, row["key"])


def take_back(database: sqlite3.Connection, folder: Path, most: int, *, owner: str, now: float) -> None:
    """Plan studies again that are in nobody's work any more; quarantine what has come to that too often.

    Args:
        database: Within a transaction.
        folder: The output folder.
        most: Strikes that quarantine a study.
        owner: This process, whose studies are left alone.
        now: Seconds since 1970.
    """
    moving = {row["key"] for row in database.execute(MOVING).fetchall()}
    running = database.execute("SELECT * FROM studies WHERE state = 'running' AND worker != ?", (owner,))
    for row in running.fetchall():
        if is_held(row["worker"], row["lease"], now):
            continue
        strikes = row["strikes"] + row["alone"]
        is_out = strikes >= most or row["attempts"] >= MOST_ATTEMPTS
        message = f"the program ended {row['attempts']} times while this study was in work" if is_out else ""
        state = State.QUARANTINED if is_out else State.PLANNED
        database.execute(TAKE_BACK, (state.value, strikes, "CRASH" if is_out else "", message, row["key"]))
        if is_out or row["key"] in moving:
            drop_files(database, folder, row["key"])


def _taken(job: Job) -> InputError:
    return InputError(
        job.source,
        expected="a label map of its own",
        found=f"{job.target}, which another study of this batch has",
        remedy="segment it into another folder",
    )
