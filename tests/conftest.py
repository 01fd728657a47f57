"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny tensors are computed faster by one thread, and a busy machine then slows the tests less."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets: $MEDSEG_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("MEDSEG_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"the real data is not at {root}; set MEDSEG_DATA to its folder")
    return root
