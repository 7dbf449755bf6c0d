"""The file of a spool: SQLite in WAL mode, used by one process and one thread at a time.

With `synchronous=FULL` a commit is on the medium when it returns, so that what was accepted survives the loss of power,
not just that of the process. It costs one fsync a transaction, without Python's lock; as a transaction has what came
meanwhile, a slow disk makes transactions larger, not the rest slower.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from mixer.telemetry.item import Item

log = structlog.get_logger()

PAGE = 4096
WAL = 4 * 1024 * 1024  # bytes that the journal is cut to
MODE = 0o640  # records tell who did what: not for everybody on the machine

_VERSION = 1  # of the schema, in the file's user_version
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
  seq INTEGER PRIMARY KEY, key BLOB, value BLOB NOT NULL, event_id BLOB NOT NULL, timestamp INTEGER NOT NULL,
  size INTEGER NOT NULL)
"""
_INSERT = "INSERT INTO records (key, value, event_id, timestamp, size, seq) VALUES (?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT key, value, event_id, timestamp, size, seq FROM records WHERE seq > ? ORDER BY seq"
_DELETE = "DELETE FROM records WHERE seq BETWEEN ? AND ?"


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
        self._max_pages = max(64, max_bytes // PAGE)
        self._database: sqlite3.Connection | None = None
        self._identity = (0, 0)  # of the open file: device and inode

    def look(self) -> Found:
        """What an earlier process left, the file checked for it."""
        try:
            database = self._open()
            for (problem,) in database.execute("PRAGMA quick_check(1)"):
                if problem != "ok":
                    raise CorruptError(problem)
            query = "SELECT count(*), coalesce(sum(size), 0), coalesce(max(seq), 0) + 1 FROM records"
            return Found(*database.execute(query).fetchone())
        except (OSError, sqlite3.Error) as error:
            raise _translated(error) from error

    def write(self, gone: Iterable[int], batch: Sequence[Item]) -> None:
        """Delete and insert, both or neither; durable when it returns. Raises `GoneError` where nobody would find what
        is written; `read` still answers."""
        try:
            self._refuse_gone()
            database = self._open()
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_DELETE, ranges(gone))
            database.executemany(_INSERT, (item[:6] for item in batch))
            database.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            self._roll_back()
            raise _translated(error) from error

    def read(self, after: int, most: int) -> list[Item]:
        """The records that follow, of `most` bytes or a little more."""
        rows: list[Item] = []
        try:
            cursor = self._open().execute(_SELECT, (after,))
            for row in cursor:
                rows.append((*row, None))
                most -= row[4]
                if most <= 0:
                    break
            cursor.close()
        except (OSError, sqlite3.Error) as error:
            raise _translated(error) from error
        if not rows:
            raise CorruptError("records are missing")
        return rows

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
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"PRAGMA journal_size_limit = {WAL}")
            database.execute(f"PRAGMA max_page_count = {self._max_pages}")
            database.execute("BEGIN IMMEDIATE")
            if (version := database.execute("PRAGMA user_version").fetchone()[0]) not in (0, _VERSION):
                raise FileError(f"its schema is version {version}; expected {_VERSION}")
            database.execute(_SCHEMA)
            database.execute(f"PRAGMA user_version = {_VERSION}")
            database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        self._database = database
        return database

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


def ranges(seqs: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Runs of numbers without a gap, each by its first and last."""
    run: list[int] = []
    for seq in sorted(seqs):
        if run and seq == run[1] + 1:
            run[1] = seq
            continue
        if run:
            yield run[0], run[1]
        run = [seq, seq]
    if run:
        yield run[0], run[1]


def _translated(error: OSError | sqlite3.Error) -> FileError | CorruptError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptError(str(error))
    if code == sqlite3.SQLITE_BUSY:
        return BusyError("another process has it open")
    return FileError(getattr(error, "strerror", None) or str(error))
