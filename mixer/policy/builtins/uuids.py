"""`uuid.parse`: the parts of a UUID (RFC 4122, and DCE 1.1 for version 2), as google/uuid reads them."""

import re
import uuid
from typing import Any

from mixer.policy.builtins.operands import BuiltinError, string

_HEX = r"[0-9A-Fa-f]"
_DASHED = rf"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"
# Of the form in braces, google/uuid looks at the 36 characters between them alone.
_FORMS = re.compile(rf"(?:(?i:urn:uuid:)({_DASHED})|.({_DASHED}).|({_DASHED})|({_HEX}{{32}}))", re.DOTALL)
_GREGORIAN = 0x01B21DD213814000  # 100 ns steps from 1582-10-15 to 1970-01-01
_DOMAINS = {0: "Person", 1: "Group", 2: "Org"}


def _variant(octet: int) -> str:
    if octet & 0xC0 == 0x80:
        return "RFC4122"
    if octet & 0xE0 == 0xC0:
        return "Microsoft"
    return "Future" if octet & 0xE0 == 0xE0 else "Reserved"


def _address_kind(octet: int) -> str:
    if octet & 0b11 == 0b11:
        return "local:multicast"
    if octet & 0b01:
        return "global:multicast"
    return "local:unicast" if octet & 0b10 else "global:unicast"


def parse(value: object) -> dict[str, Any]:
    match = _FORMS.fullmatch(string(value))
    if match is None:
        raise BuiltinError("not a UUID")
    data = uuid.UUID(next(group for group in match.groups() if group)).bytes
    version = data[6] >> 4
    parts: dict[str, Any] = {"version": version, "variant": _variant(data[8])}
    if version in (1, 2):
        # In version 2 the identifier stands where the low part of the time does; it is read as time too.
        ticks = int.from_bytes(data[:4], "big")
        ticks |= int.from_bytes(data[4:6], "big") << 32
        ticks |= (int.from_bytes(data[6:8], "big") & 0x0FFF) << 48
        node = data[10:]
        parts |= {
            "time": (ticks - _GREGORIAN) * 100,
            "nodeid": node.hex("-"),
            "macvariables": _address_kind(node[0]),
            "clocksequence": int.from_bytes(data[8:10], "big") & 0x3FFF,
        }
    if version == 2:
        parts |= {"id": int.from_bytes(data[:4], "big"), "domain": _DOMAINS.get(data[9], f"Domain{data[9]}")}
    return parts


BUILTINS = {"uuid.parse": parse}
