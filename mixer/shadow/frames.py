"""What Mixer and the candidate's process say to each other: bytes after their length, over a pipe."""

from typing import BinaryIO

_HEAD = 4  # bytes of the length, big-endian


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(_HEAD, "big") + data


def question(live: str, request: bytes) -> bytes:
    """What to send to have the candidate of a decision judge a serialised CheckRequest. `live`: the decision's path."""
    return live.encode() + b"\0" + request


def asked(question: bytes) -> tuple[str, bytes]:
    """The decision's path and the request of a question."""
    live, _, request = question.partition(b"\0")
    return live.decode(), request


def read(pipe: BinaryIO) -> bytes | None:
    """The next frame, waited for; None where the other side has ended."""
    head = pipe.read(_HEAD)
    if len(head) < _HEAD:
        return None
    length = int.from_bytes(head, "big")
    data = pipe.read(length)
    return data if len(data) == length else None


def split(buffer: bytearray) -> list[bytes]:
    """The whole frames at the beginning of what was received so far, which are taken from it."""
    frames: list[bytes] = []
    at = 0
    while len(buffer) - at >= _HEAD:
        end = at + _HEAD + int.from_bytes(buffer[at : at + _HEAD], "big")
        if len(buffer) < end:
            break
        frames.append(bytes(buffer[at + _HEAD : end]))
        at = end
    del buffer[:at]
    return frames
