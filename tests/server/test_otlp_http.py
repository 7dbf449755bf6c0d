"""OTLP over HTTP: what is answered, in which form, and that no request does harm."""

import asyncio
import contextlib
import gzip
import io
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.rpc.status_pb2 import Status

from mixer import config
from mixer.errors import CallError, RequestError
from mixer.metrics import Metrics
from mixer.server import otlp_http
from mixer.server.front import Unary
from mixer.server.listening import MAX_MESSAGE
from mixer.server.otlp_http import OtlpHttpFront
from mixer.telemetry import otlp_pb2 as otlp
from tests.loop import on_loop
from tests.server.certificates import Authority
from tests.server.served import eventually
from tests.telemetry.entries import new_metrics, value
from tests.telemetry.logs import REQUEST, export, log

PROTOBUF, JSON = "application/x-protobuf", "application/json"
DATA = export([log(REQUEST)])
PARTIAL = otlp.ExportLogsServiceResponse(
    partial_success={"rejected_log_records": 2, "error_message": "too large"}
)


@dataclass
class Door:
    """A started front, and a client of it."""

    front: OtlpHttpFront
    session: aiohttp.ClientSession
    metrics: Metrics
    scheme: str = "http"
    got: list[bytes] = field(default_factory=list)

    async def post(
        self,
        data: Any = DATA,
        kind: str = PROTOBUF,
        method: str = "POST",
        path: str = "/v1/logs",
        **headers: str,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        sent = {"content-type": kind, **{name.replace("_", "-"): text for name, text in headers.items()}}
        url = f"{self.scheme}://localhost:{self.front.address.rpartition(':')[2]}{path}"
        async with self.session.request(method, url, data=data, headers=sent) as answer:
            return answer.status, await answer.read(), answer.headers

    async def status(self, *args: Any, **more: str) -> tuple[int, str]:
        """HTTP status, and what the answer's google.rpc.Status says."""
        code, body, headers = await self.post(*args, **more)
        assert headers["content-type"] == PROTOBUF
        return code, Status.FromString(body).message

    def calls(self, code: str) -> float:
        return value(self.metrics, "mixer_calls_total", method="ExportHttp", code=code)


Answer = Callable[[bytes, float | None], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def opened(answer: Answer | bytes | Exception = b"", **settings: Any) -> AsyncIterator[Door]:
    metrics = new_metrics()
    got: list[bytes] = []

    async def told(data: bytes, _: float | None) -> bytes:
        got.append(data)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, bytes)
        return answer

    method = Unary("logs", "ExportHttp", None, answer if callable(answer) else told)
    chosen = config.OtlpHttpListener.model_validate({"address": "127.0.0.1:0", **settings})
    front = OtlpHttpFront(chosen, method, metrics)
    await front.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        try:
            yield Door(front, session, metrics, got=got)
        finally:
            await session.close()
            await front.drain(1.0)


@on_loop
async def test_export_is_answered_in_protobuf() -> None:
    async with opened(PARTIAL.SerializeToString()) as door:
        code, body, headers = await door.post()
        assert (code, headers["content-type"]) == (200, PROTOBUF)
        assert otlp.ExportLogsServiceResponse.FromString(body) == PARTIAL
        assert door.got == [DATA]
        assert door.calls("OK") == 1


@on_loop
async def test_export_in_json_is_the_same_and_is_answered_in_json() -> None:
    values: list[tuple[dict[str, Any], Any]] = [
        ({"boolValue": True}, True),
        ({"intValue": "7"}, 7),
        ({"intValue": 7}, 7),
        ({"doubleValue": 0.5}, 0.5),
        ({"string_value": "a"}, "a"),
        ({"kvlistValue": {"values": [{"key": "b", "value": {"stringValue": "c"}}]}}, {"b": "c"}),
    ]
    attributes = [{"key": f"a{number}", "value": given} for number, (given, _) in enumerate(values)]
    trace = "4b" * 16
    record = {"timeUnixNano": "1700000000000000001", "traceId": trace, "attributes": attributes, "flags": 1}
    node = [{"key": "node_name", "value": {"stringValue": "edge-1"}}]
    document = {
        "resourceLogs": [
            {
                "resource": {"attributes": node},
                "scopeLogs": [{"logRecords": [record], "scope": {"name": "x"}}],
            }
        ],
        "aFieldOfTomorrow": 1,
    }
    async with opened(PARTIAL.SerializeToString()) as door:
        code, body, headers = await door.post(json.dumps(document), JSON)
        assert (code, headers["content-type"]) == (200, JSON)
        assert json.loads(body) == {
            "partialSuccess": {"rejectedLogRecords": "2", "errorMessage": "too large"}
        }
        (data,) = door.got
    [resource] = otlp.ExportLogsServiceRequest.FromString(data).resource_logs
    [scope] = otlp.ResourceLogs.FromString(resource).scope_logs
    [found] = otlp.ScopeLogs.FromString(scope).log_records
    made = otlp.LogRecord.FromString(found)
    told = {f"a{number}": value for number, (_, value) in enumerate(values)}
    assert made.attributes == otlp.LogRecord.FromString(log(told)).attributes
    assert (made.trace_id, made.time_unix_nano) == (bytes.fromhex(trace), 1700000000000000001)


@on_loop
async def test_body_may_be_packed() -> None:
    async with opened() as door:
        code, _, _ = await door.post(gzip.compress(DATA), content_encoding="gzip")
        assert (code, door.got) == (200, [DATA])


@on_loop
async def test_what_is_refused_for_good_is_a_bad_request() -> None:
    async with opened(RequestError("no valid protobuf message")) as door:
        assert await door.status() == (400, "no valid protobuf message")
        assert door.calls("INVALID_ARGUMENT") == 1
        code, body, headers = await door.post(b"{}", JSON)
        assert (code, headers["content-type"]) == (400, JSON)
        assert json.loads(body)["message"] == "no valid protobuf message"


@on_loop
async def test_what_may_come_again_is_told_when() -> None:
    async with opened(CallError("not_durable", "not durable after 10 s: kafka")) as door:
        code, body, headers = await door.post()
        assert (code, headers["retry-after"]) == (503, "1")
        assert Status.FromString(body).message == "not durable after 10 s: kafka"


@on_loop
async def test_error_of_ours_is_told_without_its_text() -> None:
    async with opened(ZeroDivisionError("secret")) as door:
        assert await door.status() == (500, "internal error; the log has it")


@on_loop
async def test_other_requests_are_refused_by_name() -> None:
    async with opened() as door:
        assert await door.status(kind="text/plain") == (415, f"content-type: expected {PROTOBUF} or {JSON}")
        assert await door.status(method="PUT") == (405, "expected POST")
        assert (await door.status(content_encoding="br"))[0] == 415
        assert (await door.post(path="/v1/traces"))[0] == 404
        assert door.got == []
        assert door.calls("HTTP_415") == 2


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"null", b'{"resourceLogs": 1}', b'{"resourceLogs": [7]}', b"[" * 100_000,
     b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "hush"}]}]}]}',
     b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "hush"}]}]}]}',
     b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": 7}]}]}]}',
     b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": [{"key": "a", "value": "hush"}]}]}]}]}',
     b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": '
     + b'{"kvlistValue": {"values": [{"key": "a", "value": ' * 100 + b"{}" + b"}]}}" * 100 + b"}]}]}]}"],
)  # fmt: skip
@on_loop
async def test_json_that_is_no_export_is_a_bad_request_and_not_shown(data: bytes) -> None:
    async with opened() as door:
        code, body, _ = await door.post(data, JSON)
        assert code == 400
        assert "expected opentelemetry" in json.loads(body)["message"]
        assert b"hush" not in body
        assert door.got == []


@pytest.mark.parametrize("packed", [b"no gzip", gzip.compress(DATA)[:-9], gzip.compress(DATA) + b"x"])
@on_loop
async def test_broken_gzip_is_a_bad_request(packed: bytes) -> None:
    async with opened() as door:
        assert (await door.status(packed, content_encoding="gzip"))[0] == 400


@on_loop
async def test_more_than_a_message_may_have_is_refused_packed_or_not() -> None:
    async with opened() as door:

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 100_000

        for data, headers in (
            (io.BytesIO(b"x" * (MAX_MESSAGE + 1)), {}),
            (endless(), {}),
            (gzip.compress(b"x" * (MAX_MESSAGE + 1)), {"content_encoding": "gzip"}),
        ):
            with contextlib.suppress(aiohttp.ClientOSError):  # it may be told while the client still sends
                assert (await door.post(data, **headers))[0] == 413
        assert door.calls("HTTP_413") == 3
        assert door.got == []
        assert (await door.post())[0] == 200


@on_loop
async def test_slow_requests_and_silent_connections_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_http, "SLOW", 0.2)
    async with opened() as door:
        host, _, port = door.front.address.rpartition(":")
        for begun, told in ((b"", b""), (b"POST /v1/logs HTTP/1.1\r\nx: ", b"")):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(begun)
            assert await asyncio.wait_for(reader.read(), 10) == told
            writer.close()
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /v1/logs HTTP/1.1\r\nhost: a\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 10\r\n\r\nabc"
        )
        writer.write(head.encode())
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 408")
        writer.close()
        assert (await door.post())[0] == 200


@on_loop
async def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_http, "MAX_HELD", 2 * len(DATA))
    go, waiting = asyncio.Event(), 0

    async def wait(_: bytes, __: float | None) -> bytes:
        nonlocal waiting
        waiting += 1
        await go.wait()
        return b""

    async with opened(wait) as door:
        first = [asyncio.create_task(door.post()) for _ in range(2)]
        await eventually(lambda: waiting == 2)
        code, _, headers = await door.post()
        assert (code, headers["retry-after"]) == (503, "1")
        go.set()
        assert [(await task)[0] for task in first] == [200, 200]
        assert (await door.post())[0] == 200


@on_loop
async def test_call_in_flight_is_answered_by_a_front_that_drains() -> None:
    go = asyncio.Event()

    async def wait(_: bytes, __: float | None) -> bytes:
        await go.wait()
        return b""

    async with opened(wait) as door:
        call = asyncio.create_task(door.post())
        await eventually(lambda: value(door.metrics, "mixer_calls_in_flight", method="ExportHttp") == 1)
        drain = asyncio.create_task(door.front.drain(10))
        go.set()
        assert (await call)[0] == 200
        await drain
        with pytest.raises(aiohttp.ClientError):
            await door.post()


@on_loop
async def test_listener_may_want_certificates(tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue("localhost")
    for name, pem in (("ca", authority.cert), ("cert", pair.cert), ("key", pair.key)):
        (tmp_path / name).write_bytes(pem)
    tls = {"cert": tmp_path / "cert", "key": tmp_path / "key", "client_ca": tmp_path / "ca"}
    async with opened(tls=tls) as door:
        door.scheme = "https"
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca"))
        url = f"https://localhost:{door.front.address.rpartition(':')[2]}/v1/logs"
        with pytest.raises(aiohttp.ClientError):
            async with door.session.post(url, ssl=trusted, data=DATA):
                pass
        trusted.load_cert_chain(tmp_path / "cert", tmp_path / "key")
        async with door.session.post(
            url, ssl=trusted, data=DATA, headers={"content-type": PROTOBUF}
        ) as answer:
            assert answer.status == 200
