"""The report of a batch: one HTML page that needs nothing but itself.

It shows how many studies there are of each state, how fast they went, every problem with its reason, every study
with its volumes, findings and timings, and what they were computed with. No patient is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from medseg import __version__
from medseg.files import write_text
from medseg.report.pages import templates
from medseg.report.text import NOTHING, duration, figure, plain, thousands

BATCH_FILE = "batch.html"
_STAGES = ("read", "segment", "write")
_HOUR_S = 3600.0

Record = Mapping[str, Any]


@dataclass(frozen=True)
class BatchPage:
    """What the page tells.

    Attributes:
        studies: One record a study, as of `medseg.batch.rows.Row.record`.
        environment: Versions and hardware, as of `medseg.environment.environment`.
        seconds: How long the last run took.
    """

    studies: Sequence[Record]
    environment: Record
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """Studies by state, most first."""
        return dict(Counter(study["state"] for study in self.studies).most_common())

    @property
    def problems(self) -> list[Record]:
        """Studies without a label map, and with a reason."""
        return [study for study in self.studies if study["code"] and study["state"] != "held"]

    @property
    def held(self) -> list[Record]:
        """Studies whose outputs are held back for review."""
        return [study for study in self.studies if study["state"] == "held"]

    @property
    def findings(self) -> list[tuple[str, int]]:
        """How many studies have each finding, most first."""
        codes = (code for study in self.studies for code in {f["code"] for f in study["findings"]})
        return Counter(codes).most_common()

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What stands on top."""
        done = [study for study in self.studies if study["state"] in ("done", "held")]
        return [
            ("studies", thousands(len(self.studies))),
            *((state, thousands(count)) for state, count in self.counts.items()),
            ("studies an hour", figure(_per_hour(done), 1)),
            ("last run", duration(self.seconds)),
            *((f"median to {stage}", _median(done, stage)) for stage in _STAGES),
        ]


def write_batch_report(folder: Path, page: BatchPage) -> Path:
    """Write ``batch.html`` into the output folder of a batch.

    Args:
        folder: Where.
        page: What.

    Returns:
        The page.

    Raises:
        StorageError: It cannot be written.
    """
    environment = templates(figure=figure, duration=duration, plain=plain, volumes=_volumes)
    text = environment.get_template("batch.html").render(page=page, version=__version__, nothing=NOTHING)
    write_text(folder / BATCH_FILE, text)
    return folder / BATCH_FILE


def _per_hour(done: Sequence[Record]) -> float | None:
    """Return the throughput while studies were in work, over all runs: gaps between runs do not count."""
    spans = sorted(
        (study["started"], study["ended"]) for study in done if None not in (study["started"], study["ended"])
    )
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(end - max(start, until), 0.0)
        until = max(until, end)
    return len(spans) / busy * _HOUR_S if busy else None


def _median(done: Sequence[Record], stage: str) -> str:
    seconds = [study["timings_s"][stage] for study in done if stage in study["timings_s"]]
    return duration(median(seconds)) if seconds else NOTHING


def _volumes(volumes_ml: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {volume:.1f}" for name, volume in volumes_ml.items() if volume) or NOTHING
