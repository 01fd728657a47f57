"""Learning rates against torch's own schedulers and closed forms; time by a clock that the test turns."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, PolynomialLR

from medseg.training.schedule import Pace, make_optimizer, rate_factor, set_rate


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("medseg.training.schedule.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def pace(clock: Clock, *args, **kwargs) -> Pace:
    return Pace(*args, _start=clock.now, **kwargs)


# --- pace ---


def test_without_a_budget_steps_count_and_time_does_not(clock):
    by_steps = pace(clock, 200)
    clock.now += 1e6
    assert [by_steps.fraction(step) for step in (0, 50, 200, 201)] == [0, 0.25, 1, 1]


def test_with_a_budget_time_counts_and_steps_do_not(clock):
    timed = pace(clock, 10, budget_s=100)
    for now, fraction in [(0, 0), (25, 0.25), (99, 0.99), (100, 1), (500, 1)]:
        clock.now = 1000 + now
        assert timed.fraction(0) == timed.fraction(10**9) == pytest.approx(fraction)


def test_a_resumed_run_goes_on_where_it_was_and_a_reserve_shortens_it(clock):
    timed = pace(clock, 10, budget_s=100, reserve_s=20)
    timed.spent_s = 40
    assert timed.fraction(0) == pytest.approx(0.5)
    clock.now += 20
    assert timed.elapsed_s == pytest.approx(60)
    assert timed.fraction(0) == pytest.approx(0.75)
    clock.now += 20
    assert timed.fraction(0) == 1


@pytest.mark.parametrize(("budget", "reserve"), [(0, 0), (10, 10), (10, 50)])
def test_a_budget_that_is_all_reserve_is_over_at_once_and_never_negative(clock, budget, reserve):
    timed = pace(clock, 10, budget_s=budget, reserve_s=reserve)
    assert 0 <= timed.fraction(0) <= 1
    clock.now += 1
    assert timed.fraction(0) == 1


def test_the_clock_starts_with_the_object():
    assert 0 <= Pace(10).elapsed_s < 5


# --- learning rate ---


@pytest.mark.parametrize(
    ("schedule", "peer"),
    [
        ("cosine", lambda o: CosineAnnealingLR(o, T_max=100)),
        ("poly", lambda o: PolynomialLR(o, total_iters=100, power=0.9)),
    ],
)
def test_without_a_warm_up_the_rate_is_torchs(schedule, peer):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = peer(optimizer)
    for step in range(101):
        assert rate_factor(step / 100, schedule, 0) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
@pytest.mark.parametrize("warmup", [0.05, 0.5])
def test_the_warm_up_rises_in_a_line_to_the_highest_rate_and_ends_at_zero(schedule, warmup):
    for share in (0.1, 0.5, 0.99):
        assert rate_factor(share * warmup, schedule, warmup) == pytest.approx(share)
    assert rate_factor(0, schedule, warmup) == 0.01  # the first step learns a little too
    assert rate_factor(warmup, schedule, warmup) == pytest.approx(1)
    assert rate_factor(1, schedule, warmup) == pytest.approx(0, abs=1e-12)
    middle = rate_factor((1 + warmup) / 2, schedule, warmup)
    assert middle == pytest.approx(0.5 if schedule == "cosine" else 0.5**0.9)


@given(
    fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    schedule=st.sampled_from(["cosine", "poly"]),
    warmup=st.floats(0, 0.99),
)
def test_the_rate_lies_between_0_and_1_and_falls_after_the_warm_up(fractions, schedule, warmup):
    early, late = (rate_factor(f, schedule, warmup) for f in sorted(fractions))
    assert 0 <= late <= 1
    assert math.isfinite(late)
    if min(fractions) >= warmup:
        assert late <= early + 1e-12


# --- optimizer ---


def test_optimizers_are_torchs_with_these_settings():
    network = nn.Linear(3, 2)
    adamw = make_optimizer(network, "adamw", 1e-3, weight_decay=0.05, momentum=0.9)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (1e-3, 0.05)
    sgd = make_optimizer(network, "sgd", 1e-2, weight_decay=3e-5, momentum=0.99)
    assert isinstance(sgd, torch.optim.SGD)
    expected = {"lr": 1e-2, "weight_decay": 3e-5, "momentum": 0.99, "nesterov": True}
    assert {name: sgd.defaults[name] for name in expected} == expected
    assert sum(len(group["params"]) for group in sgd.param_groups) == 2
    assert not make_optimizer(network, "sgd", 1, weight_decay=0, momentum=0).defaults["nesterov"]


def test_the_rate_is_set_for_every_group():
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 5.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
