"""Records as JSON lines, in a file or on standard output."""

import asyncio
import os
import threading
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import structlog

from mixer import config
from mixer.errors import SinkError
from mixer.metrics import Metrics
from mixer.telemetry.buffer import Account
from mixer.telemetry.sink import OK, Receipt, Record

log = structlog.get_logger()

MAX_WRITE = 256 * 1024  # bytes joined for one write; more saves nothing
RETRY = 1.0  # seconds between attempts while the disk is full or the pipe is closed
MODE = 0o640  # records tell who did what: not for everybody on the machine


class FileSink:
    """Appends a line a record; see `Sink`.

    A thread of its own writes, so that a slow disk or a reader that does not read stops nothing but this sink. When
    a write fails (no space left), lines wait in the buffer and are tried again.
    """

    def __init__(self, settings: config.FileSink, metrics: Metrics, name: str = "file") -> None:
        self.name = name
        self._path = settings.path
        self._account = Account(name, settings.buffer, metrics)
        self._changed = threading.Condition()  # guards all below
        self._lines: deque[bytes] = deque()
        self._receipts: deque[Receipt | None] = deque()  # of each line that is not written whole
        self._closing = self._abandoned = self._reopens = False
        self._status = OK
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        try:
            self._file = await asyncio.to_thread(_open, self._path)
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

    async def room(self) -> None:
        """It never blocks."""

    async def accepted(self) -> None:
        """Memory is all there is."""

    def status(self) -> str:
        return self._status

    def reopen(self) -> None:
        """See `Reopens`. What waits goes to the new file."""
        with self._changed:
            self._reopens = True
            self._changed.notify()

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
                if self._reopens:
                    self._open_anew()
                self._write_chunk(chunk)
        finally:
            os.close(self._file)

    def _next_chunk(self) -> bytes | None:
        with self._changed:
            while not self._lines and not self._reopens:
                if self._closing:
                    return None
                self._changed.wait()
            if self._abandoned:
                return None
            lines, size = [], 0
            while self._lines and size < MAX_WRITE:
                size += len(self._lines[0])
                lines.append(self._lines.popleft())
        return b"".join(lines)

    def _write_chunk(self, chunk: bytes) -> None:
        """Write it whole, for as long as it takes: a line that was begun is never left half."""
        while chunk:
            try:
                written = os.write(self._file, chunk)
            except OSError as error:
                self._failed(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._abandoned, RETRY)
            else:
                done, chunk = chunk[:written], chunk[written:]
                with self._changed:
                    if not self._abandoned:
                        self._delivered(done.count(b"\n"), len(done))
                if self._status != OK:
                    self._status = OK
                    log.info("sink_back", sink=self.name)
            if self._abandoned:
                return

    def _open_anew(self) -> None:
        """Between two lines. Where that fails, the old file is written on."""
        self._reopens = False
        try:
            fresh = _open(self._path)
        except OSError as error:
            log.error("reopen_failed", sink=self.name, path=str(self._path), error=error.strerror)
            return
        os.close(self._file)
        self._file = fresh

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


def _open(path: Path) -> int:
    if str(path) == "-":
        return os.dup(1)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
    if path.is_file() and not _ends_with_a_line(path):
        os.write(file, b"\n")  # a line was cut off when a process died: the next one gets its own
    return file


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return True
        file.seek(size - 1)
        return file.read(1) == b"\n"
