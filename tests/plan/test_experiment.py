"""Drafts filled from plans: what is set stays, what is open is planned with a reason, what does not fit shrinks."""

import math

import pytest

from medseg.errors import ConfigError, UsageError
from medseg.labels import LabelSet
from medseg.plan.compute import Compute
from medseg.plan.draft import SET
from medseg.plan.drystep import NO_FIT, StepCost, dry_step
from medseg.plan.experiment import has_sides, plan_experiment
from medseg.plan.footprint import estimate_bytes
from tests.builders import tiny_dataset
from tests.plan.builders import draft, fingerprint

DATA = fingerprint((1.0, 1.0, 1.0), (60, 60, 60))
CPU = Compute("cpu", 4 * 10**9)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data"))


def planned(dataset, text="", *, compute=CPU, measured=DATA, step=None, **fixed):
    made = draft(text)
    return plan_experiment(made, dataset, measured, compute, made.fixed(**fixed), step)


def test_an_empty_draft_becomes_a_whole_configuration_with_a_reason_for_everything(dataset):
    plan = planned(dataset)
    config = plan.config
    assert config.training.patch_size == (40, 40, 40)
    assert config.network.name == "unet"
    assert config.network.channels == (16, 32, 64, 128)
    assert config.preprocessing.intensity[0].kind == "zscore"
    assert all(reason.why for reason in plan.reasons)
    assert {r.what for r in plan.reasons} >= {"training.patch_size", "training.batch_size", "network.strides"}


def test_what_is_set_stays_and_the_rest_is_planned_around_it(dataset):
    text = """
    data: {manifest: tiny.yaml}
    network: {name: fcn8s}
    training: {patch_size: [64, 64], optimizer: {name: sgd}}
    preprocessing: {spacing_mm: [2.0, 2.0, 2.0]}
    """
    plan = planned(dataset, text)
    assert plan.config.network.name == "fcn8s"
    assert plan.config.spatial_dims == 2
    assert plan.config.training.optimizer.learning_rate == 0.01
    assert plan.config.training.optimizer.schedule == "poly"
    whys = {reason.what: reason.why for reason in plan.reasons}
    assert whys["training.patch_size"] == whys["network.name"] == SET
    assert "network.strides" not in whys  # fcn8s has none


def test_a_wrong_key_is_named_with_its_line(dataset):
    with pytest.raises(ConfigError, match=r"draft.yaml:2: training.pach_size: unknown key; did you mean 'patch_"):
        planned(dataset, "data: {manifest: x}\ntraining: {pach_size: [8, 8, 8]}")


def test_mr_that_is_mostly_empty_is_cropped_and_masked(dataset):
    config = planned(dataset, measured=fingerprint((1.0, 1.0, 1.0), (60, 60, 60), kept=0.7)).config
    assert config.preprocessing.crop_above == 0
    assert config.preprocessing.intensity[0].nonzero
    config = planned(dataset, measured=fingerprint((1.0, 1.0, 1.0), (60, 60, 60), kept=0.76)).config
    assert config.preprocessing.crop_above is None
    assert not config.preprocessing.intensity[0].nonzero


class Measured:
    """A device whose steps take a multiple of what is estimated."""

    def __init__(self, factor: float, most: float = math.inf) -> None:
        self.factor, self.most, self.seen = factor, most, []

    def __call__(self, config, *, channels, scheme):
        estimate = estimate_bytes(config, channels, scheme.outputs, half=False)
        self.seen.append(config.training.patch_size)
        peak = int(self.factor * estimate)
        seconds = 1.0 if config.training.channels_last else 2.0
        return StepCost(peak, seconds) if peak <= self.most else NO_FIT


def test_the_plan_is_corrected_by_what_a_step_really_takes(dataset):
    measured = fingerprint((1.0, 1.0, 1.0), (200, 200, 200))
    compute = Compute("cuda", 8 * 10**9)
    right, heavy, light = (Measured(factor) for factor in (1.0, 1.6, 0.6))
    plans = [planned(dataset, compute=compute, measured=measured, step=step) for step in (right, heavy, light)]
    sizes = [math.prod(plan.config.training.patch_size) * plan.config.training.batch_size for plan in plans]
    assert sizes[1] < sizes[0] < sizes[2]
    assert all(plan.cost.peak_bytes <= compute.memory_bytes for plan in plans)
    assert all(plan.cost.peak_bytes > 0.6 * compute.memory_bytes for plan in plans)


def test_a_step_that_does_not_fit_at_all_is_made_smaller(dataset):
    compute = Compute("cuda", 8 * 10**9)
    step = Measured(1.0, most=4 * 10**9)  # others hold half of the card
    plan = planned(dataset, compute=compute, measured=fingerprint((1.0,) * 3, (200,) * 3), step=step)
    assert plan.cost.peak_bytes <= 4 * 10**9


def test_the_faster_memory_order_is_taken(dataset):
    def step(config, *, channels, scheme):
        return StepCost(10**9, 2.0 if config.training.channels_last else 1.0)

    plan = planned(dataset, step=step)
    assert plan.config.training.channels_last is False
    assert plan.reasons[-1].why == "a step takes 1.00 s, otherwise 2.00 s"
    kept = planned(dataset, "data: {manifest: x}\ntraining: {channels_last: true}", step=step)
    assert kept.config.training.channels_last is True


def test_too_little_memory_is_refused_with_a_remedy(dataset):
    with pytest.raises(UsageError, match="a training step within 0.10 GB .* give more --memory"):
        planned(dataset, compute=Compute("cpu", 10**8))


def test_the_estimate_is_right_to_a_factor_of_two(dataset):
    """Against a real step in a process of its own, whose memory the kernel counts."""
    config = planned(dataset).config
    cost = dry_step(config, channels=1, scheme=dataset.scheme, device="cpu")
    assert 0.5 < estimate_bytes(config, 1, 3, half=False) / cost.peak_bytes < 2
    assert cost.seconds > 0


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        (["liver", "spleen"], False),
        (["kidney_left", "kidney_right"], True),
        (["L kidney"], True),
        (["Left-Hippocampus"], True),
        (["Anterior", "lung"], False),
        (["leftover", "bright"], False),
    ],
)
def test_labels_that_tell_sides(names, sided):
    assert has_sides(LabelSet.from_names(dict(enumerate(names, start=1)))) is sided
