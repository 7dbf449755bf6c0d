"""Streams of a real Envoy that are ended for their age: it opens others, and no record is lost."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.components.processes import wait_until
from tests.e2e.fleet import Fleet, fleet

SECONDS, AGED = 4.0, 8


def test_envoy_opens_another_stream_and_no_record_is_lost() -> None:
    with fleet(telemetry={"max_stream_age": "250ms"}) as running, ThreadPoolExecutor(4) as pool:
        stop = threading.Event()

        def flow() -> list[str]:
            ids = []
            while not stop.is_set():
                ids.append(running.call("GET", "/api").request_id)
            return ids

        flows = [pool.submit(flow) for _ in range(4)]
        time.sleep(SECONDS)
        wait_until(lambda: aged(running) >= AGED, within=60, what="streams that are ended for their age")
        stop.set()
        asked = {request for done in flows for request in done.result(30)}
        found: set[str] = set()

        def arrived() -> bool:
            found.update(record["envoy.request_id"] for record in running.records.read())
            return asked <= found

        wait_until(arrived, within=20, what="every record")
        assert running.series().total("mixer_report_streams") <= 1
        ended = running.series().total("mixer_report_streams_ended_total", how="closed")
        assert ended == aged(running)


def aged(running: Fleet) -> float:
    return running.series().total("mixer_streams_aged_total", method="StreamAccessLogs")
