"""The paired bootstrap: against loops, against every possible draw, and where the answer has a closed form."""

from itertools import product

import numpy as np
import pytest

from medseg.bootstrap import Interval, mean_scores, paired_bootstrap


def mean_by_loops(scores):
    """Mean over the labels of their mean over the cases, of one method; the labels and cases that have one."""
    of_labels = []
    for label in range(scores.shape[1]):
        known = [score for score in scores[:, label] if not np.isnan(score)]
        if known:
            of_labels.append(sum(known) / len(known))
    return sum(of_labels) / len(of_labels) if of_labels else np.nan


def random_scores(methods=3, cases=7, labels=2, missing=0.3, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, (methods, cases, labels))
    scores[rng.uniform(size=scores.shape) < missing] = np.nan
    return scores


def test_means_leave_out_what_is_not_defined():
    scores = random_scores()
    np.testing.assert_allclose(mean_scores(scores)[0], [mean_by_loops(method) for method in scores], rtol=1e-12)
    by_hand = np.array([[[0.5, np.nan], [1.0, np.nan]], [[np.nan, 0.2], [0.6, 0.4]]])
    np.testing.assert_allclose(mean_scores(by_hand)[0], [0.75, 0.45])
    assert np.isnan(mean_scores(np.full((1, 2, 2), np.nan))).all()


def test_equals_a_loop_over_the_same_draws():
    scores = random_scores()
    patients = ["a", "b", "a", "c", "d", "d", "e"]
    intervals = paired_bootstrap(scores, 1, patients, resamples=700, seed=5, confidence=0.9)
    rng, names = np.random.default_rng(5), ["a", "b", "c", "d", "e"]
    draws = np.concatenate([rng.integers(5, size=(500, 5)), rng.integers(5, size=(200, 5))])
    differences = []
    for draw in draws:
        chosen = [case for n in draw for case, patient in enumerate(patients) if patient == names[n]]
        means = [mean_by_loops(method[chosen]) for method in scores]
        differences.append([mean - means[1] for mean in means])
    for method, column in enumerate(np.array(differences).T):
        low, high = np.quantile(column[~np.isnan(column)], [0.05, 0.95])
        assert (intervals[method].low, intervals[method].high) == pytest.approx((low, high), abs=1e-12)
        actual = mean_by_loops(scores[method]) - mean_by_loops(scores[1])
        assert intervals[method].difference == pytest.approx(actual, abs=1e-12)
    assert intervals[1] == Interval(0.0, 0.0, 0.0)


def test_equals_the_quantiles_of_all_256_draws_of_four_patients():
    difference = np.array([0.10, -0.03, 0.21, 0.02])
    base = np.array([0.5, 0.6, 0.7, 0.4])
    scores = np.stack([base, base + difference])[:, :, None]
    exact = np.sort([np.mean(difference[list(draw)]) for draw in product(range(4), repeat=4)])
    interval = paired_bootstrap(scores, 0, range(4))[1]
    for found, share in ((interval.low, 0.025), (interval.high, 0.975)):
        inside = exact[int(256 * (share - 0.005)) : int(256 * (share + 0.005)) + 2]  # 10,000 draws are a sample
        assert inside.min() - 1e-12 <= found <= inside.max() + 1e-12


def test_many_patients_give_the_normal_interval():
    rng = np.random.default_rng(1)
    base, difference = rng.uniform(0.3, 0.6, 400), rng.normal(0.02, 0.1, 400)
    interval = paired_bootstrap(np.stack([base, base + difference])[:, :, None], 0, range(400))[1]
    half = 1.96 * difference.std() / 20
    assert interval.low == pytest.approx(difference.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(difference.mean() + half, abs=0.05 * half)


def test_pairing_takes_away_what_makes_cases_hard():
    base = np.random.default_rng(2).uniform(0, 0.9, 30)
    interval = paired_bootstrap(np.stack([base, base + 0.05])[:, :, None], 0, range(30))[1]
    assert (interval.low, interval.high) == pytest.approx((0.05, 0.05))
    assert not interval.holds_zero


def test_cases_of_one_patient_are_drawn_together():
    scores = random_scores(2, 10, 1, missing=0)
    twice = np.repeat(scores, 2, axis=1)
    once = paired_bootstrap(scores, 0, range(10), resamples=2000)[1]
    together = paired_bootstrap(twice, 0, [n // 2 for n in range(20)], resamples=2000)[1]
    apart = paired_bootstrap(twice, 0, range(20), resamples=2000)[1]
    assert (together.low, together.high) == pytest.approx((once.low, once.high))
    assert apart.high - apart.low < 0.85 * (once.high - once.low)


def test_nothing_defined_gives_nan():
    interval = paired_bootstrap(np.full((2, 3, 1), np.nan), 0, range(3), resamples=10)[1]
    assert np.isnan([interval.difference, interval.low, interval.high]).all()
