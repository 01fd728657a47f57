"""``medseg list``: what comes with medseg, by the names that configs use."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console
from medseg.shipped import Shelf, shelf_folder, shipped_names

if TYPE_CHECKING:
    from medseg.registry import Registry


class Kind(Enum):
    """What can be listed."""

    CONFIGS = "configs"
    MANIFESTS = "manifests"
    PIPELINES = "pipelines"
    NETWORKS = "networks"
    LOSSES = "losses"


def list_shipped(
    kind: Annotated[Kind | None, typer.Argument(help="Which; all of them by default.")] = None,
) -> None:
    """List the configs, data manifests, pipelines, networks and losses that can be named.

    Example: [bold]medseg list networks[/bold]
    """
    wanted = [kind] if kind else list(Kind)
    if Kind.CONFIGS in wanted:
        _print_shelf(Shelf.CONFIGS, "configs: medseg train NAME")
    if Kind.MANIFESTS in wanted:
        _print_shelf(Shelf.MANIFESTS, "data manifests: data.manifest in a config, medseg dataset show NAME")
    if Kind.PIPELINES in wanted:
        _print_shelf(Shelf.PIPELINES, "pipelines: medseg dicom plan, medseg segment --recipe NAME")
    if Kind.NETWORKS in wanted:
        from medseg.networks import NETWORKS

        _print_registry(NETWORKS, "networks: network.name in a config")
    if Kind.LOSSES in wanted:
        from medseg.losses import LOSSES

        _print_registry(LOSSES, "losses: loss.name in a config")


def _print_shelf(shelf: Shelf, title: str) -> None:
    from medseg.yamlfile import read_tree

    table = Table("name", "description", title=title, title_justify="left")
    for name in shipped_names(shelf):
        tree = read_tree(shelf_folder(shelf) / f"{name}.yaml")
        table.add_row(escape(name), escape(str(tree.get("description", ""))))
    console.print(table)


def _print_registry(registry: Registry[Any], title: str) -> None:
    table = Table("name", "source", "fields with their defaults", title=title, title_justify="left")
    for entry in registry:
        fields = [f"{key}: {f.default}" for key, f in entry.fields.model_fields.items() if key != "name"]
        table.add_row(escape(entry.name), escape(entry.source), escape("\n".join(fields)))
    console.print(table)
