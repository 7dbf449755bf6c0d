"""The demo from start to end."""

import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mixer.demo import checks, view
from mixer.demo.findings import Record, RecordFile, Series, key
from mixer.demo.stack import Stack, get, stack
from mixer.demo.stop import StopRequestedError, StopSignal, stop_signal
from mixer.demo.tokens import Issuer
from mixer.demo.traffic import Outcome, requests, send_all
from mixer.errors import StartError

_REPORT_WITHIN = 20.0  # seconds; Envoy sends its access log each second
_SETTLED_WITHIN = 2.0  # seconds from the last record until nothing changes any more
_POLL = 0.1  # seconds


def show(once: bool) -> int:
    """See `mixer.demo.run`."""
    console = view.console()
    with stop_signal() as stop:
        try:
            return _show(console, stop, once)
        except StopRequestedError:
            console.print("stopped")
            return 130


def _show(console: Console, stop: StopSignal, once: bool) -> int:
    issuer = Issuer()
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="mixer-demo-")))
        status = opened.enter_context(console.status("starting …"))

        def progress(text: str) -> None:
            status.update(f"{text} …")

        running = opened.enter_context(stack(folder, issuer, stop, progress))
        file = RecordFile(running.records)
        outcomes = list(send_all(requests(issuer), running.http, running.tcp, stop, progress))
        progress("waiting for Envoy's access log")
        records, series = _collect(running, file, outcomes, stop)
        status.stop()
        differences = checks.differences(outcomes, records, series)
        _report(console, running, outcomes, records, series)
        if differences:
            view.wrong(console, differences)
        else:
            view.right(console, outcomes, records)
        if not once:
            view.what_to_try(console, running, {name: issuer.token(name) for name in ("alice", "root")})
            with contextlib.suppress(StopRequestedError):
                _stay_up(console, running, file, stop)
            console.print()
        status.start()
        progress("stopping Envoy and Mixer")
        return 1 if differences else 0


def _collect(
    running: Stack, file: RecordFile, outcomes: Sequence[Outcome], stop: StopSignal
) -> tuple[list[Record], Series]:
    """Records and series once nothing is missing any more; as they are if that takes too long.

    Raises `StartError` if a part of the demo ends meanwhile.
    """
    records: list[Record] = []
    expected = {outcome.key for outcome in outcomes}
    end, all_there = time.monotonic() + _REPORT_WITHIN, False
    while True:
        running.check()
        records += file.read()
        try:
            series = Series(get(running.mixer["admin"], "/metrics")[1])
        except OSError as error:
            running.check()
            raise StartError(f"Mixer's admin listener does not answer: {error}") from error
        if not checks.differences(outcomes, records, series) or time.monotonic() > end:
            return records, series
        if not all_there and expected <= {key(record) for record in records}:
            all_there, end = True, time.monotonic() + _SETTLED_WITHIN
        stop.sleep(_POLL)


def _report(
    console: Console, running: Stack, outcomes: Sequence[Outcome], records: Sequence[Record], series: Series
) -> None:
    by_key = {key(record): record for record in records}
    console.print(view.introduction())
    console.print(view.heading("Requests", f"through Envoy on {running.http} and {running.tcp}"))
    console.print(view.requests_table(console, outcomes, by_key))
    console.print(
        view.heading("Series", f"http://{running.mixer['admin']}/metrics, summed over the other labels")
    )
    console.print(view.series_table(console, series))
    console.print(view.heading("Records", "one a request, joined with its decision and its limit"))
    console.print(view.records_table(console, outcomes, by_key))


def _stay_up(console: Console, running: Stack, file: RecordFile, stop: StopSignal) -> None:
    """Show each record as it comes, until a signal does. Raises `StartError` if a part of the demo ends meanwhile."""
    console.print(view.heading("Live", "your requests appear here; Ctrl-C stops everything"))
    while True:
        stop.sleep(_POLL)
        for record in file.read():
            console.print(view.live_line(record))
        running.check()
