"""PEM and base64 as OPA takes certificates and keys, and DER (X.690) so far as to find what is where in them."""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

from mixer.policy.builtins.operands import BuiltinError

_BLOCK = re.compile(
    r"(?:\A|(?<=\n))-----BEGIN (?P<kind>[^\n]*?)-----[ \t]*\r?\n(?P<body>.*?)-----END (?P=kind)-----",
    re.DOTALL,
)
_HEADER = re.compile(r"\A(?:[^\n:]+:[^\n]*\n)+\r?\n")
BEGIN = "-----BEGIN"


def blocks(text: str) -> Iterator[tuple[str, bytes]]:
    """Each block's kind, "CERTIFICATE", and its bytes; what is no block is passed over."""
    for found in _BLOCK.finditer(text):
        try:
            body = "".join(_HEADER.sub("", found["body"]).split())
            yield found["kind"], base64.b64decode(body, validate=True)
        except (ValueError, binascii.Error):
            continue


def unpacked(text: str) -> bytes:
    """Of base64. Raises `BuiltinError`."""
    try:
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (ValueError, binascii.Error):
        raise BuiltinError("illegal base64") from None


class Element(NamedTuple):
    tag: int
    body: bytes
    whole: bytes  # with its tag and length

    def children(self) -> list["Element"]:
        return list(elements(self.body))


def elements(data: bytes) -> Iterator[Element]:
    """DER elements one after the other. Raises `BuiltinError` for what is none."""
    at = 0
    while at < len(data):
        start, tag = at, data[at]
        size = data[at + 1] if at + 1 < len(data) else 0xFF
        at += 2
        if size & 0x80:
            count = size & 0x7F
            if count > 4 or at + count > len(data):
                raise BuiltinError("no DER")
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + size > len(data) or tag & 0x1F == 0x1F:
            raise BuiltinError("no DER")
        yield Element(tag, data[at : at + size], data[start : at + size])
        at += size


def oid(body: bytes) -> list[int]:
    """An OBJECT IDENTIFIER's numbers."""
    numbers, value = [], 0
    for byte in body:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    if not numbers:
        raise BuiltinError("no DER")
    first = min(numbers[0] // 40, 2)
    return [first, numbers[0] - 40 * first, *numbers[1:]]
