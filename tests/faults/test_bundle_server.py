"""The bundle server: each row of the table on a process of its own, asked by a Mixer whose policy comes from it."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.components import processes
from tests.components.bundle_server import BundleServer, bundle_server
from tests.components.relay import Relay, relay
from tests.faults import stage
from tests.faults.scene import Scene, scene
from tests.faults.table import Row, rows
from tests.policy.test_polling import policy

POLL, TIMEOUT = "300ms", 0.5  # 30 s by default, each
MODES = {
    "HTTP 500": "500",
    "a page of HTML": "html",
    "half of the bundle": "cut",
    "a body without an end": "endless",
}
_revisions = (f"r{number}" for number in itertools.count(1))


def settings(folder: Path, url: str, timeout: float = TIMEOUT) -> dict[str, Any]:
    bundle = {"name": "authz", "url": url, "poll": POLL, "timeout": f"{timeout}s"}
    return stage.embedded(folder, {"bundles": [bundle], "bundle_size_limit": 1_000_000})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage.folder_of(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def server() -> Iterator[BundleServer]:
    with bundle_server(policy(next(_revisions))) as running:
        yield running


@pytest.fixture(scope="module")
def direct(server: BundleServer, folder: Path) -> Iterator[Scene]:
    with processes.mixer(settings(folder, server.url)) as mixer, scene(mixer) as made:
        yield made


@pytest.fixture(scope="module")
def way(server: BundleServer) -> Iterator[Relay]:
    with relay(server.port) as made:
        yield made


@pytest.fixture(scope="module")
def relayed(way: Relay, folder: Path) -> Iterator[Scene]:
    url = f"http://{way.address}/bundle.tar.gz"
    with processes.mixer(settings(folder, url)) as mixer, scene(mixer) as made:
        yield made


def where(chosen: Callable[[Row], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "row", [row for row in rows("bundle server") if chosen(row)], ids=lambda row: row.name
    )


def fault(row: Row, server: BundleServer) -> tuple[Callable[[], None], Callable[[], None]]:
    """What brings it about, and what lifts it."""
    if row.fault == "dies":
        return server.kill, server.start
    if row.fault == "hangs":
        return server.pause, server.resume
    return lambda: server.misbehave(MODES[row.how]), lambda: server.misbehave("")


@where(lambda row: row.fault == "dies" or row.how == "SIGSTOP" or row.how in MODES)
def test_the_revision_of_before_decides_meanwhile(server: BundleServer, direct: Scene, row: Row) -> None:
    begin, end = fault(row, server)
    direct.play(row, begin, end)


@where(lambda row: row.fault == "slow" or row.how == "no HTTP")
def test_what_is_on_the_way_does_no_harm(way: Relay, relayed: Scene, row: Row) -> None:
    def be(delay: float, garbage: bool) -> None:
        way.delay, way.garbage = delay, garbage

    slow = row.fault == "slow"
    relayed.play(row, lambda: be(2 * TIMEOUT if slow else 0, not slow), lambda: be(0, False))


def test_what_a_server_says_is_not_repeated_at_length(way: Relay, relayed: Scene) -> None:
    relayed.is_as_before(20)
    way.garbage = True
    try:
        relayed.mixer.wait_until(lambda: "degraded" in relayed.ask.ready()[1], 20, "say that it is degraded")
        _, said = relayed.ask.ready()
        assert "the answer is no HTTP" in said
        assert len(said) < 500
    finally:
        way.garbage = False
    relayed.is_as_before(20)


@where(lambda row: row.fault == "absent at start")
def test_it_is_absent_at_start(server: BundleServer, folder: Path, row: Row) -> None:
    server.stop()
    try:
        with late(settings(folder, server.url)) as made:
            made.shows(row)
            assert made.watched(row) > 0
            server.start()
            made.is_as_before(row.back)
    finally:
        if not server.running:
            server.start()


(HANGS_AT_START,) = (row for row in rows("bundle server") if row.how.startswith("SIGSTOP before"))
(RETURNS,) = (row for row in rows("bundle server") if row.fault == "returns")


def test_a_start_does_not_wait_for_a_server_that_hangs(server: BundleServer, folder: Path) -> None:
    server.pause()
    try:
        start = time.monotonic()
        with late(settings(folder, server.url, timeout=25)) as made:
            assert time.monotonic() - start < 24
            answers = made.ask.all()
            assert (answers.check, answers.quota, answers.report, answers.export) == (
                HANGS_AT_START.check, HANGS_AT_START.quota, HANGS_AT_START.report, HANGS_AT_START.export
            )  # fmt: skip
            status, said = made.ask.ready()
            assert (status, said.startswith(HANGS_AT_START.ready)) == (503, True)
            server.resume()
            made.is_as_before(HANGS_AT_START.back)
    finally:
        server.resume()


def test_the_revision_that_it_returns_with_is_taken(server: BundleServer, direct: Scene) -> None:
    direct.is_as_before(20)
    server.kill()
    server.serve(policy(revision := next(_revisions)))
    server.start()
    direct.mixer.wait_until(
        lambda: f"revision {revision}\n" in direct.ask.ready()[1], RETURNS.back, "take the new revision"
    )


@contextlib.contextmanager
def late(chosen: dict[str, Any]) -> Iterator[Scene]:
    with processes.mixer(chosen) as mixer, scene(mixer) as made:
        yield made
