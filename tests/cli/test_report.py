"""`medseg report`: the page again, with the data that the run names or that is given."""

import re

import pytest

from medseg.cli import main
from tests.builders import tiny_dataset
from tests.report.finished_run import finished_run


@pytest.fixture
def medseg(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), re.sub(r"\s+", " ", out + err)

    return run


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "run", tiny_dataset(tmp_path / "data", cases=6))


def pictures(run):
    return (run / "report.html").read_text(encoding="utf-8").count("data:image/png")


def test_the_manifest_that_is_given_is_used(medseg, run, tmp_path):
    status, text = medseg("report", run, "--manifest", tmp_path / "data" / "tiny.yaml")
    assert (status, f"report: {run / 'report.html'}" in text) == (0, True)
    assert pictures(run) == 2


def test_the_manifest_of_the_run_is_used(medseg, run, tmp_path):
    config = run / "config.yaml"
    text = config.read_text().replace("/home/alice/secret/tiny.yaml", str(tmp_path / "data" / "tiny.yaml"))
    config.write_text(text.replace("/home/alice/secret", str(tmp_path / "data")))
    assert medseg("report", run)[0] == 0
    assert pictures(run) == 2


def test_data_that_is_gone_is_said_and_the_page_is_written(medseg, run):
    status, text = medseg("report", run)
    assert (status, "without pictures" in text) == (0, True)
    assert pictures(run) == 0


def test_a_manifest_that_is_given_but_not_there_is_an_error(medseg, run, tmp_path):
    status, text = medseg("report", run, "--manifest", tmp_path / "none.yaml")
    assert (status, "none.yaml" in text) == (2, True)
    assert not (run / "report.html").exists()


def test_a_folder_without_a_run(medseg, tmp_path):
    status, text = medseg("report", tmp_path)
    assert (status, "expected a run folder with config.yaml" in text) == (2, True)
