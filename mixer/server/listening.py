"""What both fronts share: addresses, and the options of their grpc.aio servers."""

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Sequence

from mixer.errors import StartError

MAX_MESSAGE = 4 * 1024 * 1024  # bytes, grpc's default
# Calls of one connection at the same time; Envoy opens further connections when it needs more. Without a bound, one
# that opens thousands and sends nothing has grpcio refuse the calls of others. There each may take 1 MiB, for headers
# that are small on the wire and many when unpacked: so the least that RFC 9113 recommends.
MAX_STREAMS = 100
BACKLOG = 1024  # connections that wait to be accepted
MAX_METADATA = 16 * 1024  # bytes of a call's headers
KEEPALIVE = 60_000  # milliseconds without a word until a client is asked whether it is still there
KEEPALIVE_TIMEOUT = 20_000
OPTIONS = (
    ("grpc.so_reuseport", 0),  # or an address in use would be shared in silence
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.max_metadata_size", MAX_METADATA),
    ("grpc.absolute_max_metadata_size", MAX_METADATA),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", KEEPALIVE),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT),
    ("grpc.keepalive_permit_without_calls", 1),
)
SHARED_OPTIONS = (("grpc.so_reuseport", 1), *OPTIONS[1:])

Kept = Sequence[socket.socket] | None
"""What the supervisor listens on for a worker, and for its successor: what has connected and was not accepted by one is
accepted by the other. Empty: others may have the address, too. None: nobody else may."""


def refuse_socket_in_use(address: str) -> None:
    """Raises `StartError` for a Unix socket that somebody listens on: both servers would take it away from them in
    silence. One that a killed process left behind is no one's, and they replace it."""
    if not address.startswith("unix:"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address.removeprefix("unix:"))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError as error:
            raise StartError(f"cannot listen on {address}: {error.strerror or error}") from error
    raise StartError(f"cannot listen on {address}: it is in use")


def listen(address: str, kept: Kept = None) -> tuple[list[socket.socket], str]:
    """Sockets, of which `accept` does not block, and the address with the port that was really bound: one for each
    address that a host name stands for. Raises `StartError`."""
    if kept:
        for each in kept:
            each.setblocking(False)
        return list(kept), address
    to = to_bind(address, kept)
    if to.startswith("unix:"):
        path = to.removeprefix("unix:")
        listening = socket.socket(socket.AF_UNIX)
        try:
            if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)  # of a killed process
            listening.bind(path)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise cannot_listen(address) from None
        listening.setblocking(False)
        publish(address, kept)
        return [listening], address
    host, _, port = address.rpartition(":")
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, *_, at in dict.fromkeys(found):
            end = (at[0], sockets[0].getsockname()[1] if sockets else at[1])
            both = family == socket.AF_INET6 and at[0] == "::"
            sockets.append(
                socket.create_server(
                    end, family=family, backlog=BACKLOG, dualstack_ipv6=both, reuse_port=kept is not None
                )
            )
    except OSError:
        for each in sockets:
            each.close()
        raise cannot_listen(address) from None
    for each in sockets:
        each.setblocking(False)
    return sockets, bound(address, sockets[0].getsockname()[1])


class PlainListener:
    """Accepts connections on an address, each for a protocol of `made`."""

    def __init__(self, address: str, made: Callable[[], asyncio.Protocol], kept: Kept = None) -> None:
        self.address = address
        self._made = made
        self._kept = kept
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Raises `StartError` where the address cannot be had."""
        sockets, self.address = listen(self.address, self._kept)
        loop = asyncio.get_running_loop()
        for each in sockets:
            unix = each.family == socket.AF_UNIX
            make = loop.create_unix_server if unix else loop.create_server
            self._servers.append(await make(self._made, sock=each, backlog=BACKLOG))

    def pass_on(self) -> None:
        """Accept no more where others do: who comes is theirs."""
        if self._kept:
            self._stop()

    async def close(self) -> None:
        """Accept no more. Connections that there are go on."""
        self._stop()

    def _stop(self) -> None:
        for server in self._servers:
            server.close()


def bound(address: str, port: int) -> str:
    """The address with the port that was really bound."""
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def cannot_listen(address: str) -> StartError:
    if address.startswith("unix:"):
        return StartError(f"cannot listen on {address}: its folder must exist and be writable")
    return StartError(f"cannot listen on {address}: it is in use, or not an address of this machine")


def own_path(address: str) -> str:
    """Where a Unix socket is bound by this process alone, if others may have its address, too."""
    return f"{address.removeprefix('unix:')}.{os.getpid()}"


def to_bind(address: str, kept: Kept) -> str:
    """What a server is to bind. Raises `StartError` for a Unix socket in use; see `publish` for shared ones."""
    if kept is None:
        refuse_socket_in_use(address)
        return address
    return f"unix:{own_path(address)}" if address.startswith("unix:") else address


def publish(address: str, kept: Kept) -> None:
    """New connections to a shared Unix socket's address come here from now on, and not to whoever had it before."""
    if kept is not None and address.startswith("unix:"):
        os.replace(own_path(address), address.removeprefix("unix:"))
