"""Manifests: what they may say, where their data is, and that they read back as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.data.check import check_dataset
from medseg.data.importers import ImportOptions, import_folder
from medseg.data.manifest import (
    CaseEntry,
    Channel,
    Manifest,
    Modality,
    Splits,
    load_manifest,
    read_manifest,
    relative_root,
    save_manifest,
)
from medseg.errors import ConfigError, ManifestError, UsageError
from medseg.labels import CodedConcept, Label, LabelSet, Laterality
from medseg.shipped import Shelf, shelf_folder, shipped_names
from medseg.yamlfile import yaml_text

MANIFEST = """\
name: kidneys
description: two channels, two patients
license: CC0-1.0
root: data
channels:
  - {name: T1, modality: MR}
  - {name: PET, modality: PT}
labels:
  - {index: 2, name: left kidney, color: "#ff0000", laterality: left, code: {value: "64033007", meaning: Kidney}}
  - {index: 1, name: right kidney, laterality: right}
cases:
  - {id: a1, patient: a, images: [a1_t1.nii.gz, a1_pet.nii.gz], label: a1.nii.gz}
  - {id: a2, patient: a, images: [a2_t1.nii.gz, a2_pet.nii.gz], label: a2.nii.gz}
  - {id: b, images: [b_t1.nii.gz, b_pet.nii.gz], label: b.nii.gz}
  - {id: c, images: [c_t1.nii.gz, c_pet.nii.gz]}
splits:
  folds: {0: [a], 1: [b]}
"""


@pytest.fixture
def kidneys(tmp_path: Path) -> Path:
    """A manifest in a folder of its own; of the data, one file is there."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b_pet.nii.gz").touch()
    path = tmp_path / "kidneys.yaml"
    path.write_text(MANIFEST)
    return path


def problems(path: Path, old: str, new: str) -> list[str]:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_manifest(str(path))
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


def test_what_a_manifest_says(kidneys: Path, tmp_path: Path) -> None:
    dataset = load_manifest(str(kidneys))
    assert dataset.name == "kidneys"
    assert dataset.root == tmp_path / "data"
    assert [(channel.name, channel.modality) for channel in dataset.channels] == [
        ("T1", Modality.MR),
        ("PET", Modality.PET),
    ]
    assert dataset.labels.indices == (1, 2)
    left = list(dataset.labels)[1]
    assert left == Label(
        index=2,
        name="left kidney",
        color="#ff0000",
        laterality=Laterality.LEFT,
        code=CodedConcept(value="64033007", meaning="Kidney", scheme="SCT"),
    )
    assert [case.patient for case in dataset.cases] == ["a", "a", "b", "c"]
    assert dataset.cases[2].images == (tmp_path / "data" / "b_t1.nii.gz", tmp_path / "data" / "b_pet.nii.gz")
    assert dataset.cases[2].label == tmp_path / "data" / "b.nii.gz"
    assert dataset.cases[3].label is None
    assert dataset.folds == (0, 1)


def test_folds_keep_patients_together_and_leave_unlabelled_cases_out(kidneys: Path) -> None:
    dataset = load_manifest(str(kidneys))
    training, validation = dataset.fold(0)
    assert [case.id for case in training] == ["b"]
    assert [case.id for case in validation] == ["a1", "a2"]


def test_a_name_in_a_fold_is_a_patient_before_it_is_a_case(kidneys: Path) -> None:
    kidneys.write_text(MANIFEST.replace("{id: c,", "{id: a, patient: d,").replace("1: [b]", "1: [a1, d]"))
    manifest = load_manifest(str(kidneys)).manifest
    assert manifest.validation_ids(0) == {"a1", "a2"}
    assert manifest.validation_ids(1) == {"a1", "a"}


def test_a_fold_that_is_not_there(kidneys: Path) -> None:
    with pytest.raises(ManifestError, match=r"expected a fold 2, found folds 0, 1"):
        load_manifest(str(kidneys)).fold(2)
    kidneys.write_text(MANIFEST.split("splits:", maxsplit=1)[0])
    with pytest.raises(ManifestError, match="found no folds; add splits"):
        load_manifest(str(kidneys)).fold(0)


@pytest.mark.parametrize("folds", ["{0: [a1]}", "{0: [a, b]}", "{0: [c]}"], ids=["leak", "no training", "no label"])
def test_a_fold_that_cannot_be_trained_on(kidneys: Path, folds: str) -> None:
    kidneys.write_text(MANIFEST.replace("{0: [a], 1: [b]}", folds))
    with pytest.raises(ManifestError, match="training and validation cases of different patients"):
        load_manifest(str(kidneys)).fold(0)


# --- where the data is ---


def test_the_argument_comes_before_the_manifests_own_root(kidneys: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "c_t1.nii.gz").touch()
    dataset = load_manifest(str(kidneys), tmp_path / "copy")
    assert dataset.cases[0].images[0] == tmp_path / "copy" / "a1_t1.nii.gz"


def test_roots_that_do_not_work(kidneys: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such folder"):
        load_manifest(str(kidneys), tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="found none of them; pass the folder"):
        load_manifest(str(kidneys), tmp_path)
    kidneys.write_text(MANIFEST.replace("root: data\n", ""))
    with pytest.raises(ManifestError, match="lies in as --data-root") as caught:
        load_manifest(str(kidneys))
    assert caught.value.exit_status == 2


def test_manifests_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or name"):
        load_manifest(str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match="did you mean hippocampus"):
        load_manifest("hippocampis")


def test_relative_root(tmp_path: Path) -> None:
    assert relative_root(tmp_path / "a" / "data", tmp_path / "b" / "m.yaml") == "../a/data"
    assert relative_root(tmp_path / "data", tmp_path / "data" / "m.yaml") == "."
    assert relative_root(Path("/one/data"), Path("/two/m.yaml")) is None


# --- what is refused ---


REGIONS = "regions: [{name: all, labels: [1, 2]}, {name: left, labels: [2]}]\nignore_value: 9\n"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[1, 2]}", "[1, 2, 7]}", "18: regions.0.labels: no label has the value 7"),
        ("name: left", "name: all", "18: regions.1.name: another region is named all"),
        ("name: left", "name: right kidney", "18: regions.1.name: right kidney is the name of a label that is not"),
        ("labels: [2]}", "labels: [1, 2]}", "18: regions.0.labels: all of it is in later regions; put larger"),
        (", {name: left, labels: [2]}", "", "18: regions.0.labels: set paint to one of 1, 2, which no"),
        ("labels: [2]}", "labels: [2], paint: 1}", "18: regions.1: paint 1 is none of its labels [2]"),
        ("[1, 2]}", "[1, 2], paint: 2}", "18: regions.1.labels: an earlier region is painted with 2 too"),
        ("[1, 2]}", "[1, 2, 1]}", "18: regions.0: a label stands twice"),
        ("ignore_value: 9", "ignore_value: 2", "19: ignore_value: 2 is the value of a label"),
        ("ignore_value: 9", "ignore_value: 0", "19: ignore_value: Input should be greater"),
    ],
)
def test_problems_of_regions_and_of_the_ignored_value(kidneys: Path, old: str, new: str, problem: str) -> None:
    kidneys.write_text(MANIFEST + REGIONS)
    found = problems(kidneys, old, new)
    assert found[0].startswith(problem), found


def test_regions_are_painted_with_what_no_later_one_has(kidneys: Path) -> None:
    kidneys.write_text(MANIFEST + REGIONS)
    dataset = load_manifest(str(kidneys))
    assert [(region.name, region.paint) for region in dataset.scheme.regions] == [("all", 1), ("left", 2)]
    assert dataset.scheme.ignore_value == 9
    assert load_manifest(str(kidneys)).manifest.regions[0].paint is None  # as the file says


def test_a_channel_may_be_missing_in_some_cases_but_not_in_all(kidneys: Path) -> None:
    text = MANIFEST.replace("[a1_t1.nii.gz, a1_pet.nii.gz]", "[a1_t1.nii.gz, null]")
    kidneys.write_text(text)
    cases = load_manifest(str(kidneys)).cases
    assert [case.present for case in cases] == [(True, False), (True, True), (True, True), (True, True)]
    assert cases[0].images[1] is None
    for case in ("a2", "b", "c"):
        text = text.replace(f"{case}_pet.nii.gz", "~")
    kidneys.write_text(text)
    with pytest.raises(ConfigError, match=r"channels\.1: no case has an image of channel PET"):
        load_manifest(str(kidneys))


def test_a_case_has_an_image_and_checksums_are_those_of_images(kidneys: Path) -> None:
    found = problems(kidneys, "[b_t1.nii.gz, b_pet.nii.gz]", "[null, null]")
    assert found[0].startswith("14: cases.2: a case has an image in one channel at least")
    digest = "0" * 64
    kidneys.write_text(MANIFEST)
    found = problems(
        kidneys, "[b_t1.nii.gz, b_pet.nii.gz]", f"[b_t1.nii.gz, null], image_sha256: [null, '{digest}']"
    )
    assert found[0].startswith("14: cases.2: image b_t1.nii.gz, but checksum null")


def test_an_empty_cell_of_a_table_is_a_missing_channel(table: Path) -> None:
    rows = ["id,image_0,image_1,image_0_sha256,image_1_sha256", f"b,b_t1.nii.gz,,{'1' * 64},"]
    table.write_text("\n".join([*rows, f"a1,x,b_pet.nii.gz,{'2' * 64},{'3' * 64}", ""]))
    yaml = table.with_suffix(".yaml")
    yaml.write_text(yaml.read_text().replace("folds: {0: [a], 1: [b]}", "folds: {0: [a1], 1: [b]}"))
    manifest = read_manifest(str(yaml))
    assert manifest.entries[0].images == ("b_t1.nii.gz", None)
    assert manifest.entries[0].image_sha256 == ("1" * 64, None)
    many = tuple(manifest.entries[0].model_copy(update={"id": f"c{number}"}) for number in range(60))
    larger = manifest.model_copy(update={"cases": (*manifest.entries, *many)})
    save_manifest(yaml.with_name("larger.yaml"), larger)
    assert read_manifest(yaml.with_name("larger.yaml")) == larger


def test_all_problems_at_once(kidneys: Path) -> None:
    found = problems(kidneys, "- {id: b, images: [b_t1.nii.gz, b_pet.nii.gz]", "- {id: a1, images: [b_t1.nii.gz]")
    assert found == [
        "14: cases.2.id: another case is named a1",
        "14: cases.2.images: a1 has 1 image(s) for 2 channel(s)",
        "17: splits.folds.1.0: b is neither a patient nor a case",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("modality: MR", "modality: MRI", "6: channels.0.modality: Input should be 'CT', 'MR'"),
        ("name: PET", "name: T1", "7: channels.1.name: another channel is named T1"),
        ("index: 2", "index: 1", "8: labels: each label needs its own index"),
        ("license:", "licence:", "3: licence: unknown key; did you mean 'license'?"),
        ("laterality: right", "side: right", "10: labels.1.side: unknown key; "),
        ("label: a1.nii.gz", "lable: a1.nii.gz", "12: cases.0.lable: unknown key; did you mean 'label'?"),
        ("[b_t1.nii.gz", "[/b_t1.nii.gz", "14: cases.2.images.0: expected a path relative to the data folder"),
        ("[b_t1.nii.gz", "['C:/b_t1.nii.gz'", "14: cases.2.images.0: expected a path relative to the data folder"),
        ("[b_t1.nii.gz", "[../b_t1.nii.gz", "14: cases.2.images.0: expected a path inside the data folder"),
        ("root: data", "root: /data", "4: root: expected a folder relative to this file"),
        ("{id: c,", "{id: c, label_sha256: abc,", "15: cases.3.label_sha256: String should match pattern"),
        ("{id: c,", f"{{id: c, image_sha256: ['{'0' * 64}'],", "15: cases.3: 1 checksum(s) for 2 image(s)"),
        ("{id: c,", f"{{id: c, label_sha256: '{'0' * 64}',", "15: cases.3: a checksum of a label, but no label"),
        ("{0: [a], 1: [b]}", "{0: [a], 1: []}", "17: splits.folds.1: Tuple should have at least 1 item"),
        ("root: data", "cases_csv: a.csv", "1: the file: give the cases either in cases or in cases_csv"),
        ("{id: a1,", "{id: 007,", "12: cases.0.id: Input should be a valid string, found 7; put it in quotes"),
    ],
)
def test_problems(kidneys: Path, old: str, new: str, problem: str) -> None:
    found = problems(kidneys, old, new)
    assert found[0].startswith(problem), found


def test_a_misspelt_patient_of_a_fold_gets_the_nearest(tmp_path: Path) -> None:
    entries = tuple(CaseEntry(id=f"patient_{number}", images=("a.nii",)) for number in range(3))
    with pytest.raises(ValueError, match=r"patient_O is neither a patient nor a case; did you mean patient_"):
        _manifest(entries, Splits(folds={0: ("patient_O",)}))


# --- the table of cases ---

TABLE = """\
id,patient,image_0,image_1,label
a1,a,a1_t1.nii.gz,a1_pet.nii.gz,a1.nii.gz
b,,b_t1.nii.gz,b_pet.nii.gz,b.nii.gz
c,,c_t1.nii.gz,c_pet.nii.gz,
"""


@pytest.fixture
def table(kidneys: Path) -> Path:
    head, rest = MANIFEST.split("cases:\n")
    kidneys.write_text(f"{head}cases_csv: kidneys.csv\nsplits:{rest.split('splits:')[1]}")
    path = kidneys.with_name("kidneys.csv")
    path.write_text(TABLE)
    return path


def test_cases_in_a_table(table: Path) -> None:
    dataset = load_manifest(str(table.with_suffix(".yaml")))
    assert [(case.id, case.patient) for case in dataset.cases] == [("a1", "a"), ("b", "b"), ("c", "c")]
    assert dataset.cases[1].label == dataset.root / "b.nii.gz"
    assert dataset.cases[2].label is None
    assert dataset.manifest.cases_csv is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "id,patient,image_0,image1,label\na1,a,x,y,z\n",
            ["1: image1: unknown column; did you mean 'image_1'?", "1: image_1: this column is required"],
        ),
        ("id,image_0,image_1,label,label\n", ["1: label: this column stands twice"]),
        ("", ["1: id: this column is required", "1: image_0: this", "1: image_1: this"]),
        (
            "id,image_0,image_1\na1,/x,y\n,x,y\nb,,\nc,x,y,z\n",
            [
                "2: image_0: expected a path relative to the data folder, found '/x'",
                "3: id: Field required",
                "4: the row: a case has an image in one channel at least",
                "5: surplus cells: Extra inputs are not permitted",
            ],
        ),
        ("id,image_0,image_1\na,x,y\nb,x,y\na,x,y\n", ["4: id: another case is named a"]),
        ('id,image_0,image_1\na,"x"x,y\nb,x,y\n', ["2: not a valid row: "]),
        (
            "id,image_0,image_1,image_0_sha256\na,x,y,0\nb,x,y,\n",
            ["2: image_0_sha256: String should match"],
        ),
        (
            f"id,image_0,image_1,image_0_sha256\na,x,y,{'0' * 64}\nb,x,y,\n",
            ["2: the row: image y, but checksum null"],
        ),
    ],
)
def test_problems_of_a_table_name_file_and_line(table: Path, text: str, expected: list[str]) -> None:
    table.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_manifest(str(table.with_suffix(".yaml")))
    found = [problem.removeprefix(f"{table}:") for problem in caught.value.problems if str(table) in problem]
    assert len(found) == len(expected), found
    assert all(one.startswith(other) for one, other in zip(found, expected, strict=True)), found


def test_a_fold_that_names_a_case_that_is_not_in_the_table(table: Path) -> None:
    table.write_text(TABLE.replace("b,,", "d,,"))
    manifest = table.with_suffix(".yaml")
    with pytest.raises(ConfigError) as caught:
        read_manifest(str(manifest))
    assert caught.value.problems == [f"{manifest}: splits.folds.1.0: b is neither a patient nor a case"]


def test_a_table_that_cannot_be_read(table: Path) -> None:
    table.write_bytes("id,image_0,image_1\nJürgen,x,y\n".encode("latin-1"))
    with pytest.raises(ManifestError, match="UTF-8"):
        read_manifest(str(table.with_suffix(".yaml")))
    table.unlink()
    with pytest.raises(ManifestError, match="FileNotFoundError"):
        read_manifest(str(table.with_suffix(".yaml")))


@pytest.mark.parametrize("name", ["../kidneys.csv", "/kidneys.csv", "sub/kidneys.csv"])
def test_a_table_lies_beside_its_manifest(table: Path, name: str) -> None:
    found = problems(table.with_suffix(".yaml"), "cases_csv: kidneys.csv", f"cases_csv: {name}")
    assert "expected the name of a file beside this one" in found[0]


# --- writing ---


def _manifest(entries: tuple[CaseEntry, ...], splits: Splits | None = None) -> Manifest:
    return Manifest(
        name="set",
        channels=(Channel(name="CT", modality=Modality.CT),),
        labels=LabelSet.from_names({1: "liver"}),
        cases=entries,
        splits=splits,
    )


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/\\:."), min_size=1)


@st.composite
def entries(draw: st.DrawFn) -> tuple[CaseEntry, ...]:
    count = draw(st.sampled_from([1, 2, 50, 51]))
    ids = draw(st.lists(names, min_size=count, max_size=count, unique=True))
    digests = draw(st.booleans())
    return tuple(
        CaseEntry(
            id=name,
            patient=draw(st.none() | names),
            images=(f"images/{name}.nii.gz",),
            label=draw(st.none() | st.just(f"labels/{name}.nii.gz")),
            image_sha256=(f"{number:064x}",) if digests else None,
        )
        for number, name in enumerate(ids)
    )


@settings(max_examples=30, deadline=None)
@given(cases=entries(), root=st.none() | st.just("../data"))
def test_manifests_read_back_as_written(
    cases: tuple[CaseEntry, ...], root: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "set.yaml"
    splits = Splits(seed=3, folds={0: (cases[0].owner,), 7: (cases[-1].id,)})
    manifest = _manifest(cases, splits).model_copy(update={"root": root})
    written = save_manifest(path, manifest, "a comment")
    assert read_manifest(path) == manifest
    assert [file.name for file in written] == ["set.yaml", "set.cases.csv"][: 1 + (len(cases) > 50)]


def test_example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    example = page.split("## The manifest\n")[1].split("```yaml\n")[1].split("```")[0]
    (tmp_path / "example.yaml").write_text(example)
    assert read_manifest(tmp_path / "example.yaml").splits is not None


# --- what is shipped ---


@pytest.mark.parametrize("name", shipped_names(Shelf.MANIFESTS))
def test_shipped_manifests_are_complete_and_name_no_machine(name: str) -> None:
    manifest = read_manifest(name)
    assert manifest.root is None
    assert manifest.license
    assert manifest.splits is not None
    assert all(entry.image_sha256 and entry.label and entry.label_sha256 for entry in manifest.entries)
    dealt = sorted(patient for fold in manifest.splits.folds.values() for patient in fold)
    assert dealt == sorted({entry.owner for entry in manifest.entries})


def test_shipped_manifests_are_there() -> None:
    assert "hippocampus" in shipped_names(Shelf.MANIFESTS)


def test_hippocampus_manifest() -> None:
    manifest = read_manifest("hippocampus")
    assert len(manifest.entries) == 208
    assert [(label.index, label.name) for label in manifest.labels] == [(1, "Anterior"), (2, "Posterior")]
    assert manifest.channels[0].modality is Modality.MR
    assert manifest.splits is not None
    assert [len(fold) for fold in manifest.splits.folds.values()] == [42, 42, 42, 41, 41]


@pytest.mark.data
def test_hippocampus_manifest_against_the_real_files(data_root: Path) -> None:
    dataset = load_manifest("hippocampus", data_root / "hippocampus")
    assert check_dataset(dataset) == []
    training, validation = dataset.fold(4)
    assert (len(training), len(validation)) == (167, 41)


@pytest.mark.data
def test_hippocampus_manifest_can_be_made_again(data_root: Path, tmp_path: Path) -> None:
    manifest: Any = import_folder(data_root / "hippocampus", ImportOptions(name="hippocampus"))
    assert manifest == read_manifest("hippocampus")
    save_manifest(tmp_path / "hippocampus.yaml", manifest)
    shipped_table = shelf_folder(Shelf.MANIFESTS) / "hippocampus.cases.csv"
    assert (tmp_path / "hippocampus.cases.csv").read_bytes() == shipped_table.read_bytes()
    assert "/" not in yaml_text(manifest.model_dump(mode="json", exclude={"cases"}))
