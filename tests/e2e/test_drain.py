"""SIGTERM while traffic flows."""

import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.components.processes import wait_until
from tests.e2e.fleet import Fleet, fleet

SERVERS = pytest.mark.parametrize("server", ["asyncio", "grpcio"])


def in_flight(running: Fleet) -> float:
    return running.series().total("mixer_calls_in_flight", method="Check")


@SERVERS
def test_call_in_flight_is_answered(server: str) -> None:
    with fleet(engine="opa", server=server) as running, ThreadPoolExecutor(1) as pool:
        assert running.opa is not None
        running.opa.pause()
        pending = pool.submit(running.call, "GET", "/admin", running.user())  # denied, so no Quota follows
        wait_until(lambda: in_flight(running) == 1, what="the call in flight")
        os.kill(running.mixer.pid, signal.SIGTERM)
        wait_until(lambda: "draining" in running.mixer.log.read_text(), what="the drain")
        running.opa.resume()
        assert pending.result(30).status == 403
        assert running.mixer.stop() == 0


@SERVERS
def test_traffic_meets_nothing_worse_than_a_refusal(server: str) -> None:
    with fleet(server=server) as running, ThreadPoolExecutor(8) as pool:
        token, stop = running.issuer.token("root"), threading.Event()

        def flow() -> set[int]:
            seen = set()
            while not stop.is_set():
                seen.add(running.call("GET", "/admin", token=token).status)
            return seen

        flows = [pool.submit(flow) for _ in range(8)]
        wait_until(lambda: running.stat("http.http.ext_authz.mixer.ok") > 200, within=60, what="traffic")
        assert running.mixer.stop() == 0
        stop.set()
        assert set().union(*(done.result(30) for done in flows)) <= {200, 429, 503}
        assert running.stat("cluster.mixer-check.upstream_cx_destroy_remote_with_active_rq") == 0


@SERVERS
def test_rolling_restart_of_all_workers_is_not_noticed(server: str) -> None:
    with fleet(server=server, workers={"supervised": True}) as running, ThreadPoolExecutor(2) as pool:
        token, stop = running.issuer.token("root"), threading.Event()

        def flow() -> Counter[int]:
            seen = Counter[int]()
            while not stop.wait(0.002):
                seen[running.call("GET", "/admin", token=token).status] += 1
            return seen

        flows = [pool.submit(flow) for _ in range(2)]
        os.kill(running.mixer.pid, signal.SIGUSR2)
        try:
            wait_until(
                lambda: "rolling_restart_done" in running.mixer.log.read_text(), within=60, what="its end"
            )
        finally:
            stop.set()
        seen = sum((done.result(30) for done in flows), Counter[int]())
        assert seen.total() > 50
        assert seen.keys() <= {200, 429}
