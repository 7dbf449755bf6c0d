"""Streams of entries, and streams that are not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import chain
from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from mixer.errors import RequestError
from mixer.metrics import Metrics
from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
from mixer.telemetry.record import AccessRecord
from mixer.telemetry.service import MAX_BATCH, ReportService
from tests.telemetry.entries import Streamed, http_entry, messages, new_metrics, streamed, tcp_entry, value


class Kept:
    """A sink that keeps what it is given."""

    name = "kept"

    def __init__(self) -> None:
        self.batches: list[list[AccessRecord]] = []

    async def start(self) -> None:
        """Nothing to open."""

    def write(self, records: Sequence[AccessRecord]) -> None:
        self.batches.append(list(records))

    async def room(self) -> None:
        """It never blocks."""

    async def accepted(self) -> None:
        """Memory is all there is."""

    def status(self) -> str:
        return "ok"

    async def close(self, timeout: float) -> None:
        """Nothing to close."""


class Full(Kept):
    """A sink that has no room."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def room(self) -> None:
        self.asked.set()
        await asyncio.Event().wait()


def report(items: Any) -> tuple[Kept, Metrics]:
    """Let a service take in a stream."""
    sink, metrics = Kept(), new_metrics()
    asyncio.run(ReportService([sink], metrics).stream(streamed(items)))
    return sink, metrics


def test_every_sink_gets_every_message_as_one_batch() -> None:
    sinks, metrics = [Kept(), Kept()], new_metrics()
    entries = [http_entry(path=f"/{n}") for n in range(70)]
    asyncio.run(ReportService(sinks, metrics).stream(streamed(messages(entries))))
    for sink in sinks:
        assert [len(batch) for batch in sink.batches] == [30, 30, 10]
        paths = [record.get("url_path") for batch in sink.batches for record in batch]
        assert paths == [f"/{n}" for n in range(70)]


def test_identifier_of_the_first_message_holds_for_all() -> None:
    sink, _ = report(messages([http_entry() for _ in range(70)]))
    assert {r.origin.fields["envoy_node_id"] for batch in sink.batches for r in batch} == {"edge-1"}


def test_entries_are_counted_by_kind() -> None:
    _, metrics = report(messages([http_entry()] * 5))
    assert value(metrics, "mixer_report_entries_total", kind="http") == 5
    _, metrics = report(messages([tcp_entry()] * 3))
    assert value(metrics, "mixer_report_entries_total", kind="tcp") == 3


def test_message_of_many_entries_lets_others_run_meanwhile() -> None:
    async def test() -> None:
        sink, turns = Kept(), 0
        entries = messages([http_entry()] * (3 * MAX_BATCH + 1), size=10_000)
        task = asyncio.create_task(ReportService([sink], new_metrics()).stream(streamed(entries)))
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        await task
        assert [len(batch) for batch in sink.batches] == [MAX_BATCH, MAX_BATCH, MAX_BATCH, 1]
        assert turns >= 3

    asyncio.run(test())


def test_message_with_an_entry_that_is_none_is_not_taken_in_at_all() -> None:
    (message,) = messages([http_entry()] * (2 * MAX_BATCH), size=10_000)
    message.http_logs.log_entry.append(b"\xff")
    sink, metrics = Kept(), new_metrics()
    with pytest.raises(DecodeError):
        asyncio.run(ReportService([sink], metrics).stream(streamed([*messages([http_entry()]), message])))
    assert [len(batch) for batch in sink.batches] == [1]
    assert value(metrics, "mixer_report_entries_total", kind="http") == 1


def test_message_is_taken_in_whole_where_its_stream_is_cut_off() -> None:
    async def test() -> None:
        sink, metrics = Full(), new_metrics()
        items = messages([http_entry()] * (2 * MAX_BATCH + 1), size=10_000)
        task = asyncio.create_task(ReportService([sink], metrics).stream(streamed(items)))
        await sink.asked.wait()
        assert sink.batches == []
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [len(batch) for batch in sink.batches] == [MAX_BATCH, MAX_BATCH, 1]
        assert value(metrics, "mixer_report_entries_total", kind="http") == 2 * MAX_BATCH + 1

    asyncio.run(test())


def together(items: Any, sink: Kept) -> Metrics:
    """Let a service take in a stream of which all is here from the beginning."""
    metrics = new_metrics()
    asyncio.run(ReportService([sink], metrics).stream(streamed(items, together=True)))
    return metrics


def paths(sink: Kept) -> list[list[str]]:
    return [[record.get("url_path") for record in batch] for batch in sink.batches]


def test_messages_that_are_here_are_read_together() -> None:
    sink = Kept()
    metrics = together(messages([http_entry(path=f"/{n}") for n in range(5 * MAX_BATCH)], size=20), sink)
    sizes = [len(batch) for batch in sink.batches]
    assert sizes == [60] * 5 + [20]
    assert list(chain.from_iterable(paths(sink))) == [f"/{n}" for n in range(5 * MAX_BATCH)]
    assert value(metrics, "mixer_report_entries_total", kind="http") == 5 * MAX_BATCH


def test_messages_of_two_kinds_stay_in_order() -> None:
    sink = Kept()
    metrics = together(
        [
            *messages([http_entry(path="/a")] * 2, size=1),
            *messages([tcp_entry()] * 2, size=1),
            *messages([http_entry(path="/b")]),
        ],
        sink,
    )
    assert paths(sink) == [["/a", "/a"], [None, None], ["/b"]]
    assert value(metrics, "mixer_report_entries_total", kind="tcp") == 2


def test_message_that_is_none_takes_no_other_with_it() -> None:
    """Whether it is no message, or has an entry that is none."""
    items = messages([http_entry(path=f"/{n}") for n in range(5)], size=1)
    data = [item.SerializeToString() for item in items]
    data[3] = b"\x12\x05"
    items[3].http_logs.log_entry.append(b"\xff")
    for spoilt in (items, map(StreamAccessLogsMessage.FromString, data)):
        sink = Kept()
        with pytest.raises(DecodeError):
            together(spoilt, sink)
        assert list(chain.from_iterable(paths(sink))) == ["/0", "/1", "/2"]
    sink = Kept()
    with pytest.raises(RequestError, match="neither"):
        together(
            [*messages([http_entry(path=f"/{n}") for n in range(2)], size=1), StreamAccessLogsMessage()], sink
        )
    assert list(chain.from_iterable(paths(sink))) == ["/0", "/1"]


def test_what_came_before_a_stream_was_cut_off_is_taken_in() -> None:
    """Also what has not been read while a sink had no room."""

    async def test() -> None:
        sink = Full()
        items = messages([http_entry(path=f"/{n}") for n in range(2 * MAX_BATCH)], size=MAX_BATCH)
        stream = ReportService([sink], new_metrics()).stream(streamed(items, together=True))
        task = asyncio.create_task(stream)
        await sink.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(chain.from_iterable(paths(sink))) == [f"/{n}" for n in range(2 * MAX_BATCH)]

    asyncio.run(test())


def test_stream_without_identifier_is_refused() -> None:
    with pytest.raises(RequestError, match="the first message of an access-log stream has no identifier"):
        report(messages([http_entry()] * 60)[1:])


def test_identifier_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match="no valid protobuf"):
        report([StreamAccessLogsMessage(identifier=b"\xff")])


def test_entries_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(RequestError, match="neither http_logs nor tcp_logs"):
        report([*messages([http_entry()]), StreamAccessLogsMessage()])


def test_identifier_may_come_alone() -> None:
    sink, _ = report(messages([]))
    assert sink.batches == []


def test_stream_without_messages_is_none() -> None:
    sink, metrics = report([])
    assert sink.batches == []
    assert value(metrics, "mixer_report_streams_ended_total", how="closed") == 1


@pytest.mark.parametrize(
    ("items", "how"), [(messages([http_entry()]), "closed"), (messages([http_entry()] * 40)[1:], "error")]
)
def test_end_of_a_stream_is_counted_by_how(items: list[StreamAccessLogsMessage], how: str) -> None:
    metrics = new_metrics()
    service = ReportService([], metrics)
    try:
        asyncio.run(service.stream(streamed(items)))
    except RequestError:
        assert how == "error"
    assert value(metrics, "mixer_report_streams_ended_total", how=how) == 1
    assert value(metrics, "mixer_report_streams") == 0


def test_stream_that_is_cut_off_is_counted_and_what_came_is_kept() -> None:
    async def test() -> None:
        sink, metrics = Kept(), new_metrics()

        async def endless() -> AsyncIterator[StreamAccessLogsMessage]:
            for message in messages([http_entry()]):
                yield message
            await asyncio.Event().wait()

        task = asyncio.create_task(ReportService([sink], metrics).stream(Streamed(endless())))
        while not sink.batches:
            await asyncio.sleep(0)
        assert value(metrics, "mixer_report_streams") == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert value(metrics, "mixer_report_streams_ended_total", how="cancelled") == 1
        assert value(metrics, "mixer_report_streams") == 0

    asyncio.run(test())


def test_messages_are_envoys_on_the_wire() -> None:
    envoys = als_pb2.StreamAccessLogsMessage()
    envoys.identifier.log_name = "edge"
    envoys.http_logs.log_entry.add().request.path = "/x"
    sink, _ = report([StreamAccessLogsMessage.FromString(envoys.SerializeToString())])
    assert sink.batches[0][0].get("url_path") == "/x"


CHECK, NETWORK_CHECK = "envoy.filters.http.ext_authz", "envoy.filters.network.ext_authz"
QUOTA = "envoy.filters.http.ratelimit"
ONE, OTHER = "6f1b8f0e-7c57-4a7e-9f3a-2f0b1c8d9e01", "6f1b8f0e-7c57-4a7e-9f3a-2f0b1c8d9e02"


def decided(decision_id: str, **mixer: object) -> dict[str, object]:
    return {"decision_id": decision_id, "reason": "ok", "mixer": {"policy": "p", **mixer}}


def released(*entries: Any) -> list[str]:
    """Whose slots are given back."""
    found: list[str] = []
    service = ReportService([Kept()], new_metrics(), release=found.extend)
    asyncio.run(service.stream(streamed(messages(list(entries)))))
    return found


def logged(namespace: str, metadata: dict[str, object], kind: str = "DownstreamEnd") -> Any:
    return http_entry(kind=kind, metadata={"filterMetadata": {namespace: metadata}})


def test_end_of_a_request_gives_back_the_slots_of_its_decision() -> None:
    holding = [logged(CHECK, decided(each, holds=True)) for each in (ONE, OTHER, ONE)]
    assert released(*holding) == [ONE, OTHER, ONE]
    assert released(logged(CHECK, decided(ONE)), http_entry()) == []


def test_end_of_a_request_gives_back_the_slots_that_quota_took() -> None:
    metadata = {"mixer": {"limit": "busy", "code": "OK", "holders": ["a", "b"]}}
    assert released(logged(QUOTA, metadata), logged(QUOTA, metadata)) == ["a", "b", "a", "b"]
    assert released(logged(QUOTA, {"mixer": {"limit": "busy", "code": "OK"}})) == []
    assert released(logged("somebody.else", metadata)) == []


@pytest.mark.parametrize(
    "kind",
    ["DownstreamStart", "DownstreamPeriodic", "UpstreamEnd", "DownstreamTunnelSuccessfullyEstablished"],
)
def test_request_that_lasts_keeps_its_slots(kind: str) -> None:
    assert released(logged(CHECK, decided(ONE, holds=True), kind)) == []


def test_end_of_a_connection_gives_back_its_slots() -> None:
    def connection(kind: str) -> Any:
        entry = tcp_entry()
        entry.common_properties.access_log_type = AccessLogType.Value(kind)
        entry.common_properties.metadata.filter_metadata[NETWORK_CHECK].update(decided(ONE, holds=True))
        return entry

    found: list[str] = []
    service = ReportService([Kept()], new_metrics(), release=found.extend)
    kinds = ("TcpUpstreamConnected", "TcpPeriodic", "TcpConnectionEnd")
    entries = [connection(kind) for kind in kinds]
    asyncio.run(service.stream(streamed(messages(entries))))
    assert found == [ONE]


def test_record_names_the_limit_that_check_counted() -> None:
    entry = logged(CHECK, decided(ONE, limit="per-user", code="OVER_LIMIT"))
    sink, _ = report(messages([entry]))
    ((record,),) = sink.batches
    assert (record.get("mixer_limit"), record.get("mixer_limit_code")) == ("per-user", "OVER_LIMIT")
