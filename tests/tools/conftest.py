"""Series with everything that is made of their masks, written once for all tests of this folder; an Orthanc."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest

from tests.tools.objects import Objects, save_all
from tests.tools.orthanc import Orthanc, running_orthanc
from tests.tools.sources import REAL, SYNTHETIC, Case, make_case

ALL = [*SYNTHETIC, *(pytest.param(name, marks=pytest.mark.data) for name in REAL)]

Get = Callable[[str], tuple[Case, Objects]]


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Get:
    @cache
    def get(name: str) -> tuple[Case, Objects]:
        folder = tmp_path_factory.mktemp(name)
        case = make_case(name, folder / "source", lambda: request.getfixturevalue("data_root"))
        return case, save_all(case, folder)

    return get


@pytest.fixture(params=ALL)
def case(request: pytest.FixtureRequest, _made: Get) -> Case:
    """A series with a mask: of each kind, synthetic and real."""
    return _made(request.param)[0]


@pytest.fixture
def objects(case: Case, _made: Get) -> Objects:
    """The objects of the case, by the names of `tests.tools.objects.KINDS`."""
    return _made(case.name)[1]


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running
