"""Mixer and envoyproxy/ratelimit side by side: the same limits, the same requests, counters in one Redis."""

import asyncio
import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import redis
import structlog
import uvloop
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from grpc import aio
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.errors import LimitsError
from mixer.metrics import Metrics
from mixer.ratelimit.lane import PROBE
from mixer.ratelimit.limits import Limits, load
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.redis import RedisCounters
from mixer.ratelimit.service import QuotaService
from mixer.server.front import Unary
from mixer.server.http2.front import AsyncioFront
from tests.components import processes
from tests.components.processes import RateLimit, Redis
from tests.ratelimit.generated import RUN, Files

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
PEER_PREFIX, OUR_PREFIX = "peer:", "ours:"
MOST_TRIES = 20

Answer = RateLimitResponse | grpc.StatusCode


@dataclass(frozen=True)
class Refused:
    """Why either does not take the files; None: it does."""

    peer: str | None
    ours: str | None


@dataclass(frozen=True)
class Exchange:
    """What both made of a sequence of requests."""

    run: str  # the text that `RUN` stood for
    second: int  # since the epoch, in which all of it happened
    requests: Sequence[RateLimitRequest]
    peer: Sequence[Answer]
    ours: Sequence[Answer]
    limits: Limits
    metrics: Metrics
    counters: tuple[Mapping[str, int], Mapping[str, int]]  # the peer's and ours: what Redis has, by name


class Pair:
    """Both, started. `settings` are of `rate_limits`; the peer has its own in its environment."""

    def __init__(self, peer: RateLimit, store: Redis, settings: Mapping[str, Any]) -> None:
        self.peer = peer
        self._store = redis.Redis.from_url(store.url)
        self._settings = {
            "redis": {"url": store.url, "key_prefix": OUR_PREFIX, "timeout": "5s", "connect_timeout": "5s"},
            "response_headers": {"enabled": True},
            "response_dynamic_metadata": True,
            "local_cache": "off",
            **settings,
        }
        self._runs = itertools.count(1)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._service: QuotaService
        self._counters: RedisCounters

    def start(self) -> None:
        self._runner.run(self._start())

    async def _start(self) -> None:
        listener = config.CheckListener(address="127.0.0.1:0")
        method = Unary(SERVICE, "ShouldRateLimit", None, self._should_rate_limit)
        self._front = AsyncioFront(listener, [method], Metrics(CollectorRegistry()))
        await self._front.start()
        self._channels = [
            aio.insecure_channel(address) for address in (self.peer.address, self._front.address)
        ]

    def _should_rate_limit(self, message: bytes, timeout: float | None) -> bytes | Awaitable[bytes]:
        return self._service.should_rate_limit(message, timeout)  # of the run

    def close(self) -> None:
        self._runner.run(self._close())
        self._runner.close()
        self._store.close()

    async def _close(self) -> None:
        for channel in self._channels:
            await channel.close()
        await self._front.drain(0.2)

    def load(self, files: Files) -> tuple[Refused, Limits | None, str]:
        """Give both the files; whether they take them, and the run that stands in their domains' names."""
        run = str(next(self._runs))
        files = {name: content.replace(RUN.encode(), run.encode()) for name, content in files.items()}
        return Refused(self.peer.load(files), *self._load(files)), self._limits, run

    def _load(self, files: Files) -> tuple[str | None]:
        self._limits = None
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            settings = config.RateLimits.model_validate(self._settings)
            try:
                with structlog.testing.capture_logs():  # warnings
                    self._limits = load(
                        [Path(folder)],
                        settings.merge_domain_config,
                        counts_over=settings.count_over_limit,
                        key_format=settings.key_format,
                    )
            except LimitsError as error:
                return (str(error).replace(folder, ""),)
        return (None,)

    def ask(self, files: Files, requests: Sequence[RateLimitRequest], **settings: Any) -> Exchange:
        """Let both answer, from new counters. All of it happens in one second of the clock, so that they have the same
        windows; it is done anew until that is so."""
        self._settings.update(settings)
        for _ in range(MOST_TRIES):
            refused, limits, run = self.load(files)
            assert refused == Refused(None, None), refused
            assert limits is not None
            self._store.flushdb()
            # As a minute begins, its window and that of the second have one name there.
            while time.time() % 1 > 0.9 or time.time() % 60 < 1:
                time.sleep(0.005)
            second = int(time.time())
            exchange = self._runner.run(self._ask(limits, run, second, requests))
            if int(time.time()) == second:
                return exchange
        raise AssertionError(f"{MOST_TRIES} times, {len(requests)} requests took longer than a second")

    async def _ask(
        self, limits: Limits, run: str, second: int, requests: Sequence[RateLimitRequest]
    ) -> Exchange:
        metrics = Metrics(CollectorRegistry())
        settings = config.RateLimits.model_validate(self._settings)
        counters = RedisCounters(settings, metrics)
        self._service = QuotaService(limits, counters, settings, metrics, local=MemoryCounters(metrics))
        await counters.start()
        asked, answers = [], ([], [])
        try:
            for template in requests:
                request = RateLimitRequest()
                request.CopyFrom(template)
                request.domain = request.domain.replace(RUN, run)
                asked.append(request)
                for channel, answer in zip(self._channels, answers, strict=True):
                    answer.append(await _answer(channel, request))
        finally:
            await counters.close()
        return Exchange(run, second, asked, *answers, limits, metrics, self._counted())

    def _counted(self) -> tuple[dict[str, int], dict[str, int]]:
        names = sorted(self._store.keys())
        values = self._store.mget(names) if names else []
        return tuple(  # type: ignore[return-value]
            {
                name.decode().removeprefix(prefix): int(value)
                for name, value in zip(names, values, strict=True)
                if name.decode().startswith(prefix)
                and name.decode() != prefix + PROBE  # what a connection is tried with
                and int(value)  # a look leaves a 0 there, and nothing here
            }
            for prefix in (PEER_PREFIX, OUR_PREFIX)
        )

    def statistics(self, exchange: Exchange) -> dict[str, dict[str, int]]:
        """The peer's, by limit and name, once those of all these requests have been told. Needs a short
        STATS_FLUSH_INTERVAL."""
        found: dict[str, dict[str, int]] = {}
        due = sum(
            hits
            for request, answer in zip(exchange.requests, exchange.peer, strict=True)
            if isinstance(answer, RateLimitResponse)
            for hits in counted_hits(request, answer)
        )
        ends = 0  # of the flush in which the last hits came, and of the one after it

        def have_come() -> bool:
            nonlocal ends
            for line in self.peer.new_lines():
                if '"flushing all stats"' in line:
                    ends += sum(each.get("total_hits", 0) for each in found.values()) >= due
                elif '"flushing counter"' in line:
                    said = json.loads(line)["json"]
                    name, _, kind = said["name"].rpartition(".")
                    limit = name.removeprefix("ratelimit.service.rate_limit.")
                    if limit != name and exchange.run in limit and kind != "domain_not_found":
                        of_limit = found.setdefault(limit, {})
                        of_limit[kind] = of_limit.get(kind, 0) + int(float(said["value"]))
            return ends >= 2

        self.peer.wait_until(have_come, 10, "tell its statistics")
        return found


def counted_hits(request: RateLimitRequest, answer: RateLimitResponse) -> list[int]:
    """The hits of the descriptors that met a limit which is counted."""
    return [
        descriptor.hits_addend.value if descriptor.HasField("hits_addend") else max(1, request.hits_addend)
        for descriptor, status in zip(request.descriptors, answer.statuses, strict=True)
        if status.HasField("current_limit")
    ]


async def _answer(channel: aio.Channel, request: RateLimitRequest) -> Answer:
    call = channel.unary_unary(f"/{SERVICE}/ShouldRateLimit")
    try:
        return RateLimitResponse.FromString(await call(request.SerializeToString(), timeout=5))
    except aio.AioRpcError as error:
        return error.code()


@contextlib.contextmanager
def pair(store: Redis, env: Mapping[str, str] | None = None, **settings: Any) -> Iterator[Pair]:
    """Both, on this Redis. `env`: the peer's settings; `settings`: ours, of `rate_limits`."""
    peer_env = {
        "LOG_LEVEL": "info",
        "STATS_FLUSH_INTERVAL": "50ms",
        "CACHE_KEY_PREFIX": PEER_PREFIX,
        "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
        "RESPONSE_DYNAMIC_METADATA": "true",
        **(env or {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "none.yaml").write_text("domain: none\n")
        with processes.ratelimit(Path(folder), store.address, env=peer_env) as peer:
            both = Pair(peer, store, settings)
            both.start()
            try:
                yield both
            finally:
                both.close()
