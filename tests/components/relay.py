"""A way to a real server that may be slow, or bring garbage."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator


class Relay:
    """Listens on a port of its own, and carries each connection's bytes to the server's and back.

    `delay`: seconds that each piece of a reply takes. `garbage`: replies are random bytes, as many as they had.
    `rewritten`: what replies are changed by, all the time, such as the address that a broker gives itself.
    """

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.garbage = False
        self.rewritten: dict[bytes, bytes] = {}
        self._to = port
        self._random = random.Random(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        self._start(self._accept)

    def close(self) -> None:
        """End the listener and every connection."""
        with self._lock:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(("127.0.0.1", self._to), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            self._start(self._carry, client, server, False)
            self._start(self._carry, server, client, True)

    def _carry(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(self._changed(data) if replies else data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()

    def _changed(self, data: bytes) -> bytes:
        if self.delay:
            time.sleep(self.delay)
        if self.garbage:
            return self._random.randbytes(len(data))
        for old, new in self.rewritten.items():
            data = data.replace(old, new)
        return data


@contextlib.contextmanager
def relay(port: int) -> Iterator[Relay]:
    """A relay to a port of 127.0.0.1."""
    made = Relay(port)
    made.start()
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def kafka_relay(port: int) -> Iterator[Relay]:
    """A relay to a broker, which also names itself by the relay's address (host and port of a Metadata answer)."""
    host = b"127.0.0.1"
    with relay(port) as made:
        made.rewritten[host + port.to_bytes(4)] = host + made.port.to_bytes(4)
        yield made
