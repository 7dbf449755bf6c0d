"""A disk that is full."""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def full_disk(size: int = 300_000) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: writes fail, as they do where no space is left."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class SmallDisk:
    """A file system of 2 MiB. Who may not mount one has a disk where files cannot grow, for as long as it is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filling = folder / "filling"

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Somebody else has taken what was left."""
        if os.geteuid():
            with full_disk(0):
                yield
            return
        with self._filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        try:
            yield
        finally:
            self._filling.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    folder.mkdir()
    if os.geteuid():
        yield SmallDisk(folder)
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
