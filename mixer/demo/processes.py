"""Child processes of the demo: started, waited for, stopped."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mixer.demo.stop import StopSignal
from mixer.errors import StartError

_POLL = 0.05  # seconds
_STOP_WITHIN = 15.0  # seconds; a Mixer that drains takes up to its drain_timeout
_TAIL = 20  # lines of a log that an error shows


class Process:
    """A running child. What it prints goes to `<name>.out` and `<name>.log` in the folder given."""

    def __init__(self, name: str, command: Sequence[str | Path], folder: Path, stop: StopSignal) -> None:
        self.name = name
        self._stop = stop
        self.output = folder / f"{name}.out"
        self.log = folder / f"{name}.log"
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self._child = subprocess.Popen(  # noqa: S603 (our own commands)
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                process_group=0,  # Ctrl-C comes to the demo alone, which then stops its children in order
            )

    def wait_for(self, condition: Callable[[], bool], within: float, what: str) -> None:
        """Wait until `condition` holds; an OSError means not yet.

        Raises `StartError` with the end of the log when the process ends instead, or after `within` seconds;
        `StopRequestedError` when a signal comes.
        """
        deadline = time.monotonic() + within
        while True:
            ended = self._child.poll()
            with contextlib.suppress(OSError):
                if condition():
                    return
            if ended is not None:
                raise StartError(
                    f"{self.name} ended with exit code {ended} before it could {what}.{self._tail()}"
                )
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} did not {what} within {within:g} s.{self._tail()}")
            self._stop.sleep(_POLL)

    def check(self) -> None:
        """Raise `StartError` with the end of the log if the process has ended."""
        if (code := self._child.poll()) is not None:
            raise StartError(f"{self.name} ended with exit code {code}.{self._tail()}")

    def stop(self) -> None:
        """Terminate; kill if that takes too long."""
        self._child.terminate()
        try:
            self._child.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _tail(self) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines()[-_TAIL:]
        return "\n".join(["", "The end of its log:", *lines]) if lines else " Its log is empty."


@contextlib.contextmanager
def running(name: str, command: Sequence[str | Path], folder: Path, stop: StopSignal) -> Iterator[Process]:
    """A child process, stopped at the end."""
    process = Process(name, command, folder, stop)
    try:
        yield process
    finally:
        process.stop()
