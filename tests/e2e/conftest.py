"""Fleets: the same tests on every engine, server and kind of address."""

from collections.abc import Iterator

import pytest

from tests.e2e.fleet import Fleet, fleet

COMBINATIONS = {
    "embedded-asyncio-tcp": {"engine": "embedded", "server": "asyncio", "unix": False},
    "embedded-grpcio-unix": {"engine": "embedded", "server": "grpcio", "unix": True},
    "opa-asyncio-unix": {"engine": "opa", "server": "asyncio", "unix": True},
    "opa-grpcio-tcp": {"engine": "opa", "server": "grpcio", "unix": False},
}


@pytest.fixture(scope="session", params=list(COMBINATIONS.values()), ids=list(COMBINATIONS))
def any_fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet of each combination; tests share it, so each takes a user of its own."""
    with fleet(**request.param) as running:
        yield running
