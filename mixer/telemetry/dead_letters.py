"""Records that no broker takes, in a file of JSON lines: nothing is lost, and nothing waits behind them."""

import asyncio
import base64
import errno
import os
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import orjson
import structlog

from mixer import config
from mixer.errors import SinkError
from mixer.telemetry.buffer import Reason
from mixer.telemetry.outgoing import Item

log = structlog.get_logger()

MODE = 0o640  # records tell who did what: not for everybody on the machine


class DeadLetters:
    """A line a record: `time` (of reception), `reason`, `error`, `event_id`, `topic`, `schema`, `content_type`, `key`
    and `value`, the last two in base64.

    `written` is called on the loop for each, in order: whether its line is on disk. When the file has half of
    `max_bytes`, it takes the place of the one before it.
    """

    def __init__(
        self,
        name: str,
        settings: config.DeadLetters,
        about: dict[str, str],
        written: Callable[[Item, Reason, bool], None],
    ) -> None:
        self.bytes = 0  # that wait
        self._name = name
        self._path = settings.path
        self._most = settings.max_bytes // 2
        self._about = about
        self._written = written
        self._queue: deque[tuple[Item, Reason, str]] = deque()
        self._put = self._done = 0
        self._some, self._moved = asyncio.Event(), asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises `SinkError` when the file cannot be appended to."""
        try:
            await asyncio.to_thread(self._append, b"")
        except OSError as error:
            raise SinkError(
                f"{self._name}: dead_letters.path: cannot append to {self._path}: {error.strerror}"
            ) from error
        self._task = asyncio.create_task(self._run())

    def put(self, item: Item, reason: Reason, error: str) -> None:
        """Take a record. Returns at once."""
        self.bytes += item.size
        self._queue.append((item, reason, error))
        self._put += 1
        self._some.set()

    async def settled(self) -> None:
        """Wait for what has been put so far; returns before that when closed."""
        target = self._put
        while self._done < target and not self._closed:
            self._moved.clear()
            await self._moved.wait()

    async def close(self) -> list[Item]:
        """The records that are not settled yet."""
        self._closed = True
        self._moved.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        return [item for item, *_ in self._queue]

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            item, reason, why = self._queue[0]
            try:
                await asyncio.to_thread(self._append, self._line(item, reason, why))
                written = True
            except OSError as error:
                log.error("dead_letter_lost", sink=self._name, path=str(self._path), error=error.strerror)
                written = False
            self._queue.popleft()
            self.bytes -= item.size
            if not self._queue:
                self._some.clear()
            self._written(item, reason, written)
            self._done += 1
            self._moved.set()

    def _line(self, item: Item, reason: Reason, error: str) -> bytes:
        letter = {
            "time": datetime.fromtimestamp(item.timestamp / 1000, UTC).isoformat(timespec="milliseconds"),
            "reason": reason,
            "error": error,
            "event_id": item.event_id.decode(),
            **self._about,
            "key": None if item.key is None else base64.b64encode(item.key).decode(),
            "value": base64.b64encode(item.value).decode(),
        }
        return orjson.dumps(letter) + b"\n"

    def _append(self, line: bytes) -> None:
        """In a thread: durable when it returns."""
        if len(line) > self._most:
            raise OSError(errno.EFBIG, "the line is larger than half of max_bytes")
        if self._path.exists() and self._path.stat().st_size + len(line) > self._most:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            size = os.fstat(file).st_size
            if line and size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line  # a line was cut off when a process died: this one gets its own
            if _write(file, line) < len(line):
                os.ftruncate(file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
        finally:
            os.close(file)


def _write(file: int, data: bytes) -> int:
    """How many bytes were written: fewer where the disk is full."""
    done = 0
    while done < len(data):
        try:
            done += os.write(file, data[done:])
        except OSError:
            if not done:
                raise
            break
    return done
