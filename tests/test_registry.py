"""Names in YAML become functions by an explicit table, their fields by the functions' own signatures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from pydantic import ValidationError

from medseg.errors import UsageError
from medseg.losses import LOSSES
from medseg.networks import NETWORKS, build_network
from medseg.registry import Registry


class Wheel:
    def __init__(self, radius: float, spokes: int = 32, kind: Literal["front", "rear"] = "front") -> None:
        self.radius, self.spokes, self.kind = radius, spokes, kind


@dataclass
class Brake:
    model_name: str = "disc"
    pads: tuple[int, ...] = (1, 2)


def bell(loudness: float, *, tone: str | None = None) -> tuple[float, str | None]:
    return loudness, tone


PARTS: Registry[object] = Registry(
    "part", {"wheel": (Wheel, "a book"), "brake": (Brake, "a paper"), "bell": (bell, "a song")}
)


def test_entries_come_in_the_order_of_the_table_with_their_source():
    assert [(entry.name, entry.source) for entry in PARTS] == [
        ("wheel", "a book"),
        ("brake", "a paper"),
        ("bell", "a song"),
    ]
    assert PARTS["bell"].build is bell


def test_what_has_a_default_is_a_field_and_what_has_none_is_given_by_the_program():
    fields = PARTS["wheel"].fields(name="wheel")
    assert fields.model_dump() == {"name": "wheel", "spokes": 32, "kind": "front"}
    assert PARTS["brake"].fields(name="brake").model_dump() == {
        "name": "brake",
        "model_name": "disc",
        "pads": (1, 2),
    }
    assert PARTS["bell"].fields(name="bell", tone="g").model_dump() == {"name": "bell", "tone": "g"}


@pytest.mark.parametrize(
    "values",
    [
        {"name": "wheel", "radius": 3.0},
        {"name": "wheel", "spoke": 3},
        {"name": "wheel", "spokes": "many"},
        {"name": "wheel", "spokes": 2.5},
        {"name": "wheel", "kind": "side"},
        {"name": "bell"},
        {},
    ],
)
def test_values_of_the_wrong_name_or_type_are_refused(values):
    with pytest.raises(ValidationError):
        PARTS["wheel"].fields(**values)


def test_fields_cannot_be_changed():
    fields = PARTS["wheel"].fields(name="wheel")
    with pytest.raises(ValidationError):
        fields.spokes = 3


def test_a_thing_is_built_from_its_arguments():
    wheel = PARTS.build("wheel", radius=0.3, spokes=28)
    assert (wheel.radius, wheel.spokes, wheel.kind) == (0.3, 28, "front")
    assert PARTS.build("bell", loudness=1.0) == (1.0, None)
    with pytest.raises(TypeError):
        PARTS.build("wheel", spokes=28)
    with pytest.raises(TypeError):
        PARTS.build("wheel", radius=0.3, colour="red")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("weel", "did you mean 'wheel'?"),
        ("brakes", "did you mean 'brake'?"),
        ("xyz", "choose one of wheel, brake, bell"),
        ("", "choose one of wheel, brake, bell"),
        ("os.system", "choose one of wheel, brake, bell"),
        ("__init__", "choose one of wheel, brake, bell"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name, remedy):
    with pytest.raises(UsageError, match="expected the name of a part, found an unknown one") as caught:
        PARTS.build(name)
    assert caught.value.remedy == remedy


@pytest.mark.parametrize("registry", [NETWORKS, LOSSES], ids=lambda r: r.kind)
def test_the_shipped_tables_have_a_source_for_each_name_and_defaults_that_are_valid(registry):
    entries = list(registry)
    assert entries
    for entry in entries:
        assert entry.source
        again = entry.fields.model_validate(entry.fields(name=entry.name).model_dump())
        assert again == entry.fields(name=entry.name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "layer"}, r"network\.norm: expected .*'batch'.*found layer"),
        ({"attention": "gates"}, r"network\.attention"),
        ({"act": "swish"}, r"network\.act"),
        ({"padding": "full"}, r"network\.padding"),
        ({"dropout": float("nan")}, r"network\.dropout: expected .*finite"),
        ({"spatial_dims": 4}, r"spatial_dims of 2 or 3"),
        ({"num_classes": 0}, r"at least one channel and one class"),
    ],
    ids=str,
)
def test_a_network_is_not_built_of_what_its_fields_cannot_be(fields, message):
    arguments = {"spatial_dims": 2, "in_channels": 1, "num_classes": 2} | fields
    with pytest.raises(UsageError, match=message):
        build_network("unet", **arguments)
