"""What Mixer stands on, and a peer of it: Redis, OPA, Kafka, envoyproxy/ratelimit; and Prometheus, which scrapes it."""

import asyncio
import contextlib
import functools
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.components import binaries
from tests.components.server import Server, StartError, connect, free_port, http_call, running, scratch


class Redis(Server):
    """A Redis without persistence: it is empty after a restart."""

    def __init__(
        self,
        folder: Path,
        args: Sequence[str],
        unix: bool = False,
        cpu: int | None = None,
        port: int | None = None,
    ) -> None:
        self.port = 0 if unix else port or free_port()
        path = folder / "redis.sock"
        self.address = f"unix:{path}" if unix else f"127.0.0.1:{self.port}"
        self.url = f"unix://{path}" if unix else f"redis://{self.address}/0"
        listen = ("--port", "0", "--unixsocket", path) if unix else ("--port", str(self.port))
        super().__init__(
            "redis",
            [
                *(binaries.redis_server(), *listen, "--bind", "127.0.0.1", "--dir", folder),
                *("--save", "", "--appendonly", "no", *args),
            ],
            folder=folder,
            answers=lambda: self.call("PING").startswith((b"+PONG", b"-NOAUTH")),
            cpu=cpu,
        )

    def call(self, command: str, password: str = "") -> bytes:
        """Send one inline command and return the first bytes of the reply, as Redis wrote them."""
        with connect(self.address) as connection:
            if password:
                connection.sendall(f"AUTH {password}\r\n".encode())
                connection.recv(65536)
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65536)


@contextlib.contextmanager
def redis(*args: str, unix: bool = False, cpu: int | None = None) -> Iterator[Redis]:
    """A Redis server; `args` are options of redis-server."""
    with scratch("redis") as folder, running(Redis(folder, args, unix, cpu)) as server:
        yield server


class Opa(Server):
    """An OPA server. `url` is what `policy.opa.url` takes."""

    def __init__(self, folder: Path, args: Sequence[str | Path], unix: bool, cpu: int | None) -> None:
        self.port = 0 if unix else free_port()
        self._path = folder / "opa.sock"
        self.address = f"unix:{self._path}" if unix else f"127.0.0.1:{self.port}"
        self.url = self.address if unix else f"http://{self.address}"
        listen = f"unix://{self._path}" if unix else self.address
        super().__init__(
            "opa",
            [
                *(binaries.opa(), "run", "--server", "--addr", listen),
                *("--disable-telemetry", "--log-level", "error", *args),
            ],
            folder=folder,
            answers=lambda: self.call("GET", "/health")[0] == 200,
            cpu=cpu,
        )

    def start(self) -> None:
        self._path.unlink(missing_ok=True)  # OPA refuses to bind to a socket that a killed one left behind
        super().start()

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One REST call: status and decoded answer. A `str` body is sent as it is (Rego), others as JSON."""
        sent = body if isinstance(body, str) or body is None else json.dumps(body)
        return http_call(connect(self.address), method, path, sent)

    def clear(self) -> None:
        """Remove every policy and all data that came by REST."""
        for policy in self.call("GET", "/v1/policies")[1]["result"]:
            self.call("DELETE", f"/v1/policies/{policy['id']}")
        self.call("PUT", "/v1/data", {})


@contextlib.contextmanager
def opa(*args: str | Path, unix: bool = False, cpu: int | None = None) -> Iterator[Opa]:
    """An OPA server; `args` are policies to load and options of `opa run`."""
    with scratch("opa") as folder, running(Opa(folder, args, unix, cpu)) as server:
        yield server


# Half the CPU time until it answers. What it makes of load is less, so benchmarks go without.
_STARTS_SOON = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class Prometheus(Server):
    """A Prometheus that scrapes `targets` twice a second, as `mixer`."""

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        job = {"job_name": "mixer", "static_configs": [{"targets": [*targets]}]}
        file = folder / "prometheus.json"  # JSON is YAML
        file.write_text(
            json.dumps(
                {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}, "scrape_configs": [job]}
            )
        )
        super().__init__(
            "prometheus",
            [
                *(binaries.prometheus(), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"),
                *(f"--web.listen-address={self.address}", "--log.level=warn"),
                "--enable-feature=exemplar-storage",
            ],
            folder=folder,
            answers=lambda: http_call(connect(self.address), "GET", "/-/ready")[0] == 200,
        )

    def query(self, expression: str) -> list[Any]:
        """The instant vector of an expression. Raises ValueError with Prometheus' message."""
        return self._ask("query", query=expression)["result"]  # type: ignore[no-any-return]

    def exemplars(self, expression: str) -> list[Any]:
        """The exemplars of the last minutes, by series."""
        now = time.time()
        return self._ask("query_exemplars", query=expression, start=now - 300, end=now + 1)  # type: ignore[no-any-return]

    def _ask(self, page: str, **parameters: object) -> Any:
        path = f"/api/v1/{page}?{urlencode(parameters)}"
        _, answer = http_call(connect(self.address), "GET", path)
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]


@contextlib.contextmanager
def prometheus(*targets: str) -> Iterator[Prometheus]:
    """A Prometheus; `targets` are addresses of admin listeners."""
    with scratch("prometheus") as folder, running(Prometheus(folder, targets)) as server:
        yield server


class Kafka(Server):
    """One broker, its own controller (KRaft). Topics outlive `restart`, and are made on first use.

    `secured`: has a second address too, that wants TLS and a user with a password (SASL PLAIN). One that is pinned
    to a core is compiled for load, others to start soon. `beside`: the first broker of a cluster of two, whose
    controller is the controller of this one too.
    """

    USER, PASSWORD = "mixer", "mixer-secret"

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        cpu: int | None,
        secured: bool = False,
        beside: "Kafka | None" = None,
    ) -> None:
        self.port, self.node = free_port(), 1 if beside is None else 2
        self.controller: int = free_port() if beside is None else beside.controller
        self.secured, self.authority = "", folder / "authority.pem"
        self.address = self.bootstrap = f"127.0.0.1:{self.port}"
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller}",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{self.controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(folder / "logs"),
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "3000",  # a killed broker may come back only after that
            **settings,
        }
        if beside is not None:
            properties |= {
                "process.roles": "broker",
                "node.id": "2",
                "listeners": f"PLAINTEXT://{self.address}",
            }
        if secured:
            self.secured = f"127.0.0.1:{free_port()}"
            for key in ("listeners", "advertised.listeners"):
                properties[key] += f",SASL_SSL://{self.secured}"
            properties |= self._security()
        file = folder / "kraft.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        logs = folder / "logs"
        logs.mkdir()
        for name, content in _formatted(self.node).items():
            (logs / name).write_bytes(content)
        super().__init__(
            "kafka",
            [*_java(*(() if cpu is not None else _STARTS_SOON)), "-Xmx512m", "kafka.Kafka", file],
            folder=folder,
            answers=self._answers_metadata,
            within=90,
            cpu=cpu,
        )

    def _security(self) -> dict[str, str]:
        from tests.server.certificates import Authority

        authority = Authority()
        self.authority.write_bytes(authority.cert)
        pair = authority.issue("localhost")

        def line(pem: bytes) -> str:
            return pem.decode().strip().replace("\n", " \\\n ")

        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return {
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": line(pair.cert),
            "ssl.keystore.key": line(pair.key),
            "sasl.enabled.mechanisms": "PLAIN",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{module} required user_{self.USER}="{self.PASSWORD}";',
        }

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        settings: Mapping[str, str] | None = None,
        replicas: Sequence[int] = (1,),
    ) -> None:
        """Make a topic, and return once its partitions have leaders. Not for a running event loop. `replicas`: the
        nodes that have each partition, the leader first."""
        asyncio.run(self._create_topic(name, partitions, dict(settings or {}), list(replicas)))

    async def _create_topic(
        self, name: str, partitions: int, settings: dict[str, str], replicas: list[int]
    ) -> None:
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic
        from aiokafka.errors import for_code

        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            where = dict.fromkeys(range(partitions), replicas)
            new = NewTopic(name, -1, -1, replica_assignments=where, topic_configs=settings)
            answer = await admin.create_topics([new])
            _, code, message = answer.topic_errors[0]
            if code:
                raise for_code(code)(message)
            while True:
                (topic,) = await admin.describe_topics([name])
                if [p["leader"] for p in topic["partitions"]] == replicas[:1] * partitions:
                    return
                await asyncio.sleep(0.02)
        finally:
            await admin.close()

    def _answers_metadata(self) -> bool:
        """Whether the broker names itself, the second of two, in a Metadata answer (version 0, no topics asked by
        name)."""
        with connect(self.address) as connection:
            # length, api key 3, version 0, correlation id 1, client id "t", no topics
            connection.sendall(bytes.fromhex("0000000f000300000000000100017400000000"))
            answer = connection.recv(65536)
        # length, correlation id, count of brokers
        return len(answer) >= 12 and int.from_bytes(answer[8:12]) >= self.node


def _java(*options: str) -> list[str | Path]:
    log = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return [binaries.java(), *options, log, "-cp", binaries.kafka_classpath()]


@functools.cache
def _formatted(node: int = 1) -> Mapping[str, bytes]:
    """The files of a broker's empty storage: the same for each of a number, and a start of Java to make."""
    with scratch("kafka") as folder:
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": f"{node}@127.0.0.1:1",
            "listeners": "CONTROLLER://127.0.0.1:1,PLAINTEXT://127.0.0.1:2",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(folder / "logs"),
        }
        file = folder / "kraft.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        tool = ["kafka.tools.StorageTool", "format", "-t", "TWl4ZXJUZXN0c0thZmthMQ", "-c", file]
        done = subprocess.run(
            [*_java(*_STARTS_SOON), *tool], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise StartError(f"kafka's storage cannot be formatted:\n{done.stdout}{done.stderr}")
        return {each.name: each.read_bytes() for each in (folder / "logs").iterdir()}


@contextlib.contextmanager
def kafka(
    settings: Mapping[str, str] | None = None, cpu: int | None = None, secured: bool = False
) -> Iterator[Kafka]:
    """A Kafka broker; `settings` are server properties."""
    with scratch("kafka") as folder, running(Kafka(folder, settings or {}, cpu, secured)) as server:
        yield server


@contextlib.contextmanager
def kafka_pair() -> Iterator[tuple[Kafka, Kafka]]:
    """Two brokers of one cluster. The first is the controller too, so that it is the second that may be away."""
    with (
        scratch("kafka") as folder,
        scratch("kafka") as other,
        running(Kafka(folder, {}, None)) as first,
        running(Kafka(other, {}, None, beside=first)) as second,
    ):
        yield first, second


class RateLimit(Server):
    """envoyproxy/ratelimit on a Redis."""

    def __init__(
        self, folder: Path, limits: Path, redis_address: str, cpu: int | None, env: Mapping[str, str]
    ) -> None:
        self.port, http_port, debug_port = free_port(), free_port(), free_port()
        self.address, self._http_address = f"127.0.0.1:{self.port}", f"127.0.0.1:{http_port}"
        self._debug_address = f"127.0.0.1:{debug_port}"
        self._runtime = folder / "current"  # a link, for that server looks again when it is exchanged
        self._versions = itertools.count()
        self._read = 0  # bytes of its log that were looked at
        files = sorted(limits.glob("*.yaml")) if limits.is_dir() else [limits]
        self._exchange({file.name: file.read_bytes() for file in files})
        super().__init__(
            "ratelimit",
            [binaries.ratelimit_peer()],
            folder=folder,
            answers=lambda: http_call(connect(self._http_address), "GET", "/healthcheck")[0] == 200,
            cpu=cpu,
            env={
                "USE_STATSD": "false",
                "LOG_LEVEL": "error",
                "BACKEND_TYPE": "redis",
                "REDIS_SOCKET_TYPE": "tcp",
                "REDIS_URL": redis_address,
                "RUNTIME_ROOT": str(self._runtime),
                "RUNTIME_SUBDIRECTORY": "ratelimit",
                "RUNTIME_WATCH_ROOT": "true",
                "GRPC_HOST": "127.0.0.1",
                "GRPC_PORT": str(self.port),
                "HOST": "127.0.0.1",
                "PORT": str(http_port),
                "DEBUG_HOST": "127.0.0.1",
                "DEBUG_PORT": str(debug_port),
                **env,
            },
        )  # fmt: skip

    def start(self) -> None:
        super().start()
        self._read = self.log.stat().st_size

    def load(self, files: Mapping[str, bytes]) -> str | None:
        """Exchange its limits, files by name; why it refuses them and keeps those it had, None if it does not.

        Needs LOG_LEVEL=info."""
        self._exchange(files)
        said: list[str] = []

        def is_loaded() -> bool:
            said.extend(line for line in self.new_lines() if "new configuration" in line)
            return bool(said)

        self.wait_until(is_loaded, 10, "load its limits")
        return None if "Successfully loaded" in said[0] else said[0]

    def new_lines(self) -> list[str]:
        """What it has printed since it was asked last."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            text, _, _ = log.read().rpartition(b"\n")
        self._read += len(text) + bool(text)
        return text.decode("utf-8", "replace").splitlines()

    def call(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        """Status and body of its HTTP port's answer, decoded if it is JSON."""
        return http_call(connect(self._http_address), method, path, body)

    def debug(self, path: str) -> str:
        """A page of its debug port."""
        return str(http_call(connect(self._debug_address), "GET", path)[1])

    def _exchange(self, files: Mapping[str, bytes]) -> None:
        version = self._runtime.with_name(f"runtime{next(self._versions)}")
        config = version / "ratelimit" / "config"
        config.mkdir(parents=True)
        for name, content in files.items():
            (config / name).write_bytes(content)
        link = version.with_name("next")
        link.symlink_to(version)
        before = self._runtime.resolve()
        link.replace(self._runtime)
        if before != self._runtime:
            shutil.rmtree(before)


@contextlib.contextmanager
def ratelimit(
    limits: Path, redis_address: str, cpu: int | None = None, env: Mapping[str, str] | None = None
) -> Iterator[RateLimit]:
    """envoyproxy/ratelimit with a limits file, or a folder of them; `redis_address` is host:port."""
    with (
        scratch("ratelimit") as folder,
        running(RateLimit(folder, Path(limits), redis_address, cpu, env or {})) as server,
    ):
        yield server
