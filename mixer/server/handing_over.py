"""Clients asked to go on over other connections, while all that they still send is answered.

HTTP/2 has a frame for it, GOAWAY, whose last stream may be the highest there can be: begin nothing new here, what was
begun is answered (RFC 9113, 6.8). A client then connects anew, and finds another process that has the same address.
grpcio's `stop` sends one when it refuses calls, and cancels those that cross it on the way (32 of 8,000 in ten
restarts under load). So the frame is put into the connections from here, between two frames of theirs: only where no
byte of theirs is unsent, since a frame is cut in two only where the socket took no more. Not with TLS, whose records
are the server's own. What Envoy begins between an answer and a GOAWAY that it reads at once is lost (see
`mixer.server.http2.connection`): no answer is given just before it.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import termios
import time

from mixer.server.listening import own_path

_GOAWAY = bytes((0, 0, 8, 7, 0, 0, 0, 0, 0)) + (2**31 - 1).to_bytes(4, "big") + (0).to_bytes(4, "big")
_LOOK = 0.02  # seconds; a connection is told once it has been there for one look, as its first frames are written then
_HOLD = 0.01  # seconds without an answer before the frame, in which the peer reads the earlier ones
_QUIET = 5  # looks without a connection: nobody is on the way here any more
_SIOCOUTQNSD = 0x894B  # bytes of a TCP socket that were not sent yet


async def hand_over(address: str, timeout: float) -> None:
    """Until no connection is left, `timeout` seconds at most. `address`: of a plaintext listener of this process, which
    goes on to serve."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    seen: set[int] = set()
    told: set[int] = set()
    quiet = 0
    while quiet < _QUIET:
        if loop.time() > end:
            return
        with contextlib.ExitStack() as opened:
            connections = {
                os.fstat(each.fileno()).st_ino: opened.enter_context(each) for each in _connections(address)
            }
            now = set(connections)
            if to_tell := now & seen - told:
                time.sleep(_HOLD)  # noqa: ASYNC251  # on purpose: the handlers are this loop's, and answer nothing
            for inode in to_tell:
                connection = connections[inode]
                with contextlib.suppress(OSError):
                    if not _unsent(connection):
                        connection.send(_GOAWAY, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                        told.add(inode)
        seen, told = now, told & now
        quiet = 0 if now else quiet + 1
        await asyncio.sleep(_LOOK)


def _connections(address: str) -> list[socket.socket]:
    """Those that were accepted at an address, each a duplicate to be closed."""
    found = []
    for name in os.listdir("/dev/fd"):
        try:
            duplicate = os.dup(int(name))
        except OSError:
            continue
        try:
            connection = socket.socket(fileno=duplicate)
        except OSError:
            os.close(duplicate)
            continue
        if _is_accepted_at(connection, address):
            found.append(connection)
        else:
            connection.close()
    return found


def _is_accepted_at(connection: socket.socket, address: str) -> bool:
    try:
        own = connection.getsockname()
        connection.getpeername()
    except OSError:
        return False
    if address.startswith("unix:"):
        return connection.family is socket.AF_UNIX and own in (
            own_path(address),
            address.removeprefix("unix:"),
        )
    is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
    return is_tcp and own[1] == int(address.rpartition(":")[2])


def _unsent(connection: socket.socket) -> int:
    request = termios.TIOCOUTQ if connection.family is socket.AF_UNIX else _SIOCOUTQNSD
    return int.from_bytes(fcntl.ioctl(connection.fileno(), request, bytes(4)), "little")
