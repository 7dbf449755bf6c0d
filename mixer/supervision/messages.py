"""What the supervisor and a worker say to each other, over a socket that ends with either of them.

The supervisor sends pickles, for they hold policies and data; a worker, JSON.
"""

import asyncio
import json
import pickle
from dataclasses import dataclass
from typing import Any, Literal

from mixer.loaded import Loaded
from mixer.supervision import WorkerRole

_HEAD = 4  # bytes of a message's length, big-endian

Order = Literal["prepare", "exchange", "discard", "reopen", "retire", "stop"]
"""retire: another worker has the address; stop: nobody has."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is. `admin`: the path of its admin listener's socket; `beat`: seconds between signs of life."""

    role: WorkerRole
    number: int
    files: Loaded
    admin: str
    beat: float


def order(what: Order, files: Loaded | None = None) -> bytes:
    return _framed(pickle.dumps((what, files)))


def start(what: Start) -> bytes:
    return _framed(pickle.dumps(what))


def told(**what: Any) -> bytes:
    return _framed(json.dumps(what).encode())


async def received(reader: asyncio.StreamReader) -> bytes | None:
    """The next message; None where the other side has ended."""
    try:
        head = await reader.readexactly(_HEAD)
        return await reader.readexactly(int.from_bytes(head, "big"))
    except (asyncio.IncompleteReadError, OSError):
        return None


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(_HEAD, "big") + message
