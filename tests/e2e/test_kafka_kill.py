"""`kill -9` of Mixer while streams come in: what it accepted is in Kafka, under the event id that it had."""

import asyncio
import os
import random
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from aiokafka import AIOKafkaConsumer, TopicPartition
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from mixer.demo.findings import Series
from mixer.telemetry.v1.access_record_pb2 import AccessRecord
from tests.components import processes
from tests.components.processes import Kafka, Mixer
from tests.telemetry.entries import http_entry, identifier

KILLS = int(os.environ.get("MIXER_KILLS", "3"))
STREAM = 60  # entries a stream, in two messages


def test_killed_mixer_has_what_it_accepted_on_disk(own_kafka: Kafka, tmp_path: Path) -> None:
    topic = f"kill-{uuid.uuid4()}"
    own_kafka.create_topic(topic, 2)
    chance = random.Random(7)
    accepted: set[str] = set()
    with processes.mixer(settings(own_kafka, topic, tmp_path), "--role", "report") as mixer:
        for kill in range(KILLS):
            if kill:
                mixer.start()
            away = kill % 2 == 1
            if away:
                own_kafka.pause()
            try:
                asyncio.run(load(mixer, f"{kill}", accepted, chance.uniform(0.1, 1.0)))
            finally:
                if away:
                    own_kafka.resume()
            assert not mixer.running
        mixer.start()
        mixer.wait_until(lambda: counted(mixer, "mixer_sink_buffered") == 0, 60, "deliver what was left")
        recovered = counted(mixer, "mixer_sink_recovered_total")
        assert counted(mixer, "mixer_sink_records_total") == recovered
        assert mixer.stop() == 0

    found = asyncio.run(consume(own_kafka.bootstrap, topic))
    assert len(accepted) > KILLS * STREAM
    assert accepted <= found.keys()
    assert all(len(events) == 1 for events in found.values())  # twice at most under one id


def test_terminated_mixer_keeps_what_it_had_no_room_for(own_kafka: Kafka, tmp_path: Path) -> None:
    topic = f"kill-{uuid.uuid4()}"
    own_kafka.create_topic(topic, 2)

    async def fill(mixer: Mixer) -> None:
        async with grpc.aio.insecure_channel(mixer.report) as channel:
            stub = als_pb2_grpc.AccessLogServiceStub(channel)
            stream = stub.StreamAccessLogs(streamed([f"/{number}" for number in range(600)]))
            blocked = "mixer_sink_blocked_seconds_total"
            await asyncio.to_thread(
                mixer.wait_until, lambda: counted(mixer, blocked) > 0, 20, "let the stream wait"
            )
            assert counted(mixer, "mixer_sink_buffered") == 120  # four messages of thirty; the fifth waits
            assert await asyncio.to_thread(mixer.stop) == 0
            stream.cancel()

    with processes.mixer(settings(own_kafka, topic, tmp_path, max_records=100), "--role", "report") as mixer:
        own_kafka.pause()
        try:
            asyncio.run(fill(mixer))
        finally:
            own_kafka.resume()
        mixer.start()
        mixer.wait_until(
            lambda: counted(mixer, "mixer_sink_records_total") == 150, 30, "deliver what was left"
        )
        assert counted(mixer, "mixer_sink_recovered_total") == 150
    found = asyncio.run(consume(own_kafka.bootstrap, topic))
    assert found.keys() == {f"/{number}" for number in range(150)}


def settings(broker: Kafka, topic: str, folder: Path, **buffer: Any) -> dict[str, Any]:
    sink = {
        "type": "kafka",
        "bootstrap_servers": [broker.bootstrap],
        "topic": topic,
        "key": "url.path",
        "buffer": {"type": "disk", "path": str(folder / "spool.db"), "when_full": "block", **buffer},
    }
    return {
        "listeners": {"report": {"address": "127.0.0.1:0"}, "admin": {"address": "127.0.0.1:0"}},
        "telemetry": {"sinks": [sink]},
        "drain_timeout": "3s",
    }


def counted(mixer: Mixer, name: str) -> float:
    return Series(mixer.call("/metrics")[1]).total(name, sink="kafka")


async def load(mixer: Mixer, name: str, accepted: set[str], seconds: float) -> None:
    """Streams, four at a time; the first answer after so many seconds is the last before Mixer is killed. The paths of
    each that was answered are added."""
    end = time.monotonic() + seconds
    async with grpc.aio.insecure_channel(mixer.report) as channel:
        stub = als_pb2_grpc.AccessLogServiceStub(channel)

        async def flow(number: int) -> None:
            turn = 0
            while mixer.running:
                paths = [f"/{name}-{number}-{turn}-{entry}" for entry in range(STREAM)]
                turn += 1
                try:
                    # Not by an iterator: grpc cancels a call that ends before it has taken all of that.
                    call = stub.StreamAccessLogs()
                    async for message in streamed(paths):
                        await call.write(message)
                    await call.done_writing()
                    await call
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the latter: it had ended
                    continue
                accepted.update(paths)
                if time.monotonic() > end and mixer.running:
                    mixer.kill()

        await asyncio.gather(*(flow(number) for number in range(4)))


async def streamed(paths: list[str]) -> AsyncIterator[Any]:
    for start in range(0, len(paths), STREAM // 2):
        message = als_pb2.StreamAccessLogsMessage()
        if not start:
            message.identifier.CopyFrom(identifier())
        message.http_logs.log_entry.extend(
            http_entry(path=path) for path in paths[start : start + STREAM // 2]
        )
        yield message


async def consume(bootstrap: str, topic: str) -> dict[str, set[str]]:
    """Every record's path, with the event ids that it has."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in (0, 1)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: dict[str, set[str]] = {}
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    for message in batch:
                        record = AccessRecord.FromString(message.value)
                        found.setdefault(record.url_path, set()).add(record.event_id)
        return found
    finally:
        await consumer.stop()
