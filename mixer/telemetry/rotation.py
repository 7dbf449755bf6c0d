"""The file that a file sink writes to: rotated by size and time, opened anew on demand, synchronised as asked for."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from mixer import config

MODE = 0o640  # records tell who did what: not for everybody on the machine
SYNC_INTERVAL = 1.0  # seconds, of `fsync: interval`


class LogFile:
    """Lines appended to a file, or to standard output (`-`). For one thread; methods raise OSError.

    When the file would pass `max_bytes`, or is older than `max_age` (a span of the clock's: of one hour, it is another
    file each hour), it becomes `name.1`, what was that `name.2`, and so on up to `keep`; the oldest goes.
    """

    def __init__(self, settings: config.FileSink, clock: Callable[[], float] = time.time) -> None:
        self._path = settings.path
        self._rotation = settings.rotation
        self._fsync = settings.fsync
        self._clock = clock
        self._file = -1
        self._size = 0
        self._turn = 0
        self._synced = 0.0
        self.unsynced = False
        self._whole = True  # what was written ends with a line's end

    def open(self) -> None:
        """Open it, or another one under the same name if that one was moved away."""
        if str(self._path) == "-":
            file = os.dup(1)
        else:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        self.close()
        self._file = file
        status = os.fstat(file)
        self._size = status.st_size
        self._turn = self._turn_of(status.st_mtime if self._size else self._clock())
        if self._size and self._path.is_file() and not _ends_with_a_line(self._path):
            # A line was cut off when a process died: the next one gets its own.
            self._size += os.write(file, b"\n")

    def write(self, data: bytes) -> int:
        """Append; how many bytes were written. A line is never divided between two files. A file that was removed is
        made anew: nobody would find what is written to it."""
        if self._whole:
            if self._was_removed():
                self.open()
            if self._rotates and self._is_due(len(data)):
                self._rotate()
        written = os.write(self._file, data)
        self._size += written
        self._whole = data[:written].endswith(b"\n")
        self.unsynced = True
        return written

    def sync(self, now: bool = False) -> bool:
        """Bring what was written to the disk, if that is due (`now`: if it is asked for at all). Answers True."""
        if self._fsync == "never" or not self.unsynced:
            return True
        moment = self._clock()
        if now or self._fsync == "batch" or not 0 <= moment - self._synced < SYNC_INTERVAL:
            _sync(self._file)
            self._synced = moment
            self.unsynced = False
        return True

    def close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def _was_removed(self) -> bool:
        return str(self._path) != "-" and os.fstat(self._file).st_nlink == 0

    @property
    def _rotates(self) -> bool:
        return self._rotation is not None and str(self._path) != "-"

    @property
    def _most(self) -> float:
        most = None if self._rotation is None else self._rotation.max_bytes
        return float("inf") if most is None else most

    def _turn_of(self, moment: float) -> int:
        """Which span of `max_age` a moment is in."""
        age = None if self._rotation is None else self._rotation.max_age
        return 0 if age is None else int(moment // age)

    def _is_due(self, size: int) -> bool:
        """Whether as many bytes more are for another file."""
        too_large = self._size > 0 and self._size + size > self._most
        return too_large or self._turn != self._turn_of(self._clock())

    def _rotate(self) -> None:
        if self._rotation is None or not self._size:  # an empty file begins its time now
            self._turn = self._turn_of(self._clock())
            return
        self.sync(now=True)
        for number in range(self._rotation.keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        if self._path.exists():
            self._path.replace(self._numbered(1))
        self.open()
        if self._fsync != "never":
            _sync_folder(self._path.parent)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _sync(file: int) -> None:
    try:
        os.fdatasync(file)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


_NO_SYNC = (errno.EINVAL, errno.EROFS)  # a pipe, a terminal: there is no disk behind it


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
