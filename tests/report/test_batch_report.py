"""The page of a batch: every study is on it, and it needs nothing but itself."""

import re

from medseg.report.batch import BatchPage, write_batch_report


def study(name, state="done", start=0.0, end=10.0, **changes):
    return {
        "name": name, "source": f"in/{name}", "state": state, "attempts": 1, "code": "", "message": "",
        "started": start, "ended": end, "rung": "as planned", "device": "cpu", "findings": [],
        "outputs": [{"path": f"{name}.nii.gz"}], "volumes_ml": {"liver": 12.34, "spleen": 0.0},
        "timings_s": {"read": 1.0, "segment": 5.0, "write": 2.0},
    } | changes  # fmt: skip


STUDIES = [
    study("a"),
    study("b", start=5.0, end=15.0, findings=[{"code": "gantry-tilt"}, {"code": "gantry-tilt"}]),
    study("c", start=100.0, end=105.0),
    study("<script>x</script>", "quarantined", code="CRASH", message="<b>crashed</b>", outputs=[], timings_s={}),
    study("e", "planned", None, None, outputs=[], timings_s={}),
]


def test_facts_are_counts_and_throughput_while_studies_were_in_work():
    facts = dict(BatchPage(STUDIES, {}, 62.0).facts)
    assert (facts["studies"], facts["done"], facts["quarantined"], facts["planned"]) == ("5", "3", "1", "1")
    assert facts["studies an hour"] == f"{3 / 20 * 3600:.1f}"  # busy from 0 to 15 and from 100 to 105
    assert (facts["last run"], facts["median to segment"]) == ("1 min 2 s", "5.0 s")


def test_held_studies_are_no_problems_and_are_told_with_their_reason(tmp_path):
    outputs = [{"path": "held/d/labels.nii.gz"}, {"path": "held/d/seg.dcm"}]
    held = study("d", "held", 15.0, 20.0, code="HELD", message="no spleen", held=["organ-absent"], outputs=outputs)
    page = BatchPage([*STUDIES, held], {}, 62.0)
    assert ([one["name"] for one in page.held], len(page.problems)) == (["d"], 1)
    facts = dict(page.facts)
    assert (facts["held"], facts["done"], facts["studies an hour"]) == ("1", "3", f"{4 / 25 * 3600:.1f}")
    text = write_batch_report(tmp_path, page).read_text(encoding="utf-8")
    assert re.search(
        "Held back for review.*organ-absent</td><td>no spleen</td><td>held/d/labels.nii.gz<", text, re.S
    )
    assert "held/d/labels.nii.gz, and 1 more" in text
    without = write_batch_report(tmp_path, BatchPage(STUDIES, {}, 62.0)).read_text(encoding="utf-8")
    assert "Held back" not in without


def test_the_page_shows_every_study_and_loads_nothing(tmp_path):
    text = write_batch_report(tmp_path, BatchPage(STUDIES, {"torch": "2.10"}, 62.0)).read_text(encoding="utf-8")
    assert text.count("<tr><td>") >= len(STUDIES)
    assert "&lt;script&gt;x&lt;/script&gt;" in text
    assert "&lt;b&gt;crashed&lt;/b&gt;" in text
    assert "liver 12.3" in text
    assert "spleen" not in text
    assert re.search(r"gantry-tilt</td><td class=\"n\">1<", text)
    assert "The batch is not over" in text
    assert not re.search(r"(src|href)=|https?://", text)


def test_a_batch_without_studies_has_a_page(tmp_path):
    assert "Problems" in write_batch_report(tmp_path, BatchPage([], {}, 0.0)).read_text(encoding="utf-8")
