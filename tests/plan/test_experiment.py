"""Drafts filled from plans: what is set stays, what is open is planned with a reason, what does not fit shrinks."""

import math

import pytest

from medseg.errors import ConfigError, UsageError
from medseg.labels import LabelSet
from medseg.plan.compute import Compute
from medseg.plan.draft import SET
from medseg.plan.drystep import NO_FIT, StepCost, dry_step
from medseg.plan.experiment import plain_name, plan_experiment
from medseg.plan.footprint import estimate_bytes
from medseg.plan.sides import has_sides
from tests.builders import tiny_dataset
from tests.plan.builders import draft, fingerprint

DATA = fingerprint((1.0, 1.0, 1.0), (60, 60, 60))
MANIFEST = "data: {manifest: tiny.yaml}"
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
    with pytest.raises(UsageError, match="a training step within 0.01 GB .* give more --memory"):
        planned(dataset, compute=Compute("cpu", 10**7))


def test_the_estimate_is_right_to_a_factor_of_two(dataset):
    """Against a real step in a process of its own, whose memory the kernel counts."""
    config = planned(dataset).config
    cost = dry_step(config, channels=1, scheme=dataset.scheme, device="cpu")
    assert 0.5 < estimate_bytes(config, 1, 3, half=False) / cost.peak_bytes < 2
    assert cost.seconds > 0


def test_on_cpus_the_process_itself_does_not_count(dataset):
    """A step of a small network, though torch alone takes some 500 MB."""
    config = planned(dataset, "data: {manifest: x}\ntraining: {patch_size: [16, 16, 16], batch_size: 2}").config
    assert dry_step(config, channels=1, scheme=dataset.scheme, device="cpu").peak_bytes < 2 * 10**8
    assert planned(dataset, compute=Compute("cpu", 5 * 10**8)).config.training.patch_size == (40, 40, 40)


def test_what_only_seems_not_to_fit_is_measured_before_it_is_refused(dataset):
    costs = [StepCost(10, 1.0), StepCost(11, 1.0)]
    fits, does_not = (lambda *_, cost=cost, **__: cost for cost in costs)
    plan = planned(dataset, compute=Compute("cpu", 10), step=fits)
    assert plan.cost == costs[0]
    assert math.prod(plan.config.training.patch_size) <= 20**3
    with pytest.raises(UsageError, match=r"a training step within 0\.00 GB"):
        planned(dataset, compute=Compute("cpu", 10), step=does_not)


def test_a_large_step_that_fails_does_not_hide_a_smaller_one_that_fits(dataset):
    """What is measured first says that nothing else can fit; the smallest does."""

    def step(config, *, channels, scheme):
        small = math.prod(config.training.patch_size) <= 20**3
        return StepCost(10**6, 1.0) if small else StepCost(10**12, 1.0)

    plan = planned(dataset, step=step)
    assert math.prod(plan.config.training.patch_size) <= 20**3
    assert plan.cost.peak_bytes == 10**6


def test_the_largest_patch_comes_before_more_patches(dataset):
    text = "data: {manifest: x}\ntraining: {channels_last: true}"
    costs = iter([StepCost(9 * 10**9, 1.0), StepCost(10**8, 1.0)])
    seen = []

    def step(config, *, channels, scheme):
        seen.append((math.prod(config.training.patch_size), config.training.batch_size))
        return next(costs, StepCost(10**8, 1.0))

    measured = fingerprint((1.0,) * 3, (200,) * 3)
    plan = planned(dataset, text, compute=Compute("cuda", 8 * 10**9), measured=measured, step=step)
    training = plan.config.training
    assert (math.prod(training.patch_size), training.batch_size) == max(seen[1:])


def test_several_processes_share_a_batch_and_each_is_measured_alone(dataset):
    seen = []

    def step(config, *, channels, scheme):
        seen.append(config.training.batch_size)
        return StepCost(10**8, 1.0)

    four = planned(dataset, compute=Compute("cpu", 4 * 10**9, processes=4), step=step)
    one = planned(dataset)
    assert four.config.training.batch_size == 4 * one.config.training.batch_size
    assert set(seen) == {one.config.training.batch_size}
    assert four.config.network.norm == one.config.network.norm == "instance"  # 3 patches on each CPU
    gpus = planned(
        dataset, compute=Compute("cuda", 10**11, processes=4), measured=fingerprint((1.0,) * 3, (40,) * 3)
    )
    assert gpus.config.network.norm == "batch"  # measured over all GPUs


@pytest.mark.parametrize(
    ("text", "stages", "batch"),
    [
        ("network: {channels: [16, 32, 64]}", 3, 3),
        ("network: {strides: [[2, 2, 2], [2, 2, 1]]}", 3, 3),
        ("network: {kernel_sizes: [[3, 3, 3], [3, 3, 3]]}", 2, 3),
        ("network: {channels: [8, 8, 8, 8, 8, 8], strides: [" + ", ".join(["[1, 1, 1]"] * 5) + "]}", 6, 3),
        ("training: {accumulate: 2}", 4, 2),
        ("training: {accumulate: 3}", 4, 3),
        ("network: {padding: valid}", 4, 3),
        ("network: {name: fcn8s}", None, 3),
    ],
)
def test_one_number_may_be_set_alone(dataset, text, stages, batch):
    config = planned(dataset, f"data: {{manifest: x}}\n{text}").config
    assert config.training.batch_size == batch
    if stages is not None:
        assert (len(config.network.channels), len(config.network.strides) + 1) == (stages, stages)
        assert len(config.network.kernel_sizes) == stages


def test_the_norm_counts_the_parts_that_are_set(dataset):
    text = "data: {manifest: x}\ntraining: {batch_size: 8, accumulate: "
    norms = [planned(dataset, f"{text}{parts}}}").config.network.norm for parts in (1, 2, 4)]
    assert norms == ["batch", "batch", "instance"]


def test_more_stages_than_any_patch_can_have_are_refused(dataset):
    with pytest.raises(UsageError, match="network.channels: expected at most 4 stages, .* found 6 stages"):
        planned(dataset, "data: {manifest: x}\nnetwork: {channels: [4, 4, 4, 4, 4, 4]}")


@pytest.mark.parametrize("axes", [[], [1], [0, 1, 2]])
def test_images_are_mirrored_as_in_training(dataset, axes):
    config = planned(dataset, f"data: {{manifest: x}}\ntraining: {{augmentation: {{flip_axes: {axes}}}}}").config
    assert list(config.inference.mirror_axes) == axes
    assert planned(dataset).config.inference.mirror_axes == (0,)


def test_a_low_resolution_is_planned_around_the_patch_that_fits(dataset):
    measured, compute = fingerprint((1.0,) * 3, (300,) * 3), Compute("cpu", 8 * 10**7)
    full = planned(dataset, compute=compute, measured=measured)
    low = planned(dataset, compute=compute, measured=measured, resolution="low")
    patch = low.config.training.patch_size
    assert math.prod(patch) < 0.8 * 2**16  # less than a CPU has time for
    assert math.prod(patch) == pytest.approx(math.prod(full.config.training.patch_size), rel=0.3)
    volume = math.prod(300 / mm for mm in low.config.preprocessing.spacing_mm)
    assert math.prod(patch) / volume == pytest.approx(0.25, abs=0.08)
    assert low.config.name == "tiny_3d_low"


@pytest.mark.parametrize(("coarse", "proposed"), [("", True), (", coarse: runs/low", False)])
def test_a_first_stage_is_proposed_only_where_there_is_none(dataset, monkeypatch, coarse, proposed):
    monkeypatch.setattr("medseg.plan.experiment.with_coarse_labels", lambda config: config)
    text, measured = f"data: {{manifest: tiny.yaml{coarse}}}", fingerprint((1.0,) * 3, (300,) * 3)
    why = next(r.why for r in planned(dataset, text, measured=measured).reasons if r.what == "training.patch_size")
    assert ("--cascade" in why) == proposed


def test_the_labelled_patches_of_a_batch_are_counted(dataset):
    why = next(r.why for r in planned(dataset).reasons if r.what == "training.foreground_share")
    batch = planned(dataset).config.training.batch_size
    assert why == f"{max(1, round(batch / 3))} of each {batch} patches centred on a label, as nnU-Net"


def test_cropped_images_are_planned_by_their_crop(dataset):
    brain = fingerprint((1.0,) * 3, (256,) * 3, cropped=(120, 160, 130), kept=0.2)
    reasons = {r.what: r.why for r in planned(dataset, measured=brain).reasons}
    assert "[120, 160, 130]" in reasons["training.patch_size"]
    whole = fingerprint((1.0,) * 3, (256,) * 3, cropped=(250, 250, 250), kept=0.9)
    for text, shape in (("{}", 256), ("{crop_above: -500}", 250)):
        plan = planned(dataset, f"data: {{manifest: x}}\npreprocessing: {text}", measured=whole)
        assert f"{[shape] * 3}" in next(r.why for r in plan.reasons if r.what == "training.patch_size")


def test_a_flat_network_speaks_of_slices_and_an_absent_card_of_estimates(dataset):
    compute = Compute("cuda", 7 * 10**9, unmeasured="no such card here")
    reasons = {r.what: r.why for r in planned(dataset, compute=compute, dims=2).reasons}
    assert reasons["training.patch_size"].startswith("a square in mm within the median slice [60, 60], of which")
    assert reasons["training.batch_size"].endswith("estimated, not measured: no such card here")


@pytest.mark.parametrize(
    ("text", "name"),
    [("Liver / CT 2024", "Liver_CT_2024"), ("Müller", "Muller"), ("..", "dataset"), ("a.b-c", "a.b-c")],
)
def test_any_name_of_a_data_set_makes_a_plain_one(text, name):
    assert plain_name(text) == name


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        (["liver", "spleen"], False),
        (["kidney_left", "kidney_right"], True),
        (["L kidney"], True),
        (["Left-Hippocampus"], True),
        (["Anterior", "lung"], False),
        (["leftover", "bright", "cleft", "Lésion", "vertebrae_L1", "lateral"], False),
        *[([name], True) for name in ("LeftKidney", "KidneyLeft", "KidneyL", "LKidney", "leftlung", "kidneyright")],
        *[([name], True) for name in ("hippocampus_lh", "Rechte Niere", "rein gauche", "LEFT LUNG", "lungRight")],
    ],
)
def test_labels_that_tell_sides(names, sided):
    assert has_sides(LabelSet.from_names(dict(enumerate(names, start=1)))) is sided


def test_axes_of_the_network_in_another_order(dataset):
    """Everything that counts the network's axes follows; left and right lie along its third."""
    data = fingerprint((0.8, 1.0, 1.5), (50, 60, 40))
    text = f"{MANIFEST}\npreprocessing: {{axes: [2, 1, 0]}}"
    config, usual = (planned(dataset, given, measured=data).config for given in (text, ""))
    assert usual.preprocessing.spacing_mm == (0.8, 1.0, 1.5)
    assert config.preprocessing.spacing_mm == (1.5, 1.0, 0.8)
    assert config.training.patch_size == usual.training.patch_size[::-1]
    assert (config.training.augmentation.flip_axes, config.inference.mirror_axes) == ((2,), (2,))


def test_the_other_crop_is_not_planned_beside_the_one_that_is_set(dataset):
    data = fingerprint((1.0, 1.0, 1.0), (60, 60, 60), kept=0.5, cropped=(40.0, 40.0, 40.0))
    assert planned(dataset, measured=data).config.preprocessing.crop_above == 0
    plan = planned(dataset, f"{MANIFEST}\npreprocessing: {{crop_nonzero: true}}", measured=data)
    assert (plan.config.preprocessing.crop_above, plan.config.preprocessing.crop_nonzero) == (None, True)
    assert "preprocessing.crop_above" not in {reason.what for reason in plan.reasons}
    assert draft("preprocessing: {crop_nonzero: true}").fixed().crops
