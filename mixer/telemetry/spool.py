"""Records on disk from before they are sent until they are acknowledged.

A thread of its own has the file. It takes what has come since its last transaction, inserts and deletes in one, and
then hands on what is durable. Of a long queue only a window is in memory; the rest is read when there is room.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from mixer.errors import SinkError
from mixer.telemetry.outgoing import Chunk, cut
from mixer.telemetry.spool_file import CorruptError, FileError, Found, GoneError, SpoolFile

log = structlog.get_logger()

WINDOW = 16 * 1024 * 1024  # bytes of records that are on disk and in memory too, to be sent next
MAX_COMMIT = 4 * 1024 * 1024  # bytes inserted in one transaction
MIN_COMMIT = 64 * 1024  # as many as are tried while the disk is full
LINGER = 0.02  # seconds in which a transaction fills; half of it costs 5 % of the records
RETRY = 0.5  # seconds between attempts while the disk is full


class Spool:
    """The queue of one sink. All methods are called from the thread of one loop, and none of them blocks it.

    `hand_on` is called on the loop after each transaction, with the records that are next, in the order of their
    numbers. `set_aside` is called there when the file was corrupt: with how many records, and bytes, were on disk alone
    and are in no queue any more (0 at start: nobody knows).
    """

    def __init__(
        self,
        name: str,
        path: Path,
        max_bytes: int,
        hand_on: Callable[[Sequence[Chunk]], None],
        set_aside: Callable[[int, int], None],
    ) -> None:
        self.waiting = 0  # bytes that are not on disk yet
        self.waiting_records = 0
        self.trouble: str | None = None
        self._name = name
        self._hand_on = hand_on
        self._set_aside = set_aside
        self._put = self._durable = 0  # the last number that was put, and of what is on disk
        self._committed = asyncio.Event()  # set at each commit
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()  # guards what follows, down to `_abandoned`
        self._inbox: list[Chunk] = []
        self._removed: list[Sequence[int]] = []
        self._removed_bytes = 0
        self._closing = self._abandoned = False
        # The thread's own.
        self._file = SpoolFile(path, max_bytes)
        self._todo: deque[Chunk] = deque()  # to be inserted
        self._gone: list[Sequence[int]] = []  # to be deleted
        self._largest = MAX_COMMIT
        self._window = 0  # bytes of what is on disk and in the loop's hands
        self._read = 0  # the last number in them
        self._kept = self._kept_bytes = 0  # on disk, and not in the loop's hands yet

    async def start(self) -> Found:
        """Open or make the file. Raises `SinkError` when that cannot be done; a corrupt file is set aside."""
        self._loop = asyncio.get_running_loop()
        try:
            found = await asyncio.to_thread(self._look)
        except (FileError, CorruptError) as error:
            self._file.close()
            raise SinkError(f"{self._name}: buffer.path: cannot use {self._file.path}: {error}") from error
        self._kept, self._kept_bytes = found.records, found.bytes
        self._put = self._durable = found.next_seq - 1
        self._thread = threading.Thread(target=self._run, name=f"spool-{self._name}", daemon=True)
        self._thread.start()
        return found

    def put(self, chunk: Chunk) -> None:
        """Take records, whose numbers go up from that of `Found`."""
        self.waiting += chunk.size
        self.waiting_records += len(chunk)
        self._put = chunk.numbers[-1]
        with self._changed:
            if not self._inbox:
                self._changed.notify()
            self._inbox.append(chunk)

    def remove(self, numbers: Sequence[Sequence[int]], size: int) -> None:
        """Forget records that were handed on, of `size` bytes together: they are delivered, or given up."""
        with self._changed:
            if not self._removed:
                self._changed.notify()
            self._removed += numbers
            self._removed_bytes += size

    async def durable(self) -> None:
        """Wait until all that has been put so far is on disk; returns before that when closed."""
        target = self._put
        while self._durable < target and not self._abandoned:
            self._committed.clear()
            await self._committed.wait()

    async def close(self, timeout: float) -> None:
        """Write what waits and close the file, within `timeout` seconds; `waiting_records` tells what was not."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, timeout)
            with self._changed:
                self._abandoned = True
                self._changed.notify()
            await asyncio.to_thread(self._thread.join, timeout)
            await asyncio.sleep(0)  # for what the thread has told last
        self._abandoned = True
        self._committed.set()

    def _handed(self, batch: Sequence[Chunk], pass_on: Sequence[Chunk]) -> None:
        """`batch` is durable; `pass_on` is next."""
        for chunk in batch:
            self.waiting -= chunk.size
            self.waiting_records -= len(chunk)
            self._durable = chunk.numbers[-1]
            if chunk.receipt is not None:
                chunk.receipt.durable(len(chunk))
        self._hand_on(pass_on)
        self._committed.set()

    # In the thread

    def _look(self) -> Found:
        try:
            return self._file.look()
        except CorruptError as error:
            self._file.set_aside(str(error))
            self._call(self._set_aside, 0, 0)
            return self._file.look()

    def _run(self) -> None:
        while self._await_work():
            stuck = not self._attempt(self._commit)
            if not self._attempt(self._refill):
                stuck = True
            if stuck:
                with self._changed:
                    self._changed.wait_for(lambda: self._abandoned or self._removed, RETRY)
        self._file.close()

    def _await_work(self) -> bool:
        """Wait for something to do, and take it over; False: it is time to end."""
        with self._changed:
            while not (self._has_work() or (self._has_more() and not self._closing)):
                if self._closing:
                    return False
                self._changed.wait()
            if self._abandoned:
                return False
            hurry = self._closing or bool(self._todo)
        if not hurry:
            time.sleep(LINGER)
        with self._changed:
            inbox, self._inbox = self._inbox, []
            removed, self._removed = self._removed, []
            size, self._removed_bytes = self._removed_bytes, 0
        self._todo += inbox
        self._window -= size
        self._gone += removed
        return True

    def _has_work(self) -> bool:
        return bool(self._inbox or self._removed or self._todo or self._gone)

    def _has_more(self) -> bool:
        return self._kept > 0 and self._window < WINDOW // 2

    def _attempt(self, step: Callable[[], None]) -> bool:
        """Do it; False: it failed, and will for a while."""
        try:
            step()
        except FileError as error:
            trouble = f"cannot write to {self._file.path}: {error}"
            if self.trouble != trouble:
                self.trouble = trouble
                log.error("spool_stuck", sink=self._name, error=trouble)
            if isinstance(error, GoneError):
                return self._leave_gone()
            if self._largest > MIN_COMMIT:
                self._largest //= 2
                return True
            return self._make_room()
        except CorruptError as error:
            return self._begin_anew(str(error))
        return True

    def _commit(self) -> None:
        """Insert and delete, then hand on what was inserted, unless earlier records have not been read yet."""
        batch = cut(self._todo, self._largest)
        if not batch and not self._gone:
            return
        self._file.write(self._gone, batch)
        self._gone = []
        self._is_back()
        self._largest = min(MAX_COMMIT, 2 * self._largest)
        for _ in batch:
            self._todo.popleft()
        if not batch:
            return
        size = sum(chunk.size for chunk in batch)
        pass_on: Sequence[Chunk] = batch
        if self._kept or self._window >= WINDOW:
            self._kept += sum(map(len, batch))
            self._kept_bytes += size
            pass_on = ()
        else:
            self._window += size
            self._read = batch[-1].numbers[-1]
        self._call(self._handed, batch, pass_on)

    def _refill(self) -> None:
        """Read what comes next into the window."""
        if not self._has_more():
            return
        chunks = self._file.read(self._read, WINDOW - self._window)
        if not (self._todo or self._gone):
            self._is_back()
        size = sum(chunk.size for chunk in chunks)
        self._kept -= sum(map(len, chunks))
        self._kept_bytes -= size
        self._window += size
        self._read = chunks[-1].numbers[-1]
        self._call(self._handed, (), chunks)

    def _make_room(self) -> bool:
        """Delete without inserting. On a full disk even that needs room in the journal, which may not be there: once
        nothing in the file is needed any more, a new one takes its place. Whether there is room now."""
        if not self._gone:
            return False
        try:
            if self._kept or self._window:
                self._file.write(self._gone, ())
            else:
                self._file.discard()
        except (FileError, CorruptError):
            return False
        self._gone = []
        if not self._todo:
            self._is_back()
        return True

    def _leave_gone(self) -> bool:
        """Go on in a new file under the name, once nothing in the one that was removed is needed any more. Whether it
        was left."""
        if self._kept or self._window:
            return False
        self._file.close()
        self._gone = []
        return True

    def _is_back(self) -> None:
        """Nothing is left that could not be done."""
        if self.trouble is not None:
            self.trouble = None
            log.info("spool_back", sink=self._name)

    def _begin_anew(self, why: str) -> bool:
        """Set a file aside that cannot be used any more. What is in the loop's hands is delivered all the same."""
        try:
            self._file.set_aside(why)
        except FileError as error:
            log.error("spool_stuck", sink=self._name, error=str(error))
            return False
        lost, size = self._kept, self._kept_bytes
        self._kept = self._kept_bytes = 0
        self._gone = []
        self._call(self._set_aside, lost, size)
        return True

    def _call(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed
            self._abandoned = True
