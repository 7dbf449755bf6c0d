"""OPA, Redis and Kafka: each row of the table on the real server, behind a relay where it is to be slow or garbled."""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.components import processes
from tests.components.processes import Kafka, Opa, Redis, Server, wait_until
from tests.components.relay import Relay, kafka_relay, relay
from tests.e2e.test_kafka_kill import consume
from tests.faults import stage
from tests.faults.scene import Scene, scene
from tests.faults.table import Row, rows

DELAYS = {"OPA": 0.3, "Redis": 0.2, "Kafka": 0.2}


@dataclass(frozen=True, slots=True)
class Backends:
    """The servers, the way to each that can be made slow, and where the policy and the limits lie."""

    opa: Opa
    redis: Redis
    kafka: Kafka
    topic: str
    relays: dict[str, Relay]
    folder: Path

    def server(self, dependency: str) -> Server:
        return {"OPA": self.opa, "Redis": self.redis, "Kafka": self.kafka}[dependency]

    @contextlib.contextmanager
    def scene(self, relayed: bool = False) -> Iterator[Scene]:
        opa, redis, kafka = self.opa.address, self.redis.address, self.kafka.bootstrap
        if relayed:
            opa, redis, kafka = (each.address for each in self.relays.values())
        chosen = stage.settings(self.folder, f"http://{opa}", f"redis://{redis}/0", kafka, self.topic)
        with processes.mixer(chosen) as mixer, scene(mixer) as made:
            yield made


@pytest.fixture(scope="module")
def backends(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    topic = f"faults-{uuid.uuid4()}"
    own_kafka.create_topic(topic, 2)
    folder = stage.folder_of(tmp_path_factory.mktemp("faults"))
    with (
        processes.opa() as opa,
        processes.redis() as redis,
        relay(opa.port) as to_opa,
        relay(redis.port) as to_redis,
        kafka_relay(own_kafka.port) as to_kafka,
    ):
        relays = {"OPA": to_opa, "Redis": to_redis, "Kafka": to_kafka}
        yield Backends(opa, redis, own_kafka, topic, relays, folder)


@pytest.fixture(scope="module")
def direct(backends: Backends) -> Iterator[Scene]:
    with backends.scene() as made:
        yield made


@pytest.fixture(scope="module")
def relayed(backends: Backends) -> Iterator[Scene]:
    with backends.scene(relayed=True) as made:
        yield made


def of(*faults: str) -> pytest.MarkDecorator:
    chosen = [row for name in ("OPA", "Redis", "Kafka") for row in rows(name) if row.fault in faults]
    return pytest.mark.parametrize("row", chosen, ids=lambda row: row.name)


@of("dies")
def test_it_dies(backends: Backends, direct: Scene, row: Row) -> None:
    server = backends.server(row.dependency)
    direct.play(row, server.kill, server.start)


@of("hangs")
def test_it_hangs(backends: Backends, direct: Scene, row: Row) -> None:
    server = backends.server(row.dependency)
    direct.play(row, server.pause, server.resume)


@of("slow")
def test_it_is_slow(backends: Backends, relayed: Scene, row: Row) -> None:
    way, delay = backends.relays[row.dependency], DELAYS[row.dependency]

    def take(seconds: float) -> None:
        way.delay = seconds

    answers = relayed.play(row, lambda: take(delay), lambda: take(0))
    assert f"{delay} s" in row.how
    assert answers.slowest >= delay


@of("garbage")
def test_it_answers_garbage(backends: Backends, relayed: Scene, row: Row) -> None:
    way = backends.relays[row.dependency]

    def be(garbled: bool) -> None:
        way.garbage = garbled

    relayed.play(row, lambda: be(True), lambda: be(False))


@of("absent at start")
def test_it_is_absent_at_start(backends: Backends, row: Row) -> None:
    server = backends.server(row.dependency)
    server.stop()
    try:
        with backends.scene() as late:
            late.shows(row)
            assert late.watched(row) > 0
            server.start()
            late.is_as_before(row.back)
    finally:
        if not server.running:
            server.start()


def test_mixer_starts_while_all_of_them_hang(backends: Backends) -> None:
    servers = [backends.server(name) for name in ("OPA", "Redis", "Kafka")]
    with contextlib.ExitStack() as hanging:
        for server in servers:
            server.pause()
            hanging.callback(server.resume)
        with backends.scene() as late:
            answers = late.ask.all()
            assert (answers.check, answers.quota, answers.report) == ("UNAVAILABLE", "UNAVAILABLE", "OK")
            hanging.close()
            late.is_as_before(15)


(OPA_RETURNS,) = (row for row in rows("OPA") if row.fault == "returns")
(REDIS_RETURNS,) = (row for row in rows("Redis") if row.fault == "returns")
(KAFKA_RETURNS,) = (row for row in rows("Kafka") if row.fault == "returns")


def test_opa_that_returns_gets_the_policies_that_it_had(backends: Backends, direct: Scene) -> None:
    direct.is_as_before(20)
    backends.opa.restart()
    direct.is_as_before(OPA_RETURNS.back)
    pushed = [policy["id"] for policy in backends.opa.call("GET", "/v1/policies")[1]["result"]]
    assert pushed == ["mixer/authz.rego"]
    assert direct.ask.check("/no") == "denied"


def test_redis_that_returns_has_forgotten_what_was_counted(backends: Backends, direct: Scene) -> None:
    direct.is_as_before(20)
    assert [direct.ask.quota("twice", "returns") for _ in range(3)] == ["OK", "OK", "OVER_LIMIT"]
    backends.redis.kill()
    backends.redis.start()
    direct.is_as_before(REDIS_RETURNS.back)
    wait_until(lambda: direct.ask.quota("twice", "returns") == "OK", REDIS_RETURNS.back, "counting anew")


def test_kafka_that_returns_gets_all_that_was_accepted(backends: Backends, direct: Scene) -> None:
    direct.is_as_before(20)
    before = direct.series().total("mixer_sink_received_total", sink="kafka")
    backends.kafka.kill()
    for _ in range(3):
        assert direct.ask.all().report == "OK"
    backends.kafka.start()
    direct.is_as_before(KAFKA_RETURNS.back)
    series = direct.series()
    received = series.total("mixer_sink_received_total", sink="kafka")
    assert received >= before + 6  # by Report and by Export
    assert series.total("mixer_sink_dropped_total", sink="kafka") == 0
    direct.mixer.wait_until(
        lambda: direct.series().total("mixer_sink_buffered", sink="kafka") == 0, 10, "deliver what waited"
    )
    found = asyncio.run(consume(backends.kafka.bootstrap, backends.topic))
    assert sum(map(len, found.values())) >= received


def test_decisions_that_are_cached_are_given_without_opa(backends: Backends, direct: Scene) -> None:
    direct.is_as_before(20)
    assert direct.ask.check("/cached") == "OK"
    backends.opa.kill()
    try:
        assert direct.ask.check("/cached") == "OK"
        assert direct.ask.check("/other") == "UNAVAILABLE"
    finally:
        backends.opa.start()


def test_limits_say_themselves_what_they_answer_without_redis(backends: Backends, direct: Scene) -> None:
    direct.is_as_before(20)
    backends.redis.kill()
    try:
        assert direct.ask.quota("allowed") == "OK"
        assert direct.ask.quota("denied") == "OVER_LIMIT"
        assert [direct.ask.quota("local") for _ in range(3)] == ["OK", "OK", "OVER_LIMIT"]
    finally:
        backends.redis.start()
