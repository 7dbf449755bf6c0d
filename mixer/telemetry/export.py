"""Reports that are acknowledged: OpenTelemetry's logs service, to which Envoy's OpenTelemetry access logger exports.

https://opentelemetry.io/docs/specs/otlp/: OK means that the records are durable; UNAVAILABLE that the same call may be
made again; INVALID_ARGUMENT that it is in vain. Records that are refused each for itself are told in an OK
(`partial_success`), since nothing would be better another time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import structlog
from google.protobuf.message import DecodeError

from mixer.errors import CallError, RequestError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.telemetry import otlp_pb2 as otlp
from mixer.telemetry.attributes import MalformedError
from mixer.telemetry.gathering import Gathering
from mixer.telemetry.logbatch import Log
from mixer.telemetry.logrecord import LogReader, event_id
from mixer.telemetry.record import TCP, AccessRecord, MaskRecord
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.sink import Receipt, Sink
from mixer.telemetry.slots import Release, over

log = structlog.get_logger()

MAX_RECORDS = 50_000  # of one call
MAX_BATCH = 64  # log records made into records without a pause, of all calls together, about 0.8 ms
MAX_SINGLE = 4  # likewise, of those that are read each by itself
MAX_WRITE = 250  # records given to a sink without a pause
MAX_KNOWN = 4096  # calls that are recognised when they are made again
MARGIN = 0.1  # of the caller's deadline, left for the answer to reach it
_TOO_LARGE = "too_large"  # what a sink never takes


@dataclass(slots=True)
class _Delivery:
    """What became of a call's records so far, by the sink's name."""

    receipts: dict[str, Receipt] = field(default_factory=dict)


class ExportService:
    """Turns log records into records, gives them to every sink, and answers when all of them are durable.

    A call that is made again, as its records' ids tell, waits for what is on its way and gives no sink again what it
    has taken: a retry is not counted twice. `timeout`: seconds that a call waits; a shorter deadline of its own wins.
    `release` is told whose requests are over that have slots of concurrency limits, whatever becomes of the records.
    `mask` is what sinks are given records through.
    """

    def __init__(
        self,
        sinks: Sequence[Sink[AccessRecord]],
        metrics: Metrics,
        redaction: Redaction,
        timeout: float,
        *,
        release: Release | None = None,
        mask: MaskRecord | None = None,
    ) -> None:
        self._sinks = tuple(sinks)
        self._release = release
        self._mask = mask
        self._reader = LogReader(redaction)
        self._gathering = Gathering(self._reader.records, MAX_BATCH)
        self._timeout = timeout
        self._throttle = Throttle()
        self._known: OrderedDict[bytes, _Delivery] = OrderedDict()
        self._http_entries = metrics.entries.labels("http")
        self._tcp_entries = metrics.entries.labels("tcp")
        self._acknowledged = metrics.exported.labels("acknowledged")
        self._rejected = metrics.exported.labels("rejected")
        self._unacknowledged = metrics.exported.labels("unacknowledged")

    async def export(self, data: bytes, left: float | None) -> bytes:
        """One call. Raises `RequestError` for what is no such request, and `CallError` where records are not durable
        in time."""
        wait = self._timeout if left is None else min(self._timeout, left * (1 - MARGIN))
        deadline = asyncio.get_running_loop().time() + wait
        logs = _logs(data)
        records, ids, problems = await self._records(logs)
        if self._release is not None and (holders := over(records)):
            self._release(holders)
        if self._mask is not None:
            records = await self._masked(self._mask, records, problems)
        taken, rejected = len(records), len(logs) - len(records)
        delivery = self._delivery(ids)
        for sink in self._sinks:
            receipt = delivery.receipts.get(sink.name)
            if receipt is None or _failed(receipt):
                receipt = delivery.receipts[sink.name] = Receipt(taken)
                await _write(sink, records, receipt)
        del logs, records, ids  # while it waits, what the sinks hold is enough, and is bounded
        receipts = dict(delivery.receipts)
        try:
            async with asyncio.timeout_at(deadline):
                for receipt in receipts.values():
                    await receipt.settled()
        except TimeoutError:
            self._unacknowledged.inc(taken)
            names = ", ".join(name for name, receipt in receipts.items() if receipt.open)
            raise CallError("not_durable", f"not durable after {wait:.1f} s: {names}") from None
        if failed := {name: reason for name, receipt in receipts.items() if (reason := _failed(receipt))}:
            self._unacknowledged.inc(taken)
            told = ", ".join(f"{name} ({reason})" for name, reason in failed.items())
            raise CallError("not_taken", f"not taken: {told}")
        too_large = max((receipt.lost[_TOO_LARGE] for receipt in receipts.values()), default=0)
        if too_large:
            problems.append(f"{too_large} too large for a sink")
        self._acknowledged.inc(taken - too_large)
        return self._answer(rejected + too_large, problems)

    async def _records(
        self, logs: Sequence[tuple[bytes, bytes]]
    ) -> tuple[list[AccessRecord], list[bytes], list[str]]:
        """The records; the ids of all log records whose resource is sound; and what was wrong with others, each thing
        once."""
        records: list[AccessRecord] = []
        ids: list[bytes] = []
        problems: dict[str, None] = {}
        seen: dict[bytes, int] = {}
        http = tcp = single = 0
        for start in range(0, len(logs), MAX_BATCH):
            batch = self._identified(logs[start : start + MAX_BATCH], seen, problems)
            ids += [each[2] for each in batch]
            for log_record, made in zip(batch, await self._gathering.records(batch), strict=True):
                record = made
                if record is None:
                    single += 1
                    if not single % MAX_SINGLE:
                        await asyncio.sleep(0)
                    try:
                        record = self._reader.record(*log_record)
                    except MalformedError as error:
                        _note(problems, error)
                        continue
                records.append(record)
                if record.shape is TCP:
                    tcp += 1
                else:
                    http += 1
        self._http_entries.inc(http)
        self._tcp_entries.inc(tcp)
        return records, ids, list(problems)

    def _identified(
        self, logs: Sequence[tuple[bytes, bytes]], seen: dict[bytes, int], problems: dict[str, None]
    ) -> list[Log]:
        """With who logged them, and their ids."""
        found: list[Log] = []
        for resource, data in logs:
            try:
                identity = self._reader.identity(resource)
            except MalformedError as error:
                _note(problems, error)
            else:
                found.append((data, identity, event_id(resource, data, seen)))
        return found

    async def _masked(
        self, mask: MaskRecord, records: Sequence[AccessRecord], problems: list[str]
    ) -> list[AccessRecord]:
        kept: list[AccessRecord] = []
        for number, record in enumerate(records):
            if number and not number % MAX_SINGLE:
                await asyncio.sleep(0)
            if (masked := mask(record)) is not None:
                kept.append(masked)
        if len(kept) < len(records):
            problems.append("the mask failed")
        return kept

    def _delivery(self, ids: Sequence[bytes]) -> _Delivery:
        """Of the call that has these records, in this order. Their ids are hashes of all that they are: the rest of a
        call's bytes says nothing. The same ids mean the same records, malformed ones too."""
        name = sha256(b",".join(ids)).digest()
        if (known := self._known.get(name)) is not None:
            self._known.move_to_end(name)
            return known
        if len(self._known) >= MAX_KNOWN:
            self._known.popitem(last=False)
        made = self._known[name] = _Delivery()
        return made

    def _answer(self, rejected: int, problems: Sequence[str]) -> bytes:
        answer = otlp.ExportLogsServiceResponse()
        if rejected:
            self._rejected.inc(rejected)
            answer.partial_success.rejected_log_records = rejected
            answer.partial_success.error_message = "; ".join(problems)
            if (held := self._throttle("rejected")) is not None:
                log.warning("log_records_rejected", records=rejected, problems=list(problems), held_back=held)
        return answer.SerializeToString()


def _note(problems: dict[str, None], error: MalformedError) -> None:
    if len(problems) < 3:
        problems[str(error)] = None


async def _write(sink: Sink[AccessRecord], records: Sequence[AccessRecord], receipt: Receipt) -> None:
    """Some at a time: a sink encodes what it is given at once. Where the caller goes away meanwhile, the rest is lost,
    and a call made again writes it."""
    left = len(records)
    try:
        for start in range(0, len(records), MAX_WRITE):
            if start:
                await asyncio.sleep(0)
            batch = records[start : start + MAX_WRITE]
            sink.write(batch, receipt)
            left -= len(batch)
    finally:
        receipt.lose("interrupted", left)


def _failed(receipt: Receipt) -> str:
    """Why records may be had another time; empty where there are none."""
    return ", ".join(reason for reason in receipt.lost if reason != _TOO_LARGE)


def _logs(data: bytes) -> list[tuple[bytes, bytes]]:
    """Log records, each with its resource. Raises `RequestError`."""
    found: list[tuple[bytes, bytes]] = []
    parts = 0
    try:
        resources = otlp.ExportLogsServiceRequest.FromString(data).resource_logs
        parts += len(resources)
        _bound(parts)
        for each in resources:
            logs = otlp.ResourceLogs.FromString(each)
            parts += len(logs.scope_logs)
            _bound(parts)
            for scope in logs.scope_logs:
                records = otlp.ScopeLogs.FromString(scope).log_records
                _bound(len(found) + len(records))
                found += [(logs.resource, record) for record in records]
    except DecodeError:
        raise RequestError(
            "no valid protobuf message: expected "
            "opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest"
        ) from None
    return found


def _bound(count: int) -> None:
    if count > MAX_RECORDS:
        raise RequestError(f"an Export may have {MAX_RECORDS} log records, resources and scopes at most")
