"""The way of records to one partition of Kafka: one batch at a time, the next when it is acknowledged."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    BrokerResponseError,
    InvalidTimestampError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    kafka_errors,
)

from mixer.telemetry.outgoing import Chunk, Item, cut

log = structlog.get_logger()

MAX_BATCH = 1_000_000  # bytes; a broker takes 1,048,588 unless told otherwise (message.max.bytes)
# Bytes for which a batch waits for no more. What comes while one is on its way goes into the next.
ENOUGH = 128 * 1024
MAX_RECORDS = 1_000_000  # in a batch: none is as long
SLOW = 5.0  # seconds without an acknowledgement after which a broker counts as away
GIVE_UP = 120.0  # seconds after which the producer is replaced, which asks the bootstrap servers anew


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """A record that breaks the topic's rules, such as one without a key in a compacted topic. aiokafka does not know
    the code."""

    errno = 87
    message = "INVALID_RECORD"


kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)


class RefusedError(Exception):
    """The broker will never take a batch as it is: for its size, or for a record in it (`why`)."""

    def __init__(self, lane: "Lane", records: int, size: int, why: Exception) -> None:
        self.lane = lane
        self.records = records
        self.size = size
        self.too_large = isinstance(why, MessageSizeTooLargeError | RecordListTooLargeError)
        self.why = str(why) or type(why).__name__
        super().__init__(f"a batch of {size} bytes is refused: {self.why}")


_REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidRecordError, InvalidTimestampError)


class BatchLimit:
    """How many bytes a batch may have: as many as it was set up with, or as the broker turns out to take.

    A broker's own limit (message.max.bytes, a topic's max.message.bytes) shows only when it refuses. Halving after a
    refusal, then growing to the middle between what it took and what it refused, finds it to a fifth in a few steps.
    """

    def __init__(self) -> None:
        self.bytes = MAX_BATCH
        self.refused = 2 * MAX_BATCH

    def refuse(self, size: int) -> None:
        self.refused = min(self.refused, size)
        self.bytes = max(1, min(self.bytes, size) // 2)

    def accept(self, size: int) -> None:
        if size * 2 >= self.bytes and self.bytes * 1.25 < self.refused and self.bytes < MAX_BATCH:
            self.bytes = min(MAX_BATCH, (self.bytes + self.refused) // 2)


class Lane:
    """Records on their way to one partition, in order, until they are acknowledged."""

    def __init__(
        self,
        topic: str,
        partition: int,
        *,
        headers: Sequence[tuple[str, bytes]],
        linger: float,
        limit: BatchLimit,
        delivered: Callable[[Sequence[Chunk], int, int], None],
    ) -> None:
        self.partition = partition
        self.queue: deque[Chunk] = deque()
        self.records = self.bytes = 0  # in it
        self.batches = 0  # begun so far
        self.slow_since: float | None = (
            None  # the loop's time at which a batch was sent that is not acknowledged yet
        )
        self._topic = topic
        self._headers = headers
        self._linger = linger
        self._limit = limit
        self._delivered = delivered
        self._most = MAX_RECORDS  # in a batch
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._hurry = self._stopping = False

    def extend(self, chunks: Sequence[Chunk]) -> None:
        self.queue.extend(chunks)
        for chunk in chunks:
            self.records += len(chunk)
            self.bytes += chunk.size
        if not self._some.is_set():
            self._some.set()
        if not (self._enough.is_set() or self._waits):
            self._enough.set()

    @property
    def _waits(self) -> bool:
        """Whether a batch of what is there would be too small not to linger."""
        return self.bytes < min(ENOUGH, self._limit.bytes)

    def flush(self) -> None:
        """From now on, wait for no batch to fill."""
        self._hurry = True
        self._enough.set()

    def stop(self) -> None:
        """Let `run` end after the batch that is on its way."""
        self._stopping = True
        self._some.set()
        self._enough.set()

    def drop_first(self) -> Item:
        """Give up the record at the head, which no broker will take."""
        first = self.queue.popleft()
        if len(first) > 1:
            first, rest = first.split(1)
            self.queue.appendleft(rest)
        self.records -= 1
        self.bytes -= first.size
        return first.item(0)

    def halve(self, records: int) -> None:
        """One of so many records at the head is refused: find it by smaller batches."""
        self._most = max(1, records // 2)

    async def run(self, producer: AIOKafkaProducer) -> None:
        """Deliver, until stopped. Raises `RefusedError`, or whatever aiokafka fails with; the queue then still has
        what was not acknowledged."""
        self._stopping = False
        try:
            while True:
                if not self.queue:
                    self._some.clear()
                    if not self._stopping:
                        await self._some.wait()
                if self._waits and not (self._hurry or self._stopping):
                    self._enough.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._enough.wait(), self._linger)
                if self._stopping:
                    return
                await self._send(producer)
        finally:
            self.slow_since = None

    async def _send(self, producer: AIOKafkaProducer) -> None:
        """One batch, to its acknowledgement."""
        batch = producer.create_batch()
        headers, most, append = self._headers, self._most, batch.append
        chunks = cut(self.queue, self._limit.bytes, most)
        for chunk in chunks:
            for key, value, event_id, timestamp in chunk.messages():
                append(key=key, value=value, timestamp=timestamp, headers=[*headers, ("event_id", event_id)])
        batch.close()
        count, size = sum(map(len, chunks)), sum(chunk.size for chunk in chunks)
        self.batches += 1
        try:
            sent = await producer.send_batch(batch, self._topic, partition=self.partition)
            sent.add_done_callback(_retrieve)
            await self._acknowledged(sent)
        except _REFUSALS as error:
            raise RefusedError(self, count, size, error) from None
        self._limit.accept(size)
        self._most = min(MAX_RECORDS, 2 * most)
        for _ in chunks:
            self.queue.popleft()
        self.records -= count
        self.bytes -= size
        self._delivered(chunks, count, size)

    async def _acknowledged(self, sent: "asyncio.Future[object]") -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        done, _ = await asyncio.wait({sent}, timeout=SLOW)
        if not done:
            self.slow_since = start
            log.warning(
                "kafka_away",
                topic=self._topic,
                partition=self.partition,
                waiting=self.records,
            )
            done, _ = await asyncio.wait({sent}, timeout=GIVE_UP)
            if not done:
                raise KafkaTimeoutError(f"no acknowledgement within {SLOW + GIVE_UP:.0f} s")
        sent.result()
        if self.slow_since is not None:
            self.slow_since = None
            log.info(
                "kafka_back", topic=self._topic, partition=self.partition, after=round(loop.time() - start, 1)
            )


def _retrieve(sent: "asyncio.Future[object]") -> None:
    """Look at a batch's outcome even when nobody waits any more, or asyncio reports it as forgotten."""
    if not sent.cancelled():
        sent.exception()
