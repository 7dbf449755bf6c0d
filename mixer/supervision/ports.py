"""Addresses kept for workers, as long as the supervisor runs."""

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

from mixer.server.listening import bound, cannot_listen, listen, refuse_socket_in_use


class Ports:
    """A port belongs to this service alone: another's bind of it fails, whatever options that has, for the first bind
    here is without SO_REUSEPORT. Workers of the same user share it nevertheless, since it is set afterwards. Nothing
    listens on that one, so the kernel gives connections to workers alone."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._paths: list[Path] = []

    def take(self, address: str) -> str:
        """The address with its port, also where 0 was asked for. Raises `StartError` where it cannot be had."""
        if address.startswith("unix:"):
            refuse_socket_in_use(address)
            self._paths.append(Path(address.removeprefix("unix:")))
            return address
        host, _, port = address.rpartition(":")
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            return bound(address, self._bound(sorted({(each[0], each[4]) for each in found}), int(port)))
        except OSError:
            raise cannot_listen(address) from None

    def listen(self, address: str) -> list[socket.socket]:
        """What a worker is to listen on, and its successor. Workers that share a port have a socket each, among which
        the kernel shares out connections. Raises `StartError`."""
        return listen(address, None if address.startswith("unix:") else ())[0]

    def _bound(self, addresses: Sequence[tuple[int, tuple[object, ...]]], port: int) -> int:
        """All of a host's addresses, on one port."""
        for family, (host, _, *rest) in addresses:
            kept = socket.socket(family, socket.SOCK_STREAM)
            self._sockets.append(kept)
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind((host, port, *rest))
            kept.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 0
            )  # it was for connections of an earlier server
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = kept.getsockname()[1]
        return port

    def close(self) -> None:
        for kept in self._sockets:
            kept.close()
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink()
