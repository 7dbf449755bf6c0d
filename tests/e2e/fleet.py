"""One Envoy, one Mixer and the upstreams, built from the files that operators get: deploy/envoy and policies/."""

import contextlib
import http.client
import json
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixer.demo import assets
from mixer.demo.bootstrap import bootstrap
from mixer.demo.findings import Record, RecordFile, Series, key
from mixer.demo.tokens import Issuer
from mixer.demo.upstream import upstreams
from tests.components import processes
from tests.components.processes import Envoy, Mixer, Opa, wait_until
from tests.components.server import scratch

USERS = 200  # user-0 … with the role "user", admin-0 … with the role "admin", each with a limit of its own

Edit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]


@dataclass
class Proxy:
    """An Envoy as a client sees it."""

    envoy: Envoy
    issuer: Issuer

    def __post_init__(self) -> None:
        self.http = self.envoy.listener("http")
        self.tcp = self.envoy.listener("tcp")

    def call(
        self,
        method: str,
        path: str,
        user: str | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Answer:
        """One request, with a valid token of `user` or with the token given."""
        if user is not None:
            token = self.issuer.token(user)
        sent = dict(headers or {}) | ({} if token is None else {"authorization": f"Bearer {token}"})
        connection = http.client.HTTPConnection(self.http, timeout=30)
        try:
            connection.request(method, path, headers=sent)
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, response.read().decode())
        finally:
            connection.close()

    def connect(self, source: str = "127.0.0.1") -> tuple[bytes, str]:
        """Connect, send "ping": what came back before the end, and the client's own address."""
        host, _, port = self.tcp.rpartition(":")
        with socket.create_connection((host, int(port)), 30, source_address=(source, 0)) as connection:
            client = "{}:{}".format(*connection.getsockname())
            connection.sendall(b"ping")
            with contextlib.suppress(ConnectionResetError):
                return connection.recv(64), client
            return b"", client

    def stat(self, name: str) -> int:
        """A counter or gauge of Envoy's; 0 while it does not exist."""
        stats = self.envoy.call(f"/stats?format=json&filter=^{name}$")[1]["stats"]
        return sum(entry["value"] for entry in stats if "value" in entry)


@dataclass
class Fleet(Proxy):
    """An Envoy with its Mixer."""

    mixer: Mixer
    opa: Opa | None
    records: RecordFile
    _users: Iterator[int] = field(default_factory=lambda: iter(range(USERS)))
    _seen: dict[str, list[Record]] = field(default_factory=dict)

    def user(self, role: str = "user") -> str:
        """A user that nobody has been yet."""
        return f"{role}-{next(self._users)}"

    def record(self, name: str) -> Record:
        """The one record of a request (by its id) or a connection (by its client's address), once it is there."""

        def found() -> bool:
            for record in self.records.read():
                self._seen.setdefault(key(record), []).append(record)
            return name in self._seen

        wait_until(found, within=20, what=f"the record of {name}")
        (record,) = self._seen[name]
        return record

    def series(self) -> Series:
        return Series(self.mixer.call("/metrics")[1])


def patient(document: dict[str, Any]) -> None:
    """Deadlines that a busy test machine cannot pass, and an access log that comes soon."""
    for config in filter_configs(document):
        if "timeout" in config.get("grpc_service", {}):
            config["grpc_service"]["timeout"] = "10s"
        if "rate_limit_service" in config:
            config["timeout"] = "10s"
        for log in config.get("access_log", ()):
            log["typed_config"]["common_config"]["buffer_flush_interval"] = "0.1s"


def fail_open(document: dict[str, Any]) -> None:
    """Requests pass where Mixer does not answer."""
    for config in filter_configs(document):
        if "failure_mode_allow" in config:
            config["failure_mode_allow"] = True
        if "failure_mode_deny" in config:
            config["failure_mode_deny"] = False


def filter_configs(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The configuration of every network and HTTP filter."""
    for listener in document["static_resources"]["listeners"]:
        for item in listener["filter_chains"][0]["filters"]:
            yield item["typed_config"]
            for inner in item["typed_config"].get("http_filters", ()):
                yield inner["typed_config"]


@contextlib.contextmanager
def proxy(issuer: Issuer, check: str, report: str, *edits: Edit) -> Iterator[Proxy]:
    """An Envoy with upstreams; Mixer is, or is not, at these addresses."""
    with (
        upstreams() as clusters,
        _envoy({**clusters, "mixer-check": check, "mixer-report": report}, *edits) as envoy,
    ):
        yield Proxy(envoy, issuer)


def _envoy(clusters: Mapping[str, str], *edits: Edit) -> contextlib.AbstractContextManager[Envoy]:
    document = bootstrap(
        assets.envoy_configuration(), listeners={"http": 0, "tcp": 0}, admin=0, clusters=clusters
    )
    for edit in (patient, *edits):
        edit(document)
    return processes.envoy(document)


def policy_folders(folder: Path, issuer: Issuer) -> list[Path]:
    """The example policies with many users, and the key set of `issuer`."""
    policies, data = folder / "policies", folder / "data"
    shutil.copytree(assets.policies(), policies)
    roles = json.loads((policies / "roles" / "data.json").read_text())
    roles["users"] |= {f"{role}-{number}": role for number in range(USERS) for role in ("user", "admin")}
    (policies / "roles" / "data.json").write_text(json.dumps(roles))
    (data / "jwks").mkdir(parents=True)
    (data / "jwks" / "data.json").write_text(json.dumps(issuer.jwks))
    return [policies, data]


def settings(folder: Path, policies: list[Path], listeners: Mapping[str, Any]) -> dict[str, Any]:
    """Mixer's settings with everything in the process: embedded engine, counters in memory, a file of records."""
    return {
        "listeners": listeners,
        "policy": {"engine": "embedded", "paths": policies},
        "rate_limits": {"paths": [policies[0] / "limits"], "counters": "memory"},
        "telemetry": {"sinks": [{"type": "file", "path": folder / "records.jsonl"}]},
    }


@contextlib.contextmanager
def fleet(
    engine: str = "embedded",
    server: str = "asyncio",
    unix: bool = False,
    prepare: Callable[[Path], None] = lambda policies: None,
    edits: Iterable[Edit] = (),
    upstream: str | None = None,
    **changes: Mapping[str, Any],
) -> Iterator[Fleet]:
    """A fleet of one. `prepare` may edit the folder of policies first, `edits` Envoy's configuration; `upstream` is an
    address to take the HTTP upstream's place; `changes` go into sections of the settings."""
    issuer = Issuer()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch("fleet"))
        folders = policy_folders(folder, issuer)
        prepare(folders[0])
        records = folder / "records.jsonl"
        records.touch()
        listeners = {
            "check": {"address": f"unix:{folder}/check.sock" if unix else "127.0.0.1:0", "server": server},
            "report": {"address": f"unix:{folder}/report.sock" if unix else "127.0.0.1:0"},
            "admin": {"address": "127.0.0.1:0"},
        }
        chosen = settings(folder, folders, listeners)
        opa = None
        if engine == "opa":
            opa = stack.enter_context(processes.opa(*folders, unix=unix))
            chosen["policy"] |= {"engine": "opa", "opa": {"url": opa.url, "timeout": "10s"}}
        for section, values in changes.items():
            chosen.setdefault(section, {}).update(values)
        mixer = stack.enter_context(processes.mixer(chosen))
        clusters = stack.enter_context(upstreams())
        clusters |= {"mixer-check": mixer.check, "mixer-report": mixer.report}
        if upstream is not None:
            clusters["upstream-http"] = upstream
        envoy = stack.enter_context(_envoy(clusters, *edits))
        yield Fleet(envoy, issuer, mixer, opa, RecordFile(records))
