"""Names in YAML files -> the functions that they stand for, and the typed fields that each takes.

A name resolves through an explicit table, never by import. The fields are read off the function's own signature,
so that a network, its documentation and the check of a config can never disagree.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from medseg.errors import UsageError

Product = TypeVar("Product")


@dataclass(frozen=True)
class Entry(Generic[Product]):
    """One thing that a config can name.

    Attributes:
        name: The name in YAML.
        build: Makes it from keyword arguments.
        source: The paper or document that it comes from.
        fields: Pydantic model of what a config may set: ``name`` and the arguments that have a default.
        preset: Arguments that the name itself stands for.
    """

    name: str
    build: Callable[..., Product]
    source: str
    fields: type[BaseModel]
    preset: Mapping[str, Any]


class Registry(Generic[Product]):
    """An explicit table of names.

    Args:
        kind: What the names stand for, for messages: ``network``, ``loss``.
        table: {name: (function or class, source)} or {name: (function or class, source, preset)}. Arguments without
            a default are given by the program, or by the preset of the name; those with one are the fields of a
            config, where the preset may change the default.
        shared: A function whose arguments with a default are fields of every name.
    """

    def __init__(
        self,
        kind: str,
        table: Mapping[
            str, tuple[Callable[..., Product], str] | tuple[Callable[..., Product], str, Mapping[str, Any]]
        ],
        *,
        shared: Callable[..., Product] | None = None,
    ) -> None:
        self.kind = kind
        self._entries = {name: _entry(name, shared, *row) for name, row in table.items()}

    def __iter__(self) -> Iterator[Entry[Product]]:
        return iter(self._entries.values())

    def __getitem__(self, name: str) -> Entry[Product]:
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(self._entries)}"
        raise UsageError(name, expected=f"the name of a {self.kind}", found="an unknown one", remedy=hint)

    def build(self, name: str, **arguments: Any) -> Product:
        """Build the named thing.

        Raises:
            UsageError: There is no such name, or a field is not what it can be.
            TypeError: An argument is not one that it takes.
        """
        entry = self[name]
        fields = {key: value for key, value in arguments.items() if key in entry.fields.model_fields}
        try:
            checked = entry.fields.model_validate({"name": name} | fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{self.kind}.{first['loc'][0]}"
            raise UsageError(
                where, expected=first["msg"], found=str(first["input"]), remedy="correct it"
            ) from error
        return entry.build(**{**entry.preset, **arguments, **{key: getattr(checked, key) for key in fields}})


def _entry(
    name: str,
    shared: Callable[..., Product] | None,
    build: Callable[..., Product],
    source: str,
    preset: Mapping[str, Any] | None = None,
) -> Entry[Product]:
    given = dict(preset or {})
    fields: dict[str, Any] = {"name": (Literal[name], ...)}
    for function in (build, shared):
        fields |= _fields_of(function, given) if function else {}
    config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
    return Entry(name, build, source, create_model(f"{name}_fields", __config__=config, **fields), given)


def _fields_of(build: Callable[..., Any], preset: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return {argument: (type, default)} of the arguments that have a default."""
    hints = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    return {
        parameter.name: (hints[parameter.name], preset.get(parameter.name, parameter.default))
        for parameter in inspect.signature(build).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }
