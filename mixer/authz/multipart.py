"""`multipart/form-data` as Go's `mime` and `mime/multipart` read it, which OPA's Envoy plugin uses.

A lenient reader would be a hole: what the policy saw would not be what the upstream reads. So this one takes what
Go's takes and refuses what that refuses. Sources: RFC 2046, 5.1; RFC 2183; RFC 2231; RFC 7578; Go's packages.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from mixer.authz.url import BadRequestError

_TOKEN = re.compile(r"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+")
_QUOTED = re.compile(r'"((?:[^"\\\r\n]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r'\\([()<>@,;:\\"/\[\]?=])')  # before another character a backslash is itself
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z -]+")
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HEX = re.compile(rb"[0-9A-Fa-f]{2}")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_MOST_HEADERS = 10_000
# Bytes of a line with its end that Go's buffers hold; a longer one, before a part or in quoted-printable, is an error.
_LONGEST_LINE = 4096


class MediaParameterError(BadRequestError):
    """The type can be read, one of its parameters cannot."""

    def __init__(self, media_type: str) -> None:
        super().__init__("a parameter of the content-type cannot be read")
        self.media_type = media_type


def form_parts(payload: bytes, boundary: str) -> Iterator[tuple[str, str, bytes]]:
    """Name, content-type and content of each part that has a name. Raises `BadRequestError`."""
    for headers, sent in _Reader(payload, boundary.encode()).parts():
        is_encoded = headers.get("content-transfer-encoding", "").lower() == "quoted-printable"
        content = quoted_printable(sent) if is_encoded else sent
        if name := _form_name(headers.get("content-disposition", "")):
            yield name, headers.get("content-type", ""), content


def _form_name(disposition: str) -> str:
    try:
        kind, parameters = parse_media_type(disposition)
    except BadRequestError:
        return ""
    return parameters.get("name", "") if kind == "form-data" else ""


def parse_media_type(text: str) -> tuple[str, dict[str, str]]:
    """A media type or disposition, in lower case, and its parameters (Go's `mime.ParseMediaType`)."""
    kind, semicolon, rest = text.partition(";")
    kind = kind.lower().strip()
    if not all(_TOKEN.fullmatch(part) for part in kind.split("/")) or kind.count("/") > 1:
        raise BadRequestError("the content-type cannot be read")
    parameters: dict[str, str] = {}
    pieces: dict[str, dict[str, str]] = {}  # of parameters with a star (RFC 2231)
    rest = (semicolon + rest).lstrip()
    while rest:
        name, value, rest = _parameter(rest, kind)
        if not name:
            break
        where = pieces.setdefault(name.partition("*")[0], {}) if "*" in name else parameters
        if where.setdefault(name, value) != value:
            raise BadRequestError("a parameter of the content-type is given twice")
        rest = rest.lstrip()
    for name, given in pieces.items():
        if (joined := _joined(name, given)) is not None:
            parameters[name] = joined
    return kind, parameters


def _parameter(text: str, kind: str) -> tuple[str, str, str]:
    """`; name=value`: the name in lower case, the value, and the rest; no name for a semicolon at the end."""
    if text.strip() == ";":
        return "", "", ""
    at = text[1:].lstrip() if text.startswith(";") else ""
    name = _TOKEN.match(at)
    after = at[name.end() :].lstrip() if name else ""
    if not name or not after.startswith("="):
        raise MediaParameterError(kind)
    after = after[1:].lstrip()
    if quoted := _QUOTED.match(after):
        return name[0].lower(), _ESCAPED.sub(r"\1", quoted[1]), after[quoted.end() :]
    if not (value := _TOKEN.match(after)):
        raise MediaParameterError(kind)
    return name[0].lower(), value[0], after[value.end() :]


def _joined(name: str, pieces: dict[str, str]) -> str | None:
    """The value of a parameter in pieces, or with its character set (RFC 2231)."""
    if (whole := pieces.get(f"{name}*")) is not None:
        return _with_charset(whole)
    parts: list[str] = []
    while True:
        key = f"{name}*{len(parts)}"
        if key in pieces:
            parts.append(pieces[key])
        elif f"{key}*" in pieces:
            encoded = pieces[f"{key}*"]
            parts.append((_unescaped(encoded) if parts else _with_charset(encoded)) or "")
        else:
            return "".join(parts) if parts else None


def _with_charset(text: str) -> str | None:
    charset, *language_and_value = text.split("'", 2)
    if len(language_and_value) != 2 or charset.lower() not in ("us-ascii", "utf-8"):
        return None
    return _unescaped(language_and_value[1])


def _unescaped(text: str) -> str | None:
    return None if _BAD_PERCENT.search(text) else unquote_to_bytes(text).decode("utf-8", "replace")


class _Reader:
    """Go's `multipart.Reader`: strict but in one thing, lines may all end in a bare newline if the first one does."""

    def __init__(self, payload: bytes, boundary: bytes) -> None:
        self._payload = payload
        self._delimiter = b"--" + boundary
        self._newline = b"\r\n"
        self._at = 0

    def parts(self) -> Iterator[tuple[dict[str, str], bytes]]:
        if self._delimiter == b"--":
            raise _broken("has an empty boundary")
        before_first = True
        while self._next(before_first):
            before_first = False
            headers = self._headers()
            if headers is None:
                return  # Go's reader takes an end within the headers for the end of all
            content = self._content()
            yield headers, content

    def _line(self) -> bytes:
        """The next line with its end; without one at the payload's end."""
        end = self._payload.find(b"\n", self._at) + 1 or len(self._payload)
        line, self._at = self._payload[self._at : end], end
        return line

    def _next(self, before_first: bool) -> bool:
        """Go on to the next part; False after the last."""
        delimiter_next = False
        while True:
            line = self._line()
            if len(line) + (not line.endswith(b"\n")) > _LONGEST_LINE:
                raise _broken("has too long a line")
            rest = line[len(self._delimiter) :].lstrip(b" \t")
            after_dashes = line[len(self._delimiter) + 2 :].lstrip(b" \t")
            if line.startswith(self._delimiter + b"--") and after_dashes in (b"", self._newline):
                return False
            if not line.endswith(b"\n"):
                raise _broken("has no end")
            if line.startswith(self._delimiter):
                if before_first and rest == b"\n":
                    self._newline = b"\n"
                if rest == self._newline:
                    return True
            if before_first:
                continue
            if delimiter_next or line != self._newline:
                raise _broken("has something between its parts")
            delimiter_next = True

    def _headers(self) -> dict[str, str] | None:
        """By name in lower case, the first of each; continued lines are joined. None where they have no end."""
        lines: list[bytes] = []
        while (raw := self._line()) not in (b"\r\n", b"\n", b""):
            line = raw.removesuffix(b"\r\n") if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")
            if line[:1] not in (b" ", b"\t"):
                if len(lines) == _MOST_HEADERS:
                    raise _broken("has too many headers")
                if b":" not in line:
                    raise _broken("has a header without a colon")
                lines.append(line.strip(b" \t"))
            elif lines:
                lines[-1] += b" " + line.strip(b" \t")
            else:
                raise _broken("has a part whose headers begin with a space")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            if not _FIELD_NAME.fullmatch(name) or _CONTROLS.search(value):
                raise _broken("has a malformed header")
            key = name.decode() if b" " in name else name.decode().lower()
            headers.setdefault(key, value.lstrip(b" \t").decode("utf-8", "replace"))
        return headers if raw else None

    def _content(self) -> bytes:
        start = at = self._at
        if self._payload.startswith(self._delimiter, at):
            at += len(self._delimiter)
            if self._ends_at(at):
                return b""
        marker = self._newline + self._delimiter
        while (found := self._payload.find(marker, at)) >= 0:
            at = found + len(marker)
            if self._ends_at(at):
                self._at = found
                return self._payload[start:found]
        raise _broken("has a part without an end")

    def _ends_at(self, at: int) -> bool:
        """Whether a delimiter that ends at `at` is one, and not the beginning of something longer."""
        after = self._payload[at : at + 2]
        return after[:1] in (b"", b" ", b"\t", b"\r", b"\n") or after == b"--"


def quoted_printable(data: bytes) -> bytes:
    """RFC 2045, 6.7, with Go's leniencies: `=` before no hex is itself, and a last `=` is nothing."""
    result = bytearray()
    for whole in _LINE.findall(data):
        if len(whole) > _LONGEST_LINE:
            raise _broken("has too long a line of quoted-printable")
        line = whole.rstrip(b" \t\r\n")
        end = b"\r\n" if whole.endswith(b"\r\n") else b"\n" if whole.endswith(b"\n") else b""
        if line.endswith(b"="):
            stripped = whole[len(line) :].lstrip(b" \t")
            line, end = line[:-1], b""
            if not stripped.startswith((b"\n", b"\r\n")) and (stripped or not line):
                raise _broken("has a part that is no quoted-printable")
        at = 0
        while at < len(line):
            if line[at] != 0x3D:
                if line[at] not in b"\t\r" and not 0x20 <= line[at] != 0x7F:
                    raise _broken("has a part that is no quoted-printable")
                result.append(line[at])
                at += 1
            elif _HEX.fullmatch(line, at + 1, at + 3):
                result.append(int(line[at + 1 : at + 3], 16))
                at += 3
            elif at + 1 < len(line):
                result.append(0x3D)
                at += 1
            else:
                raise _broken("has a part that is no quoted-printable")
        result += end
    return bytes(result)


def _broken(how: str) -> BadRequestError:
    return BadRequestError(f"the multipart body {how}")
