"""What the supervisor and a worker say to each other, over a socket that ends with either of them.

Both send JSON, each message after its length.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from mixer.loaded import Loaded
from mixer.supervision import WorkerRole
from mixer.supervision.handed import packed, unpacked

_HEAD = 4  # bytes of a message's length, big-endian

Order = Literal["prepare", "exchange", "discard", "reopen", "retire", "stop"]
"""retire: another worker has the address; stop: nobody has."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is. `admin`: the path of its admin listener's socket; `beat`: seconds between signs of life;
    `kept`: descriptors of the sockets that it listens on, by listener."""

    role: WorkerRole
    number: int
    files: Loaded
    admin: str
    beat: float
    kept: dict[str, list[int]]


def order(what: Order, files: Loaded | None = None) -> bytes:
    return _framed(orjson.dumps({"order": what, "files": files and packed(files)}))


def ordered(message: bytes) -> tuple[str, Loaded | None]:
    """What an order says."""
    told = orjson.loads(message)
    return told["order"], None if told["files"] is None else unpacked(told["files"])


def start(what: Start) -> bytes:
    told = {
        "role": what.role,
        "number": what.number,
        "admin": what.admin,
        "beat": what.beat,
        "kept": what.kept,
    }
    return _framed(orjson.dumps({**told, "files": packed(what.files)}))


def started(message: bytes) -> Start:
    """What `start` says."""
    told = orjson.loads(message)
    return Start(**{**told, "files": unpacked(told["files"])})


def told(**what: Any) -> bytes:
    return _framed(orjson.dumps(what))


async def received(reader: asyncio.StreamReader) -> bytes | None:
    """The next message; None where the other side has ended."""
    try:
        head = await reader.readexactly(_HEAD)
        return await reader.readexactly(int.from_bytes(head, "big"))
    except (asyncio.IncompleteReadError, OSError):
        return None


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(_HEAD, "big") + message
