"""One question of each kind to a Mixer: what is answered, and after how long."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.ratelimit.v3 import rls_pb2 as rls

from tests.components.processes import Mixer
from tests.telemetry.entries import http_entry, identifier
from tests.telemetry.logs import REQUEST, export, log

CHECK = "/envoy.service.auth.v3.Authorization/Check"
QUOTA = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
REPORT = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
PATIENCE = 20.0  # seconds until a call counts as one that hangs
STREAM = 1.5  # seconds for the end of an access-log stream, which Envoy does not wait for
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Answers:
    """gRPC codes; of a Check that is denied and a Quota over its limit, that; of a Report, `waits` where its stream is
    not ended. `slowest`: seconds."""

    check: str
    quota: str
    report: str
    export: str
    slowest: float


class Asker:
    def __init__(self, mixer: Mixer) -> None:
        self._mixer = mixer
        self._channels = [grpc.insecure_channel(address) for address in (mixer.check, mixer.report)]
        check, report = self._channels
        self._check = check.unary_unary(
            CHECK, auth.CheckRequest.SerializeToString, auth.CheckResponse.FromString
        )
        self._quota = check.unary_unary(
            QUOTA, rls.RateLimitRequest.SerializeToString, rls.RateLimitResponse.FromString
        )
        self._report = report.stream_unary(REPORT, als_pb2.StreamAccessLogsMessage.SerializeToString)
        self._export = report.unary_unary(EXPORT)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def all(self) -> Answers:
        """Asked at the same time, each about something that was not asked about before."""
        number = next(_numbers)
        start = time.monotonic()
        calls = [
            self._check.future(checked(f"/{number}"), timeout=PATIENCE),
            self._quota.future(counted("caller", f"{number}"), timeout=PATIENCE),
            self._report.future(iter((reported(f"/{number}"),)), timeout=STREAM),
            self._export.future(exported(f"/{number}"), timeout=PATIENCE),
        ]
        check, quota, report, export = map(_said, calls)
        report = "waits" if report == "DEADLINE_EXCEEDED" else report
        return Answers(check, quota, report, export, time.monotonic() - start)

    def check(self, path: str, token: str = "") -> str:
        return _said(self._check.future(checked(path, token), timeout=PATIENCE))

    def quota(self, key: str, value: str = "") -> str:
        return _said(self._quota.future(counted(key, value), timeout=PATIENCE))

    def ready(self) -> tuple[int, str]:
        """Status and lines of `/readyz`."""
        status, text = self._mixer.call("/readyz")
        return status, str(text)


@contextlib.contextmanager
def asker(mixer: Mixer) -> Iterator[Asker]:
    made = Asker(mixer)
    try:
        yield made
    finally:
        made.close()


def checked(path: str, token: str = "") -> auth.CheckRequest:
    request = auth.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host = "GET", path, "shop.example"
    if token:
        http.headers["x-token"] = token
    return request


def counted(key: str, value: str = "") -> rls.RateLimitRequest:
    request = rls.RateLimitRequest(domain="faults")
    request.descriptors.add().entries.add(key=key, value=value)
    return request


def reported(path: str) -> als_pb2.StreamAccessLogsMessage:
    message = als_pb2.StreamAccessLogsMessage()
    message.identifier.CopyFrom(identifier())
    message.http_logs.log_entry.append(http_entry(path=path))
    return message


def exported(path: str) -> bytes:
    return export([log({**REQUEST, "url.path": path})])


def _said(call: Any) -> str:
    try:
        answer = call.result()
    except grpc.RpcError as error:
        return str(error.code().name)
    if isinstance(answer, auth.CheckResponse):
        return "denied" if answer.status.code else "OK"
    if isinstance(answer, rls.RateLimitResponse):
        return rls.RateLimitResponse.Code.Name(answer.overall_code)
    return "OK"
