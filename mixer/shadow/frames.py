"""What Mixer and the candidate's process say to each other: bytes after their length, over a pipe."""

from asyncio import StreamReader
from typing import BinaryIO

_HEAD = 4  # bytes of the length, big-endian


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(_HEAD, "big") + data


def read(pipe: BinaryIO) -> bytes | None:
    """The next frame, waited for; None where the other side has ended."""
    head = pipe.read(_HEAD)
    if len(head) < _HEAD:
        return None
    length = int.from_bytes(head, "big")
    data = pipe.read(length)
    return data if len(data) == length else None


async def next_of(stream: StreamReader) -> bytes:
    """`read` on the event loop. Raises `EOFError` where the other side has ended."""
    return await stream.readexactly(int.from_bytes(await stream.readexactly(_HEAD), "big"))
