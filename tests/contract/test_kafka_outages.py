"""Brokers that go under load: what was taken is in Kafka, within the buffer's bound, and the sink says what happens."""

import asyncio
from collections.abc import Callable

from mixer.telemetry.record import AccessRecord
from mixer.telemetry.sink import OK
from tests.components import processes
from tests.components.processes import Kafka
from tests.contract.destinations import Account, Topic, ids, run, until
from tests.telemetry.entries import new_metrics, records

AWAY = 15.0  # seconds; `benchmarks.flood` has a minute
BATCH = 30
PAUSE = 0.02  # seconds between two batches


class Flow:
    """Records at a steady rate, which wait where the sink has no room."""

    def __init__(self, topic: Topic, max_records: int, **settings: object) -> None:
        metrics = new_metrics()
        buffer = {"when_full": "block"}
        self.sink = topic.sink(metrics, max_records=max_records, buffer=buffer, **settings)
        self.account = Account(metrics, self.sink)
        self.written: list[AccessRecord] = []
        self.most = 0.0  # that were held at a time
        self.said: set[str] = set()
        self._stopped = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self.sink.start()
        while not self._stopped.is_set():
            await self.sink.room()
            batch = records(BATCH)
            self.sink.write(batch)
            self.written += batch
            self.most = max(self.most, self.account.buffered)
            self.said.add(self.sink.status())
            await asyncio.sleep(PAUSE)

    async def delivers(self, more: int = 10 * BATCH) -> None:
        """Wait until so many more are delivered."""
        start = self.account.delivered
        await until(lambda: self.account.delivered >= start + more, 60)

    async def end(self) -> None:
        self._stopped.set()
        await self._task
        await until(lambda: self.account.buffered == 0, 60)
        assert self.sink.status() == OK
        assert self.account.held
        assert self.account.delivered == len(self.written)
        await self.sink.close(5)


def flow(
    topic: Topic, max_records: int, outage: Callable[[Flow], asyncio.Future[None]], **settings: object
) -> Flow:
    """Records before, during and after an outage. Nothing may be lost."""
    made: list[Flow] = []

    async def test() -> None:
        it = Flow(topic, max_records, **settings)
        made.append(it)
        await it.delivers()
        await outage(it)
        await it.delivers()
        await it.end()
        # Batches that were on their way may be there twice, under the ids that they have.
        assert set(await topic.arrived(len(it.written))) == set(ids(it.written))

    run(test())
    return made[0]


def test_records_go_to_the_new_leader_when_the_old_one_dies() -> None:
    with processes.kafka_pair() as (first, second):
        topic = Topic(first, replicas=(2, 1))

        async def leader_dies(it: Flow) -> None:
            second.kill()
            await until(lambda: it.account.buffered > 10 * BATCH, 60)  # while there is no leader
            await it.delivers()  # to the first
            assert it.sink.status() == OK
            await asyncio.to_thread(second.start)

        both = [first.bootstrap, second.bootstrap]
        it = flow(topic, 5_000, leader_dies, bootstrap_servers=both)
        assert it.most <= 5_000 + BATCH


def test_broker_that_is_away_for_a_while_gets_all_of_it(own_kafka: Kafka) -> None:
    async def away(it: Flow) -> None:
        own_kafka.kill()
        await asyncio.sleep(AWAY)
        it.said.add(it.sink.status())
        await asyncio.to_thread(own_kafka.start)

    it = flow(Topic(own_kafka), 3_000, away)
    assert it.most <= 3_000 + BATCH
    assert any("the buffer is full" in said or "no acknowledgement for" in said for said in it.said), it.said
