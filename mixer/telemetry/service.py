"""Report: the streams of Envoy's access loggers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from itertools import chain
from typing import Protocol

from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from mixer.errors import RequestError
from mixer.metrics import Metrics
from mixer.telemetry.decode import Decoder
from mixer.telemetry.entry import EntryReader
from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
from mixer.telemetry.record import AccessRecord, MaskRecord
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.sink import Sink
from mixer.telemetry.slots import Release, over

# Entries made into records without a pause, below 1 ms. Envoy sends some thirty at a time; who sends a message of
# megabytes shall not keep the other streams waiting, nor checks.
MAX_BATCH = 64


class Messages(Protocol):
    """The messages of a stream, in our form of Envoy's type."""

    @property
    def is_ready(self) -> bool:
        """Whether the next one is here already."""
        ...

    def __aiter__(self) -> AsyncIterator[StreamAccessLogsMessage]: ...


class _Held:
    """What of a stream is to be read together: the entries of each of some messages, all of one kind."""

    def __init__(self, reader: EntryReader) -> None:
        self.reader = reader
        self.kind = ""
        self.count = 0  # of entries
        self._messages: list[Sequence[bytes]] = []

    def add(self, kind: str, entries: Sequence[bytes]) -> None:
        self.kind = kind
        self.count += len(entries)
        self._messages.append(entries)

    def take(self) -> list[Sequence[bytes]]:
        found, self._messages, self.count = self._messages, [], 0
        return found


class ReportService:
    """Turns access-log entries into records and gives them to every sink.

    `metadata`: names of filters whose dynamic metadata a record has. `release` is told whose requests are over that
    have slots of concurrency limits. `mask` is what sinks are given records through.
    """

    def __init__(
        self,
        sinks: Sequence[Sink[AccessRecord]],
        metrics: Metrics,
        *,
        redaction: Redaction | None = None,
        metadata: Collection[str] = (),
        release: Release | None = None,
        mask: MaskRecord | None = None,
    ) -> None:
        self._sinks = tuple(sinks)
        self._release = release
        self._mask = mask
        self._decoder = Decoder(redaction, metadata)
        self._streams = metrics.streams
        self._ended = metrics.streams_ended
        self._http_entries = metrics.entries.labels("http")
        self._tcp_entries = metrics.entries.labels("tcp")

    async def stream(self, messages: Messages) -> None:
        """Take in one stream, to its end. Its messages are used up.

        While a sink that blocks has no room, nothing is read. Returns when the other side has closed it and every sink
        has accepted what came: to a caller, the answer says that much. Raises `RequestError` for a stream that does not
        follow the protocol (envoy/service/accesslog/v3/als.proto): who sent its entries is said in the first message
        only, so one without an identifier cannot be used, nor can entries of neither kind. A message is taken in as a
        whole or, where one of its entries is none, not at all.
        """
        how = "error"
        self._streams.inc()
        try:
            await self._take_in(messages)
            how = "closed"
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            self._streams.dec()
            self._ended.labels(how).inc()

    async def _take_in(self, messages: Messages) -> None:
        held: _Held | None = None
        try:
            async for message in messages:
                if held is None:
                    held = _Held(EntryReader(_identifier(message), self._decoder))
                await self._add(message, held)
                if not messages.is_ready:
                    await self._hand_on(held)
        except BaseException as error:
            if held is not None:  # what has been received shall not suffer for what comes next
                with suppress(DecodeError, RequestError):
                    await self._hand_on(held, wait=isinstance(error, Exception))
            raise
        if held is not None:
            await self._hand_on(held)
        for sink in self._sinks:
            await sink.accepted()

    async def _add(self, message: StreamAccessLogsMessage, held: _Held) -> None:
        kind = message.WhichOneof("log_entries")
        if kind is not None:
            entries = getattr(message, kind).log_entry[:]
            try:
                if kind != held.kind or held.count + len(entries) > MAX_BATCH:
                    await self._hand_on(held)
            finally:
                held.add(kind, entries)
        elif not message.HasField("identifier"):
            raise RequestError("a message of an access-log stream has neither http_logs nor tcp_logs")

    async def _hand_on(self, held: _Held, *, wait: bool = True) -> None:
        """What is held, read together: sixty entries at once cost a tenth less than twice thirty."""
        messages = held.take()
        is_http = held.kind == "http_logs"
        read, counter = (
            (held.reader.http, self._http_entries) if is_http else (held.reader.tcp, self._tcp_entries)
        )
        if len(messages) > 1:
            try:
                await self._take(list(chain.from_iterable(messages)), read, counter, wait)
            except (DecodeError, RequestError):  # of one of them
                pass
            else:
                return
        for entries in messages:
            await self._take(entries, read, counter, wait)

    async def _take(
        self,
        entries: Sequence[bytes],
        read: Callable[[Sequence[bytes]], list[AccessRecord]],
        counter: Counter,
        wait: bool,
    ) -> None:
        """Entries to records to sinks, when all have been read. `wait`: for sinks to have room, and for others."""
        waiting: deque[list[AccessRecord]] = deque()
        for start in range(0, len(entries), MAX_BATCH):
            if start and wait:
                await asyncio.sleep(0)
            waiting.append(read(entries[start : start + MAX_BATCH]))
        counter.inc(len(entries))
        try:
            while waiting and wait:
                for sink in self._sinks:
                    await sink.room()
                self._write(waiting.popleft())
                if waiting:
                    await asyncio.sleep(0)
        finally:  # also what waits when the stream is cut off: it has been received
            for records in waiting:
                self._write(records)

    def _write(self, records: list[AccessRecord]) -> None:
        if self._release is not None and (holders := over(records)):
            self._release(holders)
        if self._mask is not None:
            records = [masked for each in records if (masked := self._mask(each)) is not None]
        for sink in self._sinks:
            sink.write(records)


def _identifier(message: StreamAccessLogsMessage) -> als_pb2.StreamAccessLogsMessage.Identifier:
    if not message.HasField("identifier"):
        raise RequestError(
            "the first message of an access-log stream has no identifier: "
            "expected envoy.service.accesslog.v3.StreamAccessLogsMessage as Envoy sends it"
        )
    try:
        return als_pb2.StreamAccessLogsMessage.Identifier.FromString(message.identifier)
    except DecodeError:
        raise RequestError("the identifier of an access-log stream is no valid protobuf message") from None
