"""Streams take turns: what many of them have sent is read bit by bit, and the loop looks after all else in between."""

import asyncio
from collections import deque

# Bytes of messages that are read before the loop has a look at its sockets: of access-log entries about forty, 0.5 ms.
# A check that arrives meanwhile waits for no more, however many streams there are. Half of it costs 2 % of the entries.
TURN = 32 * 1024
MESSAGE = 512  # bytes that a message counts beside its own: a small one is not read for nothing


class Turns:
    """Of the streams of a front."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = TURN
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def take(self, size: int) -> bool:
        """Whether messages of so many bytes may be read now; `wait` if not."""
        if self._left <= 0 or self._waiting:
            return False
        self._left -= size
        return True

    async def wait(self, size: int) -> None:
        """Until messages of so many bytes may be read: after those that wait already."""
        if not self._waiting:
            self._loop.call_soon(self._next)
        mine = self._loop.create_future()
        self._waiting.append((mine, size))
        await mine

    def _next(self) -> None:
        self._left = TURN
        waiting = self._waiting
        while waiting and self._left > 0:
            turn, size = waiting.popleft()
            if not turn.done():  # cancelled
                self._left -= size
                turn.set_result(None)
        if waiting:
            self._loop.call_soon(self._next)
