"""Tables of labels, read by what others say of their formats."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from medseg.label_files import load_labels
from medseg.labels import Label, LabelMap, LabelSet
from medseg.outputs.nifti import organ_files, organ_mask
from medseg.outputs.tables import label_tables
from medseg.phantom.labels import TORSO_LABELS
from medseg.volume import Volume

# as ITK-SNAP reads a line: index, red, green, blue, opacity, visibility, mesh visibility, quoted name
ITK_SNAP_LINE = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"([^"]*)"')


@pytest.fixture
def tables():
    return label_tables(TORSO_LABELS)


def test_json_is_read_back(tables, tmp_path):
    file = tmp_path / "labels.json"
    file.write_text(tables["labels.json"])
    labels = load_labels(file)
    assert [(label.index, label.name, label.code, label.laterality) for label in labels] == [
        (label.index, label.name, label.code, label.laterality) for label in TORSO_LABELS
    ]


def test_itk_snap_lines_have_eight_fields(tables):
    lines = [line for line in tables["labels_itksnap.txt"].splitlines() if not line.startswith("#")]
    read = [ITK_SNAP_LINE.fullmatch(line).groups() for line in lines]
    assert read[0] == ("0", "0", "0", "0", "0", "0", "0", "Clear Label")
    assert read[3] == ("3", str(0xDD), str(0x82), str(0x65), "1", "1", "1", "liver")
    assert [int(fields[0]) for fields in read] == [0, *TORSO_LABELS.indices]


def test_slicer_lines_have_six_fields_whatever_a_name_holds():
    labels = LabelSet((Label(index=7, name='left "big" lobe', color="#0102ff"), Label(index=300, name="b")))
    lines = [line.split() for line in label_tables(labels)["labels_slicer.ctbl"].splitlines() if line[0] != "#"]
    assert lines[1] == ["7", 'left_"big"_lobe', "1", "2", "255", "255"]
    assert [len(line) for line in lines] == [6, 6, 6]
    assert "'big'" in label_tables(labels)["labels_itksnap.txt"]


def test_a_colour_is_told_where_none_is_set():
    listed = json.loads(label_tables(LabelSet((Label(index=1, name="a"),)))["labels.json"])["labels"]
    assert re.fullmatch("#[0-9a-f]{6}", listed[0]["color"])


def test_organs_have_files_of_their_own():
    names = {1: "liver", 2: "Liver", 3: "../x", 4: "a/b", 5: "..", 6: "a b"}
    files = [name for _, name in organ_files(LabelSet.from_names(names))]
    assert len({name.casefold() for name in files}) == len(names)
    assert all("/" not in name and not name.startswith(".") for name in files)


def test_a_file_is_given_once_also_where_a_name_looks_like_another_with_its_value():
    names = {1: "lesion", 2: "lesion_3", 3: "lesion?", 4: "LESION_3_3"}
    files = [name for _, name in organ_files(LabelSet.from_names(names))]
    assert len({name.casefold() for name in files}) == len(names)
    assert files[:2] == ["lesion.nii.gz", "lesion_3.nii.gz"]


def test_an_organ_is_its_voxels_and_no_others():
    array = np.asfortranarray(np.random.default_rng(0).integers(0, 4, (5, 6, 7), dtype=np.uint8))
    labels = LabelMap(Volume(array, np.diag([1, 2, 3, 1.0])), LabelSet.from_names({1: "a", 2: "b", 3: "c"}))
    mask = organ_mask(labels, next(label for label in labels.labels if label.name == "b"))
    assert mask.array.dtype == np.uint8
    assert np.array_equal(mask.array, array == 2)
    assert [(label.index, label.name) for label in mask.labels] == [(1, "b")]
