"""What a recipe may ask, and which studies it holds back."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from medseg.errors import ConfigError
from medseg.findings import Finding, FindingCode
from medseg.quality import FLAGS, QualitySettings, is_held
from medseg.yamlfile import load_yaml


def test_the_flags_are_the_findings_of_a_mask():
    codes = [code.value for code in FindingCode]
    assert list(FLAGS) == codes[codes.index("organ-absent") : codes.index("low-confidence") + 1]


def test_all_flags_are_marked_and_none_held_by_default():
    settings = QualitySettings()
    assert {code.value for code in settings.watched} == set(FLAGS)
    assert is_held([Finding(FindingCode(flag), "") for flag in FLAGS], settings) == ()


def test_a_study_is_held_for_the_flags_that_a_recipe_names():
    settings = QualitySettings(hold=("sides-swapped", "truncated"))
    assert {code.value for code in settings.watched} == set(FLAGS)
    findings = [Finding(FindingCode(code), "") for code in ("low-confidence", "truncated", "gantry-tilt")]
    assert is_held(findings, settings) == ("truncated",)
    assert is_held([*findings, Finding(FindingCode.SIDES_SWAPPED, "")], settings) == ("sides-swapped", "truncated")


def test_flags_in_neither_list_are_not_looked_for():
    settings = QualitySettings(hold=("sides-swapped",), mark=("truncated",))
    assert {code.value for code in settings.watched} == {"sides-swapped", "truncated"}


def test_settings_go_through_json():
    settings = QualitySettings(hold=("truncated",), volume_ml={"liver": {"min": 5}}, components={"liver": 1})
    assert QualitySettings.model_validate(json.loads(settings.model_dump_json())) == settings
    assert settings.label_names == ("liver",)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"hold": ["truncated"], "mark": ["truncated"]}, "in both hold and mark: truncated"),
        ({"hold": ["truncated", "truncated"]}, "hold: listed twice: truncated"),
        ({"volume_ml": {"liver": {"min": 3, "max": 2}}}, "min 3 is above max 2"),
        ({"components": {"liver": 0}}, "greater than or equal to 1"),
        ({"least_confidence": 1.1}, "less than or equal to 1"),
        ({"volume_tolerance": float("inf")}, "finite"),
        ({"expects": ["liver"]}, "Extra inputs"),
    ],
)
def test_what_does_not_fit_is_refused(given, found):
    with pytest.raises(ValidationError, match=found):
        QualitySettings.model_validate(given)


def test_an_unknown_flag_in_a_file_is_answered_with_the_nearest(tmp_path):
    path = tmp_path / "quality.yaml"
    path.write_text("least_confidence: 0.5\nhold: [sides-swaped]\n")
    with pytest.raises(ConfigError, match="unknown value 'sides-swaped'; did you mean 'sides-swapped'"):
        load_yaml(path, QualitySettings)


def test_every_label_that_is_named_is_listed_with_its_keys():
    given = {"expected": ["a"], "may_touch_border": ["b"], "components": {"c": 1}, "left_of": {"d": "e"}}
    settings = QualitySettings.model_validate(given)
    assert settings.label_names == ("a", "b", "c", "d", "e")
    assert (("left_of", "d"), "e") in list(settings.named())
    assert QualitySettings().label_names == ()
