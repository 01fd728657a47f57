"""What ``medseg train`` and ``medseg plan`` share: texts of options, and the table of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console

if TYPE_CHECKING:
    from medseg.plan.experiment import Planned

MEMORY_HELP = (
    "Memory to plan for, such as 8GB: what a training step may take on a CPU, all that a CUDA card has. By default "
    "what is free."
)
DIMS_HELP = "2 or 3: plan a 2-D or a 3-D network; by the data by default."
DRY_RUN_HELP = "Confirm the plan by training steps on random numbers, or trust the estimate of their memory."


def show_plan(planned: Planned) -> None:
    """Print every planned value with its reason."""
    table = Table("what", "value", "why", title=f"Plan for {planned.fingerprint.cases} training cases")
    for reason in planned.reasons:
        table.add_row(reason.what, escape(_short(reason.value)), escape(reason.why))
    console.print(table)
    limit = f"{planned.compute.memory_bytes / 1e9:.1f} GB ({planned.compute.source})"
    if planned.cost is None:
        why = f": {planned.compute.unmeasured}" if planned.compute.unmeasured else ""
        console.print(
            f"for {planned.compute.kind}, {limit}; the memory of a step was estimated, not measured{why}",
            highlight=False,
        )
    else:
        taken = f"{planned.cost.peak_bytes / 1e9:.2f} GB and {planned.cost.seconds:.2f} s"
        console.print(f"a training step on {planned.compute.kind} takes {taken}, measured; it may take {limit}")


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_short(item)}" for key, item in value.items())
    return str(value)
