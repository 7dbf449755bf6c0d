"""Records to Kafka: acknowledged by all replicas, in order for each key, from a bounded buffer in memory or on disk.

aiokafka's idempotent producer retries in order for as long as it lives, which is what most outages need. But some
errors leave a hole in its sequence (a batch that expires while its partition has no leader, or one that the broker
refuses as too large), and every later batch of that partition then fails. So records stay in our buffer until
they are acknowledged, and on any error the producer is replaced and what was not acknowledged is sent again. That
may deliver a record twice, under its one `event_id`, and never loses one.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, cast

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.codec import has_gzip, has_lz4, has_snappy, has_zstd
from aiokafka.errors import KafkaError

from mixer import config
from mixer.errors import SinkError
from mixer.metrics import Metrics
from mixer.telemetry import producers
from mixer.telemetry.buffer import Account, Reason
from mixer.telemetry.dead_letters import DeadLetters
from mixer.telemetry.lane import MAX_BATCH, BatchLimit, Lane, RefusedError
from mixer.telemetry.outgoing import Chunk, Item
from mixer.telemetry.routing import Routing
from mixer.telemetry.security import security
from mixer.telemetry.shares import Shares
from mixer.telemetry.sink import OK, Kind, Receipt, RecordT
from mixer.telemetry.spool import Spool

log = structlog.get_logger()

OVERHEAD = 300  # bytes that a record takes beside its value: headers, framing, and Python's objects
RECONNECT = (0.2, 5.0)  # seconds between attempts, doubling from the first to the second
METADATA_AGE = 30.0  # seconds after which new partitions are looked for
LOG_INTERVAL = 10.0  # seconds between two log lines on dropped records
FINISH = 1.0  # seconds for batches on their way, when the producer is replaced
MAX_WAITING = 16 * 1024 * 1024  # bytes in memory that wait for the disk
LAST_MOMENT = 1.0  # seconds of the time to close in which connections are given back

_CODECS = {"gzip": has_gzip, "lz4": has_lz4, "snappy": has_snappy, "zstd": has_zstd}


class KafkaSink(Generic[RecordT]):
    """A record a message; see `Sink`.

    Headers of each message: `schema` (such as `mixer.telemetry.v1.AccessRecord`), `content-type`, `event_id`. Its
    timestamp is the time of reception. With `key` set, its value is the message key of a record that has the field.

    With a buffer on disk, records are there before they are sent, and until they are acknowledged (`Spool`).
    """

    def __init__(
        self,
        settings: config.KafkaSink,
        metrics: Metrics,
        kind: Kind[RecordT],
        name: str = "kafka",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._settings = settings
        self._clock = clock
        self._account = Account(name, settings.buffer, metrics)
        self._shares = Shares()
        self._blocks = settings.buffer.when_full == "block"
        self._blocked = 0  # calls that wait for room
        self._blocked_seconds = metrics.sink_blocked_seconds.labels(name)
        self._freed = asyncio.Event()
        self._set_aside = metrics.sink_spools_set_aside.labels(name)
        self._spool: Spool | None = None
        if settings.buffer.path is not None:
            path, most = settings.buffer.path, settings.buffer.max_bytes
            self._spool = Spool(name, path, most, self._next, self._spool_set_aside)
        self._security: dict[str, Any] = {}
        self._number = 0  # of the last record in the spool
        self._dead_letters: DeadLetters | None = None
        self._kind = kind
        self._encoded = kind.formats[settings.format]
        content_type = f"application/{settings.format}".encode()
        self._headers = (("schema", kind.schema.encode()), ("content-type", content_type))
        if settings.dead_letters is not None:
            about = {"topic": settings.topic, "schema": kind.schema, "content_type": content_type.decode()}
            self._dead_letters = DeadLetters(name, settings.dead_letters, about, self._buried)
        self._key: Callable[[RecordT], object] | None = None
        self._max_record = MAX_BATCH
        self._routing = Routing(self._lane)
        self._limit = BatchLimit()
        self._run: asyncio.Task[None] | None = None
        self._closing = False
        self._trouble: str | None = "no broker reached yet"
        self._next_log = 0.0

    async def start(self) -> None:
        settings = self._settings
        if settings.key is not None:
            try:
                self._key = self._kind.accessor(settings.key)
            except KeyError:
                raise SinkError(
                    f"{self.name}: key: expected the name of a record's field, such as {self._kind.example}, "
                    f'got "{settings.key}"'
                ) from None
        if settings.compression != "none" and not _CODECS[settings.compression]():
            raise SinkError(
                f"{self.name}: compression: {settings.compression} needs the package cramjam: pip install cramjam"
            )
        self._security = security(settings)
        if self._dead_letters is not None:
            await self._dead_letters.start()
        if self._spool is not None:
            found = await self._spool.start()
            self._account.recovered(found.records, found.bytes)
            self._number = found.next_seq - 1
            if found.records:
                log.info("records_recovered", sink=self.name, records=found.records)
        # aiokafka logs every attempt, several a second while a broker is away. We log each change once.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        self._run = asyncio.create_task(self._keep_delivering())

    def write(self, records: Sequence[RecordT], receipt: Receipt | None = None) -> None:
        account, blocks = self._account, self._blocks
        account.received(len(records))
        if self._closing:
            account.refused("shutdown", len(records), receipt)
            return
        now = self._clock()
        if not blocks and (room := self._admitted(records, now)) < len(records):
            account.refused("buffer_full", len(records) - room, receipt)
            self._log_dropped("buffer_full")
            records = records[:room]
        if not records:
            return
        chunk = self._chunk(records, int(now * 1000), receipt)
        if max(chunk.sizes) <= self._max_record and account.take(chunk.size, blocks, len(chunk)):
            self._send(chunk)
            return
        sendable = []  # what fits, one by one
        for place, size in enumerate(chunk.sizes):
            if account.full and not blocks:
                account.refused("buffer_full", len(chunk) - place, receipt)
                self._log_dropped("buffer_full")
                break
            if not account.take(size, blocks):
                account.refused("buffer_full", 1, receipt)
                self._log_dropped("buffer_full")
            elif size > self._max_record:
                self._give_up(chunk.item(place), "too_large", "too large for a batch")
            else:
                sendable.append(place)
        if sendable:
            self._send(chunk.take(sendable))

    def _chunk(self, records: Sequence[RecordT], timestamp: int, receipt: Receipt | None) -> Chunk:
        values = self._encoded(records)
        keys = None if self._key is None else self._keys(records)
        sizes = [len(value) + OVERHEAD for value in values]
        if keys is not None:
            sizes = [size + len(key or b"") for size, key in zip(sizes, keys, strict=True)]
        event_ids = [record.event_id for record in records]
        return Chunk(keys, values, event_ids, [timestamp] * len(values), sizes, receipt=receipt)

    def _keys(self, records: Sequence[RecordT]) -> list[bytes | None]:
        parts = map(cast("Callable[[RecordT], object]", self._key), records)
        return [None if part is None else str(part).encode() for part in parts]

    def _send(self, chunk: Chunk) -> None:
        """Send records, or put them into the spool first, where each has a number."""
        if self._spool is None:
            self._routing.route((chunk,))
        else:
            first = self._number + 1
            self._number += len(chunk)
            chunk.numbers = range(first, first + len(chunk))
            self._spool.put(chunk)

    async def room(self) -> None:
        if not (self._blocks and self._is_full()):
            return
        clock = asyncio.get_running_loop().time
        self._blocked += 1
        try:
            while self._is_full() and not self._closing:
                since = clock()
                self._freed.clear()
                try:
                    async with asyncio.timeout(1.0):  # so that the seconds are told while they pass
                        await self._freed.wait()
                except TimeoutError:
                    pass
                finally:
                    self._blocked_seconds.inc(clock() - since)
        finally:
            self._blocked -= 1

    async def accepted(self) -> None:
        if self._spool is not None:
            await self._spool.durable()
            if self._dead_letters is not None:
                await self._dead_letters.settled()

    def status(self) -> str:
        reasons = [] if self._spool is None or self._spool.trouble is None else [self._spool.trouble]
        slow = [lane.slow_since for lane in self._routing.lanes.values() if lane.slow_since is not None]
        if self._trouble is not None:
            reasons.append(self._trouble)
        elif slow:
            reasons.append(f"no acknowledgement for {asyncio.get_running_loop().time() - min(slow):.0f} s")
        if self._blocked:
            reasons.append(f"the buffer is full, and what is received waits ({self._blocked} streams)")
        return "; ".join(reasons) or OK

    async def close(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        account, spool, letters = self._account, self._spool, self._dead_letters
        self._closing = True
        self._freed.set()
        self._routing.flush()
        last_moment = min(LAST_MOMENT, timeout / 2)
        if self._run is not None:
            while account.records and loop.time() < end - last_moment:
                on_disk = spool is not None and not spool.waiting and not (letters and letters.bytes)
                if on_disk and self._trouble is not None:
                    break  # they are safe, and nobody takes them
                await asyncio.sleep(0.02)  # lanes come and go
            self._run.cancel()
            await asyncio.wait({self._run}, timeout=last_moment)
        unwritten = [] if letters is None else await letters.close()
        lost, size = account.records, account.bytes
        if spool is not None:
            await spool.close(last_moment / 2)
            unwritten = [item for item in unwritten if not item.number]  # the others are in the spool
            lost = spool.waiting_records + len(unwritten)
            size = spool.waiting + sum(item.size for item in unwritten)
            if account.records > lost:
                log.info("records_kept", sink=self.name, records=account.records - lost)
        if lost:
            log.warning("records_dropped", sink=self.name, reason="shutdown", records=lost)
            account.lost("shutdown", lost, size)
        for item in unwritten:
            if item.receipt is not None:
                item.receipt.lose("shutdown", 1)
        for chunk in self._routing.waiting() if spool is None else ():
            if chunk.receipt is not None:
                chunk.receipt.lose("shutdown", len(chunk))

    # The buffer

    def _waits_for_disk(self) -> bool:
        """Whether too much in memory is to be written."""
        waiting = self._spool.waiting if self._spool is not None else 0
        return waiting + (self._dead_letters.bytes if self._dead_letters is not None else 0) > MAX_WAITING

    def _is_full(self) -> bool:
        return self._account.full or self._waits_for_disk()

    def _admitted(self, records: Sequence[RecordT], now: float) -> int:
        """How many of the first of them may be taken."""
        account = self._account
        if not records:
            return 0
        admitted = self._shares.admit(
            self._kind.sender(records[0]), len(records),
            now=now, free=account.free, held=account.records, delivered=account.delivered_records,
        )  # fmt: skip
        return 0 if self._is_full() else admitted

    def _next(self, chunks: Sequence[Chunk]) -> None:
        """From the spool."""
        self._routing.route(chunks)
        self._freed.set()

    def _acknowledged(self, chunks: Sequence[Chunk], records: int, size: int) -> None:
        self._account.delivered(records, size)
        if self._spool is not None:
            self._spool.remove([chunk.numbers for chunk in chunks], size)
        else:
            for chunk in chunks:
                if chunk.receipt is not None:
                    chunk.receipt.durable(len(chunk))
        self._freed.set()

    def _give_up(self, item: Item, reason: Reason, error: str) -> None:
        """A record that no broker takes."""
        if self._dead_letters is not None:
            self._dead_letters.put(item, reason, error)
        else:
            self._buried(item, reason, False)
        self._log_dropped(reason, error=error, bytes=item.size, dead_letter=self._dead_letters is not None)

    def _buried(self, item: Item, reason: Reason, written: bool) -> None:
        if written:
            self._account.dead(reason, item.size)
        else:
            self._account.lost(reason, 1, item.size)
        if item.number and self._spool is not None:
            self._spool.remove([(item.number,)], item.size)  # where it was durable
        elif item.receipt is not None:
            if written:
                item.receipt.durable(1)
            else:
                item.receipt.lose(reason, 1)
        self._freed.set()

    def _spool_set_aside(self, lost: int, size: int) -> None:
        self._set_aside.inc()
        self._account.lost("corrupt", lost, size)
        self._freed.set()

    def _lane(self, partition: int) -> Lane:
        return Lane(
            self._settings.topic,
            partition,
            headers=self._headers,
            linger=self._settings.linger,
            limit=self._limit,
            delivered=self._acknowledged,
        )

    # Delivery

    async def _keep_delivering(self) -> None:
        """Connect and deliver, again and again, until cancelled."""
        pause, longest = RECONNECT
        while True:
            producer = self._new_producer()
            before = self._account.delivered_records
            try:
                async with asyncio.timeout(2 * self._settings.request_timeout):
                    await producers.start(producer)
                partitions = sorted(await producer.partitions_for(self._settings.topic))
                self._routing.forget_all_but(partitions)
                self._routing.know(partitions)
                if self._trouble is not None:
                    self._trouble = None
                    log.info(
                        "kafka_connected",
                        sink=self.name,
                        topic=self._settings.topic,
                        partitions=len(partitions),
                    )
                await self._deliver(producer)
            except RefusedError as error:
                self._shrink(error)
                pause = 0.0
            except Exception as error:  # aiokafka fails with KafkaError, OSError, AssertionError, …
                self._failed(error)
                pause = min(longest, max(RECONNECT[0], 2 * pause))
            finally:
                await asyncio.shield(producers.discard(producer))
            if self._account.delivered_records > before:
                pause = min(pause, RECONNECT[0])
            await asyncio.sleep(pause)

    async def _deliver(self, producer: AIOKafkaProducer) -> None:
        """Run all lanes until one fails; then let the others finish the batch they are at."""
        tasks: dict[int, asyncio.Task[None]] = {}
        try:
            while True:
                for number in self._routing.partitions:
                    if number not in tasks:
                        tasks[number] = asyncio.create_task(self._routing.lanes[number].run(producer))
                done, _ = await asyncio.wait(
                    tasks.values(), timeout=METADATA_AGE, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
                partitions = sorted(await producer.partitions_for(self._settings.topic))
                if not set(self._routing.partitions) <= set(partitions):
                    raise KafkaError(f"the topic {self._settings.topic} was made anew")
                self._routing.know(partitions)
        finally:
            for lane in self._routing.lanes.values():
                lane.stop()
            running = {task for task in tasks.values() if not task.done()}
            if running:
                _, late = await asyncio.wait(running, timeout=0 if self._closing else FINISH)
                for task in late:
                    task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    def _new_producer(self) -> AIOKafkaProducer:
        settings = self._settings
        return AIOKafkaProducer(
            bootstrap_servers=list(settings.bootstrap_servers),
            client_id=settings.client_id,
            acks="all",
            enable_idempotence=True,
            compression_type=None if settings.compression == "none" else settings.compression,
            max_batch_size=2 * MAX_BATCH,  # the bound is ours, below it
            linger_ms=0,  # ours too
            request_timeout_ms=int(settings.request_timeout * 1000),
            metadata_max_age_ms=int(METADATA_AGE * 1000),
            **self._security,
        )

    def _failed(self, error: Exception) -> None:
        trouble = str(error) or type(error).__name__
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("kafka_away", sink=self.name, error=trouble, waiting=self._account.records)

    def _shrink(self, error: RefusedError) -> None:
        """Make batches smaller; a single record that is refused is given up, and one as large is not sent any more."""
        if error.too_large:
            self._limit.refuse(error.size)
        if error.records == 1:
            if error.too_large:
                self._max_record = min(self._max_record, error.size - 1)
            self._give_up(error.lane.drop_first(), "too_large" if error.too_large else "refused", error.why)
        elif error.too_large:
            log.warning("kafka_batches_smaller", sink=self.name, refused=error.size, now=self._limit.bytes)
        else:
            error.lane.halve(error.records)

    def _log_dropped(self, reason: str, **more: object) -> None:
        now = time.monotonic()  # a clock that is set back would keep it silent
        if now >= self._next_log:
            self._next_log = now + LOG_INTERVAL
            log.warning(
                "records_dropped", sink=self.name, reason=reason, buffered=self._account.records, **more
            )
