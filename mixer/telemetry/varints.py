"""Whole columns of numbers as varints (https://protobuf.dev/programming-guides/encoding/#varints).

All of a column are made at once, by arithmetic on one large integer that has four or eight bytes for each. They are as
long as that of the largest number: what a shorter one has behind its last digit is zero, which every decoder takes.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

MAX = 1 << 35  # what is below has five bytes at most
_DIGIT = 7  # bits of a byte


class _Form(NamedTuple):
    """For so many numbers, of so many bytes each."""

    digits: tuple[int, ...]
    """Masks of the bits that are in the first byte, in the second, and so on."""
    more: int
    """The bits that say that another byte follows."""
    pack: struct.Struct
    unpack: struct.Struct
    size: int
    """Bytes of the large integer."""


@lru_cache(maxsize=256)
def _form(count: int, size: int) -> _Form:
    width, kind = (4, "I") if size <= 4 else (8, "Q")

    def each(bits: int) -> int:
        return int.from_bytes(bits.to_bytes(width, "little") * count, "little")

    return _Form(
        tuple(each(127 << _DIGIT * place) for place in range(size)),
        each(sum(128 << 8 * place for place in range(size - 1))),
        struct.Struct(f"<{count}{kind}"),
        struct.Struct("<" + f"{size}s{width - size}x" * count),
        width * count,
    )


def varints(values: Sequence[int]) -> tuple[int, list[bytes]]:
    """How many bytes they have, and the varints of numbers from 0 to below `MAX`."""
    size = -(-max(values).bit_length() // _DIGIT) or 1
    form = _form(len(values), size)
    numbers = int.from_bytes(form.pack.pack(*values), "little")
    spread = form.more
    for place, mask in enumerate(form.digits):
        spread |= (numbers & mask) << place
    return size, list(form.unpack.unpack(spread.to_bytes(form.size, "little")))
