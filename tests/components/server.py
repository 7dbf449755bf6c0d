"""A real server as a child process: started, waited for, stopped by its pid."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

# Below the ports that Linux gives to clients (from 32768), so that no connection takes a stopped server's.
LAST_PORT = 32_000
_given_ports: set[int] = set()


class StartError(Exception):
    """A component did not come up, or did not do what it was waited for; the message ends with its log."""


class Server:
    """One child process. Everything it prints goes to `log`.

    `start` returns once `answers` does not raise OSError and is true, so that a test may call at once.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        folder: Path,
        answers: Callable[[], bool],
        within: float = 30,
        cpu: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`folder` takes the log, `cpu` pins the process to one core, `env` is added to the environment."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [*(("taskset", "-c", str(cpu)) if cpu is not None else ()), *map(str, command)]
        self._answers = answers
        self._within = within
        self._env = {**os.environ, **(env or {})}
        self._env.pop("RUST_BACKTRACE", None)  # with it, regorus walks the stack at each error it makes
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; of the last process when it is stopped."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and wait until it answers. Raises StartError with the end of its log."""
        with self.log.open("ab") as log, self._stdout(log) as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=self._env,
                process_group=0,  # Ctrl-C reaches the tests alone, and they stop their servers in order
            )
        try:
            self.wait_until(self._answers, self._within, "answer")
        except BaseException:
            self.kill()
            raise

    def wait_until(self, condition: Callable[[], bool], within: float, what: str) -> None:
        """Wait until `condition` holds (OSError: not yet). Raises StartError after `within` seconds."""
        deadline = time.monotonic() + within
        while True:
            with contextlib.suppress(OSError):
                if condition():
                    return
            if not self.running:
                code = self._process.returncode if self._process else None
                raise StartError(f"{self.name} ended with exit code {code}; its log:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} did not {what} within {within:g} s; its log:\n{self.tail()}")
            time.sleep(0.01)

    def stop(self, within: float = 15) -> int:
        """Terminate, and kill if that takes longer than `within` seconds. Returns the exit code."""
        assert self._process is not None, f"{self.name} was never started"
        if self.running:
            self.resume()
            self._process.terminate()
            try:
                return self._process.wait(within)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait()

    def kill(self) -> None:
        """SIGKILL: the process gets no chance to tidy up."""
        assert self._process is not None, f"{self.name} was never started"
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Stop if it runs, and start again on the same address."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: its sockets stay open and nothing answers. Returns once each of its threads has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        self.wait_until(self._is_stopped, 10, "stop at SIGSTOP")

    def _is_stopped(self) -> bool:
        states = [
            file.read_text().rpartition(")")[2].split()[0]
            for file in Path(f"/proc/{self.pid}/task").glob("*/stat")
        ]
        return set(states) == {"T"}

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def tail(self, lines: int = 40) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def _stdout(self, log: IO[bytes]) -> IO[bytes]:
        """The file that standard output goes to; here, the log."""
        return log


def free_port(beside: int = 0) -> int:
    """A TCP port of 127.0.0.1 that nothing listens on, and that this process has not been given before. The one that
    many `beside` it is free too."""
    while True:
        port = random.randrange(12_000, LAST_PORT - beside)
        ports = {port, port + beside}
        if ports & _given_ports or not all(map(_is_free, ports)):
            continue
        _given_ports.update(ports)
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], bool], within: float = 10, what: str = "the condition") -> None:
    """Wait until `condition` holds, looking every 10 ms. Raises AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {within:g} s"
        time.sleep(0.01)


def connect(address: str) -> socket.socket:
    """A connection to `host:port` or `unix:/path`, whose calls raise TimeoutError after 5 s."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        try:
            connection.connect(address.removeprefix("unix:"))
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 5)


def http_call(connection: socket.socket, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    """One HTTP exchange, which ends the connection: status, and body, decoded if it is JSON, else text."""
    with connection:
        client = http.client.HTTPConnection("localhost")
        client.sock = connection
        try:
            client.request(method, path, None if body is None else body.encode(), {"connection": "close"})
            answer = client.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"no HTTP answer: {error}") from error
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(text) if is_json and text else text


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A new folder, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f"mixer-{name}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


ServerT = TypeVar("ServerT", bound=Server)


@contextlib.contextmanager
def running(server: ServerT) -> Iterator[ServerT]:
    """Start the server, stop it at the end."""
    server.start()
    try:
        yield server
    finally:
        server.stop()
