"""The seam of gRPC fronts, and what a front serves."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import Message

from mixer.pending import Pending as Pending  # noqa: PLC0414 (it is a part of the seam)

Done = Callable[[bytes | BaseException], None]
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


class Messages(Protocol):
    """The messages of a stream."""

    @property
    def is_ready(self) -> bool:
        """Whether the next one is known to be here: what can be done for several at once may wait for it."""
        ...

    def __aiter__(self) -> AsyncIterator[Any]: ...


@dataclass(frozen=True, slots=True)
class ClientStream:
    """A method that reads a stream; its answer, sent when `call` returns, is always the empty message.

    A stream that is older than `max_age` seconds (a tenth more or less, so that streams of one age do not end at once)
    ends in the next pause: what its caller sends after that goes by a new stream.
    """

    service: str
    name: str
    request: type[Message]
    call: Callable[[Messages], Awaitable[None]]
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
        """Bind and serve. Raises `StartError` where the address cannot be had (it is shared with workers alone)."""

    async def hand_over(self, timeout: float) -> None:
        """Ask clients to go on over other connections, which another process accepts that has the address, too; serve
        as before meanwhile. Until no client is left here, `timeout` seconds at most."""

    async def drain(self, timeout: float) -> None:
        """Stop without a call lost: health says NOT_SERVING, and calls are still answered until there is a moment
        without one, or half of `timeout` (seconds) has passed; then new ones are refused, and those in flight get
        the other half. Streams are ended when nothing more comes on them."""


Methods = Sequence[Method]
