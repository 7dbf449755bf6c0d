"""Records as JSON lines, in a file or on standard output."""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import TypeVar

import structlog

from mixer import config
from mixer.errors import SinkError
from mixer.metrics import Metrics
from mixer.telemetry.buffer import Account
from mixer.telemetry.rotation import SYNC_INTERVAL, LogFile
from mixer.telemetry.sink import OK, Receipt, Record

log = structlog.get_logger()

T = TypeVar("T")

MAX_WRITE = 256 * 1024  # bytes joined for one write; more saves nothing
SLOW = 5.0  # seconds after which a write that has not returned is told
RETRY = 1.0  # seconds between attempts while the disk is full or the pipe is closed


class FileSink:
    """Appends a line a record; see `Sink`.

    A thread of its own writes, so that a slow disk or a reader that does not read stops nothing but this sink. When
    a write fails (no space left), lines wait in the buffer and are tried again.

    What was written whole counts as delivered; with `fsync: batch` only once it is on the disk.
    """

    def __init__(self, settings: config.FileSink, metrics: Metrics, name: str = "file") -> None:
        self.name = name
        self._path = settings.path
        self._syncs_each = settings.fsync == "batch"
        self._pause = SYNC_INTERVAL if settings.fsync == "interval" else None
        self._log_file = LogFile(settings)
        self._account = Account(name, settings.buffer, metrics)
        self._changed = threading.Condition()  # guards all below
        self._lines: deque[bytes] = deque()
        self._receipts: deque[Receipt | None] = deque()  # of each line that is not written whole
        self._closing = self._abandoned = self._moved = False
        self._status = OK
        self._begun = inf  # by the monotonic clock, what the thread is at
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        try:
            await asyncio.to_thread(self._log_file.open)
        except OSError as error:
            raise SinkError(f"cannot append to {self._path}: {error.strerror}") from error
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write_all, name=f"sink-{self.name}", daemon=True)
        self._thread.start()

    def write(self, records: Sequence[Record], receipt: Receipt | None = None) -> None:
        account = self._account
        with self._changed:
            account.received(len(records))
            if self._closing:
                account.refused("shutdown", len(records), receipt)
                return
            for number, record in enumerate(records):
                if account.full:
                    account.refused("buffer_full", len(records) - number, receipt)
                    break
                line = record.to_json() + b"\n"
                if account.take(len(line)):
                    self._lines.append(line)
                    self._receipts.append(receipt)
                else:
                    account.refused("buffer_full", 1, receipt)
            self._changed.notify()

    def reopen(self) -> None:
        """See `Reopens`. What waits goes to the new file."""
        with self._changed:
            self._moved = True
            self._changed.notify()

    async def room(self) -> None:
        """It never blocks."""

    async def accepted(self) -> None:
        """Memory is all there is."""

    def status(self) -> str:
        seconds = monotonic() - self._begun
        return f"{self._path} has not answered for {seconds:.0f} s" if seconds > SLOW else self._status

    async def close(self, timeout: float) -> None:
        end = monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, max(0.0, end - monotonic()))
        with self._changed:
            self._abandoned = True
            account = self._account
            if account.records:
                log.warning("records_dropped", sink=self.name, reason="shutdown", records=account.records)
                account.lost("shutdown", account.records, account.bytes)
                for receipt in self._receipts:
                    if receipt is not None:
                        receipt.lose("shutdown", 1)
            self._changed.notify()

    def _write_all(self) -> None:
        """Body of the thread: until closed and all is written, or abandoned."""
        try:
            while (chunk := self._next_chunk()) is not None:
                self._try(self._reopen_if_moved)
                if chunk:
                    self._write_chunk(chunk)
                self._try(self._log_file.sync)
        finally:
            self._try(partial(self._log_file.sync, now=True))
            self._log_file.close()

    def _next_chunk(self) -> bytes | None:
        """Empty where there is only something else to do."""
        with self._changed:
            while not self._lines:
                if self._closing:
                    return None
                if self._moved:
                    return b""
                if not self._changed.wait(self._pause if self._log_file.unsynced else None):
                    return b""
            if self._abandoned:
                return None
            lines, size = [], 0
            while self._lines and size < MAX_WRITE:
                size += len(self._lines[0])
                lines.append(self._lines.popleft())
        return b"".join(lines)

    def _write_chunk(self, chunk: bytes) -> None:
        """Write it whole, for as long as it takes: a line that was begun is never left half."""
        while not self._abandoned:
            self._append(chunk)
            if not self._syncs_each:
                return
            if not self._abandoned and self._try(self._log_file.sync):
                self._tell(chunk)
                return
            # What could not be brought to the disk may be gone from memory, too: it is written again.

    def _append(self, rest: bytes) -> None:
        while rest and not self._abandoned:
            written = self._try(partial(self._log_file.write, rest)) or 0
            if written and not self._syncs_each:
                self._tell(rest[:written])
            rest = rest[written:]

    def _tell(self, written: bytes) -> None:
        with self._changed:
            if not self._abandoned:
                self._delivered(written.count(b"\n"), len(written))

    def _reopen_if_moved(self) -> None:
        if self._moved:
            self._log_file.open()
            self._moved = False

    def _try(self, step: Callable[[], T]) -> T | None:
        """What it answers; None where it failed, which is told, and some time has passed since."""
        self._begun = monotonic()
        try:
            result = step()
        except OSError as error:
            self._begun = inf
            self._failed(error)
            with self._changed:
                self._changed.wait_for(lambda: self._abandoned, RETRY)
            return None
        self._begun = inf
        if self._status != OK:
            self._status = OK
            log.info("sink_back", sink=self.name)
        return result

    def _delivered(self, lines: int, size: int) -> None:
        self._account.delivered(lines, size)
        told = Counter(self._receipts.popleft() for _ in range(lines))
        for receipt, count in told.items():
            if receipt is not None:
                self._loop.call_soon_threadsafe(receipt.durable, count)

    def _failed(self, error: OSError) -> None:
        status = f"cannot write to {self._path}: {error.strerror}"
        if self._status != status:
            self._status = status
            log.error("sink_away", sink=self.name, error=status)
