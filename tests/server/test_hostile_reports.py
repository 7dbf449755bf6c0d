"""Reports that no Envoy sends, on both fronts: each ends with a clear status, and the next caller is served."""

from collections.abc import AsyncIterator

import pytest
from grpc import StatusCode, aio

from mixer.server.front import ClientStream, Unary
from mixer.server.listening import MAX_MESSAGE
from mixer.telemetry.export import MAX_RECORDS, ExportService
from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.service import ReportService
from tests.loop import on_loop
from tests.server.served import FRONTS, eventually, served
from tests.telemetry.entries import http_entry, messages, new_metrics, value
from tests.telemetry.logs import REQUEST, export, log

HUGE = b"\x0a" + b"\xff" * MAX_MESSAGE


def nested(depth: int) -> bytes:
    """A metadata struct in a struct in a struct, as deep as asked."""
    entry = http_entry()
    inner = entry.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"]
    for _ in range(depth):
        inner = inner.fields["a"].struct_value
    return messages([entry])[0].SerializeToString()


async def status(call: aio.Call) -> StatusCode:
    """The code that a call ends with; its text never is empty where it failed."""
    code = await call.code()
    assert code is StatusCode.OK or await call.details()
    return code


@pytest.mark.parametrize("kind", FRONTS)
@on_loop
async def test_hostile_streams_end_with_a_status_and_are_counted(kind: str) -> None:
    metrics = new_metrics()
    method = ClientStream("test.Log", "Stream", StreamAccessLogsMessage, ReportService([], metrics).stream)
    good = messages([http_entry()])[0].SerializeToString()
    async with served(kind, "tcp", method) as running:

        async def sent(*data: bytes) -> StatusCode:
            async def each() -> AsyncIterator[bytes]:
                for message in data:
                    yield message

            return await status(running.channel().stream_unary("/test.Log/Stream")(each()))

        assert await sent(b"\xff") is StatusCode.INVALID_ARGUMENT
        assert await sent(good, b"\x12\x05") is StatusCode.INVALID_ARGUMENT
        assert await sent(good[2:]) is StatusCode.INVALID_ARGUMENT
        assert await sent(HUGE) is StatusCode.RESOURCE_EXHAUSTED
        assert await sent(good, HUGE) is StatusCode.RESOURCE_EXHAUSTED
        assert await sent(nested(95)) in (StatusCode.OK, StatusCode.INVALID_ARGUMENT)
        assert await sent(good) is StatusCode.OK

        def ended(how: str) -> float:
            return value(metrics, "mixer_report_streams_ended_total", how=how)

        await eventually(lambda: ended("error") + ended("cancelled") >= 5)


@pytest.mark.parametrize("kind", FRONTS)
@on_loop
async def test_hostile_exports_end_with_a_status_and_are_counted(kind: str) -> None:
    exports = ExportService([], new_metrics(), Redaction(), 10.0)
    async with served(kind, "tcp", Unary("test.Log", "Export", None, exports.export)) as running:

        async def sent(data: bytes) -> StatusCode:
            return await status(running.channel().unary_unary("/test.Log/Export")(data))

        assert await sent(b"\xff") is StatusCode.INVALID_ARGUMENT
        assert await sent(b"\x0a\x00" * (MAX_RECORDS + 1)) is StatusCode.INVALID_ARGUMENT
        assert await sent(HUGE) is StatusCode.RESOURCE_EXHAUSTED
        assert await sent(export([log(REQUEST), deep(5000), b"\xff"])) is StatusCode.OK
        assert running.calls("Export", "INVALID_ARGUMENT") == 2
        assert running.calls("Export", "OK") == 1


def deep(depth: int) -> bytes:
    """A log record whose body is a list in a list in a list, as deep as asked."""
    data = b""
    for _ in range(depth):
        for tag in (b"\x0a", b"\x2a"):  # ArrayValue.values, AnyValue.array_value
            data = tag + varint(len(data)) + data
    return b"\x2a" + varint(len(data)) + data


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
