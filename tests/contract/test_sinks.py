"""What every sink promises (`mixer.telemetry.sink`), on real destinations."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import DefaultPartitioner

from mixer import config
from mixer.errors import SinkError
from mixer.telemetry.file import FileSink
from mixer.telemetry.prometheus import PrometheusSink
from mixer.telemetry.record import AccessRecord
from mixer.telemetry.sink import OK, Receipt
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from tests.components.processes import Kafka
from tests.contract.destinations import DEADLINE, Account, Destination, Pipe, Topic, ids, run, until
from tests.telemetry.entries import http_entry, new_metrics, records, value


@pytest.fixture
def topic(own_kafka: Kafka) -> Topic:
    return Topic(own_kafka)


@pytest.fixture(params=["kafka", "file"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Destination]:
    if request.param == "kafka":
        yield Topic(request.getfixturevalue("own_kafka"))
    else:
        pipe = Pipe(tmp_path)
        yield pipe
        os.close(pipe.end)


# Every sink that buffers


def test_what_is_written_arrives_in_order(destination: Destination) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = destination.sink(metrics)
        await sink.start()
        written = records(500)
        for start in range(0, 500, 30):
            sink.write(written[start : start + 30])
        assert await destination.arrived(500) == ids(written)
        account = Account(metrics, sink)
        await until(lambda: account.delivered == 500)
        assert account.buffered == 0
        assert sink.status() == OK
        await sink.close(5)

    run(test())


def test_receipt_is_told_what_is_durable_and_not_before(destination: Destination) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = destination.sink(metrics)
        await sink.start()
        written = records(500)
        receipt = Receipt(500)
        with destination.away():
            sink.write(written, receipt)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(receipt.settled(), 0.5)
            # A pipe takes some lines before it blocks.
            assert receipt.open == 500 - Account(metrics, sink).delivered
            assert receipt.open > 0
        assert await destination.arrived(500) == ids(written)
        await asyncio.wait_for(receipt.settled(), DEADLINE)
        assert not receipt.lost
        await sink.close(5)

    run(test())


def test_receipt_is_told_of_what_is_lost(destination: Destination) -> None:
    async def test() -> None:
        sink = destination.sink(new_metrics(), max_records=300)
        with destination.away():
            await sink.start()
            receipt, late = Receipt(500), Receipt(1)
            sink.write(records(500), receipt)
            assert receipt.lost["buffer_full"] == 200
            await sink.close(0.1)
            sink.write(records(1), late)
            await asyncio.wait_for(receipt.settled(), DEADLINE)
            await asyncio.wait_for(late.settled(), DEADLINE)
        assert receipt.lost["shutdown"] > 0
        assert late.lost == {"shutdown": 1}

    run(test())


def test_close_delivers_what_is_buffered(destination: Destination) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = destination.sink(metrics)
        await sink.start()
        written = records(200)
        sink.write(written)
        closing = asyncio.create_task(sink.close(10))
        assert await destination.arrived(200) == ids(written)
        await closing
        account = Account(metrics, sink)
        assert (account.delivered, account.buffered) == (200, 0)

    run(test())


def test_full_buffer_drops_the_newest_and_counts(destination: Destination) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = destination.sink(metrics, max_records=100)
        account = Account(metrics, sink)
        await sink.start()
        with destination.away():
            written = records(250)
            for start in range(0, 250, 25):
                sink.write(written[start : start + 25])
            dropped = int(account.dropped("buffer_full"))
            # What a pipe took by then is delivered, and makes room.
            assert account.buffered <= 100
            assert account.delivered + account.buffered + dropped == 250
            assert dropped >= 100
        kept = await destination.arrived(250 - dropped)
        assert kept == ids(written)[: len(kept)]
        assert len(kept) == 250 - dropped
        await sink.close(5)

    run(test())


def test_bytes_bound_the_buffer_as_records_do(destination: Destination) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = destination.sink(metrics)
        sink._account._max_bytes = 10_000  # type: ignore[attr-defined]
        account = Account(metrics, sink)
        await sink.start()
        with destination.away():
            sink.write(records(100))
            assert account.dropped("buffer_full") >= 50
        await sink.close(0.5)

    run(test())


def test_write_returns_at_once_while_nothing_is_taken(destination: Destination) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = destination.sink(metrics)
        await sink.start()
        with destination.away():
            await asyncio.sleep(0.1)  # what can be under way is
            for batch in (records(100) for _ in range(10)):
                start = time.monotonic()
                sink.write(batch)
                assert time.monotonic() - start < 5  # one that waited would wait until the end
            await sink.close(0.2)

    run(test())


def test_close_is_bounded_and_counts_what_is_left(destination: Destination) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = destination.sink(metrics)
        account = Account(metrics, sink)
        await sink.start()
        with destination.away():
            sink.write(records(100))
            start = time.monotonic()
            await sink.close(1)
            assert time.monotonic() - start < 5
        assert account.dropped("shutdown") > 50
        assert account.delivered + account.dropped("shutdown") == 100
        assert account.buffered == 0

    run(test())


def test_record_after_close_is_dropped_and_counted(destination: Destination) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = destination.sink(metrics)
        await sink.start()
        await sink.close(1)
        sink.write(records(3))
        assert Account(metrics, sink).dropped("shutdown") == 3

    run(test())


def test_sink_that_was_not_started_can_be_closed(destination: Destination) -> None:
    run(destination.sink(new_metrics()).close(1))


def test_buffer_shows_its_size_and_bound(destination: Destination) -> None:
    metrics = new_metrics()
    sink = destination.sink(metrics, max_records=77)
    assert value(metrics, "mixer_sink_buffer_capacity", sink=sink.name) == 77
    assert value(metrics, "mixer_sink_buffered", sink=sink.name) == 0


def test_prometheus_delivers_at_once() -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = PrometheusSink(config.Config(), metrics)
        await sink.start()
        sink.write(records(7))
        assert Account(metrics, sink).delivered == 7
        assert sink.status() == OK
        await sink.close(1)

    run(test())


# File


def test_file_is_appended_to_and_not_for_all_to_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    settings = config.FileSink.model_validate({"type": "file", "path": path})

    async def test(written: list[AccessRecord]) -> None:
        sink = FileSink(settings, new_metrics())
        await sink.start()
        sink.write(written)
        await sink.close(5)

    first, second = records(3), records(2)
    run(test(first))
    run(test(second))
    assert [orjson.loads(line)["event_id"] for line in path.read_bytes().splitlines()] == ids(first + second)
    assert path.stat().st_mode & 0o007 == 0


def test_line_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"event_id": "1"}\n{"event_id": "2", "url.pa')

    async def test() -> None:
        sink = FileSink(config.FileSink.model_validate({"type": "file", "path": path}), new_metrics())
        await sink.start()
        sink.write(records(1))
        await sink.close(5)

    run(test())
    lines = path.read_bytes().splitlines()
    assert lines[1] == b'{"event_id": "2", "url.pa'
    assert orjson.loads(lines[2])["url.path"] == "/0"


def test_standard_output_is_a_file_too(capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        sink = FileSink(config.FileSink.model_validate({"type": "file"}), new_metrics())
        await sink.start()
        sink.write(records(1))
        await sink.close(5)

    run(test())
    assert orjson.loads(capfd.readouterr().out)["url.path"] == "/0"


def test_file_that_cannot_be_opened_says_so_at_start(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "records.jsonl"
    sink = FileSink(config.FileSink.model_validate({"type": "file", "path": path}), new_metrics())
    with pytest.raises(SinkError, match=f"cannot append to {path}: No such file or directory"):
        run(sink.start())


def test_full_disk_holds_records_back_and_is_told() -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = FileSink(config.FileSink.model_validate({"type": "file", "path": "/dev/full"}), metrics)
        await sink.start()
        sink.write(records(5))
        await until(lambda: sink.status() != OK)
        assert sink.status() == "cannot write to /dev/full: No space left on device"
        await sink.close(0.2)
        assert Account(metrics, sink).dropped("shutdown") == 5

    run(test())


# Kafka


def test_message_carries_schema_content_type_and_event_id(topic: Topic) -> None:
    async def test() -> None:
        sink = topic.sink(new_metrics())
        await sink.start()
        (written,) = records(1)
        sink.write([written])
        (message,) = await topic.messages(1)
        await sink.close(5)
        assert dict(message.headers) == {
            "schema": b"mixer.telemetry.v1.AccessRecord",
            "content-type": b"application/protobuf",
            "event_id": written.event_id,
        }
        assert message.key is None
        assert Schema.FromString(message.value).url_path == "/0"
        assert abs(message.timestamp / 1000 - time.time()) < 60

    run(test())


def test_value_may_be_json(topic: Topic) -> None:
    async def test() -> None:
        sink = topic.sink(new_metrics(), format="json")
        await sink.start()
        sink.write(records(1))
        (message,) = await topic.messages(1)
        await sink.close(5)
        assert orjson.loads(message.value)["url.path"] == "/0"
        assert dict(message.headers)["content-type"] == b"application/json"

    run(test())


def test_batches_may_be_compressed(topic: Topic) -> None:
    async def test() -> None:
        sink = topic.sink(new_metrics(), compression="gzip")
        await sink.start()
        written = records(100)
        sink.write(written)
        assert await topic.arrived(100) == ids(written)
        await sink.close(5)

    run(test())


def test_key_chooses_the_partition_and_keeps_its_order(own_kafka: Kafka) -> None:
    topic = Topic(own_kafka, partitions=5)

    async def test() -> None:
        sink = topic.sink(new_metrics(), key="client.address")
        await sink.start()

        def entry(number: int) -> Any:
            made = http_entry(path=f"/{number}")
            made.common_properties.downstream_remote_address.socket_address.address = f"10.0.0.{number % 17}"
            return made

        written = records(2000, entry)
        for start in range(0, 2000, 30):
            sink.write(written[start : start + 30])
            await asyncio.sleep(0)
        messages = await topic.messages(2000)
        await sink.close(5)
        assert len({message.partition for message in messages}) > 1
        by_key: dict[bytes, list[int]] = {}
        for message in messages:
            # aiokafka's own partitioner is that of Kafka's Java client.
            assert message.partition == DefaultPartitioner()(message.key, list(range(5)), list(range(5)))
            by_key.setdefault(message.key, []).append(int(Schema.FromString(message.value).url_path[1:]))
        assert len(by_key) == 17
        assert all(order == sorted(order) for order in by_key.values())

    run(test())


def test_header_may_be_the_key_and_a_record_without_it_has_none(topic: Topic) -> None:
    async def test() -> None:
        sink = topic.sink(new_metrics(), key="http.request.header.x-tenant")
        await sink.start()

        def entry(number: int) -> Any:
            made = http_entry()
            if number == 0:
                made.request.request_headers["x-tenant"] = "acme"
            return made

        sink.write(records(2, entry))
        assert [message.key for message in await topic.messages(2)] == [b"acme", None]
        await sink.close(5)

    run(test())


def test_records_without_key_go_to_all_partitions(own_kafka: Kafka) -> None:
    topic = Topic(own_kafka, partitions=3)

    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics)
        account = Account(metrics, sink)
        await sink.start()
        for turn in range(1, 7):
            sink.write(records(10))
            await until(lambda turn=turn: account.delivered == 10 * turn)
        messages = await topic.messages(60)
        await sink.close(5)
        assert {message.partition for message in messages} == {0, 1, 2}

    run(test())


@pytest.mark.parametrize("key", ["url.pth", "start_time", "http.request.header.", "http.request.header"])
def test_key_that_names_no_field_is_refused_at_start(topic: Topic, key: str) -> None:
    sink = topic.sink(new_metrics(), key=key)
    with pytest.raises(SinkError, match=f'kafka: key: expected the name of a record\'s field.* got "{key}"'):
        run(sink.start())


def test_record_over_a_megabyte_is_dropped_and_counted(topic: Topic) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics)
        await sink.start()
        written = records(3, lambda n: http_entry(path="/" + "x" * (1_100_000 if n == 1 else 1)))
        sink.write(written)
        assert await topic.arrived(2) == [ids(written)[0], ids(written)[2]]
        assert Account(metrics, sink).dropped("too_large") == 1
        await sink.close(5)

    run(test())


def test_broker_that_takes_less_gets_smaller_batches_and_loses_only_what_is_larger(own_kafka: Kafka) -> None:
    topic = Topic(own_kafka, settings={"max.message.bytes": "20000"})

    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics)
        account = Account(metrics, sink)
        await sink.start()
        written = records(300, lambda n: http_entry(path="/" + "x" * (30_000 if n in (70, 71) else 100)))
        sink.write(written)
        expected = [event for number, event in enumerate(ids(written)) if number not in (70, 71)]
        await until(lambda: account.delivered == 298)
        assert await topic.arrived(298) == expected
        assert account.dropped("too_large") == 2
        assert sink.status() == OK
        await sink.close(5)

    run(test())


def test_broker_that_is_away_at_start_is_waited_for(own_kafka: Kafka) -> None:
    topic = Topic(own_kafka)
    own_kafka.stop()

    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics)
        account = Account(metrics, sink)
        await sink.start()
        written = records(100)
        sink.write(written)
        await until(lambda: "Unable to bootstrap" in sink.status())
        assert account.buffered == 100
        await asyncio.to_thread(own_kafka.start)
        await until(lambda: account.delivered == 100)
        assert sink.status() == OK
        assert await topic.arrived(100) == ids(written)
        await sink.close(5)

    try:
        run(test())
    finally:
        if not own_kafka.running:
            own_kafka.start()


@pytest.mark.parametrize(("end", "buffer"), [("stop", "memory"), ("kill", "memory"), ("kill", "disk")])
def test_broker_restarted_under_load_loses_nothing(
    own_kafka: Kafka, tmp_path: Path, end: str, buffer: str
) -> None:
    topic = Topic(own_kafka, partitions=3)

    async def test() -> None:
        metrics = new_metrics()
        where = {"type": "disk", "path": str(tmp_path / "spool.db")} if buffer == "disk" else None
        sink = topic.sink(metrics, key="url.path", request_timeout="3s", buffer=where)
        account = Account(metrics, sink)
        await sink.start()
        written: list[AccessRecord] = []
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                batch = records(7, lambda n: http_entry(path=f"/{n}"))
                written.extend(batch)
                sink.write(batch)
                assert account.held
                await asyncio.sleep(0.02)
                assert account.held

        loading = asyncio.create_task(load())
        await until(lambda: account.delivered > 300)
        await asyncio.to_thread(getattr(own_kafka, end))
        before = len(written)
        await until(lambda: len(written) > before + 200)
        await asyncio.to_thread(own_kafka.start)
        await until(lambda: account.delivered > before + 200)
        stop.set()
        await loading
        await until(lambda: account.buffered == 0)
        assert account.delivered == len(written)
        messages = await topic.messages(len(written))
        await sink.close(5)
        order = {event: number for number, event in enumerate(ids(written))}
        # Once each, or twice under one id where the broker's answer was lost.
        seen: dict[bytes, list[int]] = {}
        for message in messages:
            number = order[dict(message.headers)["event_id"].decode()]
            numbers = seen.setdefault(message.key, [])
            if number not in numbers:
                numbers.append(number)
        assert sorted(number for numbers in seen.values() for number in numbers) == list(range(len(written)))
        assert all(numbers == sorted(numbers) for numbers in seen.values())

    try:
        run(test())
    finally:
        if not own_kafka.running:
            own_kafka.start()


def test_topic_that_does_not_exist_yet_is_waited_for(own_kafka: Kafka) -> None:
    topic = Topic(own_kafka)
    topic.topic += "-later"

    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, request_timeout="500ms")
        account = Account(metrics, sink)
        await sink.start()
        written = records(10)
        sink.write(written)
        await until(lambda: "UnknownTopicOrPartition" in sink.status())
        await asyncio.to_thread(own_kafka.create_topic, topic.topic, 2)
        await until(lambda: account.delivered == 10)
        assert sorted(await topic.arrived(10)) == sorted(ids(written))
        await sink.close(5)

    run(test())


def test_topic_made_anew_with_fewer_partitions_gets_what_was_buffered(own_kafka: Kafka) -> None:
    topic = Topic(own_kafka, partitions=4)

    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, key="url.path", request_timeout="1s")
        account = Account(metrics, sink)
        await sink.start()
        sink.write(records(100))
        await until(lambda: account.delivered == 100)
        admin = AIOKafkaAdminClient(bootstrap_servers=own_kafka.bootstrap)
        await admin.start()
        await admin.delete_topics([topic.topic])
        written = records(100)
        sink.write(written)
        await until(lambda: sink.status() != OK or account.delivered == 200)

        async def made() -> bool:
            answer = await admin.create_topics([NewTopic(topic.topic, 1, 1)])
            return bool(answer.topic_errors[0][1] == 0)

        while not await made():  # the old one is still being deleted
            await asyncio.sleep(0.05)
        await admin.close()
        await until(lambda: account.delivered == 200)
        assert account.buffered == 0
        await sink.close(5)

    run(test())


def test_compression_without_its_library_is_refused_at_start(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        __import__("mixer.telemetry.kafka", fromlist=["_CODECS"])._CODECS, "zstd", lambda: False
    )
    with pytest.raises(SinkError, match="kafka: compression: zstd needs the package cramjam"):
        run(topic.sink(new_metrics(), compression="zstd").start())
