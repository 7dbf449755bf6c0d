"""Where a Redis is, and how to become a client of it: from a URL as redis-py reads it, TLS options included."""

import asyncio
import copy
import ssl
from collections.abc import Callable
from typing import Any

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError

from mixer.errors import StartError
from mixer.ratelimit.link import Link

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
    """One server. `where` is the URL's key path in the settings.

    Raises:
        StartError: the URL cannot be used. The message never holds a part of it that may be a secret.
    """

    def __init__(self, url: str, where: str = "rate_limits.redis.url", port: int = 6379) -> None:
        try:
            options: dict[str, Any] = dict(parse_url(url))
        except ValueError:  # its text may hold what follows a ":" in a password
            raise StartError(
                f"{where}: expected redis://[user:password@]host[:port][/db], rediss://… or "
                "unix:///path, with special characters in user and password percent-encoded"
            ) from None
        is_tls = options.pop("connection_class", None) is SSLConnection
        username, password = options.pop("username", None), options.pop("password", None)
        self.path: str | None = options.pop("path", None)
        self.host, self.port = options.pop("host", "localhost"), options.pop("port", port)
        self.database = options.pop("db", 0)
        if unknown := sorted(options.keys() - (_TLS_OPTIONS if is_tls else set())):
            known = f"; known here: {', '.join(sorted(_TLS_OPTIONS))}" if is_tls else ""
            raise StartError(f"{where}: unknown option {', '.join(unknown)}{known}")
        self._ssl = _tls(options, where) if is_tls else None
        self._setup: list[tuple[str | int, ...]] = []
        if password is not None:
            self._setup.append(("AUTH", password) if username is None else ("AUTH", username, password))
        self._setup.append(("CLIENT", "SETNAME", "mixer"))
        if self.database:
            self._setup.append(("SELECT", self.database))

    def __str__(self) -> str:
        """Without secrets, for logs and messages."""
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

    def at(self, host: str, port: int) -> "Endpoint":
        """The server there, spoken to in the same way: user, database and TLS."""
        other = copy.copy(self)
        other.path, other.host, other.port = None, host, port
        return other

    async def connect(self, on_lost: Callable[[Link], None]) -> Link:
        """A connection that is authenticated, and on its database. `on_lost` is called once when it is gone.

        Raises:
            OSError: it cannot be had; also when Redis refuses the user or the database.
        """
        loop = asyncio.get_running_loop()

        def protocol() -> Link:
            return Link(on_lost)

        if self.path is not None:
            _, link = await loop.create_unix_connection(protocol, self.path)
        else:
            _, link = await loop.create_connection(
                protocol,
                self.host,
                self.port,
                ssl=self._ssl,
                server_hostname=self.host if self._ssl else None,
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

    async def asked(self, *command: str | int) -> Any:
        """The reply to one command, on a connection of its own.

        Raises:
            OSError: there is none, or it is an error.
        """
        link = await self.connect(lambda _: None)
        try:
            reply = await link.ask(*command)
        finally:
            link.abort()
        if isinstance(reply, OSError):
            raise reply
        if isinstance(reply, hiredis.ReplyError):
            raise ConnectionRefusedError(f"Redis answers {command[0]} with: {reply}")
        return reply


def _tls(options: dict[str, Any], where: str) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = SSLConnection(**options).ssl_context.get()
    except (OSError, ValueError, RedisError) as error:
        raise StartError(f"{where}: {', '.join(sorted(options))} cannot be used: {error}") from error
    return context
