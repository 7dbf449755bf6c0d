"""Reports that no Envoy sends, on both fronts: each ends with a clear status, and the next caller is served."""

from collections.abc import AsyncIterator

import pytest
from grpc import StatusCode, aio

from mixer.backends import FRONTS
from mixer.server.front import ClientStream, Unary
from mixer.server.listening import MAX_MESSAGE
from mixer.telemetry.export import MAX_RECORDS, ExportService
from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.service import ReportService
from mixer.telemetry.wire import length
from tests.loop import on_loop
from tests.server.served import eventually, served
from tests.telemetry.entries import http_entry, messages, new_metrics, value
from tests.telemetry.logs import REQUEST, export, log

HUGE = b"\x0a" + b"\xff" * MAX_MESSAGE


def nested(depth: int) -> bytes:
    """A stream's first message with a metadata struct in a struct in a struct, as deep as asked."""
    struct = b""
    for _ in range(depth):
        entry = b"\x0a\x01a" + field(0x12, field(0x2A, struct))  # "a", and a Value with a struct_value
        struct = field(0x0A, entry)
    name = b"envoy.filters.http.ext_authz"
    (message,) = messages([http_entry()])
    metadata = field(0x0A, field(0x0A, name) + field(0x12, struct))
    # A part that comes twice is merged: common_properties.metadata, of tag 17.
    entry = http_entry().SerializeToString() + field(0x0A, b"\x8a\x01" + length(len(metadata)) + metadata)
    message.http_logs.log_entry[:] = [entry]
    return message.SerializeToString()


def deep(depth: int) -> bytes:
    """A log record whose body is a list in a list in a list, as deep as asked."""
    data = b""
    for _ in range(depth):
        data = field(0x2A, field(0x0A, data))  # AnyValue.array_value, ArrayValue.values
    return field(0x2A, data)


def field(tag: int, data: bytes) -> bytes:
    return bytes([tag]) + length(len(data)) + data


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
        assert await sent(nested(5000)) is StatusCode.OK
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
