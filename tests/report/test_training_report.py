"""The page of a training: whole without anything else, right, and sensible of a run that is not finished."""

import base64
import csv
import io
import json
import re
import shutil
import statistics
from html.parser import HTMLParser

import pytest
from PIL import Image

from medseg.errors import UsageError
from medseg.report.runfolder import read_run, read_runs, read_scores, read_source
from medseg.report.training import write_training_report
from tests.builders import tiny_dataset
from tests.report.finished_run import PLAN, TIMINGS, finished_run

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Reads a page into its text, tables, pictures and all that it refers to; checks that tags are closed."""

    def __init__(self, file):
        super().__init__()
        self.text, self.tables, self.references, self.open, self.pictures = "", [], [], [], []
        self.html = file.read_text(encoding="utf-8")
        self.feed(self.html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        for name, value in attrs:
            if name == "src" and value.startswith("data:"):
                self.pictures.append(value)
            elif name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.references.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and "script" not in self.open:
            self.text += data
        if self.open and self.tables and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def table(self, *heads):
        """The rows of the table whose header begins so."""
        return next(table[1:] for table in self.tables if table and table[0][: len(heads)] == list(heads))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data"), cases=9)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "run", dataset)


@pytest.fixture(scope="module")
def page(run, dataset):
    return Page(write_training_report(run, dataset))


def dice_of(run):
    with (run / "validation" / "scores.csv").open() as stream:
        return [(line["case"], line["name"], float(line["dice"])) for line in csv.DictReader(stream)]


def test_the_page_needs_nothing_but_itself(page):
    assert page.references == []
    for word in ("http:", "https:", "url(", "@import", "//"):
        assert word not in re.sub('"data:image/png;base64,[^"]+"', "", page.html)
    assert "default-src 'none'" in page.html


def test_the_classes_have_the_means_medians_and_worst_of_the_table(page, run):
    for cells in page.table("class", "cases"):
        found = [(dice, case) for case, name, dice in dice_of(run) if name == cells[0]]
        values = [dice for dice, _ in found]
        assert cells[1:7] == [
            str(len(values)),
            f"{statistics.fmean(values):.3f}",
            f"{statistics.stdev(values):.3f}",
            f"{statistics.median(values):.3f}",
            f"{min(values):.3f}",
            min(found)[1],
        ]


def test_the_cases_stand_with_the_worst_first(page, run):
    rows = page.table("case", "mean Dice", "ball", "box")
    means = {}
    for case, _, dice in dice_of(run):
        means.setdefault(case, []).append(dice)
    expected = sorted((statistics.fmean(values), case) for case, values in means.items())
    assert [(cells[1], cells[0]) for cells in rows] == [(f"{mean:.3f}", case) for mean, case in expected]


def test_the_worst_cases_are_drawn(page, run):
    cases = [cells[0] for cells in page.table("case")]
    assert len(page.pictures) == len(cases) == 3
    for picture in page.pictures:
        png = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
        image = Image.open(io.BytesIO(png))
        assert min(image.size) > 200
        assert len(image.getcolors(1 << 24)) > 100


def test_the_facts_the_plan_and_the_times_are_told(page):
    for part in ("tiny", "fold", "24", "1 min 40 s", "half of what 8 GB hold <here>", "32, 48, 32", "2.5 %"):
        assert part in page.text
    assert "&lt;here&gt;" in page.html
    assert "is not finished" not in page.text
    assert ["training", "1 min 0 s", ""] in page.tables[-2]
    assert ["steps skipped, as the loss was not finite", "1", ""] in page.tables[-2]
    assert "Python" in [cells[0] for cells in page.tables[-1]]
    assert "learning_rate: 0.001" in page.text


def test_no_folder_is_named(page, run):
    for secret in ("alice", "secret", str(run), str(run.parent)):
        assert secret not in page.html
    assert "…/tiny.yaml" in page.text


def test_the_curves_are_drawn(page):
    for part in ("Loss, mean of an epoch", "Dice of validations on the way", "Learning rate", "Dice of every case"):
        assert f"<figcaption>{part}" in page.html
    assert page.html.count('<path class="line"') == 4  # loss, learning rate, two classes
    assert page.html.count('<path class="line bold"') == 1
    assert page.html.count('class="dot"') == 6


def test_the_same_run_gives_the_same_page(run, dataset, page):
    assert write_training_report(run, dataset).read_text(encoding="utf-8") == page.html


def test_names_are_escaped(dataset, tmp_path):
    run = finished_run(tmp_path / "run", dataset, description="<script>alert(1)</script>")
    scores = run / "validation" / "scores.csv"
    scores.write_text(scores.read_text().replace("ball", "<b>ball</b>"))
    page = Page(write_training_report(run, dataset))
    assert "<script>alert" not in page.html
    assert "<b>ball</b>" in page.text


def test_without_the_data_the_page_says_that_nothing_is_drawn(run, dataset, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    page = Page(write_training_report(tmp_path / "run"))
    assert page.pictures == []
    assert "the images were not at hand" in page.text
    shutil.rmtree(tmp_path / "run" / "validation" / "x", ignore_errors=True)
    for file in (tmp_path / "run" / "validation").glob("*.nii.gz"):
        file.unlink()
    page = Page(write_training_report(tmp_path / "run", dataset))
    assert page.text.count("Not drawn: expected a NIfTI file, found no such file") == 3
    assert str(tmp_path) not in page.html


LEFT_OUT = [
    ("model",),
    ("validation",),
    ("metrics.jsonl",),
    ("plan.json", "timings.json", "environment.json"),
    ("validation", "metrics.jsonl", "model", "plan.json", "timings.json", "environment.json"),
]


@pytest.mark.parametrize("parts", LEFT_OUT, ids="+".join)
@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_that_lacks_a_part_has_a_page(run, tmp_path, parts, damaged):
    shutil.copytree(run, tmp_path / "run")
    for part in parts:
        path = tmp_path / "run" / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if damaged:
            file = {"model": "model/model.json", "validation": "validation/scores.csv"}.get(part, part)
            (tmp_path / "run" / file).parent.mkdir(exist_ok=True)
            (tmp_path / "run" / file).write_bytes(b'[{"step": \xff\x00')
    page = Page(write_training_report(tmp_path / "run"))
    assert ("This run is not finished" in page.text) is ("validation" in parts)
    if len(parts) == 6:
        for text in ("There is none yet", "There are none yet", "Nothing was planned", "Not recorded"):
            assert text in page.text


def test_an_interrupted_run_shows_its_curves(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    whole = (run / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(whole[: whole.index('"step": 12') + 5])
    page = Page(write_training_report(tmp_path))
    assert "after 8 steps" in page.text
    assert "Loss, mean of an epoch" in page.text


def test_folds_share_a_page(dataset, tmp_path):
    for fold in (0, 1, 2):
        finished_run(tmp_path / f"fold_{fold}", dataset, fold)
    page = Page(write_training_report(tmp_path, dataset))
    assert page.html == (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page.table("case")) == 9
    assert len(page.pictures) == 5
    folds = page.table("fold")
    means = [read_run(tmp_path / f"fold_{fold}").scores.mean_dice for fold in (0, 1, 2)]
    assert [cells[2] for cells in folds[:3]] == [f"{mean:.3f}" for mean in means]
    assert folds[3][2] == f"{statistics.fmean(means):.3f} ± {statistics.stdev(means):.3f}"
    assert page.text.count("5 min 0 s") == 1


def test_a_plan_of_all_folds_is_read_from_their_folder_and_shown_once(run, tmp_path):
    for fold in (0, 1):
        shutil.copytree(run, tmp_path / f"fold_{fold}")
        (tmp_path / f"fold_{fold}" / "plan.json").unlink()
    shutil.copy(run / "plan.json", tmp_path)
    assert [record.plan for record in read_runs(tmp_path)] == [PLAN, PLAN]
    assert read_run(tmp_path / "fold_1").plan == PLAN
    page = Page(write_training_report(tmp_path))
    assert page.text.count("half of what 8 GB hold <here>") == 1
    assert "Nothing was planned" not in page.text
    plan = {"reasons": [{"what": "x", "value": 1, "why": "its own"}]}
    (tmp_path / "fold_1" / "plan.json").write_text(json.dumps(plan))
    page = Page(write_training_report(tmp_path))
    assert (page.text.count("half of what 8 GB hold <here>"), page.text.count("its own")) == (1, 1)


def test_a_run_that_is_no_fold_has_no_plan_but_its_own(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "plan.json").rename(tmp_path / "plan.json")
    assert read_run(tmp_path / "run").plan == {}


def test_what_was_changed_on_the_way_is_told(run, tmp_path, page):
    assert "Changed on the way" not in page.text
    for fold in (0, 1):
        shutil.copytree(run, tmp_path / f"fold_{fold}")
    notes = "out of memory: from step 4 on, batches are computed in 2 parts\n\nout of memory: in 4 <parts>\n"
    (tmp_path / "fold_1" / "notes.txt").write_text(notes)
    assert read_run(tmp_path / "fold_1").notes == [line for line in notes.splitlines() if line]
    page = Page(write_training_report(tmp_path))
    assert "Changed on the way" in page.text
    assert page.text.count("Fold 0: out of memory: ") == 2  # the configuration says which fold it is
    assert "in 4 &lt;parts&gt;" in page.html
    alone = Page(write_training_report(tmp_path / "fold_1"))
    assert alone.text.split("Changed on the way")[1].strip().startswith("out of memory: from step 4")


@pytest.mark.parametrize(("training_s", "seconds"), [(60.0, 100.0), (None, 60.0)])
def test_a_run_took_what_is_known_of_it(run, tmp_path, training_s, seconds):
    shutil.copytree(run, tmp_path / "run")
    timings = {key: value for key, value in (TIMINGS | {"training_s": training_s}).items() if value}
    (tmp_path / "run" / "timings.json").write_text(json.dumps(timings))
    assert read_run(tmp_path / "run").seconds == seconds  # 60 s had gone at the last epoch


def test_folds_come_in_the_order_of_their_numbers(run, tmp_path):
    for fold in (0, 2, 10):
        shutil.copytree(run, tmp_path / f"fold_{fold}")
    assert [record.folder.name for record in read_runs(tmp_path)] == ["fold_0", "fold_2", "fold_10"]


def test_a_case_that_could_not_be_measured_is_named_without_its_folder(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    with (tmp_path / "run" / "validation" / "scores.csv").open("a") as stream:
        csv.writer(stream).writerow(
            ["case_x", *[""] * 9, 1.0, "/home/alice/x.nii.gz: expected a grid, found another; resample"]
        )
    page = Page(write_training_report(tmp_path / "run"))
    assert "case_x: expected a grid, found another" in page.text
    assert "alice" not in page.html


def test_scores_are_read_as_they_were_written(run):
    from medseg.evaluate import evaluate
    from tests.builders import LABELS

    again = evaluate(run / "validation", run / "references", LABELS)
    read = read_scores(run / "validation" / "scores.csv")
    assert read.cases == again.cases
    assert read.mean_dice == pytest.approx(again.mean_dice, abs=1e-6)
    assert read.tolerance_mm == again.tolerance_mm


def test_a_folder_without_a_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="expected a run folder with config.yaml"):
            write_training_report(folder)
        with pytest.raises(UsageError, match="expected a run folder"):
            read_source(folder)
    assert list(tmp_path.iterdir()) == []


def test_plans_of_any_shape_are_shown(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for plan in ({"reasons": None}, {"reasons": [{"what": "x"}, "odd"]}, {"fingerprint": [1]}, {"memory": 1}):
        (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
        Page(write_training_report(tmp_path / "run"))
