"""What the folds of a cross-validation share: their configuration, and the time that is left."""

import pytest
import torch

from medseg.errors import UsageError
from medseg.training.checkpoint import CHECKPOINT_FILE, Learner, TrainState, save_checkpoint
from medseg.training.folds import fold_budget, is_finished, open_folds
from tests.builders import tiny_config


def begun(part, spent_s, budget_s=None):
    network = torch.nn.Linear(1, 1)
    part.mkdir(parents=True)
    state = TrainState(step=1, spent_s=spent_s, budget_s=budget_s)
    save_checkpoint(part / CHECKPOINT_FILE, Learner(network, torch.optim.SGD(network.parameters())), state)


def test_time_is_dealt_evenly_to_the_folds_that_have_not_begun(tmp_path):
    parts = [tmp_path / f"fold_{n}" for n in range(5)]
    folds = open_folds(tmp_path, tiny_config(), 100.0, resume=False)
    assert fold_budget(folds, parts, parts[0]) == 20
    begun(parts[0], spent_s=24.0)
    assert fold_budget(folds, parts, parts[1]) == pytest.approx(76 / 4)
    begun(parts[1], spent_s=6.0, budget_s=19.0)
    assert fold_budget(folds, parts, parts[1]) is None  # keeps its own
    assert fold_budget(folds, parts, parts[2]) == pytest.approx(70 / 3)


def test_a_cross_validation_that_is_resumed_keeps_its_budget_unless_another_is_given(tmp_path):
    open_folds(tmp_path, tiny_config(), 100.0, resume=False)
    assert open_folds(tmp_path, tiny_config(), None, resume=True).budget_s == 100
    assert open_folds(tmp_path, tiny_config(), 50.0, resume=True).budget_s == 50
    assert (
        fold_budget(open_folds(tmp_path / "new", tiny_config(), None, resume=False), [tmp_path], tmp_path) is None
    )


def test_folds_of_different_settings_are_not_mixed(tmp_path):
    open_folds(tmp_path, tiny_config(), None, resume=False)
    with pytest.raises(UsageError, match="pass --resume"):
        open_folds(tmp_path, tiny_config(), None, resume=False)
    with pytest.raises(UsageError, match="configuration that the folds were started with"):
        open_folds(tmp_path, tiny_config(epochs=7), None, resume=True)


def test_a_single_run_is_not_overwritten_by_folds(tmp_path):
    begun(tmp_path / "run", spent_s=1.0)
    with pytest.raises(UsageError, match="without a run of one fold"):
        open_folds(tmp_path / "run", tiny_config(), None, resume=False)


def test_a_fold_is_finished_when_its_scores_are_there(tmp_path):
    assert not is_finished(tmp_path)
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "scores.csv").touch()
    assert is_finished(tmp_path)
