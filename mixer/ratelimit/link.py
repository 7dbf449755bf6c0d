"""One connection to Redis: commands go out as bytes, replies come back in the same order.

The wire is spoken here (RESP2, by hiredis' packer and parser) and not by redis-py, whose client costs 2.5
times the CPU of this one for a small script call and 3.5 times for a large one, its bare `Connection` 1.7 and
1.2 times (uvloop, a core of its own: 93 µs here for 2 counters in a call, 272 µs for 128). The settings' URL
is still read by redis-py, TLS options included.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError

from mixer.errors import StartError

Reply = Any  # int, bytes, list or None; or an error: a hiredis.ReplyError, or an OSError if the connection is lost
OnReply = Callable[[Reply], None]

_INCOMPLETE = object()


def pack(command: Sequence[str | int | bytes]) -> bytes:
    """A command as Redis reads it."""
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # typed as a tuple of one
    return packed


# What a URL may say beside host, port, user, password and database, as redis-py names it.
_TLS_OPTIONS = frozenset(
    f"ssl_{name}"
    for name in (
        "keyfile",
        "certfile",
        "password",
        "cert_reqs",
        "ca_certs",
        "ca_path",
        "check_hostname",
        "ciphers",
    )
)


class Endpoint:
    """Where Redis is, and how to become a client of it, from a URL as redis-py reads it.

    Raises:
        StartError: the URL cannot be used. The message never holds a part of it that may be a secret.
    """

    def __init__(self, url: str) -> None:
        try:
            options: dict[str, Any] = dict(parse_url(url))
        except ValueError:  # its text may hold what follows a ":" in a password
            raise StartError(
                "rate_limits.redis.url: expected redis://[user:password@]host[:port][/db], rediss://… or "
                "unix:///path, with special characters in user and password percent-encoded"
            ) from None
        is_tls = options.pop("connection_class", None) is SSLConnection
        username, password = options.pop("username", None), options.pop("password", None)
        self._path: str | None = options.pop("path", None)
        self._host, self._port = options.pop("host", "localhost"), options.pop("port", 6379)
        database = options.pop("db", 0)
        if unknown := sorted(options.keys() - (_TLS_OPTIONS if is_tls else set())):
            known = f"; known here: {', '.join(sorted(_TLS_OPTIONS))}" if is_tls else ""
            raise StartError(f"rate_limits.redis.url: unknown option {', '.join(unknown)}{known}")
        self._ssl = _tls(options) if is_tls else None
        self._setup: list[tuple[str | int, ...]] = []
        if password is not None:
            self._setup.append(("AUTH", password) if username is None else ("AUTH", username, password))
        self._setup.append(("CLIENT", "SETNAME", "mixer"))
        if database:
            self._setup.append(("SELECT", database))

    def __str__(self) -> str:
        """Without secrets, for logs and messages."""
        return f"unix:{self._path}" if self._path else f"{self._host}:{self._port}"

    async def connect(self, on_lost: Callable[["Link"], None]) -> "Link":
        """A connection that is authenticated, and on its database. `on_lost` is called once when it is gone.

        Raises:
            OSError: it cannot be had; also when Redis refuses the user or the database.
        """
        loop = asyncio.get_running_loop()

        def protocol() -> Link:
            return Link(on_lost)

        if self._path is not None:
            _, link = await loop.create_unix_connection(protocol, self._path)
        else:
            _, link = await loop.create_connection(
                protocol,
                self._host,
                self._port,
                ssl=self._ssl,
                server_hostname=self._host if self._ssl else None,
            )
        try:
            for command in self._setup:
                reply = await link.ask(*command)
                if isinstance(reply, OSError):
                    raise reply
                if isinstance(reply, hiredis.ReplyError):
                    raise ConnectionRefusedError(f"Redis answers {command[0]} with: {reply}")
            if link.is_lost:
                raise ConnectionResetError("Redis closed the connection")
        except BaseException:
            link.abort()
            raise
        return link


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = SSLConnection(**options).ssl_context.get()
    except (OSError, ValueError, RedisError) as error:
        raise StartError(
            f"rate_limits.redis.url: {', '.join(sorted(options))} cannot be used: {error}"
        ) from error
    return context


class Link(asyncio.Protocol):
    """See the module. Made by `Endpoint.connect`."""

    def __init__(self, on_lost: Callable[["Link"], None]) -> None:
        self.is_lost = False
        self._on_lost = on_lost
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._expected: deque[OnReply] = deque()
        self._transport: asyncio.Transport

    def send(self, command: bytes, on_reply: OnReply) -> None:
        """Write a packed command. `on_reply` is called exactly once, never from within this call."""
        self._expected.append(on_reply)
        self._transport.write(command)

    async def ask(self, *command: str | int | bytes) -> Reply:
        """Send a command and wait for its reply."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Reply) -> None:
            if not future.done():
                future.set_result(reply)

        self.send(pack(command), on_reply)
        return await future

    def abort(self) -> None:
        """Give the connection up at once, with all replies that are still due."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if (sock := transport.get_extra_info("socket")) is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.ProtocolError:  # no Redis
                self.abort()
                return
            if reply is _INCOMPLETE:
                return
            if not self._expected:  # a reply that nobody asked for
                self.abort()
                return
            self._expected.popleft()(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        lost = ConnectionResetError(str(error) if error else "Redis closed the connection")
        while self._expected:
            self._expected.popleft()(lost)
        self._on_lost(self)
