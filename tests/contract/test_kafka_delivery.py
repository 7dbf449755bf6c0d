"""Nothing that was accepted is lost on the way to Kafka: buffers on disk, full ones, dead letters, secured brokers."""

import asyncio
import base64
import contextlib
import gc
import itertools
import os
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from mixer.telemetry import producers
from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
from mixer.telemetry.record import AccessRecord
from mixer.telemetry.service import ReportService
from mixer.telemetry.sink import OK, Receipt
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from tests.components.disk import full_disk
from tests.components.processes import Kafka
from tests.contract.destinations import DEADLINE, Account, Topic, ids, run, until
from tests.telemetry.entries import Streamed, http_entry, messages, new_metrics, records, streamed, value


@pytest.fixture
def topic(own_kafka: Kafka) -> Topic:
    return Topic(own_kafka)


@pytest.fixture
def disk(tmp_path: Path) -> dict[str, Any]:
    return {"type": "disk", "path": str(tmp_path / "spool.db")}


# On disk


def test_what_the_broker_did_not_take_is_delivered_by_the_next_process(
    topic: Topic, disk: dict[str, Any]
) -> None:
    written = records(100)

    async def first() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, buffer=disk)
        account = Account(metrics, sink)
        with topic.away():
            await sink.start()
            sink.write(written[:60])
            await sink.accepted()
            sink.write(written[60:])
            await sink.close(0.5)
        assert (account.delivered, account.buffered, account.dropped("shutdown")) == (0, 100, 0)
        assert account.held

    async def second() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, buffer=disk)
        account = Account(metrics, sink)
        await sink.start()
        assert (account.recovered, account.held) == (100, True)
        last = records(1)
        sink.write(last)
        assert await topic.arrived(101) == ids(written + last)
        await until(lambda: account.delivered == 101)
        assert account.held
        await sink.close(5)

    async def third() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, buffer=disk)
        await sink.start()
        assert Account(metrics, sink).recovered == 0
        await sink.close(1)

    run(first())
    run(second())
    run(third())


def test_receipt_is_told_once_records_are_on_disk_and_not_again(topic: Topic, disk: dict[str, Any]) -> None:
    async def test() -> None:
        sink = topic.sink(new_metrics(), buffer=disk)
        written, receipt = records(50), Receipt(50)
        with topic.away():
            await sink.start()
            sink.write(written, receipt)
            assert receipt.open == 50
            await asyncio.wait_for(receipt.settled(), DEADLINE)
        assert await topic.arrived(50) == ids(written)
        await sink.close(5)
        assert (receipt.open, receipt.lost) == (0, {})

    run(test())


def test_receipt_is_told_of_dead_letters(topic: Topic, tmp_path: Path) -> None:
    async def test(**more: Any) -> Receipt:
        sink = topic.sink(new_metrics(), **more)
        await sink.start()
        receipt = Receipt(1)
        sink.write(records(1, lambda _: http_entry(path="/" + "x" * 1_100_000)), receipt)
        await asyncio.wait_for(receipt.settled(), DEADLINE)
        await sink.close(5)
        return receipt

    run(_lost(test(), {"too_large": 1}))
    run(_lost(test(dead_letters={"path": str(tmp_path / "dead.jsonl")}), {}))


async def _lost(receipt: Awaitable[Receipt], expected: dict[str, int]) -> None:
    assert (await receipt).lost == expected


def test_order_within_a_key_holds_from_disk(own_kafka: Kafka, disk: dict[str, Any]) -> None:
    topic = Topic(own_kafka, partitions=3)
    written = records(600, lambda n: http_entry(path=f"/{n % 7}"))

    async def test(given: list[AccessRecord], away: bool) -> None:
        sink = topic.sink(new_metrics(), buffer=disk, key="url.path")
        with topic.away() if away else contextlib.nullcontext():
            await sink.start()
            for start in range(0, len(given), 30):
                sink.write(given[start : start + 30])
                await sink.accepted()
            await sink.close(0.5 if away else 10)

    run(test(written[:300], True))
    run(test(written[300:], False))

    async def read() -> None:
        order = {event: number for number, event in enumerate(ids(written))}
        by_key: dict[bytes, list[int]] = {}
        for message in await topic.messages(600):
            by_key.setdefault(message.key, []).append(order[dict(message.headers)["event_id"].decode()])
        assert sorted(n for numbers in by_key.values() for n in numbers) == list(range(600))
        assert all(numbers == sorted(numbers) for numbers in by_key.values())

    run(read())


def test_corrupt_spool_is_set_aside_and_counted_and_delivery_goes_on(
    topic: Topic, disk: dict[str, Any]
) -> None:
    Path(disk["path"]).write_bytes(os.urandom(20_000))

    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, buffer=disk)
        await sink.start()
        written = records(20)
        sink.write(written)
        assert await topic.arrived(20) == ids(written)
        assert value(metrics, "mixer_sink_spools_set_aside_total", sink="kafka") == 1
        assert Account(metrics, sink).held
        await sink.close(5)

    run(test())
    assert list(Path(disk["path"]).parent.glob("spool.db.corrupt-*"))


def test_full_disk_is_told_and_every_record_still_arrives(topic: Topic, disk: dict[str, Any]) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, buffer=disk)
        account = Account(metrics, sink)
        await sink.start()
        written = records(3000)
        with full_disk():
            with topic.away():
                for start in range(0, 3000, 100):
                    sink.write(written[start : start + 100])
                await until(lambda: "cannot write to" in sink.status())
                assert account.held
            # Delivery makes the room that there is.
            await until(lambda: account.delivered == 3000)
        await until(lambda: sink.status() == OK)
        assert set(await topic.arrived(3000)) == set(ids(written))
        assert account.held
        await sink.close(5)

    run(test())


# Full


def test_full_buffer_that_blocks_lets_streams_wait_and_loses_nothing(topic: Topic) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, max_records=100, buffer={"when_full": "block"})
        account = Account(metrics, sink)
        await sink.start()
        read = 0

        async def counted(items: list[StreamAccessLogsMessage]) -> AsyncIterator[StreamAccessLogsMessage]:
            nonlocal read
            for item in items:
                read += 1
                yield item

        service = ReportService([sink], metrics)
        with topic.away():
            items = messages([http_entry(path=f"/{n}") for n in range(900)])
            stream = asyncio.create_task(service.stream(Streamed(counted(items))))
            await until(lambda: "the buffer is full" in sink.status() or read == 30)
            assert read == 5  # four of thirty entries fill it; the fifth waits
            assert account.buffered == 120
            blocked = "mixer_sink_blocked_seconds_total"
            await until(lambda: value(metrics, blocked, sink="kafka") > 0.5)
            assert (read, account.held) == (5, True)
        await stream
        await until(lambda: account.delivered == 900)
        assert account.held
        arrived = [Schema.FromString(message.value).url_path for message in await topic.messages(900)]
        assert arrived == [f"/{n}" for n in range(900)]
        await sink.close(5)

    run(test())


def test_what_waits_when_its_stream_is_cut_off_is_kept(topic: Topic) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, max_records=30, buffer={"when_full": "block"})
        account = Account(metrics, sink)
        await sink.start()
        with topic.away():
            items = streamed(messages([http_entry()] * 90))
            stream = asyncio.create_task(ReportService([sink], metrics).stream(items))
            await until(lambda: account.buffered == 30)
            stream.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stream
            assert account.buffered == 60
        await until(lambda: account.delivered == 60)
        assert account.held
        await sink.close(5)

    run(test())


def test_full_disk_buffer_drops_the_newest_and_counts(topic: Topic, disk: dict[str, Any]) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, max_records=200, buffer=disk)
        account = Account(metrics, sink)
        await sink.start()
        written = records(300)
        with topic.away():
            for start in range(0, 300, 30):
                sink.write(written[start : start + 30])
            assert (account.buffered, account.dropped("buffer_full"), account.held) == (200, 100, True)
        assert await topic.arrived(200) == ids(written)[:200]
        await sink.close(5)

    run(test())


@pytest.mark.parametrize("on_disk", [False, True])
def test_envoy_that_floods_does_not_take_the_room_of_others(
    topic: Topic, disk: dict[str, Any], on_disk: bool
) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, max_records=1_000, buffer=disk if on_disk else None)
        account = Account(metrics, sink)
        await sink.start()
        flood, small = records(3_000, node="edge-flood"), records(10, node="edge-small")
        with topic.away():
            for number, record in enumerate(small):
                sink.write([record])
                sink.write(flood[300 * number : 300 * (number + 1)])
            assert (account.buffered, account.dropped("buffer_full"), account.held) == (
                907,
                2_103,
                True,
            )  # the last tenth is for the other
        assert set(await topic.arrived(907)) >= set(ids(small))
        await sink.close(5)

    run(test())


# What no broker takes


@pytest.mark.parametrize("on_disk", [False, True])
def test_too_large_records_are_dead_letters_and_block_nothing(
    own_kafka: Kafka, tmp_path: Path, disk: dict[str, Any], on_disk: bool
) -> None:
    topic = Topic(own_kafka, settings={"max.message.bytes": "20000"})
    path = tmp_path / "dead.jsonl"
    sizes = {70: 30_000, 71: 25_000, 72: 1_100_000}

    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(metrics, buffer=disk if on_disk else None, dead_letters={"path": str(path)})
        account = Account(metrics, sink)
        await sink.start()
        written = records(300, lambda n: http_entry(path="/" + "x" * sizes.get(n, 100)))
        sink.write(written)
        expected = [event for number, event in enumerate(ids(written)) if number not in sizes]
        assert await topic.arrived(297) == expected
        await until(lambda: account.dead("too_large") == 3 and account.buffered == 0)
        assert (account.held, sink.status()) == (True, OK)
        await sink.close(5)
        letters = {letter["event_id"]: letter for letter in map(orjson.loads, path.read_bytes().splitlines())}
        assert letters.keys() == {ids(written)[number] for number in sizes}
        for number, size in sizes.items():
            letter = letters[ids(written)[number]]
            assert (letter["reason"], letter["topic"], letter["key"]) == ("too_large", topic.topic, None)
            assert len(Schema.FromString(base64.b64decode(letter["value"])).url_path) == size + 1

    run(test())
    if on_disk:

        async def again() -> None:
            metrics = new_metrics()
            sink = topic.sink(metrics, buffer=disk)
            await sink.start()
            assert Account(metrics, sink).recovered == 0
            await sink.close(1)

        run(again())


def test_record_that_breaks_the_topics_rules_is_a_dead_letter(own_kafka: Kafka, tmp_path: Path) -> None:
    topic = Topic(own_kafka, settings={"cleanup.policy": "compact"})
    path = tmp_path / "dead.jsonl"

    async def test() -> None:
        metrics = new_metrics()
        sink = topic.sink(
            metrics,
            key="http.request.header.x-tenant",
            dead_letters={"path": str(path)},
            request_timeout="5s",
        )
        account = Account(metrics, sink)
        await sink.start()

        def entry(number: int) -> Any:
            made = http_entry(path=f"/{number}")
            if number not in (3, 17):
                made.request.request_headers["x-tenant"] = f"tenant-{number}"
            return made

        written = records(40, entry)
        sink.write(written)
        await until(lambda: account.delivered == 38)
        await until(lambda: account.dead("refused") == 2)
        assert account.held
        arrived = await topic.arrived(38)
        assert arrived == [event for number, event in enumerate(ids(written)) if number not in (3, 17)]
        await sink.close(5)

    run(test())
    assert [orjson.loads(line)["reason"] for line in path.read_bytes().splitlines()] == ["refused"] * 2


# Brokers


def test_broker_that_wants_tls_and_a_password(topic: Topic) -> None:
    broker = topic.broker
    sasl = {"mechanism": "PLAIN", "username": broker.USER, "password": broker.PASSWORD}
    secured = {"bootstrap_servers": [broker.secured], "tls": {"ca": str(broker.authority)}}

    async def test() -> None:
        sink = topic.sink(new_metrics(), sasl=sasl, **secured)
        await sink.start()
        written = records(20)
        sink.write(written)
        assert await topic.arrived(20) == ids(written)
        await sink.close(5)
        for wrong in (
            {**secured, "sasl": {**sasl, "password": "wrong"}},
            {**secured, "sasl": sasl, "tls": {}},
        ):
            sink = topic.sink(new_metrics(), **wrong)
            await sink.start()
            sink.write(records(1))
            await until(lambda sink=sink: sink.status() not in (OK, "no broker reached yet"))
            assert "wrong" not in sink.status()
            await sink.close(0.2)

    run(test())


@pytest.mark.parametrize("replies", [0, 1])
def test_sink_that_is_closed_while_it_connects_leaves_nothing_open(topic: Topic, replies: int) -> None:
    async def test() -> None:
        async with first_replies(topic.broker.port, replies) as (bootstrap, silent):
            sink = topic.sink(new_metrics(), bootstrap_servers=[bootstrap])
            await sink.start()
            await asyncio.wait_for(silent.wait(), DEADLINE)
            await sink.close(5)

    run(test())
    gc.collect()  # what is open would be reported


def test_producer_is_discarded_while_it_is_about_to_send_again(topic: Topic) -> None:
    async def test() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=topic.broker.bootstrap, enable_idempotence=True, request_timeout_ms=500
        )
        await producers.start(producer)
        await producer.send_and_wait(topic.topic, b"there")
        waiting = producer._message_accumulator._batches
        with topic.away():
            lost = await producer.send(topic.topic, b"lost")
            await until(lambda: any(batch.retry_count for batches in waiting.values() for batch in batches))
            await producers.discard(producer)
        with pytest.raises(KafkaError):
            await lost

    run(test())


@contextlib.asynccontextmanager
async def first_replies(port: int, count: int) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A way to the broker that brings so many replies; and whether one more is due."""
    silent = asyncio.Event()
    carrying: set[asyncio.Task[None] | None] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrying.add(asyncio.current_task())
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        for number in itertools.count():
            try:
                size = await reader.readexactly(4)
                request = await reader.readexactly(int.from_bytes(size))
            except (asyncio.IncompleteReadError, ConnectionResetError):
                break
            if number == count:
                silent.set()
                continue
            writing.write(size + request)
            size = await reading.readexactly(4)
            writer.write(size + await reading.readexactly(int.from_bytes(size)))
        for each in (writing, writer):
            each.close()
            await each.wait_closed()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    async with server:
        host, bound = server.sockets[0].getsockname()
        yield f"{host}:{bound}", silent
        await asyncio.wait(carrying, timeout=5)  # until the sink's end of each is closed
