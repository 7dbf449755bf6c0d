"""Pages for callers on the same machine alone, wherever the listener is bound to."""

import ipaddress
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from mixer.errors import CounterError, RequestError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded(handler: Handler) -> Handler:
    """Only for callers on this machine; errors of ours as status and text."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if not (_is_local(request) or is_near(request.remote)):
            return web.Response(status=403, text="only for callers on this machine: 127.0.0.1 or ::1\n")
        try:
            return await handler(request)
        except RequestError as error:
            return web.Response(status=400, text=f"{error}\n")
        except CounterError as error:
            return web.Response(status=500, text=f"{error}\n")

    return handle


def _is_local(request: web.Request) -> bool:
    """Whether it came over a Unix socket, as those do that a supervisor passes on."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    return connection is not None and connection.family is socket.AF_UNIX


def is_near(remote: str | None) -> bool:
    """Whether an address is one of the machine's own loopback."""
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
