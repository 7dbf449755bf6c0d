"""Exports: what is answered, and when."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from mixer import config
from mixer.errors import CallError, RequestError
from mixer.metrics import Metrics
from mixer.telemetry import otlp_pb2 as otlp
from mixer.telemetry.export import MAX_RECORDS, MAX_WRITE, ExportService
from mixer.telemetry.prometheus import PrometheusSink
from mixer.telemetry.record import AccessRecord
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.sink import Receipt, Sink
from tests.loop import on_loop
from tests.telemetry.entries import new_metrics, value
from tests.telemetry.logs import REQUEST, export, log


class Held:
    """A sink whose test says when, and whether, what it was given is durable."""

    def __init__(self, name: str = "held") -> None:
        self.name = name
        self.given: list[tuple[list[AccessRecord], Receipt]] = []

    async def start(self) -> None:
        """Nothing to open."""

    def write(self, records: Sequence[AccessRecord], receipt: Receipt | None = None) -> None:
        assert receipt is not None
        self.given.append((list(records), receipt))

    def status(self) -> str:
        return "ok"

    async def close(self, timeout: float) -> None:
        """Nothing to close."""

    async def written(self, times: int = 1) -> Receipt:
        """The receipt of what was written last, once that is as many times."""
        async with asyncio.timeout(10):
            while len(self.given) < times:
                await asyncio.sleep(0)
        return self.given[-1][1]


def service(
    *sinks: Sink[AccessRecord], metrics: Metrics | None = None, timeout: float = 10.0
) -> ExportService:
    return ExportService(sinks, metrics or new_metrics(), Redaction(), timeout)


def partial(answer: bytes) -> Any:
    return otlp.ExportLogsServiceResponse.FromString(answer).partial_success


def exported(metrics: Metrics, answer: str) -> float:
    return value(metrics, "mixer_report_exported_total", answer=answer)


@on_loop
async def test_answer_comes_when_every_sink_has_every_record() -> None:
    sinks, metrics = [Held("a"), Held("b")], new_metrics()
    call = asyncio.create_task(service(*sinks, metrics=metrics).export(export([log(REQUEST)] * 3), None))
    first, second = [await sink.written() for sink in sinks]
    first.durable(3)
    second.durable(2)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not call.done()
    assert exported(metrics, "acknowledged") == 0
    second.durable(1)
    assert await call == b""
    assert exported(metrics, "acknowledged") == 3
    assert value(metrics, "mixer_report_entries_total", kind="http") == 3


@pytest.mark.parametrize(("timeout", "left"), [(0.05, None), (10.0, 0.05)])
@on_loop
async def test_what_is_not_durable_in_time_is_not_acknowledged(timeout: float, left: float | None) -> None:
    sink, metrics = Held(), new_metrics()
    with pytest.raises(CallError, match=r"not durable after 0\.\d s: held"):
        await service(sink, metrics=metrics, timeout=timeout).export(export([log(REQUEST)]), left)
    assert exported(metrics, "unacknowledged") == 1
    assert exported(metrics, "acknowledged") == 0


@pytest.mark.parametrize("reason", ["buffer_full", "shutdown"])
@on_loop
async def test_what_a_sink_does_not_take_is_not_acknowledged_and_may_come_again(reason: str) -> None:
    sink = Held()
    exports = service(sink)
    call = asyncio.create_task(exports.export(export([log(REQUEST)]), None))
    (await sink.written()).lose(reason, 1)
    with pytest.raises(CallError, match=rf"not taken: held \({reason}\)"):
        await call
    again = asyncio.create_task(exports.export(export([log(REQUEST)]), None))
    (await sink.written(2)).durable(1)
    assert await again == b""
    first, second = (records[0] for records, _ in sink.given)
    assert first.event_id == second.event_id


@on_loop
async def test_call_made_again_waits_for_what_is_on_its_way_and_is_counted_once() -> None:
    sink, metrics = Held(), new_metrics()
    counts = PrometheusSink(config.Config(), metrics)
    await counts.start()
    exports = service(sink, counts, metrics=metrics, timeout=0.05)
    data = export([log(REQUEST)])
    for _ in range(2):
        with pytest.raises(CallError):
            await exports.export(data, None)
    assert len(sink.given) == 1
    sink.given[0][1].durable(1)
    assert await exports.export(data, None) == b""
    requests = [
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "istio_requests_total"
    ]
    assert requests == [1]


@pytest.mark.parametrize("again", [[0, 1], [1, 0], [0], [0, 1, 1]], ids=str)
@on_loop
async def test_call_is_made_again_where_it_has_the_same_records_in_the_same_order(again: list[int]) -> None:
    sink = Held()
    exports = service(sink)
    logs = [log(REQUEST), log({**REQUEST, "url.path": "/other"})]
    first = asyncio.create_task(exports.export(export(logs), None))
    (await sink.written()).durable(2)
    await first
    second = asyncio.create_task(exports.export(export([logs[place] for place in again]), None))
    if again != [0, 1]:
        (await sink.written(2)).durable(len(again))
    assert await second == b""
    assert len(sink.given) == (1 if again == [0, 1] else 2)


@on_loop
async def test_call_made_again_is_told_again_what_is_malformed() -> None:
    sink = Held()
    exports = service(sink)
    bad = log({"http.response.status_code": "hush"})
    data = export([bad, log(REQUEST)]) + export([log(REQUEST)], of=b"\xff")
    first = asyncio.create_task(exports.export(data, None))
    (await sink.written()).durable(1)
    answer = await first
    assert partial(answer).rejected_log_records == 2
    assert await exports.export(data, None) == answer
    assert len(sink.given) == 1


@pytest.mark.parametrize(
    "data",
    [
        export([log({"http.response.status_code": "hush"})]),
        export([b"\xff"]),
        export([log(REQUEST)], of=b"\xff"),
    ],
    ids=["value", "log record", "resource"],
)
@on_loop
async def test_call_of_malformed_records_alone_is_told_so_each_time(data: bytes) -> None:
    sink = Held()
    exports = service(sink)
    for _ in range(2):
        assert partial(await exports.export(data, None)).rejected_log_records == 1
    assert not sink.given
    sound = asyncio.create_task(exports.export(export([log(REQUEST)]), None))
    (await sink.written()).durable(1)
    assert await sound == b""


@on_loop
async def test_malformed_records_are_rejected_and_the_others_kept() -> None:
    sink, metrics = Held(), new_metrics()
    bad = log({"http.response.status_code": "hush"})
    call = asyncio.create_task(
        service(sink, metrics=metrics).export(export([bad, log(REQUEST), b"\xff", bad]), None)
    )
    (await sink.written()).durable(1)
    told = partial(await call)
    assert told.rejected_log_records == 3
    assert "http.response.status_code" in told.error_message
    assert "hush" not in told.error_message
    assert exported(metrics, "rejected") == 3
    assert exported(metrics, "acknowledged") == 1


@on_loop
async def test_record_that_is_too_large_for_a_sink_is_rejected() -> None:
    sink = Held()
    call = asyncio.create_task(service(sink).export(export([log(REQUEST)] * 2), None))
    receipt = await sink.written()
    receipt.lose("too_large", 1)
    receipt.durable(1)
    told = partial(await call)
    assert (told.rejected_log_records, told.error_message) == (1, "1 too large for a sink")


@on_loop
async def test_resource_that_is_none_rejects_its_records_alone() -> None:
    sink = Held()
    data = export([log(REQUEST)], of=b"\xff") + export([log(REQUEST)])
    call = asyncio.create_task(service(sink).export(data, None))
    (await sink.written()).durable(1)
    assert partial(await call).rejected_log_records == 1


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x02\xff\xff", b"\x08\x01\x0a\x7f"])
@on_loop
async def test_what_is_no_export_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match="expected opentelemetry"):
        await service().export(data, None)


@pytest.mark.parametrize(
    "data", [export([b""] * (MAX_RECORDS + 1)), b"\x0a\x00" * (MAX_RECORDS + 1)], ids=["records", "resources"]
)
@on_loop
async def test_more_than_can_be_looked_at_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match=f"may have {MAX_RECORDS} log records"):
        await service().export(data, None)


@on_loop
async def test_export_of_many_lets_others_run_meanwhile() -> None:
    turns = 0
    call = asyncio.create_task(service().export(export([log(REQUEST)] * 1000), None))
    while not call.done():
        turns += 1
        await asyncio.sleep(0)
    await call
    assert turns >= 10


@on_loop
async def test_small_call_does_not_wait_for_a_large_one() -> None:
    exports = service()
    large = asyncio.create_task(exports.export(export([log(REQUEST)] * 1000), None))
    await asyncio.sleep(0)
    small = [asyncio.create_task(exports.export(export([log(REQUEST)]), None)) for _ in range(3)]
    await asyncio.wait(small)
    assert not large.done()
    await large


@on_loop
async def test_of_calls_that_come_together_each_has_its_own_answer() -> None:
    sink = Held()
    exports = service(sink)
    bad = log({"http.response.status_code": "hush"})
    paths = [f"/{number}" for number in range(40)]
    sound = [export([log({**REQUEST, "url.path": path})] * 3) for path in paths]
    calls = [exports.export(data, None) for data in (*sound, export([log(REQUEST), bad]), b"\xff")]
    answers = asyncio.gather(*calls, return_exceptions=True)
    await sink.written(len(paths) + 1)
    for records, receipt in sink.given:
        receipt.durable(len(records))
    *good, mixed, none = await answers
    assert good == [b""] * len(paths)
    assert partial(mixed).rejected_log_records == 1  # type: ignore[arg-type]
    assert isinstance(none, RequestError)
    given = [[record.get("url_path") for record in records] for records, _ in sink.given]
    assert sorted(map(len, given)) == [1, *[3] * len(paths)]
    assert sorted(each for each in given if len(each) == 3) == sorted([path] * 3 for path in paths)


@on_loop
async def test_caller_that_goes_away_meanwhile_may_come_again() -> None:
    sink = Held()
    exports = service(sink)
    data = export([log(REQUEST)] * (MAX_WRITE + 1))
    call = asyncio.create_task(exports.export(data, None))
    await sink.written()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(sink.given) == 1
    again = asyncio.create_task(exports.export(data, None))
    (await sink.written(3)).durable(MAX_WRITE + 1)
    assert await again == b""
    assert [len(records) for records, _ in sink.given] == [MAX_WRITE, MAX_WRITE, 1]
