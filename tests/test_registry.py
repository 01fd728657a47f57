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


# --- names that stand for arguments, and arguments that all names share


def shop(name: str, *, gift: bool = False, note: str = "", **fields: object) -> object:
    """Stands for what the program calls: its own defaults are fields of every name."""
    return CYCLES.build(name, **fields), gift, note


def cycle(rider: str, wheels: int, *, colour: str = "red", gears: int = 1) -> tuple[object, ...]:
    return rider, wheels, colour, gears


CYCLES: Registry[object] = Registry(
    "cycle",
    {
        "tricycle": (cycle, "a book", {"wheels": 3}),
        "bicycle": (cycle, "a book", {"wheels": 2, "gears": 21}),
        "cycle": (cycle, "a book"),
    },
    shared=shop,
)


def test_a_name_fixes_arguments_and_changes_defaults():
    assert CYCLES.build("tricycle", rider="Ada") == ("Ada", 3, "red", 1)
    assert CYCLES.build("bicycle", rider="Ada", colour="blue") == ("Ada", 2, "blue", 21)
    assert CYCLES.build("bicycle", rider="Ada", gears=3) == ("Ada", 2, "red", 3)
    assert CYCLES.build("cycle", rider="Ada", wheels=1) == ("Ada", 1, "red", 1)
    assert dict(CYCLES["bicycle"].preset) == {"wheels": 2, "gears": 21}


def test_a_fixed_argument_is_no_field_and_a_changed_default_is_one():
    assert set(CYCLES["bicycle"].fields.model_fields) == {"name", "colour", "gears", "gift", "note"}
    assert CYCLES["bicycle"].fields(name="bicycle").gears == 21
    assert CYCLES["tricycle"].fields(name="tricycle").gears == 1
    with pytest.raises(ValidationError):
        CYCLES["bicycle"].fields(name="bicycle", wheels=4)


def test_shared_arguments_are_fields_of_every_name():
    for entry in CYCLES:
        fields = entry.fields(name=entry.name, gift=True, note="happy birthday")
        assert (fields.gift, fields.note) == (True, "happy birthday")
        with pytest.raises(ValidationError):
            entry.fields(name=entry.name, gift="perhaps")


def test_fields_become_what_their_types_say():
    """What JSON gives as a list, an int or a text is the tuple, the float or the choice that was meant."""
    arguments = {"spatial_dims": 2, "in_channels": 1, "num_classes": 2}
    network = build_network("unet", channels=[4, 8], strides=[[2, 1]], width_multiplier=1, **arguments)
    assert (network.stages.channels, network.stages.strides) == ((4, 8), ((2, 1),))


@pytest.mark.parametrize(
    ("name", "preset"),
    [("fcn32s", {"finest": 32}), ("fcn16s", {"finest": 16}), ("fcn8s", {"finest": 8}), ("unet", {})],
)
def test_the_fcns_are_one_network_whose_names_say_the_finest_score(name, preset):
    entry = NETWORKS[name]
    assert dict(entry.preset) == preset
    assert "finest" not in entry.fields.model_fields
    with pytest.raises(ValidationError):
        entry.fields(name=name, finest=8)


def test_the_attention_unet_is_the_unet_with_gates():
    assert NETWORKS["attention_unet"].build is NETWORKS["unet"].build
    assert NETWORKS["attention_unet"].fields(name="attention_unet").attention == "gate"
    assert NETWORKS["unet"].fields(name="unet").attention == "none"
    assert NETWORKS["attention_unet"].fields(name="attention_unet", attention="cbam").attention == "cbam"


@pytest.mark.parametrize("entry", list(NETWORKS), ids=lambda entry: entry.name)
def test_every_network_takes_weights_slices_width_spacing_norm_and_attention(entry):
    shared = {"weights", "slices", "width_multiplier", "spacing_mm", "norm", "act", "dropout", "attention"}
    assert shared < set(entry.fields.model_fields)
    fields = entry.fields(name=entry.name, weights={"file": "a.pth", "sha256": "0" * 64}, slices=5)
    assert (fields.weights.file.name, fields.slices) == ("a.pth", 5)
    for wrong in ({"weights": "https://example.org/a.pth"}, {"weights": {"file": "a.pth"}}, {"slices": 2.5}):
        with pytest.raises(ValidationError):
            entry.fields(name=entry.name, **wrong)
    for program in ("spatial_dims", "in_channels", "num_classes"):
        assert program not in entry.fields.model_fields
