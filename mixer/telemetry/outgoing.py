"""Records as messages of Kafka, before they are: some together, column by column, or one by itself."""

import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, repeat
from operator import itemgetter
from typing import NamedTuple

from mixer.telemetry.sink import Receipt

Message = tuple[bytes | None, bytes, bytes, int]
"""Key, value, event id, timestamp in ms."""


class Item(NamedTuple):
    """One record."""

    key: bytes | None
    value: bytes
    event_id: bytes
    timestamp: int
    """Milliseconds since 1970."""
    size: int
    """Bytes that it takes in memory."""
    number: int
    """In the spool; 0: it is in none."""
    receipt: Receipt | None
    """Who is to be told of it."""


@dataclass(slots=True, eq=False)
class Chunk:
    """Some records, at least one: a column for what `Item` has of each.

    `keys` is None where no record has one. `numbers` is empty while they are in no spool. `size`: bytes, of all.
    """

    keys: Sequence[bytes | None] | None
    values: Sequence[bytes]
    event_ids: Sequence[bytes]
    timestamps: Sequence[int]
    sizes: Sequence[int]
    numbers: Sequence[int] = ()
    receipt: Receipt | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(self.sizes)

    def __len__(self) -> int:
        return len(self.values)

    def messages(self) -> Iterator[Message]:
        keys = repeat(None, len(self)) if self.keys is None else self.keys
        return zip(keys, self.values, self.event_ids, self.timestamps, strict=True)

    def item(self, place: int) -> Item:
        return Item(
            None if self.keys is None else self.keys[place],
            self.values[place],
            self.event_ids[place],
            self.timestamps[place],
            self.sizes[place],
            self.numbers[place] if self.numbers else 0,
            self.receipt,
        )

    def split(self, count: int) -> tuple["Chunk", "Chunk"]:
        """The first `count` records, and the rest."""
        return self._of(slice(count)), self._of(slice(count, None))

    def take(self, places: Sequence[int]) -> "Chunk":
        """The records at these places, in their order."""
        if len(places) == 1:
            return self._of(slice(places[0], places[0] + 1))
        return self._of(itemgetter(*places))

    def _of(self, places: "slice | itemgetter[Sequence[int]]") -> "Chunk":
        get = itemgetter(places) if isinstance(places, slice) else places
        return Chunk(
            None if self.keys is None else get(self.keys),
            get(self.values),
            get(self.event_ids),
            get(self.timestamps),
            get(self.sizes),
            get(self.numbers) if self.numbers else (),
            self.receipt,
        )

    def fitting(self, size: int) -> int:
        """How many of the first have so many bytes at most."""
        return bisect_right(list(accumulate(self.sizes)), size)


def cut(queue: deque[Chunk], size: int, count: int = sys.maxsize) -> list[Chunk]:
    """What is at the head of a queue, to so many bytes and records, and at least one record. It stays there; a chunk
    of which only some fit is divided."""
    for place, chunk in enumerate(queue):
        size -= chunk.size
        count -= len(chunk)
        if size >= 0 and count >= 0:
            continue
        fits = min(chunk.fitting(size + chunk.size), count + len(chunk))
        if not (fits or place):
            fits = 1
        if 0 < fits < len(chunk):
            queue[place], rest = chunk.split(fits)
            queue.insert(place + 1, rest)
        return list(islice(queue, place + (fits > 0)))
    return list(queue)
