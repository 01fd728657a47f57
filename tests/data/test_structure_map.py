"""Names and codes of structures -> labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from medseg.data.structure_map import MappedLabel, StructureMap, automatic_map, count_structures
from medseg.dicom.structure import Structure
from medseg.errors import ConfigError, UsageError
from medseg.labels import CodedConcept, Laterality
from medseg.yamlfile import load_yaml

EXAMPLE = Path(__file__).parents[2] / "docs" / "structures.yaml"


def structure(name: str, value: str = "", scheme: str = "SCT", side: Laterality | None = None) -> Structure:
    code = CodedConcept(value=value, scheme=scheme, meaning="x") if value else None
    return Structure(1, name, name, code, side)


def names(found: tuple[MappedLabel, ...]) -> list[str]:
    return [mapped.name for mapped in found]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("Liver", ["liver"]), ("LIVER ", ["liver"]), ("liver_whole", ["liver"]), ("Liver  Total", ["liver"]),
        ("liver2", []), ("my liver", []), ("GTV1", ["tumour"]), ("gtv_2", ["tumour"]), ("Liver_met", ["tumour"]),
        ("Kidney_L", ["kidney_left"]), ("LT kidney", ["kidney_left"]), ("kidney", []), ("", []),
    ],
)  # fmt: skip
def test_the_example_matches_whole_names_in_whatever_case(name: str, labels: list[str]) -> None:
    assert names(load_yaml(EXAMPLE, StructureMap).match(structure(name))) == labels


def test_codes_count_where_no_name_matches() -> None:
    example = load_yaml(EXAMPLE, StructureMap)
    left, right = Laterality.LEFT, Laterality.RIGHT
    assert names(example.match(structure("Leber", "10200004"))) == ["liver"]
    assert names(example.match(structure("Leber", "T-62000", "SRT"))) == ["liver"]
    assert names(example.match(structure("Leber", "10200004", "SRT"))) == []
    assert names(example.match(structure("GTV", "10200004"))) == ["tumour"]
    assert names(example.match(structure("K", "64033007", side=left))) == ["kidney_left"]
    assert names(example.match(structure("K", "64033007", side=right))) == []
    assert names(example.match(structure("K", "64033007"))) == []


def test_patterns_may_have_underscores_or_spaces() -> None:
    for pattern in ("kidney left", "kidney_left"):
        mapped = MappedLabel(index=1, name="k", match=(pattern,))
        assert [mapped.has_name(name) for name in ("Kidney_Left", "kidney  left", "kidneyleft")] == [
            True,
            True,
            False,
        ]


def test_the_example_s_labels_policies_and_order() -> None:
    example = load_yaml(EXAMPLE, StructureMap)
    assert [example.missing_of(mapped) for mapped in example.labels] == ["refuse", "empty", "ignore"]
    assert names(example.painted) == ["liver", "kidney_left", "tumour"]
    assert example.ignore_value == 4
    liver, _, kidney = example.label_set
    assert (liver.code and liver.code.meaning, liver.color, kidney.laterality) == (
        "Liver",
        "#b5543c",
        Laterality.LEFT,
    )
    assert kidney.code is not None
    assert (kidney.code.scheme, kidney.code.value) == ("SCT", "64033007")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("labels:\n- {index: 1, name: a, match: ['(']}", ":2: labels.0.match.0: not a regular expression"),
        ("labels:\n- {index: 1, name: a}", ":2: labels.0: expected match or codes"),
        ("labels:\n- index: 1\n  name: a\n  macth: [a]", ":4: labels.0.macth: unknown key; did you mean 'match'?"),
        ("labels:\n- {index: 1, name: a, codes: [liver]}", ":2: labels.0.codes.0: String should match pattern"),
        ("labels: []", ":1: labels: "),
        ("labels:\n- {index: 1, name: a, match: [a]}\n- {index: 1, name: b, match: [b]}", "used twice: 1"),
        ("missing: never\nlabels:\n- {index: 1, name: a, match: [a]}", ":1: missing: unknown value 'never'"),
    ],
)
def test_mistakes_are_named_with_their_lines(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, StructureMap)
    assert problem in str(caught.value)


def test_names_are_counted_once_a_series() -> None:
    groups = [
        [structure("Liver", "10200004"), structure("liver "), structure("B")],
        [structure("LIVER", "T-62000", "SRT")],
    ]
    counts = count_structures(groups)
    assert [(count.shown, count.series) for count in counts] == [("Liver", 2), ("B", 1)]
    assert counts[0].codes == ("SCT:10200004 x", "SRT:T-62000 x")


def test_labels_of_the_names_where_all_series_have_the_same() -> None:
    groups = [
        [structure("Spleen"), structure("Left_Kidney", "64033007", side=Laterality.LEFT)],
        [structure("left kidney", "64033007", side=Laterality.LEFT), structure("SPLEEN", "78961009")],
    ]
    made = automatic_map(groups)
    assert [(label.index, label.name) for label in made.label_set] == [(1, "Left_Kidney"), (2, "Spleen")]
    kidney, spleen = made.label_set
    assert (kidney.code and kidney.code.value, kidney.laterality) == ("64033007", Laterality.LEFT)
    assert spleen.code is None
    for group in groups:
        assert all(len(made.match(one)) == 1 for one in group)


def test_names_are_no_patterns() -> None:
    made = automatic_map([[structure("PTV (50%)+3mm")]])
    assert names(made.match(structure("ptv_(50%)+3mm"))) == ["PTV_(50%)+3mm"]


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ([["a", "b"], ["a"]], "several times in one: b"),
        ([["a"], ["a", "C"]], "several times in one: C"),
        ([["a", "A "]], "several times in one: a"),
        ([[]], "no structure"),
        ([], "no structure"),
    ],
)
def test_names_that_differ_are_named(groups: list[list[str]], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        automatic_map([[structure(name) for name in group] for group in groups])


def test_a_map_without_labels_of_its_own_is_none() -> None:
    with pytest.raises(ValidationError):
        StructureMap(labels=())
