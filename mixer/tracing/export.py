"""Spans by OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp/#otlphttp), in binary protobuf."""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from typing import Any

import aiohttp
import structlog
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from google.protobuf.message import DecodeError

from mixer import config
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.tracing import otlp_pb2 as otlp
from mixer.tracing.tracer import Span, Tracer
from mixer.trust import trust

log = structlog.get_logger()

_EVERY = 1.0  # seconds between two exports
_BATCH = 512  # spans of one
_SLICE = 16  # spans that are made between two looks at the calls; each takes 30 µs
_ATTEMPTS = 3
_PAUSE = 1.0  # seconds before the second attempt, and twice that before the third
_RETRIED = (429, 502, 503, 504)  # OTLP/HTTP, "Retryable Response Codes"
_ANSWER = 64 * 1024  # bytes of the collector's answer that are read

# OpenTelemetry's semantic conventions for RPC: what is the server's fault.
_ERRORS = frozenset((2, 4, 12, 13, 14, 15))
_ANSWERS = {"Check": CheckResponse, "ShouldRateLimit": RateLimitResponse}
_TOLD = {
    "policy": "mixer.decision.policy",
    "revision": "mixer.decision.revision",
    "cache": "mixer.decision.cache",
    "limit": "mixer.limit",
    "code": "mixer.limit.code",
}


class Exporter:
    """Sends what waits in a tracer, a batch each second. One that cannot be sent is tried twice more, then dropped and
    counted by its reason."""

    def __init__(self, settings: config.Tracing, tracer: Tracer, metrics: Metrics) -> None:
        """Raises `LoadError` for certificates that cannot be used."""
        self._settings = settings
        self._tracer = tracer
        self._exported = metrics.spans_exported
        self._dropped = metrics.spans_dropped
        self._throttle = Throttle()
        self._ssl = trust(settings.tls) if settings.endpoint.startswith("https:") else True
        self._resource = [
            _text("service.name", settings.service_name),
            _text("service.version", version("mixer")),
            _text("service.instance.id", str(uuid.uuid4())),
        ]
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._headers = {**headers, "content-type": "application/x-protobuf"}

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl),
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def close(self, timeout: float) -> None:
        """Send what waits, for `timeout` seconds at most; the rest is dropped and counted."""
        self._closing.set()
        # An export that is under way is not begun anew: the collector may have it already.
        await asyncio.wait((self._task,), timeout=timeout)
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._dropped.labels("shutdown").inc(len(self._tracer.waiting))
        self._tracer.waiting.clear()
        await self._session.close()

    async def _run(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await self._closing.wait()
            while self._tracer.waiting:
                await self._export()

    async def _export(self) -> None:
        waiting = self._tracer.waiting
        request = otlp.ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        of_resource.resource.attributes.extend(self._resource)
        scope = of_resource.scope_spans.add()
        scope.scope.name = "mixer"
        count = min(_BATCH, len(waiting))
        for at, span in enumerate(list(islice(waiting, count))):
            _fill(scope.spans.add(), span)
            if at % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        data = request.SerializeToString()
        reason = await self._sent(data)
        for _ in range(count):
            waiting.popleft()
        if reason is None:
            self._exported.inc(count)
            return
        self._dropped.labels("unavailable").inc(count)
        if (held := self._throttle("spans")) is not None:
            log.warning("spans_not_exported", spans=count, reason=reason, held_back=held)

    async def _sent(self, data: bytes) -> str | None:
        """Why not, after all attempts; None: it was taken."""
        reason: str | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE * attempt)
            reason, again = await self._attempt(data)
            if not again:
                break
        return reason

    async def _attempt(self, data: bytes) -> tuple[str | None, bool]:
        """Why it was not taken, and whether it may be tried again."""
        url = f"{self._settings.endpoint}/v1/traces"
        try:
            async with self._session.post(
                url, data=data, headers=self._headers, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    return f"the collector answers {answer.status}", answer.status in _RETRIED
                self._partly(await answer.content.read(_ANSWER))
                return None, False
        except (aiohttp.ClientError, TimeoutError) as error:
            return str(error) or type(error).__name__, True

    def _partly(self, body: bytes) -> None:
        try:
            partial = otlp.ExportTraceServiceResponse.FromString(body).partial_success
        except DecodeError:
            return
        if partial.rejected_spans:
            self._dropped.labels("rejected").inc(partial.rejected_spans)
            if (held := self._throttle("rejected")) is not None:
                log.warning(
                    "spans_rejected",
                    spans=partial.rejected_spans,
                    reason=partial.error_message[:256],
                    held_back=held,
                )


def _fill(made: otlp.Span, span: Span) -> None:
    service, _, name = span.method.rpartition("/")
    made.trace_id, made.span_id, made.parent_span_id = span.trace_id, span.id, span.parent
    made.trace_state = span.state
    made.name = span.method
    made.kind = otlp.Span.SPAN_KIND_SERVER
    made.start_time_unix_nano, made.end_time_unix_nano = span.start, span.end
    code = otlp.KeyValue(key="rpc.grpc.status_code")
    code.value.int_value = span.code
    made.attributes.extend(
        (_text("rpc.system", "grpc"), _text("rpc.service", service), _text("rpc.method", name), code)
    )
    made.attributes.extend(_text(key, value) for key, value in _told(name, span.answer))
    if span.code in _ERRORS:
        made.status.code = otlp.Status.STATUS_CODE_ERROR
        made.status.message = span.error[:256]


def _told(method: str, answer: bytes) -> Iterator[tuple[str, str]]:
    """What the answer itself says of the decision and the limit: what the access log's record has, too."""
    if (kind := _ANSWERS.get(method)) is None or not answer:
        return
    response: Any = kind.FromString(answer)
    fields = response.dynamic_metadata.fields
    for key, name in (("decision_id", "mixer.decision_id"), ("reason", "mixer.decision.reason")):
        if fields[key].string_value if key in fields else "":
            yield name, fields[key].string_value
    if "mixer" in fields:
        for key, value in fields["mixer"].struct_value.fields.items():
            if key in _TOLD and value.string_value:
                yield _TOLD[key], value.string_value
    if method == "Check":
        yield "mixer.decision.outcome", "denied" if response.status.code else "allowed"


def _text(key: str, value: str) -> otlp.KeyValue:
    made = otlp.KeyValue(key=key)
    made.value.string_value = value
    return made
