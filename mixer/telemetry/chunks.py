"""Some records as one row of the spool's file. A row for each of them costs five times as much.

`lengths` has five signed 64-bit integers, little-endian, for each record, column by column: the bytes of its key (-1:
none), of its value and of its event id, its timestamp, its size. `data` has all keys, all values, all event ids.
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise

from mixer.telemetry.item import Item

MAX_CHUNK = 256 * 1024  # bytes of records; one that is larger has a row for itself
_COLUMNS = 5

Row = tuple[int, int, int, bytes, bytes]
"""The first record's number, how many there are, their bytes (as `Item` has them), `lengths`, `data`."""


class DamagedError(ValueError):
    """A row is not what was written."""


def rows(items: Sequence[Item]) -> Iterator[Row]:
    """Items, whose numbers go up one by one, as rows."""
    begin = size = 0
    for place, item in enumerate(items):
        if begin < place and size + item[4] > MAX_CHUNK:
            yield _row(items[begin:place], size)
            begin, size = place, 0
        size += item[4]
    if items:
        yield _row(items[begin:], size)


def _row(items: Sequence[Item], size: int) -> Row:
    keys, values, event_ids, timestamps, sizes, numbers, _ = zip(*items, strict=True)
    lengths = struct.pack(
        f"<{_COLUMNS * len(items)}q",
        *[-1 if key is None else len(key) for key in keys],
        *map(len, values),
        *map(len, event_ids),
        *timestamps,
        *sizes,
    )
    return numbers[0], len(items), size, lengths, b"".join((*filter(None, keys), *values, *event_ids))


def items(row: Row) -> list[Item]:
    """What a row was made of, without receipts. Raises `DamagedError`."""
    first, count, _, lengths, data = row
    key_sizes, value_sizes, id_sizes, timestamps, sizes = columns(count, lengths)
    counted = [max(size, 0) for size in key_sizes]
    ends = list(accumulate(chain(counted, value_sizes, id_sizes), initial=0))
    if ends[-1] != len(data) or min(value_sizes) < 0 or min(id_sizes) < 0:
        raise DamagedError(f"record {first} and those behind it are damaged")
    parts = [data[start:end] for start, end in pairwise(ends)]
    keys = [None if size < 0 else key for size, key in zip(key_sizes, parts, strict=False)]
    return [
        (key, value, event_id, timestamp, size, number, None)
        for key, value, event_id, timestamp, size, number in zip(
            keys, parts[count : 2 * count], parts[2 * count :], timestamps, sizes, range(first, first + count),
            strict=True,
        )
    ]  # fmt: skip


def columns(count: int, lengths: bytes) -> list[tuple[int, ...]]:
    """`lengths` by its columns. Raises `DamagedError`."""
    if count < 1 or len(lengths) != 8 * _COLUMNS * count:
        raise DamagedError(f"{count} records with {len(lengths)} bytes of lengths are damaged")
    found = struct.unpack(f"<{_COLUMNS * count}q", lengths)
    return [found[start : start + count] for start in range(0, _COLUMNS * count, count)]
