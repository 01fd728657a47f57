"""``medseg segment --cluster``: a batch as it was asked for, on the machines of a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.batch.job import Job
    from medseg.batch.ledger import Ledger
    from medseg.batch.observer import Observer
    from medseg.cli.batching import Batch

ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Segment on the machines of a Ray cluster: auto, or HOST:PORT of its head. Inputs, model and OUTPUT "
        "must have the same path on every machine.",
        rich_help_panel="Batches",
        show_default=False,
    ),
]


def packages_of(batch: Batch) -> list[Path]:
    """Return every package that a batch computes with, the coarse ones of regions among them, as absolute paths."""
    if isinstance(batch.model, Path):
        models, coarse = [batch.model], []
    else:
        models = [Path(entry.path) for entry in batch.model.models]
        coarse = [Path(entry.roi_from) for entry in batch.model.models if entry.roi_from]
    if batch.options.roi_from:  # goes before those of the recipe
        coarse = [batch.options.roi_from]
    return list(dict.fromkeys(package.absolute() for package in (*models, *coarse)))


def work_on_cluster(batch: Batch, ledger: Ledger, jobs: dict[str, Job], scratch: Path, observer: Observer) -> None:
    """Do what the ledger has left to do; see `medseg.batch.cluster.run_on_cluster`.

    Args:
        batch: With the address of the cluster.
        ledger: With the studies planned.
        jobs: By key.
        scratch: A folder in the output folder.
        observer: Is told what happens.

    Raises:
        MedsegError: The batch cannot go on.
    """
    from dataclasses import replace

    from medseg.batch.cluster import ClusterOptions, run_on_cluster
    from medseg.batch.node import Order
    from medseg.packages import model_hash

    first = batch.options.roi_from
    options = replace(batch.options, roi_from=first.absolute() if first else None)
    hashes = tuple((package, model_hash(package)) for package in packages_of(batch))
    order = Order(batch.crew_maker(options), hashes, scratch.absolute())
    how = ClusterOptions(batch.cluster or "auto", options.device, batch.time_limit_s)
    run_on_cluster(ledger, jobs, order, batch.output.absolute(), observer, how)
