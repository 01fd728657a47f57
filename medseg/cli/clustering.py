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
    of_recipe = () if isinstance(batch.model, Path) else batch.model.models
    models = [batch.model.absolute()] if isinstance(batch.model, Path) else [Path(m.path) for m in of_recipe]
    hashes = tuple((model, model_hash(model)) for model in models)
    order = Order(batch.crew_maker(options), hashes, scratch.absolute())
    how = ClusterOptions(batch.cluster or "auto", options.device, batch.time_limit_s)
    run_on_cluster(ledger, jobs, order, batch.output.absolute(), observer, how)
