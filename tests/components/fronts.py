"""The proxy, and Mixer itself."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.components import binaries
from tests.components.server import Server, connect, free_port, http_call, running, scratch


class Envoy(Server):
    """An Envoy with one worker thread. `admin` is its admin listener's address."""

    def __init__(self, folder: Path, config: Mapping[str, Any], cpu: int | None) -> None:
        self.port = free_port()
        self.admin = self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.admin}"
        admin = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}}}
        file = folder / "envoy.json"
        file.write_text(json.dumps({**config, "admin": admin}, default=str))
        super().__init__(
            "envoy",
            [
                *(binaries.envoy(), "-c", file, "--concurrency", "1", "--log-level", "warning"),
                "--disable-hot-restart",  # no memory shared with another Envoy of this machine
            ],
            folder=folder,
            answers=lambda: self.call("/ready") == (200, "LIVE\n"),
            cpu=cpu,
        )

    def call(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Status and body of an admin page, decoded if it is JSON."""
        return http_call(connect(self.address), method, path)

    def listener(self, name: str) -> str:
        """The address that a listener has bound, as host:port (its `port_value` may be 0)."""
        for status in self.call("/listeners?format=json")[1]["listener_statuses"]:
            if status["name"] == name:
                bound = status["local_address"]["socket_address"]
                return f"{bound['address']}:{bound['port_value']}"
        raise KeyError(f"Envoy has no listener {name}")


@contextlib.contextmanager
def envoy(config: Mapping[str, Any], cpu: int | None = None) -> Iterator[Envoy]:
    """An Envoy with this bootstrap configuration; its `admin` is set here."""
    with scratch("envoy") as folder, running(Envoy(folder, config, cpu)) as server:
        yield server


class Mixer(Server):
    """`mixer serve`. `addresses` holds what its ready line names; standard output goes to `output`."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any] | str | Path, args: Sequence[str], cpu: int | None,
        env: Mapping[str, str] | None,
    ) -> None:  # fmt: skip
        self.addresses: dict[str, str] = {}
        self.output = folder / "mixer.out"
        if isinstance(config, Mapping):
            file = folder / "mixer.yaml"
            file.write_text(json.dumps(config, default=str))  # JSON is YAML
        else:
            file = Path(config)
        super().__init__(
            "mixer",
            [sys.executable, "-m", "mixer", "serve", "--config", file, *args],
            folder=folder,
            answers=self._is_ready,
            cpu=cpu,
            env=env,
        )

    @property
    def check(self) -> str:
        return self.addresses["check"]

    @property
    def report(self) -> str:
        return self.addresses["report"]

    @property
    def admin(self) -> str:
        return self.addresses["admin"]

    def start(self) -> None:
        self.output.write_bytes(b"")
        super().start()

    def call(self, path: str) -> tuple[int, Any]:
        """Status and body of a page of the admin listener."""
        return http_call(connect(self.admin), "GET", path)

    def _stdout(self, log: IO[bytes]) -> IO[bytes]:
        return self.output.open("ab")

    def _is_ready(self) -> bool:
        for line in self.output.read_text("utf-8", "replace").splitlines(keepends=True):
            if line.startswith("ready") and line.endswith("\n"):
                self.addresses = dict(pair.split("=", 1) for pair in line.split()[1:])
                return True
        return False


@contextlib.contextmanager
def mixer(
    config: Mapping[str, Any] | str | Path,
    *args: str,
    cpu: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Mixer]:
    """`mixer serve` with these settings (a mapping, or the path of a file) and further options."""
    with scratch("mixer") as folder, running(Mixer(folder, config, args, cpu, env)) as server:
        yield server
