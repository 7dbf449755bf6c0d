"""The seam of gRPC fronts, and what a front serves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")
Done = Callable[[bytes | BaseException], None]


class Pending(Generic[T]):
    """An answer that comes later and needs no task to wait in, which costs less than an awaitable; it is one, too."""

    __slots__ = ()

    def then(self, done: Callable[[T | BaseException], None]) -> None:
        """Call back once, in a later turn of the loop, with the answer or the error (`CancelledError` for one that was
        cancelled). For one caller."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        raise NotImplementedError

    def __await__(self) -> Generator[Any, None, T]:
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | BaseException) -> None:
            if answer.done():
                return
            if not isinstance(result, BaseException):
                answer.set_result(result)
            elif isinstance(result, asyncio.CancelledError):
                answer.cancel()
            else:
                answer.set_exception(result)

        self.then(done)
        try:
            return (yield from answer.__await__())
        finally:
            if answer.cancelled():
                self.cancel()


Call = Callable[[Any, float | None], bytes | Awaitable[bytes]]
Calls = Callable[[Sequence[tuple[Any, float | None]]], Sequence[bytes | Awaitable[bytes] | Exception]]


@dataclass(frozen=True, slots=True)
class Unary:
    """A unary method: `call` gets the parsed request and the seconds left (None: no deadline). Where `request` is None,
    it gets the message's bytes, and raises protobuf's `DecodeError` if they are none of its kind.

    It answers a serialised message: at once where it can, which spares a task, else as something to wait for (a
    `Pending` if that is at hand).
    `together` does the same for calls that arrived together, where that costs less than one after the other: it
    answers them in order, errors among the answers.
    """

    service: str  # "envoy.service.auth.v3.Authorization"
    name: str  # "Check"
    request: type[Message] | None
    call: Call
    together: Calls | None = None


@dataclass(frozen=True, slots=True)
class ClientStream:
    """A method that reads a stream; its answer, sent when `call` returns, is always the empty message.

    A stream that is older than `max_age` seconds (a tenth more or less, so that streams of one age do not end at once)
    ends in the next pause: what its caller sends after that goes by a new stream.
    """

    service: str
    name: str
    request: type[Message]
    call: Callable[[AsyncIterator[Any]], Awaitable[None]]
    max_age: float | None = None


Method = Unary | ClientStream


class Front(Protocol):
    """Serves methods and gRPC health (`grpc.health.v1`) on one address.

    Errors of ours become gRPC status as `server.status` says; any other exception is INTERNAL, logged with its
    trace and told to the client without it. A message that is no valid protobuf is INVALID_ARGUMENT. Calls and
    their durations are counted.
    """

    address: str  # with the bound port once started, also where port 0 was asked for

    async def start(self) -> None:
        """Bind and serve. Raises `StartError` where the address cannot be had (it is never shared)."""

    async def drain(self, timeout: float) -> None:
        """Stop without a call lost: health says NOT_SERVING, and calls are still answered until there is a moment
        without one, or half of `timeout` (seconds) has passed; then new ones are refused, and those in flight get
        the other half. Streams are ended when nothing more comes on them."""


Methods = Sequence[Method]
