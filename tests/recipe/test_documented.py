"""Every piece of YAML in the how-to page is valid."""

import re
from pathlib import Path

import pytest

from medseg.recipe import Recipe, load_recipe
from medseg.recipe.outputs import KINDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipelines.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)

pytestmark = pytest.mark.skipif(not TEXT, reason="the pages do not come with a wheel")


@pytest.mark.parametrize("block", BLOCKS)
def test_a_piece_of_yaml(block, tmp_path):
    text = block if block.startswith("name:") else f"name: x\n{block}"
    if text.count("outputs: [seg, sr]"):
        text += "outputs: {seg: , sr: }\n"
    (tmp_path / "x.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "x.yaml")).model_fields_set > {"name"}


def test_every_key_and_kind_is_explained():
    assert len(BLOCKS) >= 4
    rows = re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)", row)}
    assert named >= {*KINDS, *Recipe.model_fields} - {"name", "description"}
