"""A batch on the command line: its options, its progress, the table and the page at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medseg.batch.schema import LEDGER_FILE
from medseg.cli.batchview import BatchView, print_summary
from medseg.cli.clustering import work_on_cluster
from medseg.cli.console import console, errors, progress_bar
from medseg.cli.packaging import PACKAGES_NOTE, noted
from medseg.errors import NOTHING_DONE, SOME_FAILED, StorageError

if TYPE_CHECKING:
    from medseg.batch.job import Job
    from medseg.batch.ledger import Ledger
    from medseg.batch.rows import Row
    from medseg.batch.worker import Crew
    from medseg.dicom.policy import Policies
    from medseg.loading import InferenceOptions
    from medseg.recipe import Recipe
    from medseg.study import Study

USUAL_RETRIES = 2
FEW = 3
"""Studies from which on there is a ledger, and processes overlap."""

INTERRUPTED = 130
COMMAND_NOTE, ENVIRONMENT_NOTE = "command", "environment"
_PANEL = "Batches"

FromFile = Annotated[
    Path | None,
    typer.Option(help="A text file with an input a line; # begins a comment.", rich_help_panel=_PANEL),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume",
        " /--again",
        help="Leave what is done with the same input, model and settings; --again does it once more.",
        rich_help_panel=_PANEL,
    ),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(help="Of one study, such as 30min: what takes longer is stopped.", rich_help_panel=_PANEL),
]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        help="Further tries of a study that crashed, hung or ran out of memory; then it is quarantined.",
        rich_help_panel=_PANEL,
    ),
]
InProcess = Annotated[
    bool | None,
    typer.Option(
        "--in-process/--processes",
        help="Read, compute and write one after the other in one process; or at the same time in several, so that "
        "a crash costs one study. Several take seconds to start, and are the default from 3 studies on, with "
        "--time-limit, and where OUTPUT has a ledger.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Batch:
    """A batch as it was asked for.

    Attributes:
        model: The package; or a recipe from `medseg.recipe.packages.find_models`, all of whose outputs are written.
        output: The folder.
        options: How the model is run.
        policies: What to do about irregular DICOM series.
        retries: Further tries of a study that failed.
        time_limit_s: Of one study.
        in_process: Whether all happens in this process; None where that is for medseg to choose.
        cluster: Address of a Ray cluster to run on; None for this machine.
        packages: Those that were found for the models of a recipe, by their names in it.
    """

    model: Path | Recipe
    output: Path
    options: InferenceOptions
    policies: Policies
    retries: int
    time_limit_s: float | None = None
    in_process: bool | None = None
    cluster: str | None = None
    packages: Mapping[str, Path] = field(default_factory=dict)

    def run(
        self,
        studies: Iterable[Study],
        params: Mapping[str, Any],
        *,
        again: bool = False,
        found: Callable[[], None] = lambda: None,
    ) -> int:
        """Segment studies; return the exit status.

        Args:
            studies: Found as they are asked for.
            params: Of the command, which the ledger keeps for ``medseg batch retry``.
            again: Do what is done once more.
            found: Called when all studies are found.

        Raises:
            MedsegError: The batch cannot go on: the disk is full, the model cannot be loaded.
        """
        from medseg.batch.delivery import Deliveries
        from medseg.batch.ledger import Ledger
        from medseg.batch.run import plan_batch
        from medseg.batch.scratch import scratch_folder
        from medseg.environment import environment

        strikes, is_known = self.retries + 1, has_ledger(self.output)
        with Ledger(self.output, *self.hashes, strikes=strikes) as ledger, scratch_folder(self.output) as scratch:
            ledger.deliveries = Deliveries(self._delivery_roots)
            jobs = plan_batch(ledger, self._jobs(studies), again=again)
            found()
            ledger.note(COMMAND_NOTE, _plain(params))
            ledger.note(PACKAGES_NOTE, noted(self.packages))
            ledger.note(ENVIRONMENT_NOTE, environment())
            start = time.monotonic()
            try:
                status = self._work(ledger, jobs, scratch, is_known=is_known)
            finally:
                with suppress(StorageError):
                    conclude(ledger, self.output, time.monotonic() - start)
        return status

    def _work(self, ledger: Ledger, jobs: dict[str, Job], scratch: Path, *, is_known: bool) -> int:
        from medseg.batch.network import devices_for
        from medseg.batch.options import BatchOptions, RunContext
        from medseg.batch.run import StopBatch, run_batch

        devices = [] if self.cluster else devices_for(self.options.device)
        is_small = len(jobs) < FEW and not (is_known or self.time_limit_s)
        here = is_small if self.in_process is None else self.in_process
        crew = self.crew_maker(self.options)(scratch.absolute(), sharers=len(devices))
        several = (len(devices) + 1) // 2 or 1
        options = BatchOptions(self.time_limit_s, here, readers=several, writers=several)
        with progress_bar() as progress:
            try:
                if self.cluster:
                    work_on_cluster(self, ledger, jobs, scratch, BatchView(progress))
                    return exit_status(ledger.rows(mine=True))
                context = RunContext(crew, devices, scratch.absolute(), BatchView(progress), options)
                run_batch(ledger, jobs, context)
            except StopBatch as stop:
                errors.print(f"stopped by {stop.signal.name}: the same command goes on", highlight=False)
                return INTERRUPTED
        return exit_status(ledger.rows(mine=True))

    @cached_property
    def hashes(self) -> tuple[str, str]:
        """Of the model, or of a recipe's models; and of what else changes what is made of a study."""
        from medseg.batch.network import settings_hash
        from medseg.packages import model_hash
        from medseg.recipe.packages import models_hash

        if isinstance(self.model, Path):
            return model_hash(self.model), settings_hash(self.options, self.policies)
        return models_hash(self.model), settings_hash(self.options, self.policies, self.model)

    def crew_maker(self, options: InferenceOptions) -> Callable[..., Crew]:
        """Return what makes reader, network and writer, given a scratch folder; other machines may be sent it."""
        from medseg.batch.network import settings_hash
        from medseg.batch.node import study_crew
        from medseg.batch.opening import open_pipeline
        from medseg.batch.pipeline import PipelineWriter
        from medseg.recipe.packages import without_delivery

        if isinstance(self.model, Path):
            return partial(study_crew, self.model.absolute(), options, self.policies)
        settings = settings_hash(self.options, self.policies, without_delivery(self.model))
        pipeline = open_pipeline(self.model, self.policies, settings.partition(":")[0])
        writer = partial(PipelineWriter, pipeline)
        return partial(study_crew, self.model, options, self.policies, writer=writer, needs_images=True)

    @property
    def _delivery_roots(self) -> list[Path]:
        """The folders outside of the output folder that studies are delivered to."""
        deliveries = () if isinstance(self.model, Path) else self.model.deliver
        return [delivery.root for delivery in deliveries if delivery.root is not None]

    def _jobs(self, studies: Iterable[Study]) -> Iterator[Job]:
        """Yield the job of each study; none may write over an input."""
        from medseg.batch.direct import check_outputs
        from medseg.batch.job import case_folder, job_of
        from medseg.batch.pipeline import checked_study

        for study in studies:
            if isinstance(self.model, Path):
                check_outputs([study], self.output)
                yield job_of(study)
            else:
                yield job_of(checked_study(study, self.model, self.output), case_folder)


def has_ledger(output: Path) -> bool:
    """Whether an output folder has a ledger, that of a batch before."""
    return (output / LEDGER_FILE).is_file()


def exit_status(rows: Iterable[Row]) -> int:
    """Return the exit status of a batch: 0 all done, 3 some, or some held back, 5 none."""
    states = [row.state.value for row in rows]
    if states.count("done") == len(states):
        return 0
    return SOME_FAILED if {"done", "held"} & set(states) else NOTHING_DONE


def conclude(ledger: Ledger, output: Path, seconds: float) -> None:
    """Write batch.html and print the table of a batch at its end, or of what there is of it.

    Raises:
        StorageError: The page cannot be written.
    """
    from medseg.report.batch import BatchPage, write_batch_report

    rows = ledger.rows(mine=True)
    records = [row.record() for row in ledger.rows()]
    page = BatchPage(records, ledger.note(ENVIRONMENT_NOTE) or {}, seconds)
    path = write_batch_report(output, page)
    print_summary(rows)
    states = [row.state.value for row in rows]
    held = f", {states.count('held')} held back for review" if "held" in states else ""
    done = f"{states.count('done')} of {len(rows)} segmented{held}: {escape(str(output))}"
    console.print(done, highlight=False, soft_wrap=True)
    console.print(f"report: {escape(str(path))}", highlight=False, soft_wrap=True)


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a command for JSON; paths do not depend on where the command was given."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return {"path": str(value.absolute())}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    kept = {name: plain(value) for name, value in params.items()}
    named = {name: kept[name] for name in ("recipe", "pipeline") if kept.get(name)}
    return kept | {name: str(Path(value).absolute()) for name, value in named.items() if Path(value).is_file()}


def restored(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a ledger keeps."""

    def back(value: Any) -> Any:
        if isinstance(value, dict):
            return Path(value["path"])
        return [back(item) for item in value] if isinstance(value, list) else value

    return {name: back(value) for name, value in params.items()}
