"""`net.cidr_*`, with addresses as Go's `net` package reads them."""

import ipaddress
from collections.abc import Iterator
from typing import Any, NamedTuple

from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, string

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV4 = 0xFFFF << 32  # where IPv4 stands among the addresses of IPv6 (RFC 4291, 2.5.5.2)


def _address(text: str) -> Address | None:
    """Go's `net.ParseIP`: no zone; an IPv4 address in IPv6 clothes is an IPv4 address."""
    if "%" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def network_of(value: object) -> Network:
    """Go's `net.ParseCIDR`."""
    text, slash, length = string(value).partition("/")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BuiltinError("not a CIDR") from None
    digits = length.isascii() and length.isdigit() and (length == "0" or not length.startswith("0"))
    if not slash or "%" in text or not digits or int(length) > address.max_prefixlen:
        raise BuiltinError("not a CIDR")
    return ipaddress.ip_network((address, int(length)), strict=False)


def _includes(network: Network, address: Address) -> bool:
    """Go's `IPNet.Contains`: a network of IPv4 addresses in IPv6 clothes is one of IPv4."""
    if network.version == 6 and network.prefixlen >= 96 and (bare := network.network_address.ipv4_mapped):
        network = ipaddress.ip_network((bare, network.prefixlen - 96))
    return network.version == address.version and address in network


def _intersects(one: object, other: object) -> bool:
    a, b = network_of(one), network_of(other)
    return _includes(a, b.network_address) or _includes(b, a.network_address)


def _contains(cidr: object, other: object) -> bool:
    network, text = network_of(cidr), string(other)
    if (address := _address(text)) is not None:
        return _includes(network, address)
    inner = network_of(text)
    return _includes(network, inner.network_address) and _includes(network, inner.broadcast_address)


def _matches(one: Any, other: Any) -> set[Any]:
    return {
        (index, other_index)
        for index, cidr in _labelled(one)
        for other_index, inner in _labelled(other)
        if _contains(cidr, inner)
    }


def _labelled(value: Any) -> Iterator[tuple[Any, Any]]:
    """A CIDR's label (position, key, or itself), and the CIDR, which may be the first of a list."""
    if isinstance(value, str):
        yield value, value
        return
    if isinstance(value, list):
        items: Any = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, set):
        items = ((item, item) for item in value)
    else:
        return
    for label, item in items:
        if isinstance(item, list | tuple) and item:
            yield label, item[0]
        elif isinstance(item, str):
            yield label, item
        else:
            raise BuiltinError("element must be a string or a list that is not empty")


class _Range(NamedTuple):
    """Addresses as numbers, IPv4 in its place among those of IPv6; `text` is of a network that came as it is."""

    last: int
    first: int
    text: str


def _merge(cidrs: Any) -> set[str]:
    if not isinstance(cidrs, list | set):
        raise BuiltinError("operand must be an array or a set")
    ranges = sorted(_range(item) for item in cidrs)
    for index in range(len(ranges) - 1, 0, -1):
        one, other = ranges[index - 1 : index + 1]
        before = other.first - (other.first not in (0, _IPV4))
        if before <= one.last:
            ranges[index - 1 : index + 1] = [_Range(other.last, min(one.first, other.first), "")]
    result: set[str] = set()
    for item in ranges:
        result |= {item.text} if item.text else set(_summary(item))
    return result


def _range(value: object) -> _Range:
    text = string(value)
    address = _address(text)
    if address is None:
        network = network_of(text)
        shown = str(network)
    elif isinstance(address, ipaddress.IPv6Address):
        raise BuiltinError("an IPv6 address needs its prefix length")
    else:
        # Go's `IP.DefaultMask`: the class of the address. It is shown as it came.
        first = int(address) >> 24
        length = 8 if first < 0x80 else 16 if first < 0xC0 else 24
        network = ipaddress.ip_network((address, length), strict=False)
        shown = f"{address}/{length}"
    base = _IPV4 if network.version == 4 else 0
    found = _Range(base + int(network.broadcast_address), base + int(network.network_address), shown)
    if not base and found.first >> 32 == _IPV4 >> 32:
        raise UnsupportedError("net.cidr_merge: an IPv4 network written as one of IPv6")
    return found


def _summary(item: _Range) -> Iterator[str]:
    ipv4 = item.first >> 32 == _IPV4 >> 32
    if ipv4 != (item.last >> 32 == _IPV4 >> 32):
        raise UnsupportedError("net.cidr_merge: a range of both IPv4 and IPv6")
    kind: Any = ipaddress.IPv4Address if ipv4 else ipaddress.IPv6Address
    base = _IPV4 if ipv4 else 0
    yield from map(str, ipaddress.summarize_address_range(kind(item.first - base), kind(item.last - base)))


BUILTINS = {
    "net.cidr_intersects": _intersects,
    "net.cidr_contains": _contains,
    "net.cidr_contains_matches": _matches,
    "net.cidr_merge": _merge,
}
