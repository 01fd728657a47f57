"""One optimizer step: parts of a batch, the mean of the weights, losses that are no numbers, too little memory."""

import copy

import pytest
import torch
from safetensors import safe_open

from medseg.errors import TrainingError
from medseg.training.run import NOTES_FILE
from medseg.training.schedule import cycled_momentum, mean_weights, rate_factor
from medseg.training.setup import set_up
from medseg.training.step import BAD_BATCH_FILE, take_step
from tests.builders import Silent, tiny_config, tiny_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data"))


def open_run(dataset, folder, norm="instance", **training):
    network = {"name": "unet", "channels": (4, 8), "norm": norm}
    config = tiny_config(batch_size=4, **training).model_dump() | {
        "network": network,
        "loss": {"name": "ce_dice", "batch": False},
    }
    config = type(tiny_config()).model_validate(config)
    return set_up(config, dataset, folder, Silent(), device="cpu", budget_s=None, resume=False)


def batch(run):
    return next(run.data.loader.batches(0))


def weights(run):
    return copy.deepcopy(run.network.state_dict())


def test_a_batch_in_parts_moves_the_weights_as_a_whole_one(dataset, tmp_path):
    """Without batch normalisation and with a Dice a sample, the mean over parts is the mean over the batch."""
    whole, parts = open_run(dataset, tmp_path / "a"), open_run(dataset, tmp_path / "b", accumulate=2)
    image, label = batch(whole)
    for run in (whole, parts):
        take_step(run, image, label, 0.5)
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(parts.network.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert float(whole.losses[0]) == pytest.approx(float(parts.losses[0]), rel=1e-5)


def test_a_loss_that_is_no_number_changes_nothing_and_is_counted(dataset, tmp_path):
    run = open_run(dataset, tmp_path / "run", most_skipped=3)
    image, label = batch(run)
    before = weights(run)
    broken = image.clone()
    broken[0, 0, 0, 0, 0] = torch.nan
    take_step(run, broken, label, 0.5)
    assert (run.state.step, run.state.skipped, run.state.skipped_in_row, run.losses) == (1, 1, 1, [])
    assert all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    take_step(run, image, label, 0.5)
    assert (run.state.skipped, run.state.skipped_in_row, len(run.losses)) == (1, 0, 1)
    assert not all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())


def test_running_statistics_do_not_keep_what_is_no_number(dataset, tmp_path):
    run = open_run(dataset, tmp_path / "run", norm="batch", ema_decay=0.9)
    image, label = batch(run)
    take_step(run, image, label, 0.5)
    before = weights(run)
    image[0, 0, 0, 0, 0] = torch.nan
    take_step(run, image, label, 0.5)
    assert run.state.skipped == 1
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    assert all(torch.isfinite(buffer).all() for buffer in run.shown.buffers())


def test_the_epochs_loss_is_that_of_the_steps_that_were_taken(dataset, tmp_path):
    run = open_run(dataset, tmp_path / "run")
    image, label = batch(run)
    take_step(run, image, label, 0.5)
    expected = float(run.losses[0])
    image[0] = torch.nan
    take_step(run, image, label, 0.5)
    run.sum_losses()
    assert run.mean_loss == pytest.approx(expected)


def test_after_several_in_a_row_the_batch_is_saved_and_the_training_stops(dataset, tmp_path):
    run = open_run(dataset, tmp_path / "run", most_skipped=2)
    image, label = batch(run)
    image[1] = torch.inf
    take_step(run, image, label, 0.5)
    with pytest.raises(TrainingError, match=r"2 steps in a row; the last batch is in bad_batch.safetensors"):
        take_step(run, image, label, 0.5)
    with safe_open(run.folder / BAD_BATCH_FILE, framework="pt") as file:
        torch.testing.assert_close(file.get_tensor("image"), image)
        torch.testing.assert_close(file.get_tensor("label"), label)


def test_a_batch_that_does_not_fit_is_cut_into_parts_and_it_is_said(dataset, tmp_path, monkeypatch):
    run = open_run(dataset, tmp_path / "run")
    forward, sizes = run.trained.forward, []

    def narrow(x):
        sizes.append(len(x))
        if len(x) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return forward(x)

    monkeypatch.setattr(run.trained, "forward", narrow)
    image, label = batch(run)
    take_step(run, image, label, 0.5)
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert run.state.parts == 4
    assert "from step 0 on, batches are computed in 4 parts" in (run.folder / NOTES_FILE).read_text()
    monkeypatch.setattr(run.trained, "forward", lambda x: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        take_step(run, image, label, 0.5)


def test_the_mean_of_the_weights_is_the_closed_form():
    network = torch.nn.Linear(1, 1, bias=False)
    mean, decay = mean_weights(network, 0.9), 0.9
    expected = None
    for n, value in enumerate([1.0, 2.0, -1.0, 4.0, 0.5]):
        torch.nn.init.constant_(network.weight, value)
        mean.update_parameters(network)
        kept = min(decay, (1 + n) / (10 + n))
        expected = value if expected is None else kept * expected + (1 - kept) * value
        assert mean.module.weight.item() == pytest.approx(expected)


def test_the_running_mean_is_validated_and_saved(dataset, tmp_path):
    run = open_run(dataset, tmp_path / "run", ema_decay=0.99)
    image, label = batch(run)
    for _ in range(3):
        take_step(run, image, label, 0.5)
    assert run.shown is run.mean_weights.module
    assert not torch.equal(next(run.shown.parameters()), next(run.network.parameters()))


def test_one_cycle_is_that_of_torch():
    network = torch.nn.Linear(2, 2)
    for make, momentum in ((torch.optim.SGD, "momentum"), (torch.optim.AdamW, "betas")):
        optimizer = make(network.parameters(), lr=0.1, **({"momentum": 0.9} if make is torch.optim.SGD else {}))
        steps = 100
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=steps + 1)
        top = 0.3 * (steps + 1) - 1  # where torch has its highest rate
        for step in range(steps + 1):
            fraction = 0.3 * step / top if step < top else 0.3 + 0.7 * (step - top) / (steps - top)
            group = optimizer.param_groups[0]
            assert 2.0 * rate_factor(fraction, "one_cycle", 0.0) == pytest.approx(group["lr"], rel=1e-6)
            found = group[momentum] if momentum == "momentum" else group["betas"][0]
            assert cycled_momentum(fraction) == pytest.approx(found)
            optimizer.step()
            if step < steps:
                schedule.step()
