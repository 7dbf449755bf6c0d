"""Where sinks deliver to, and what sinks count: for the tests of every sink, and of each."""

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from mixer import config
from mixer.metrics import Metrics
from mixer.telemetry.buffer import Reason
from mixer.telemetry.file import FileSink
from mixer.telemetry.kafka import KafkaSink
from mixer.telemetry.record import ACCESS, AccessRecord
from mixer.telemetry.sink import Sink
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from tests.components.processes import Kafka
from tests.telemetry.entries import value

DEADLINE = 30.0


class Destination:
    """Where a sink delivers to, and what is there."""

    name = ""

    def sink(self, metrics: Metrics, max_records: int = 100_000) -> Sink[AccessRecord]:
        raise NotImplementedError

    async def arrived(self, count: int) -> list[str]:
        """The event ids there, once there are `count`, or after the deadline."""
        raise NotImplementedError

    def away(self) -> AbstractContextManager[None]:
        """It takes nothing meanwhile."""
        raise NotImplementedError


class Topic(Destination):
    name = "kafka"

    def __init__(
        self,
        broker: Kafka,
        partitions: int = 1,
        settings: dict[str, str] | None = None,
        replicas: Sequence[int] = (1,),
    ) -> None:
        self.broker, self.topic = broker, f"sink-{uuid.uuid4()}"
        broker.create_topic(self.topic, partitions, settings, replicas)

    def sink(
        self, metrics: Metrics, max_records: int = 100_000, buffer: Any = None, **more: Any
    ) -> KafkaSink[AccessRecord]:
        settings = self.settings(buffer={"max_records": max_records, **(buffer or {})}, **more)
        return KafkaSink(settings, metrics, ACCESS)

    def settings(self, **more: Any) -> config.KafkaSink:
        return config.KafkaSink.model_validate(
            {
                "type": "kafka",
                "bootstrap_servers": [self.broker.bootstrap],
                "topic": self.topic,
                "linger": "5ms",
                **more,
            }
        )

    async def arrived(self, count: int) -> list[str]:
        return [Schema.FromString(message.value).event_id for message in await self.messages(count)]

    async def messages(self, count: int) -> list[ConsumerRecord]:
        """By partition, then offset."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.broker.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            await consumer._client._wait_on_metadata(self.topic)
            partitions = consumer.partitions_for_topic(self.topic)
            consumer.assign([TopicPartition(self.topic, number) for number in partitions])
            found: list[ConsumerRecord] = []
            end = time.monotonic() + DEADLINE
            while len(found) < count and time.monotonic() < end:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += batch
            return sorted(found, key=lambda message: (message.partition, message.offset))
        finally:
            await consumer.stop()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        self.broker.pause()
        try:
            yield
        finally:
            self.broker.resume()


class Pipe(Destination):
    """A file that takes 4 KiB and then blocks until it is read, like a slow disk."""

    name = "file"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "records.jsonl"
        os.mkfifo(self.path)
        self.end = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        f_setpipe_sz = 1031  # fcntl.F_SETPIPE_SZ
        __import__("fcntl").fcntl(self.end, f_setpipe_sz, 4096)
        self._read = b""

    def sink(self, metrics: Metrics, max_records: int = 100_000) -> FileSink:
        settings = {"type": "file", "path": self.path, "buffer": {"max_records": max_records}}
        return FileSink(config.FileSink.model_validate(settings), metrics)

    async def arrived(self, count: int) -> list[str]:
        end = time.monotonic() + DEADLINE
        while self._read.count(b"\n") < count and time.monotonic() < end:
            try:
                self._read += os.read(self.end, 65536)
            except BlockingIOError:
                await asyncio.sleep(0.01)
        return [orjson.loads(line)["event_id"] for line in self._read.splitlines()]

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        yield  # nothing reads but `arrived`


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; nothing may be left running, or to be reported, at its end."""
    reported: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        await test
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left

    asyncio.run(main())
    assert not reported, reported


async def until(condition: Callable[[], bool], within: float = DEADLINE) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        await asyncio.sleep(0.01)


def ids(of: list[AccessRecord]) -> list[str]:
    return [record.event_id.decode() for record in of]


class Account:
    """A sink's counts."""

    def __init__(self, metrics: Metrics, sink: Sink[AccessRecord]) -> None:
        self._metrics, self._sink = metrics, sink.name

    @property
    def delivered(self) -> float:
        return self._value("mixer_sink_records_total")

    @property
    def buffered(self) -> float:
        return self._value("mixer_sink_buffered")

    @property
    def held(self) -> bool:
        """Whether every record is accounted for."""
        given = [self._value("mixer_sink_received_total"), self._value("mixer_sink_recovered_total")]
        lost = [self.dropped(reason) for reason in get_args(Reason)]
        dead = [self.dead(reason) for reason in get_args(Reason)]
        return sum(given) == self.delivered + self.buffered + sum(lost) + sum(dead)

    @property
    def recovered(self) -> float:
        return self._value("mixer_sink_recovered_total")

    def dead(self, reason: str) -> float:
        return self._value("mixer_sink_dead_letters_total", reason=reason)

    def _value(self, name: str, **labels: str) -> float:
        return value(self._metrics, name, sink=self._sink, **labels)

    def dropped(self, reason: str) -> float:
        return self._value("mixer_sink_dropped_total", reason=reason)
