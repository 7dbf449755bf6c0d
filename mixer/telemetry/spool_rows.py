"""Some records as one row of the spool's file. A row for each of them costs five times as much.

`lengths` has five signed 64-bit integers, little-endian, for each record, column by column: the bytes of its key (-1:
none), of its value and of its event id, its timestamp, its size. `data` has all keys, all values, all event ids.
"""

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise, repeat

from mixer.telemetry.outgoing import Chunk, cut

MAX_ROW = 256 * 1024  # bytes of records; one that is larger has a row for itself
_COLUMNS = 5

Row = tuple[int, int, int, bytes, bytes]
"""The first record's number, how many there are, their bytes (as `Chunk` has them), `lengths`, `data`."""


class DamagedError(ValueError):
    """A row is not what was written."""


def rows(chunks: Iterable[Chunk]) -> Iterator[Row]:
    """Records, whose numbers go up one by one, as rows."""
    queue = deque(chunks)
    while queue:
        some = cut(queue, MAX_ROW)
        for _ in some:
            queue.popleft()
        yield _row(some)


def _row(chunks: Sequence[Chunk]) -> Row:
    count = sum(map(len, chunks))
    keys = [key for chunk in chunks for key in chunk.keys or repeat(None, len(chunk))]
    values = [value for chunk in chunks for value in chunk.values]
    event_ids = [event_id for chunk in chunks for event_id in chunk.event_ids]
    lengths = struct.pack(
        f"<{_COLUMNS * count}q",
        *[-1 if key is None else len(key) for key in keys],
        *map(len, values),
        *map(len, event_ids),
        *chain.from_iterable(chunk.timestamps for chunk in chunks),
        *chain.from_iterable(chunk.sizes for chunk in chunks),
    )
    size = sum(chunk.size for chunk in chunks)
    return chunks[0].numbers[0], count, size, lengths, b"".join((*filter(None, keys), *values, *event_ids))


def chunk_of(row: Row) -> Chunk:
    """What a row was made of, without receipts. Raises `DamagedError`."""
    first, count, _, lengths, data = row
    key_sizes, value_sizes, id_sizes, timestamps, sizes = columns(count, lengths)
    counted = [max(size, 0) for size in key_sizes]
    ends = list(accumulate(chain(counted, value_sizes, id_sizes), initial=0))
    if ends[-1] != len(data) or min(map(min, (value_sizes, id_sizes, sizes))) < 0:
        raise DamagedError(f"record {first} and those behind it are damaged")
    parts = [data[start:end] for start, end in pairwise(ends)]
    keys = [None if size < 0 else key for size, key in zip(key_sizes, parts, strict=False)]
    return Chunk(
        keys if any(key is not None for key in keys) else None,
        parts[count : 2 * count],
        parts[2 * count :],
        timestamps,
        sizes,
        range(first, first + count),
    )


def columns(count: int, lengths: bytes) -> list[tuple[int, ...]]:
    """`lengths` by its columns. Raises `DamagedError`."""
    if count < 1 or len(lengths) != 8 * _COLUMNS * count:
        raise DamagedError(f"{count} records with {len(lengths)} bytes of lengths are damaged")
    found = struct.unpack(f"<{_COLUMNS * count}q", lengths)
    return [found[start : start + count] for start in range(0, _COLUMNS * count, count)]
