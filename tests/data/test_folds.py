"""Folds: every patient once, balanced, seeded, and the same whatever the order of the input."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.data.folds import patient_folds
from medseg.errors import UsageError

patients = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=60)


@given(names=patients, folds=st.integers(2, 8), seed=st.integers(-5, 5), shuffle=st.randoms(use_true_random=False))
def test_every_patient_once_balanced_and_independent_of_order(
    names: list[str], folds: int, seed: int, shuffle: random.Random
) -> None:
    if len(set(names)) < folds:
        with pytest.raises(UsageError):
            patient_folds(names, folds, seed)
        return
    dealt = patient_folds(names, folds, seed)
    assert len(dealt) == folds
    assert sorted(name for fold in dealt for name in fold) == sorted(set(names))
    sizes = [len(fold) for fold in dealt]
    assert max(sizes) - min(sizes) <= 1
    shuffled = list(names)
    shuffle.shuffle(shuffled)
    assert patient_folds(shuffled, folds, seed) == dealt


def test_another_seed_gives_another_split() -> None:
    names = [f"p{number}" for number in range(50)]
    assert len({str(patient_folds(names, 5, seed)) for seed in range(20)}) == 20


def test_the_split_can_be_computed_again_from_its_description() -> None:
    names = ["anna", "ben", "cleo", "dirk", "emma"]
    order = sorted(names, key=lambda name: hashlib.sha256(f"7:{name}".encode()).hexdigest())
    assert patient_folds(names, 2, seed=7) == [sorted(order[0::2]), sorted(order[1::2])]


def test_errors_say_what_would_work() -> None:
    with pytest.raises(UsageError, match="give at most 3 folds"):
        patient_folds(["a", "b", "c", "c"], 5, 0)
    with pytest.raises(UsageError, match="add patients"):
        patient_folds(["a", "a"], 2, 0)
    with pytest.raises(UsageError, match="2 folds or more"):
        patient_folds(["a", "b"], 1, 0)
