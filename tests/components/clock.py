"""The wall clock of a process, set by its test (libfaketime); its monotonic clock goes on as it does."""

import functools
import os
import subprocess
import time
from pathlib import Path

from tests.components import binaries


class Clock:
    """`env` is for the process whose clock it is."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.step(0)
        self.env = {
            "LD_PRELOAD": _library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: int) -> None:
        """Ahead of the machine's clock by so much; behind it with fewer than 0."""
        self._set(f"{seconds:+d}")

    def stand_still(self) -> None:
        self._set(time.strftime("%Y-%m-%d %H:%M:%S"))

    def _set(self, what: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(what + "\n")
        os.replace(new, self._file)  # never seen half


@functools.cache
def _library() -> str:
    """As faketime itself preloads it."""
    done = subprocess.run(
        [binaries.faketime(), "-f", "+0", "env"], capture_output=True, text=True, check=True
    )
    (found,) = (line for line in done.stdout.splitlines() if line.startswith("LD_PRELOAD="))
    return found.partition("=")[2]
