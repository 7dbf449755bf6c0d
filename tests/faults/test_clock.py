"""The clock: a Mixer whose wall clock is set while it runs."""

import time
from collections.abc import Callable, Iterator

import jwt
import pytest

from tests.components import processes
from tests.components.clock import Clock
from tests.components.processes import wait_until
from tests.faults import stage
from tests.faults.scene import Scene, scene
from tests.faults.table import Row, rows

HOUR = 3600
WINDOW = 2.0  # seconds, of the limit `flow`


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def made(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = stage.folder_of(tmp_path_factory.mktemp("faults"), stage.TOKENS)
    chosen = stage.embedded(folder, {"paths": [str(folder / "policies")]})
    with processes.mixer(chosen, env=clock.env) as mixer, scene(mixer) as running:
        yield running


def fault(row: Row, clock: Clock) -> Callable[[], None]:
    if row.fault == "hangs":
        return clock.stand_still
    return lambda: clock.step(-HOUR if row.how == "an hour behind" else HOUR)


@pytest.mark.parametrize("row", rows("clock"), ids=lambda row: row.name)
def test_calls_are_answered_meanwhile_and_afterwards(clock: Clock, made: Scene, row: Row) -> None:
    made.play(row, fault(row, clock), lambda: clock.step(0))


def token(seconds: int) -> str:
    return jwt.encode({"exp": int(time.time()) + seconds}, stage.SECRET, "HS256")


def test_tokens_end_by_the_clock_and_no_decision_outlives_its_error(clock: Clock, made: Scene) -> None:
    one = token(600)
    assert made.ask.check("/", one) == "OK"
    clock.step(HOUR)
    assert made.ask.check("/", one) == "denied"
    clock.step(0)
    assert made.ask.check("/", one) == "OK"
    clock.step(-HOUR)
    ended = token(-600)
    assert made.ask.check("/", ended) == "OK"
    clock.step(0)
    assert made.ask.check("/", ended) == "denied"


def test_a_bucket_fills_again_soon_after_the_clock_is_set_back(clock: Clock, made: Scene) -> None:
    clock.step(HOUR)
    wait_until(lambda: made.ask.quota("flow", "ahead") == "OVER_LIMIT", 10, "using it up")
    clock.step(0)
    wait_until(lambda: made.ask.quota("flow", "ahead") == "OK", 10 * WINDOW, "filling again")


def test_what_is_used_up_stays_so_while_the_clock_stands_still(clock: Clock, made: Scene) -> None:
    clock.stand_still()
    wait_until(lambda: made.ask.quota("flow", "still") == "OVER_LIMIT", 10, "using it up")
    end = time.monotonic() + 1.5 * WINDOW
    while time.monotonic() < end:
        assert made.ask.quota("flow", "still") == "OVER_LIMIT"
    clock.step(0)
    wait_until(lambda: made.ask.quota("flow", "still") == "OK", 10 * WINDOW, "filling again")
