"""``medseg select`` as a user types it: the table, the files, and the exit status of what is refused."""

import json

from medseg.model import load_package
from tests.builders import tiny_dataset
from tests.selection.folders import write_run
from tests.selection.test_select import scores, with_islands


def test_runs_are_compared_and_the_best_written(medseg, tmp_path):
    dataset = tiny_dataset(tmp_path / "data")
    write_run(tmp_path / "plain", dataset, scores(0.5, 0.7), seed=1)
    write_run(tmp_path / "deep", dataset, scores([0.7, 0.9] * 3, 0.7), seed=2, draw=with_islands)
    model = tmp_path / "models" / "best"
    runs = (tmp_path / "plain", tmp_path / "deep")
    status, text = medseg("select", *runs, "-o", model)
    assert status == 0
    for part in ("6 case(s) of 6 patient(s), 3 fold(s)", "0.6000", "-0.1500", "0.7500", "chosen", "plain+deep"):
        assert part in text
    assert "largest component only: ball, Dice 0." in text
    assert load_package(model).postprocessing.keep_largest == ("ball",)
    chosen = json.loads((model / "selection.json").read_text())
    assert (chosen["chosen"], len(chosen["candidates"])) == ("deep", 3)
    status, text = medseg(
        "select", *runs, "-o", model, "--no-ensemble", "--manifest", tmp_path / "data" / "tiny.yaml"
    )
    assert (status, "plain+deep" in text) == (0, False)
    (tmp_path / "deep" / "fold_1" / "validation" / "scores.csv").unlink()
    status, text = medseg("select", *runs, "-o", model)
    assert (status, "fold_1: no validation/scores.csv" in text) == (2, True)
    status, text = medseg("select", "--help")
    assert (status, "Example" in text, "Exit status" in text) == (0, True, True)
