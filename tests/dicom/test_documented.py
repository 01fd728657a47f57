"""docs/dicom.md and the command line know every finding and every policy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from typer.testing import CliRunner

from medseg.cli import app, policies
from medseg.dicom.policy import Policies
from medseg.findings import FindingCode
from medseg.quality import FLAGS
from medseg.recipe.outputs import KINDS

DOCS = (Path(__file__).parents[2] / "docs" / "dicom.md").read_text(encoding="utf-8")
OF_NIFTI = {FindingCode.FORMS_DISAGREE, FindingCode.NO_ORIENTATION}
# docs/segmenting.md and docs/nnunet.md
OF_SEGMENTING = {FindingCode.SMALLER_TILES, FindingCode.NO_REGION, FindingCode.STORED_ORIENTATION}
OF_OBJECTS = {  # and of the quality of masks
    FindingCode.MADE_FRAME_OF_REFERENCE,
    FindingCode.INFERRED_SOP_CLASS,
    FindingCode.NO_CODE,
    FindingCode.NOT_ON_SLICES,
    FindingCode.EMPTY_MASK,
    FindingCode.UNCHECKED,
    *(FindingCode(flag) for flag in FLAGS),
}
OPTIONS = {
    "gantry_tilt": "OnTilt",
    "irregular": "OnIrregular",
    "missing_slice": "OnMissingSlice",
    "duplicate": "OnDuplicate",
    "damaged_file": "OnDamaged",
    "four_dimensional": "OnFourDimensional",
    "no_rescale": "OnNoRescale",
}


def rows(docs: str = DOCS) -> list[list[str]]:
    lines = [line for line in docs.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_every_finding_of_dicom_stands_in_the_table_once() -> None:
    named = [code for row in rows() for code in re.findall(r"`([a-z0-9-]+)`", row[0])]
    assert sorted(named) == sorted(code.value for code in set(FindingCode) - OF_NIFTI - OF_SEGMENTING - OF_OBJECTS)


def test_every_finding_of_objects_stands_in_a_table_once() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")
    named = [code for row in rows(docs) for code in re.findall(r"`([a-z0-9-]+)`", row[0]) if code not in KINDS]
    assert sorted(named) == sorted(code.value for code in OF_OBJECTS)


def test_every_policy_has_its_row_with_the_default_first() -> None:
    by_key = {
        match[2]: (row, match[1]) for row in rows() if (match := re.search(r"`(--on-[a-z-]+)`, `(\w+)`", row[3]))
    }
    assert set(by_key) == set(Policies.model_fields) == set(OPTIONS)
    for name, field in Policies.model_fields.items():
        row, option = by_key[name]
        assert re.findall(r"\*\*(\w+)\*\*", row[2]) == list(get_args(field.annotation))
        assert field.default == get_args(field.annotation)[0]
        choices = get_args(getattr(policies, OPTIONS[name]))[0]
        assert set(get_args(get_args(choices)[0])) == set(get_args(field.annotation))
        for command in (["dicom", "plan"], ["segment"]):
            assert option in CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).output
