"""The admin listener over real HTTP."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mixer import config
from mixer.admin import client
from mixer.admin.server import AdminServer
from mixer.errors import StartError
from tests.loop import on_loop
from tests.server.certificates import Authority, write
from tests.server.served import eventually
from tests.telemetry.entries import new_metrics


@dataclass
class Admin:
    """A started admin listener, and what it is told."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    reasons: list[str] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Status, content type, text."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.server.address}{path}", headers=headers) as answer,
        ):
            return answer.status, answer.headers.get("content-type", ""), await answer.text()

    async def not_ready(self) -> list[str]:
        return self.reasons

    @contextlib.asynccontextmanager
    async def running(self, address: str = "127.0.0.1:0") -> AsyncIterator["Admin"]:
        self.server = AdminServer(address, self.registry, self.not_ready, lambda: self.degraded)
        await self.server.start()
        try:
            yield self
        finally:
            await self.server.close()


@on_loop
async def test_healthz_says_ok_whatever_is_away() -> None:
    async with Admin(reasons=["Redis is away"]).running() as admin:
        status, _, text = await admin.get("/healthz")
        assert (status, text) == (200, "ok\n")


@on_loop
async def test_readyz_says_ready() -> None:
    async with Admin().running() as admin:
        status, _, text = await admin.get("/readyz")
        assert (status, text) == (200, "ready\n")


@on_loop
async def test_readyz_names_every_reason() -> None:
    async with Admin(reasons=["OPA is away", "Redis is away"], degraded=["kafka: away"]).running() as admin:
        status, _, text = await admin.get("/readyz")
        assert (status, text) == (503, "not ready: OPA is away\nnot ready: Redis is away\n")


@on_loop
async def test_readyz_says_ready_and_what_is_degraded() -> None:
    async with Admin(degraded=["kafka: away"]).running() as admin:
        status, _, text = await admin.get("/readyz")
        assert (status, text) == (200, "ready\ndegraded: kafka: away\n")


@on_loop
async def test_metrics_are_text_unless_asked_otherwise() -> None:
    async with Admin().running() as admin:
        Counter("things", "Things.", registry=admin.registry).inc()
        status, content_type, text = await admin.get("/metrics")
        assert status == 200
        assert content_type.startswith("text/plain")
        assert "things_total 1.0\n" in text
        assert "# EOF" not in text


@on_loop
async def test_metrics_are_openmetrics_where_asked() -> None:
    async with Admin().running() as admin:
        Counter("things", "Things.", registry=admin.registry).inc()
        accept = {"accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}
        _, content_type, text = await admin.get("/metrics", accept)
        assert content_type.startswith("application/openmetrics-text")
        assert [family.name for family in text_string_to_metric_families(text)] == ["things"]


@on_loop
async def test_other_pages_are_not_found() -> None:
    async with Admin().running() as admin:
        assert (await admin.get("/"))[0] == 404


@on_loop
async def test_address_in_use_is_refused() -> None:
    async with Admin().running() as admin:
        with pytest.raises(StartError, match=f"cannot listen on {admin.server.address}: .*in use"):
            async with Admin().running(admin.server.address):
                pass


@on_loop
async def test_host_that_is_not_ours_is_refused() -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:9901"):
        async with Admin().running("192.0.2.1:9901"):
            pass


@on_loop
async def test_ipv6_address_keeps_its_brackets() -> None:
    async with Admin().running("[::1]:0") as admin:
        assert admin.server.address.startswith("[::1]:")
        assert (await admin.get("/healthz"))[0] == 200


@on_loop
async def test_metrics_shows_only_the_samples_that_are_named() -> None:
    admin = Admin()
    Counter("one", "One.", registry=admin.registry).inc()
    Counter("other", "Other.", registry=admin.registry).inc()
    async with admin.running():
        _, _, text = await admin.get("/metrics?name[]=one_total&name[]=none")
        assert [line for line in text.splitlines() if not line.startswith("#")] == ["one_total 1.0"]
        _, _, text = await admin.get("/metrics")
        assert "one_total 1.0\n" in text
        assert "other_total 1.0\n" in text


@on_loop
async def test_admin_over_tls_answers_those_who_show_a_certificate_and_its_own_clients(
    tmp_path: Path,
) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.cert)
    files = {**write(tmp_path, authority.issue("mixer")), "client_ca": f"{tmp_path}/ca.pem"}
    tls = config.Tls.model_validate(files)
    server = AdminServer(
        "127.0.0.1:0", CollectorRegistry(), Admin().not_ready, list, tls=(tls, new_metrics())
    )
    await server.start()
    try:
        assert await client.read(server.address, ("/healthz", ()), tls=tls) == [(200, "ok\n")]
        with pytest.raises(StartError, match="no Mixer answers"):
            await client.read(server.address, ("/healthz", ()))
        without = config.Tls(cert=tls.cert, key=tls.key)
        with pytest.raises(StartError, match="no Mixer answers"):
            await client.read(server.address, ("/healthz", ()), tls=without)
    finally:
        await server.close()


class Slow(Collector):
    """Takes as long as it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.goes_on = threading.Event()
        self.intervals: list[float] = []

    def collect(self) -> Iterator[Metric]:
        self.asked += 1
        self.intervals.append(sys.getswitchinterval())
        assert self.goes_on.wait(30)
        yield GaugeMetricFamily("slow", "Slow.", 1)

    def describe(self) -> Iterator[Metric]:
        return iter(())


@on_loop
async def test_scrape_gives_way_and_others_wait_for_it() -> None:
    before = sys.getswitchinterval()
    async with Admin().running() as admin:
        admin.registry.register(slow := Slow())
        scrapes = [asyncio.create_task(admin.get("/metrics")) for _ in range(3)]
        await eventually(lambda: slow.asked == 1)
        assert (await admin.get("/healthz"))[0] == 200  # the loop is free
        assert slow.asked == 1
        slow.goes_on.set()
        assert [status for status, _, _ in await asyncio.gather(*scrapes)] == [200] * 3
        assert slow.asked == 3
        assert all(interval < before for interval in slow.intervals)
    assert sys.getswitchinterval() == before
