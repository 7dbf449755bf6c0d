"""The file of a spool: SQLite in WAL mode, used by one process and one thread at a time.

Records are kept some in a row (`spool_rows`). A row goes when none of its records is needed any more; until then,
those of them that are not are noted by their numbers.

With `synchronous=FULL` a commit is on the medium when it returns, so that what was accepted survives the loss of power,
not just that of the process. It costs one fsync a transaction, without Python's lock; as a transaction has what came
meanwhile, a slow disk makes transactions larger, not the rest slower.
"""

import os
import sqlite3
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import structlog

from mixer.telemetry import spool_rows
from mixer.telemetry.outgoing import Chunk

log = structlog.get_logger()

PAGE = 16_384  # bytes; the system is called for each
MIN_PAGES = 32
# Bytes that the journal is cut to: twice what comes into it between two checkpoints (1,000 pages). One that is cut
# each time and grows again takes a tenth of all the time.
WAL = 32 * 1024 * 1024
CACHE = 8 * 1024 * 1024  # bytes of pages in memory: what is delivered soon is deleted without being read
MODE = 0o640  # records tell who did what: not for everybody on the machine

_VERSION = 2  # of the schema, in the file's user_version
_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS chunks (
      first INTEGER PRIMARY KEY, count INTEGER NOT NULL, size INTEGER NOT NULL, lengths BLOB NOT NULL,
      data BLOB NOT NULL)
    """,
    "CREATE TABLE IF NOT EXISTS gone (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
)
_INSERT = "INSERT INTO chunks (first, count, size, lengths, data) VALUES (?, ?, ?, ?, ?)"
_SELECT = "SELECT first, count, size, lengths, data FROM chunks WHERE first + count > ? ORDER BY first"
_DELETE = "DELETE FROM chunks WHERE first = ?"
_NOTE = "INSERT INTO gone (first, last) VALUES (?, ?)"
_FORGET = "DELETE FROM gone WHERE first BETWEEN ? AND ?"


class FileError(Exception):
    """The file cannot be used now: the disk is full, or fails."""


class BusyError(FileError):
    """Another process has it open."""


class GoneError(FileError):
    """What lies under the file's name now is another file, or none."""


class CorruptError(Exception):
    """The file is none of ours, or no more."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the file."""

    records: int
    bytes: int
    next_seq: int


class SpoolFile:
    """Every method raises `FileError` or `CorruptError`; a write that failed has changed nothing."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._database: sqlite3.Connection | None = None
        self._identity = (0, 0)  # of the open file: device and inode
        # The rows of the open file: the numbers of their first records, in order, and by those that of the last, and
        # which are not needed any more: a bit for each, the lowest that of the first.
        self._firsts: list[int] = []
        self._lasts: dict[int, int] = {}
        self._gone: dict[int, int] = {}

    def look(self) -> Found:
        """What an earlier process left, the file checked for it."""
        try:
            database = self._open()
            for (problem,) in database.execute("PRAGMA quick_check(1)"):
                if problem != "ok":
                    raise CorruptError(problem)
            records, size = database.execute(
                "SELECT coalesce(sum(count), 0), coalesce(sum(size), 0) FROM chunks"
            ).fetchone()
            for first, gone in self._gone.items():
                query = "SELECT count, lengths FROM chunks WHERE first = ?"
                sizes = spool_rows.columns(*database.execute(query, (first,)).fetchone())[-1]
                records -= gone.bit_count()
                size -= sum(each for place, each in enumerate(sizes) if gone >> place & 1)
            return Found(records, size, max(self._lasts.values(), default=0) + 1)
        except (OSError, sqlite3.Error, spool_rows.DamagedError) as error:
            raise _translated(error) from error

    def write(self, gone: Iterable[Sequence[int]], batch: Sequence[Chunk]) -> None:
        """Delete and insert, both or neither; durable when it returns. Raises `GoneError` where nobody would find what
        is written; `read` still answers."""
        try:
            self._refuse_gone()
            database = self._open()
            partly, done, notes = self._without(ranges(gone))
            rows = list(spool_rows.rows(batch))
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_DELETE, ((first,) for first in done))
            database.executemany(_FORGET, ((first, self._lasts[first]) for first in done))
            database.executemany(_NOTE, notes)
            database.executemany(_INSERT, rows)
            database.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            self._roll_back()
            raise _translated(error) from error
        self._gone.update(partly)
        for first in done:
            del self._firsts[bisect_right(self._firsts, first) - 1], self._lasts[first]
            self._gone.pop(first, None)
        for first, count, *_ in rows:
            self._add(first, count)

    def _add(self, first: int, count: int) -> None:
        self._firsts.append(first)
        self._lasts[first] = first + count - 1

    def _without(
        self, runs: Iterable[tuple[int, int]]
    ) -> tuple[dict[int, int], list[int], list[tuple[int, int]]]:
        """What is gone then of rows of which some is needed; the rows of which none is; runs of what goes of the
        others."""
        gone: dict[int, int] = {}
        for row, first, last in self._by_row(runs):
            gone[row] = gone.get(row, self._gone.get(row, 0)) | _bits(last - first + 1) << first - row
        done = [row for row, bits in gone.items() if bits == _bits(self._lasts[row] - row + 1)]
        partly = {row: gone[row] for row in gone.keys() - set(done)}
        notes = [
            (row + first, row + last)
            for row, bits in partly.items()
            for first, last in _runs(bits & ~self._gone.get(row, 0))
        ]
        return partly, done, notes

    def _by_row(self, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """Runs in a row: the row, the first, the last. What a file had that was set aside is in none."""
        for start, last in runs:
            for row in islice(self._firsts, max(0, bisect_right(self._firsts, start) - 1), None):
                if row > last:
                    break
                begin, end = max(start, row), min(last, self._lasts[row])
                if begin <= end:
                    yield row, begin, end

    def read(self, after: int, most: int) -> list[Chunk]:
        """The records that follow, of `most` bytes or a little more."""
        found: list[Chunk] = []
        try:
            for row in self._open().execute(_SELECT, (after,)):
                chunk = spool_rows.chunk_of(row)
                gone = self._gone.get(row[0], 0) | _bits(max(0, after - row[0] + 1))
                if gone:
                    left = [place for place in range(len(chunk)) if not gone >> place & 1]
                    if not left:
                        continue
                    chunk = chunk.take(left)
                if chunk.size > most and (fits := chunk.fitting(most - 1) + 1) < len(chunk):
                    chunk, _ = chunk.split(fits)
                found.append(chunk)
                most -= chunk.size
                if most <= 0:
                    return found
        except (OSError, sqlite3.Error, spool_rows.DamagedError) as error:
            raise _translated(error) from error
        if not found:
            raise CorruptError("records are missing")
        return found

    def discard(self) -> None:
        """Delete the file, with all that is in it. The next call makes a new one."""
        self.close()
        try:
            for file in self._files():
                file.unlink(missing_ok=True)
        except OSError as error:
            raise _translated(error) from error

    def set_aside(self, why: str) -> None:
        """Rename the file, for somebody to look at. The next call makes a new one."""
        self.close()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside, number = f"{self.path.name}.corrupt-{stamp}", 0
        while self.path.with_name(aside).exists():
            number += 1
            aside = f"{self.path.name}.corrupt-{stamp}-{number}"
        try:
            for file in self._files():
                if file.exists():
                    file.rename(file.with_name(aside + file.name.removeprefix(self.path.name)))
        except OSError as error:
            raise _translated(error) from error
        log.error("spool_set_aside", path=str(self.path), aside=aside, reason=why)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is not None:
            return self._database
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        self._identity = _identity(os.fstat(file))
        os.close(file)
        database = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            database.execute(
                "PRAGMA locking_mode = EXCLUSIVE"
            )  # two processes would send each other's records
            database.execute(f"PRAGMA page_size = {PAGE}")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"PRAGMA cache_size = -{CACHE // 1024}")
            database.execute(f"PRAGMA journal_size_limit = {WAL}")
            database.execute(f"PRAGMA max_page_count = {max(MIN_PAGES, self._max_bytes // PAGE)}")
            database.execute("BEGIN IMMEDIATE")
            if (version := database.execute("PRAGMA user_version").fetchone()[0]) not in (0, _VERSION):
                raise FileError(
                    f"its schema is version {version}; expected {_VERSION}: "
                    "deliver what it has with the Mixer that wrote it, or move it away"
                )
            for statement in _SCHEMA:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_VERSION}")
            database.execute("COMMIT")
            self._learn(database)
        except BaseException:
            database.close()
            raise
        self._database = database
        return database

    def _learn(self, database: sqlite3.Connection) -> None:
        """Which records the file has."""
        self._firsts, self._lasts, self._gone = [], {}, {}
        for first, count in database.execute("SELECT first, count FROM chunks ORDER BY first"):
            self._add(first, count)
        self._gone, _, _ = self._without(database.execute("SELECT first, last FROM gone"))

    def _refuse_gone(self) -> None:
        if self._database is None:
            return
        try:
            found = _identity(os.stat(self.path))
        except FileNotFoundError:
            raise GoneError("it was removed") from None
        if found != self._identity:
            raise GoneError("another file has taken its place")

    def _roll_back(self) -> None:
        if self._database is not None and self._database.in_transaction:
            try:
                self._database.execute("ROLLBACK")
            except sqlite3.Error:
                self.close()  # it is rolled back when it is opened again

    def _files(self) -> Iterator[Path]:
        return (self.path.with_name(self.path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal"))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def ranges(numbers: Iterable[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Runs of numbers without a gap, each by its first and last."""
    runs = sorted(
        run
        for some in numbers
        for run in ([(some[0], some[-1])] if isinstance(some, range) else zip(some, some, strict=True))
    )
    first, last = 0, -1
    for start, end in runs:
        if start > last + 1:
            if first <= last:
                yield first, last
            first = start
        last = max(last, end)
    if first <= last:
        yield first, last


def _bits(count: int) -> int:
    """The lowest ones."""
    return (1 << count) - 1


def _runs(bits: int) -> Iterator[tuple[int, int]]:
    """Of bits that are set, by the places of the first and the last."""
    start = 0
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        ones = (~bits & bits + 1).bit_length() - 1
        bits >>= ones
        yield start + zeros, start + zeros + ones - 1
        start += zeros + ones


def _translated(error: OSError | sqlite3.Error | spool_rows.DamagedError) -> FileError | CorruptError:
    if isinstance(error, spool_rows.DamagedError):
        return CorruptError(str(error))
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptError(str(error))
    if code == sqlite3.SQLITE_BUSY:
        return BusyError("another process has it open")
    return FileError(getattr(error, "strerror", None) or str(error))
