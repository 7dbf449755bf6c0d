"""Spans on both fronts, and how they get to a collector."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from google.protobuf.json_format import ParseDict
from grpc import aio
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from mixer import config
from mixer.backends import FRONTS
from mixer.errors import DecisionError
from mixer.metrics import Metrics
from mixer.server.front import Unary
from mixer.tracing.export import Exporter
from mixer.tracing.tracer import Tracer
from tests.loop import on_loop
from tests.server.served import eventually
from tests.tracing.collector import Collector, attributes, collector

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "a=1"))
CHECK = "envoy.service.auth.v3.Authorization"


def answer(message: bytes, _: float | None) -> bytes | Awaitable[bytes]:
    if message == b"later":
        return asyncio.get_running_loop().create_future()
    if message:
        raise DecisionError("undefined", "no decision")
    told = {"decision_id": "an-id", "reason": "ok", "mixer": {"policy": "p/allow", "cache": "hit"}}
    return ParseDict({"status": {"code": 7}, "dynamicMetadata": told}, CheckResponse()).SerializeToString()


@contextlib.asynccontextmanager
async def traced(kind: str, url: str) -> AsyncIterator[tuple[aio.UnaryUnaryMultiCallable, Exporter, Metrics]]:
    """A front, its Check, and its exporter, which is not started."""
    metrics = Metrics(CollectorRegistry())
    settings = config.Tracing(endpoint=url, headers={"api-key": SecretStr("s3cret")}, timeout="2s")  # type: ignore[arg-type]
    tracer = Tracer(1.0, 100, metrics)
    exporter = Exporter(settings, tracer, metrics)
    listener = config.Listener.model_validate({"address": "127.0.0.1:0", "server": kind})
    front = FRONTS[kind]("check", listener, [Unary(CHECK, "Check", None, answer)], metrics, tracer=tracer)
    await front.start()
    async with aio.insecure_channel(front.address) as channel:
        yield channel.unary_unary(f"/{CHECK}/Check"), exporter, metrics
    await front.drain(0.2)


def dropped(metrics: Metrics, reason: str) -> float:
    return metrics.registry.get_sample_value("mixer_spans_dropped_total", {"reason": reason}) or 0.0


@pytest.mark.parametrize("kind", FRONTS)
@on_loop
async def test_sampled_calls_become_spans_of_their_trace(kind: str) -> None:
    with collector() as found:
        async with traced(kind, found.url) as (check, exporter, metrics):
            await exporter.start()
            await check(b"", metadata=SAMPLED)
            await check(b"")
            with pytest.raises(aio.AioRpcError):
                await check(b"wrong", metadata=SAMPLED)
            await eventually(lambda: len(found.spans()) == 2)
            await exporter.close(5)
            assert metrics.registry.get_sample_value("mixer_spans_exported_total") == 2
        answered, failed = found.spans()
        for span in (answered, failed):
            assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
            assert (span.trace_state, span.kind, span.name) == ("a=1", 2, f"{CHECK}/Check")
            assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 5e9
        assert answered.span_id != failed.span_id
        assert attributes(answered) == {
            "rpc.system": "grpc",
            "rpc.service": CHECK,
            "rpc.method": "Check",
            "rpc.grpc.status_code": 0,
            "mixer.decision_id": "an-id",
            "mixer.decision.reason": "ok",
            "mixer.decision.policy": "p/allow",
            "mixer.decision.cache": "hit",
            "mixer.decision.outcome": "denied",
        }
        assert answered.status.code == 0
        assert attributes(failed)["rpc.grpc.status_code"] == 14
        assert (failed.status.code, failed.status.message) == (2, "no decision")
        headers, request = found.requests[0]
        assert headers["api-key"] == "s3cret"
        assert headers["content-type"] == "application/x-protobuf"
        resource = attributes(request.resource_spans[0].resource)
        assert resource.keys() == {"service.name", "service.version", "service.instance.id"}


@pytest.mark.parametrize("kind", FRONTS)
@on_loop
async def test_call_that_its_caller_gives_up_is_told_as_cancelled(kind: str) -> None:
    with collector() as found:
        async with traced(kind, found.url) as (check, exporter, metrics):
            await exporter.start()
            call = check(b"later", metadata=SAMPLED)
            in_flight = ("mixer_calls_in_flight", {"method": "Check"})
            await eventually(lambda: metrics.registry.get_sample_value(*in_flight) == 1)
            call.cancel()
            await check(b"", metadata=SAMPLED)
            await eventually(lambda: len(found.spans()) == 2)
            await exporter.close(1)
        codes = [attributes(span)["rpc.grpc.status_code"] for span in found.spans()]
        assert sorted(codes) == [0, 1]
        assert all(span.status.code == 0 for span in found.spans())


async def spanned(found: Collector, url: str) -> Metrics:
    """What is counted after one span was sent, as far as it can be, and the exporter closed."""
    async with traced("asyncio", url) as (check, exporter, metrics):
        await exporter.start()
        await check(b"", metadata=SAMPLED)
        await exporter.close(0.5)
    return metrics


@on_loop
async def test_collector_that_refuses_for_good_is_not_asked_again() -> None:
    with collector() as found:
        found.status = 400
        metrics = await spanned(found, found.url)
        assert found.refused == 1
        assert dropped(metrics, "unavailable") == 1


@on_loop
async def test_spans_of_a_collector_that_is_away_are_dropped_at_the_end() -> None:
    with collector() as found:
        found.status = 503
        metrics = await spanned(found, found.url)
        assert found.refused >= 1
        assert dropped(metrics, "shutdown") == 1


@on_loop
async def test_batch_is_sent_again_once_the_collector_is_back() -> None:
    with collector() as found:
        found.status = 503
        async with traced("asyncio", found.url) as (check, exporter, _):
            await exporter.start()
            await check(b"", metadata=SAMPLED)
            await eventually(lambda: found.refused >= 1)
            found.status = 200
            await eventually(lambda: len(found.spans()) == 1)
            await exporter.close(1)


@on_loop
async def test_calls_are_answered_while_the_collector_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:  # takes connections, and never says a word
        address = "{}:{}".format(*hung.getsockname())
        async with traced("asyncio", f"http://{address}") as (check, exporter, metrics):
            await exporter.start()
            for _ in range(150):
                await check(b"", metadata=SAMPLED)
            assert dropped(metrics, "buffer_full") == 50
            await exporter.close(0.2)
            assert dropped(metrics, "shutdown") == 100
