"""Connections to an OPA server on which requests are sent together and answered in order (HTTP/1.1 pipelining).

What is asked second is worked on after the first has been: a server may not work on requests at once that are not safe,
as POST is (RFC 9112, 9.3.2). So what confirms a query goes out with it, which spares a round trip. aiohttp's client,
which opa-python-client has, cannot do that, and takes 0.3 ms of processor for a request; this takes a tenth.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import httptools

from mixer import config

Request = tuple[str, bytes]  # a quoted path below /v1, and the body that is posted to it
Answer = tuple[int, bytes]  # HTTP status and body
_CLOSED: Final = "the server closed the connection"


class LostError(ConnectionError):
    """A connection that was good was closed; whether the server got the requests is unknown."""


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answers: list[Answer] = []
        self._body: list[bytes] = []
        self._expected = 0
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._used = False
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.open = True

    async def ask(self, requests: Sequence[bytes]) -> list[Answer]:
        """The answers, in order; the first ones alone where the server would not answer more on this connection.
        Raises `LostError`, and `ConnectionError` for a new connection."""
        assert self._transport is not None  # noqa: S101 (for the type checker; it is open)
        self._expected = len(requests)
        self._answers = []
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        self._transport.write(b"".join(requests))
        try:
            await waiter
            return self._answers
        finally:
            self._waiter = None
            self._used = True
            if len(self._answers) < self._expected:
                self.abort()

    def abort(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end("the answer is no HTTP")
            self.abort()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim response
            return
        self._answers.append((status, b"".join(self._body)))
        self._body.clear()
        if not self._parser.should_keep_alive():
            self.open = False  # what was sent behind is not worked on (RFC 9112, 9.6)
        if len(self._answers) == self._expected or not self.open:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._end(_CLOSED)

    def _end(self, why: str | None) -> None:
        if (waiter := self._waiter) is None or waiter.done():
            return
        if why is None:
            waiter.set_result(None)
        elif self._used or self._answers:
            waiter.set_exception(LostError(why))
        else:
            waiter.set_exception(ConnectionResetError(why))


class Lane:
    """One connection at a time, opened when it is needed. `number`: of the lane, from 0."""

    def __init__(self, number: int, settings: config.Opa) -> None:
        self.number = number
        self._connection: _Connection | None = None
        self._socket = "/" + settings.url.removeprefix("unix:").lstrip("/")
        self._url = None if settings.url.startswith("unix:") else urlsplit(settings.url)
        host = "localhost" if self._url is None else self._url.netloc.rpartition("@")[2]
        token = settings.token.get_secret_value() if settings.token else None
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._head = (
            f"Host: {host}\r\n{authorization}Content-Type: application/json\r\nContent-Length: ".encode()
        )
        self._ssl: ssl.SSLContext | None = None

    async def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers, in order. Raises `LostError`, and `OSError` for a server that is away. Where it is cancelled,
        the server may still get to the requests."""
        answers: list[Answer] = []
        while len(answers) < len(requests):
            connection = self._connection
            if connection is None or not connection.open:
                self._connection = connection = await self._connect()
            answers += await connection.ask([self._bytes(*request) for request in requests[len(answers) :]])
        return answers

    def _bytes(self, path: str, body: bytes) -> bytes:
        return b"POST /v1/%b HTTP/1.1\r\n%b%d\r\n\r\n%b" % (path.encode(), self._head, len(body), body)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        if (url := self._url) is None:
            _, connection = await loop.create_unix_connection(_Connection, self._socket)
            return connection
        if url.scheme == "https" and self._ssl is None:
            self._ssl = ssl.create_default_context()
        port = url.port or (443 if url.scheme == "https" else 80)
        _, connection = await loop.create_connection(_Connection, url.hostname or "", port, ssl=self._ssl)
        return connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()


class Lanes:
    """A server's lanes, `policy.opa.concurrency` of them."""

    def __init__(self, settings: config.Opa) -> None:
        self._lanes = [Lane(number, settings) for number in range(settings.concurrency)]
        self._free = list(self._lanes)
        self._room = asyncio.Semaphore(settings.concurrency)
        self.count = settings.concurrency

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Lane]:
        """One that nobody has; waits for it. The one that was used last comes first, so it is warm."""
        async with self._room:
            lane = self._free.pop()
            try:
                yield lane
            finally:
                self._free.append(lane)

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()
