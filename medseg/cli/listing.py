"""``medseg list``: what comes with medseg, by the names that configs use."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console
from medseg.shipped import Shelf, shelf_folder, shipped_names

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

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
        _print_shelf(Shelf.PIPELINES, "pipelines: medseg segment --pipeline NAME; medseg dicom plan --recipe NAME")
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
    from rich.console import Group

    table = Table("name", "source", "fields: defaults (what else they can be)", title=title, title_justify="left")
    for entry in registry:
        fields = [_field(key, info) for key, info in entry.fields.model_fields.items() if key != "name"]
        table.add_row(escape(entry.name), escape(entry.source), Group(*fields))
        table.add_section()
    console.print(table)


def _field(key: str, info: FieldInfo) -> str:
    """Return a field as it stands in YAML, with the other words that it can be."""
    default = json.dumps(info.default).strip('"')
    others = [word for word in _words(info.annotation) if word != info.default]
    return escape(f"{key}: {default}" + (f" ({', '.join(map(str, others))})" if others else ""))


def _words(annotation: Any) -> list[Any]:
    """Return the values of every ``Literal`` in an annotation."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for part in get_args(annotation) for word in _words(part)]
