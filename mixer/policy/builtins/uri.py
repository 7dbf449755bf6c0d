"""`uri.parse` and `uri.is_valid`: URLs as Go's `net/url` parses them (RFC 3986, with its exceptions)."""

import ipaddress
import re
from typing import NamedTuple

from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, string

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_USERINFO = re.compile(r"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*")
_PORT = re.compile(r"(:[0-9]*)?")
_ESCAPE = re.compile(rb"%(..?|$)", re.DOTALL)
_PAIR = re.compile(rb"%[0-9A-Fa-f]{2}")
_ALNUM = "0-9A-Za-z"
_IN_HOST = re.compile(rf"[{_ALNUM}!\"$&'()*+,\-.:;<=>\[\]_~]".encode())
_ENCODED_PATH = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@\[\]%/]*")
_PATH_SAFE = frozenset(b"$&+,-./:;=@_~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Url(NamedTuple):
    scheme: str = ""
    host: str = ""  # with its port
    path: str = ""
    raw_path: str = ""  # the path as it was, where escaping it would not give that again
    query: str = ""
    fragment: str = ""
    opaque: str = ""  # what stands after the scheme where that is no path
    user: str | None = None  # as it stands there


def parse(text: str) -> Url:
    """Raises `BuiltinError` where Go's `url.Parse` gives an error."""
    before, _, fragment = text.partition("#")
    url = _parse(before)
    return url._replace(fragment=_text(_unescape(fragment.encode())))


def _parse(text: str) -> Url:
    if _CONTROL.search(text):
        raise BuiltinError("control character in URL")
    if text == "*":
        return Url(path="*")
    scheme, rest = "", text
    if match := _SCHEME.match(text):
        scheme, rest = match[1].lower(), text[match.end() :]
    elif text.startswith(":"):
        raise BuiltinError("missing scheme")
    rest, _, query = rest.partition("?")
    if not rest.startswith("/"):
        if scheme:
            return Url(scheme, query=query, opaque=rest)
        if ":" in rest.partition("/")[0]:
            raise BuiltinError("first path segment contains a colon")
    host, user = "", None
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, rest = rest[2:].partition("/")
        rest = slash + rest
        host = _authority(scheme, authority)
        user = authority.rpartition("@")[0] if "@" in authority else None
    path = _unescape(rest.encode())
    raw_path = "" if _escape(path) == rest.encode() else rest
    return Url(scheme, host, _text(path), raw_path, query, user=user)


def _authority(scheme: str, authority: str) -> str:
    userinfo, _, host = authority.rpartition("@")
    host = _host(scheme, host)
    if not _USERINFO.fullmatch(userinfo):
        raise BuiltinError("invalid userinfo")
    _unescape(userinfo.encode())
    return host


def _host(scheme: str, host: str) -> str:
    bracket = host.rfind("[")
    if bracket > 0:
        raise BuiltinError("invalid IP literal")
    if bracket == 0:
        return _ip_literal(host)
    first, last = host.find(":"), host.rfind(":")
    if first >= 0 and not _PORT.fullmatch(host[first if scheme in ("http", "https") else last :]):
        raise BuiltinError("invalid port")
    return _text(_unescape_host(host.encode()))


def _ip_literal(host: str) -> str:
    end = host.rfind("]")
    if end < 0:
        raise BuiltinError("missing ']' in host")
    port = host[end + 1 :]
    if not _PORT.fullmatch(port):
        raise BuiltinError("invalid port")
    name, mark, zone = host[1:end].partition("%25")
    address = _text(_unescape_host(name.encode()) + _unescape_zone((mark + zone).encode()))
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        raise BuiltinError("invalid IP literal") from None
    return f"[{address}]{port}"


def _unescape(data: bytes) -> bytes:
    """Bytes of percent-escapes (`PathUnescape`)."""
    if b"%" not in data:
        return data
    for match in _ESCAPE.finditer(data):
        if not _PAIR.match(match[0]):
            raise BuiltinError("invalid percent-escape")
    return _PAIR.sub(lambda pair: bytes.fromhex(pair[0][1:].decode()), data)


def _unescape_host(data: bytes) -> bytes:
    """Only bytes beyond ASCII, and "%" itself, may be escaped in a host (RFC 3986, 3.2.2)."""
    for match in _PAIR.finditer(data):
        if int(match[0][1:2], 16) < 8 and match[0] != b"%25":
            raise BuiltinError("invalid percent-escape in host")
    return _host_bytes(data)


def _unescape_zone(data: bytes) -> bytes:
    """RFC 6874; what may stand there as it is, and a space, may be escaped."""
    for match in _PAIR.finditer(data):
        byte = bytes.fromhex(match[0][1:].decode())
        if match[0] != b"%25" and byte != b" " and not _IN_HOST.fullmatch(byte):
            raise BuiltinError("invalid percent-escape in zone")
    return _host_bytes(data)


def _host_bytes(data: bytes) -> bytes:
    for byte in _PAIR.sub(b"", data):
        if byte < 0x80 and byte != ord("%") and not _IN_HOST.fullmatch(bytes([byte])):
            raise BuiltinError("invalid character in host name")
    return _unescape(data)


def _escape(path: bytes) -> bytes:
    return b"".join(b"%c" % byte if byte in _PATH_SAFE else b"%%%02X" % byte for byte in path)


def escaped_path(url: Url) -> str:
    """The path as it was where that is a right encoding of it, else encoded anew (Go's `EscapedPath`)."""
    if url.raw_path and _ENCODED_PATH.fullmatch(url.raw_path):
        return url.raw_path
    if "\ufffd" in url.path:
        raise UnsupportedError("a URL whose path is not UTF-8")
    return url.path if url.path == "*" else _escape(url.path.encode()).decode()


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _builtin_parse(value: object) -> dict[str, str]:
    url = parse(string(value))
    host, port = url.host, ""
    colon = host.rfind(":")
    if colon >= 0 and _PORT.fullmatch(host[colon:]):
        host, port = host[:colon], host[colon + 1 :]
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    fields = {
        "scheme": url.scheme,
        "hostname": host,
        "port": port,
        "path": url.path,
        "raw_path": url.raw_path or url.path,
        "raw_query": url.query,
        "fragment": url.fragment,
    }
    return {name: field for name, field in fields.items() if field}


def _is_valid(value: object) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        parse(value)
    except BuiltinError:
        return False
    return True


BUILTINS = {"uri.parse": _builtin_parse, "uri.is_valid": _is_valid}
