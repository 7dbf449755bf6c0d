"""Redis as it is run: a primary with a replica and sentinels, and a cluster. All of it is `redis-server`."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.components import binaries
from tests.components.backends import Redis
from tests.components.server import Server, connect, free_port, running, scratch, wait_until

SLOTS = 16384
BUS = 10_000  # between a node's port and that of its cluster bus
INLINE_SLOTS = 8192  # that one inline command can name
FAST_REPLICATION = (
    *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
)


class Sentinel(Server):
    """A sentinel that watches one primary under the name `mymaster`, and takes 0.3 s of silence for its end."""

    def __init__(
        self, folder: Path, primary: Redis, quorum: int, password: str = "", own_password: str = ""
    ) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"redis://{self.address}"
        self._password = own_password
        file = folder / "sentinel.conf"
        settings = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor mymaster 127.0.0.1 {primary.port} {quorum}",
            "sentinel down-after-milliseconds mymaster 300",
            "sentinel failover-timeout mymaster 2000",
        ]
        if password:
            settings.append(f"sentinel auth-pass mymaster {password}")
        if own_password:
            settings.append(f"requirepass {own_password}")
        file.write_text("".join(f"{line}\n" for line in settings))
        super().__init__(
            "sentinel",
            [binaries.redis_server(), file, "--sentinel"],
            folder=folder,
            answers=lambda: self.call("PING").startswith(b"+PONG"),
        )

    def call(self, command: str) -> bytes:
        """Send one inline command and return the first bytes of the reply."""
        with connect(self.address) as connection:
            if self._password:
                connection.sendall(f"AUTH {self._password}\r\n".encode())
                connection.recv(65536)
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65536)

    def primary(self) -> int:
        """The port of the primary, as this sentinel knows it."""
        return int(self.call("SENTINEL GET-MASTER-ADDR-BY-NAME mymaster").split(b"\r\n")[4])

    def knows(self, replicas: int, sentinels: int) -> bool:
        info = self.call("INFO sentinel").decode()
        return "status=ok" in info and f"slaves={replicas},sentinels={sentinels}" in info


class Guarded:
    """A primary, its replica, and the sentinels that watch them."""

    def __init__(self, redises: list[Redis], sentinels: list[Sentinel]) -> None:
        self.redises, self.sentinels = redises, sentinels

    @property
    def primary(self) -> Redis:
        port = self.sentinels[0].primary()
        return next(redis for redis in self.redises if redis.port == port)

    @property
    def urls(self) -> list[str]:
        return [sentinel.url for sentinel in self.sentinels]


@contextlib.contextmanager
def guarded(sentinels: int = 3, password: str = "", sentinel_password: str = "") -> Iterator[Guarded]:
    """`password`: of both redis-servers."""
    with contextlib.ExitStack() as stack:

        def folder(name: str) -> Path:
            return stack.enter_context(scratch(name))

        args = (
            *FAST_REPLICATION,
            *(("--requirepass", password, "--masterauth", password) if password else ()),
        )
        primary = stack.enter_context(running(Redis(folder("redis"), args)))
        follow = ("--replicaof", "127.0.0.1", str(primary.port))
        replica = stack.enter_context(running(Redis(folder("redis"), (*args, *follow))))
        # A sentinel looks for replicas when it starts, and every 10 s.
        wait_until(lambda: b"online" in primary.call("INFO replication", password), 30, "a replica")
        quorum = sentinels // 2 + 1
        watching = [
            stack.enter_context(
                running(Sentinel(folder("sentinel"), primary, quorum, password, sentinel_password))
            )
            for _ in range(sentinels)
        ]
        for sentinel in watching:
            wait_until(partial(sentinel.knows, 1, sentinels), 30, "the sentinels' knowledge of each other")
        yield Guarded([primary, replica], watching)


class Cluster:
    """Nodes that know each other. `run` sends one command to a node."""

    def __init__(self, nodes: list[Redis]) -> None:
        self.nodes = nodes
        self.ids = [_bulk(node.call("CLUSTER MYID")) for node in nodes]

    @property
    def url(self) -> str:
        return f"redis://{self.nodes[0].address}"

    def run(self, node: Redis, command: str) -> None:
        reply = node.call(command)
        assert reply.startswith(b"+OK"), f"{command}: {reply!r}"

    def owner(self, slot: int) -> Redis:
        """The primary that has the slot, as the first node that runs knows it."""
        asked = next(node for node in self.nodes if node.running)
        for line in asked.call("CLUSTER NODES").decode().split("\n"):
            words = line.split(" ")
            if len(words) > 8 and "master" in words[2] and "fail" not in words[2].split(","):
                ranges = [word.split("-") for word in words[8:] if not word.startswith("[")]
                if any(int(each[0]) <= slot <= int(each[-1]) for each in ranges):
                    return self._at(words[1].partition("@")[0])
        raise ConnectionError(f"slot {slot} is nobody's yet")

    def _at(self, address: str) -> Redis:
        return next(node for node in self.nodes if node.address == address)

    def begin_move(self, slot: int, source: Redis, target: Redis) -> None:
        """From now on, the slot is on its way: new keys go to the target."""
        self.run(target, f"CLUSTER SETSLOT {slot} IMPORTING {self.ids[self.nodes.index(source)]}")
        self.run(source, f"CLUSTER SETSLOT {slot} MIGRATING {self.ids[self.nodes.index(target)]}")

    def move_key(self, key: str, source: Redis, target: Redis) -> None:
        self.run(source, f"MIGRATE 127.0.0.1 {target.port} {key} 0 5000")

    def end_move(self, slot: int, source: Redis, target: Redis) -> None:
        for node in (target, source):
            self.run(node, f"CLUSTER SETSLOT {slot} NODE {self.ids[self.nodes.index(target)]}")


@contextlib.contextmanager
def cluster(*args: str, primaries: int = 3, replicas: int = 0) -> Iterator[Cluster]:
    """Primaries with a third (or so) of the slots each, then `replicas`, of the first ones. `args` are options of each
    redis-server."""
    with contextlib.ExitStack() as stack:
        options = (
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "600"),
            *("--cluster-replica-validity-factor", "0", "--cluster-require-full-coverage", "no"),
            *FAST_REPLICATION,
            *args,
        )  # fmt: skip
        nodes = [
            stack.enter_context(
                running(Redis(stack.enter_context(scratch("redis")), options, port=free_port(beside=BUS)))
            )
            for _ in range(primaries + replicas)
        ]
        found = Cluster(nodes)
        for index in range(primaries):
            first, last = index * SLOTS // primaries, (index + 1) * SLOTS // primaries
            for start in range(first, last, INLINE_SLOTS):
                slots = range(start, min(last, start + INLINE_SLOTS))
                found.run(nodes[index], f"CLUSTER ADDSLOTS {' '.join(map(str, slots))}")
            found.run(nodes[index], f"CLUSTER SET-CONFIG-EPOCH {index + 1}")
        for node in nodes[1:]:
            found.run(node, f"CLUSTER MEET 127.0.0.1 {nodes[0].port}")
        for node in nodes:
            wait_until(partial(_knows, node, len(nodes)), 30, "the cluster's knowledge of itself")
        for index in range(replicas):
            found.run(nodes[primaries + index], f"CLUSTER REPLICATE {found.ids[index]}")
        for node in nodes[primaries:]:
            wait_until(partial(_follows, node), 30, "a replica that is up to date")
        yield found


def _knows(node: Redis, nodes: int) -> bool:
    info = node.call("CLUSTER INFO")
    return (
        b"cluster_state:ok" in info
        and f"cluster_known_nodes:{nodes}\r".encode() in info
        and (f"cluster_slots_ok:{SLOTS}\r".encode() in info)
    )


def _follows(node: Redis) -> bool:
    return b"master_link_status:up" in node.call("INFO replication")


def _bulk(reply: bytes) -> str:
    return reply.split(b"\r\n")[1].decode()
