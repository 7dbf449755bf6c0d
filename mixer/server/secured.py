"""TLS before a server that has none, or less of it: an accept loop of our own.

A connection whose handshake fails, or whose client may not connect, ends before any of its bytes gets further. What
listens behind is not told of it.
"""

import asyncio
import contextlib
import errno
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from mixer import config
from mixer.errors import StartError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.server.front import Front
from mixer.server.listening import Kept, listen
from mixer.server.tls import Certificates, stranger

log = structlog.get_logger()

_HANDSHAKE = 5.0  # seconds
_HANDSHAKES = 256  # at the same time; more wait in the kernel's queue
_PAUSE = 0.1  # seconds, after which a process without a free file descriptor tries again
_SHUTDOWN = 0.2  # seconds for a client's own end of TLS, which many never send
_CLOSING = 1.0  # seconds that the last bytes may take to those who read them

_CERTIFICATE = ("CERTIFICATE_VERIFY_FAILED", "PEER_DID_NOT_RETURN_A_CERTIFICATE")
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TlsListener:
    """Accepts connections on an address, and gives each that has passed to a protocol of `made`."""

    def __init__(
        self,
        name: str,
        address: str,
        tls: config.Tls,
        made: Callable[[], asyncio.BaseProtocol],
        metrics: Metrics,
        *,
        protocol: str,
        kept: Kept = None,
    ) -> None:
        """`name`: of the listener in the metrics; `protocol`: of ALPN (RFC 7301). Raises `StartError` for files that
        cannot be used."""
        self.address = address
        self._kept = kept
        self._certificates = Certificates(tls, metrics, protocol)
        self._spiffe = tls.spiffe
        self._made = made
        self._count = partial(self._counted, metrics.tls_handshakes, name)
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._fresh: set[Any] = set()  # sockets whose handshake has not begun
        self._room = asyncio.Semaphore(_HANDSHAKES)
        self._throttle = Throttle()

    async def start(self) -> None:
        """Raises `StartError` where the address cannot be had."""
        self._sockets, self.address = listen(self.address, self._kept)
        self._accepting = [self._spawn(self._accept(each)) for each in self._sockets]
        self._spawn(self._certificates.watch())

    def pass_on(self) -> None:
        """Accept no more where others do: who comes is theirs. Handshakes go on."""
        if self._kept:
            for task in self._accepting:
                task.cancel()

    async def close(self) -> None:
        """Accept no more. Connections that have passed are their protocols'."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in (*self._sockets, *self._fresh):
            each.close()

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                self._room.release()
                if error.errno in _NO_FILES:
                    if (held := self._throttle("cannot_accept")) is not None:
                        log.error(
                            "cannot_accept", address=self.address, reason=error.strerror, held_back=held
                        )
                    await asyncio.sleep(_PAUSE)
                continue
            self._fresh.add(accepted)
            self._spawn(self._shake(accepted))

    async def _shake(self, accepted: Any) -> None:
        """The handshake of one connection."""
        self._fresh.discard(accepted)
        loop = asyncio.get_running_loop()
        gate = _Gate(self._made, self._spiffe)
        try:
            await loop.connect_accepted_socket(
                lambda: gate,
                accepted,
                ssl=self._certificates.context,
                ssl_handshake_timeout=_HANDSHAKE,
                ssl_shutdown_timeout=_SHUTDOWN,
            )
        except ssl.SSLError as error:
            self._count("certificate" if error.reason in _CERTIFICATE else "protocol", error.reason)
        except (ConnectionError, TimeoutError, OSError) as error:
            self._count("closed", str(error) or type(error).__name__)
        else:
            self._count("ok" if gate.refused is None else "identity", gate.refused)
        finally:
            self._room.release()

    @staticmethod
    def _counted(handshakes: Any, name: str, outcome: str, why: object) -> None:
        handshakes.labels(name, outcome).inc()
        if outcome != "ok":
            log.debug("tls_refused", listener=name, outcome=outcome, reason=why)


class _Gate(asyncio.Protocol):
    """Looks at who has connected, then hands the connection over."""

    def __init__(self, made: Callable[[], asyncio.BaseProtocol], spiffe: config.Spiffe) -> None:
        self._made = made
        self._spiffe = spiffe
        self.refused: str | None = None

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("ssl_object").getpeercert()
        self.refused = stranger(peer, self._spiffe, time.time())
        if self.refused is not None:
            transport.abort()
            return
        protocol = self._made()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class SecuredFront:
    """A front with TLS: see `Front`. The one behind it listens on a Unix socket that only this user can reach."""

    def __init__(
        self,
        name: str,
        settings: config.Listener,
        tls: config.Tls,
        make: Callable[[config.Listener], Front],
        metrics: Metrics,
        *,
        kept: Kept = None,
    ) -> None:
        self.address = settings.address
        self._kept = kept
        self._name = name
        self._settings = settings
        self._tls = tls
        self._make = make
        self._metrics = metrics
        self._clients: set[_Client] = set()

    async def start(self) -> None:
        with contextlib.ExitStack() as undone:
            self._folder = tempfile.mkdtemp(prefix="mixer-")  # only this user may enter it
            undone.callback(shutil.rmtree, self._folder, ignore_errors=True)
            path = f"{self._folder}/front.sock"
            made = partial(_Client, path, self._clients)
            self._listener = TlsListener(
                self._name, self.address, self._tls, made, self._metrics, protocol="h2", kept=self._kept
            )
            behind = {"address": f"unix:{path}", "tls": None}
            self._front = self._make(self._settings.model_copy(update=behind))
            await self._front.start()
            try:
                await self._listener.start()
            except StartError:
                await self._front.drain(0.1)
                raise
            undone.pop_all()
        self.address = self._listener.address

    async def hand_over(self, timeout: float) -> None:
        await self._front.hand_over(timeout)

    async def drain(self, timeout: float) -> None:
        await self._front.drain(timeout)
        await self._listener.close()
        if self._clients:  # whose last bytes are on their way
            await asyncio.wait([client.ended for client in self._clients], timeout=_CLOSING)
        for client in self._clients:
            client.transport.abort()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Side(asyncio.Protocol):
    """One side of a connection that goes through here: what comes in goes out on the other, no faster than it is read
    there."""

    transport: Any
    other: "_Side | None" = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()
            self.other.other = None
            self.other = None


class _Client(_Side):
    """The client's side, which opens the other."""

    def __init__(self, path: str, clients: "set[_Client]") -> None:
        self._path = path
        self._clients = clients
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._clients.add(self)
        transport.pause_reading()
        self._connecting = asyncio.ensure_future(self._connect())

    def connection_lost(self, error: Exception | None) -> None:
        self._connecting.cancel()
        super().connection_lost(error)
        self._clients.discard(self)
        self.ended.set_result(None)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: _Inner(self), self._path)
        except OSError:  # the front is closed, or there are no file descriptors left
            self.transport.abort()


class _Inner(_Side):
    """The side of the front."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        client = self._client
        if client.transport.is_closing():
            transport.abort()
            return
        self.other, client.other = client, self
        client.transport.resume_reading()
