"""`parsed_body` and `truncated_body`, as OPA's Envoy plugin gives them (`envoyauth/request.go`, getParsedBody)."""

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from mixer.authz.messages import Messages
from mixer.authz.multipart import form_parts, parse_media_type
from mixer.authz.url import EACH_BYTE, BadRequestError, parse_path, parse_query
from mixer.policy.written import unusual

_INTEGER = re.compile(r"[+-]?0*[0-9]{1,19}")
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)
# Numbers of which a double, or the text that it is written as, may not be what was sent: 1e400, 2.50, 2^64 + 1.
_INEXACT = re.compile(r"[0-9](?:[.eE]|[0-9]{15})|-0")
_LONG = re.compile(r"(?<![\w\".+-])-?[0-9]{19}")
_LARGEST_INTEGER = 2**63 - 1
_SPACE = " \t\r\n"
_FIRST = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
# Levels of JSON; regorus takes up to 127, and what the engine cannot read must not be its error.
_MOST_NESTED = 100


class Bodies:
    """Parses bodies; those of gRPC calls only with `messages`, without them they are None as in the plugin.

    `exact`: numbers of JSON are kept as they are written, whatever their size, for an engine that can take them so
    (they are then `orjson.Fragment`). Else one beyond the range of doubles makes a bad request. `bounded`: so does what
    is nested too deeply for the engine. `written`: a body with numbers that are not written as usual is given as it is,
    one `orjson.Fragment`, for an engine that has to know of it.
    """

    def __init__(
        self,
        messages: Messages | None = None,
        *,
        exact: bool = False,
        bounded: bool = True,
        written: bool = False,
    ) -> None:
        self._messages = messages
        self._written = written
        self._parse = _exact_json if exact else _plain_json
        self._bounded = bounded

    def unshown(self) -> "Bodies":
        """For a policy that does not read the parsed body, and so need not be spared what its engine cannot take."""
        unshown = Bodies(self._messages, bounded=False)
        unshown._parse = _any_json
        return unshown

    def parse(self, headers: Mapping[str, str], body: str, raw_body: bytes, path: str) -> tuple[Any, bool]:
        """The parsed body (None where there is none, or none that is understood) and whether it was truncated.

        `path`: of the request, without its query. Raises `BadRequestError` for a body that is not what its
        content-type says.
        """
        if headers.get("x-envoy-auth-partial-body") == "true":
            return None, True
        content_type = headers.get("content-type", "")
        kind = next((kind for kind in _KINDS if kind in content_type), None)
        if kind == _GRPC:
            if self._messages is None or not raw_body:
                return None, False
            message, truncated = self._messages.parse(raw_body, parse_path(path))
            return self._within(message), truncated
        text = body or raw_body.decode("utf-8", EACH_BYTE)
        if kind is None or not text:
            return None, False
        if _is_truncated(headers, len(body.encode()) if body else len(raw_body)):
            return None, True
        return self._parsed(kind, text, content_type), False

    def _parsed(self, kind: str, text: str, content_type: str) -> Any:
        if kind == _JSON:
            return self._json(text)
        return parse_query(text) if kind == _FORM else self._multipart(text, content_type)

    def _json(self, text: str) -> Any:
        try:
            value = self._parse(text)
        except BadRequestError:
            if (before := _before_null(text)) is None:
                raise
            text, value = before, self._parse(before)
        if text.count("[") + text.count("{") > _MOST_NESTED:
            self._within(value)
        if self._written and next(unusual(text), None) is not None:
            return orjson.Fragment(_without_halves(text))
        return value

    def _within(self, value: Any) -> Any:
        if self._bounded and _levels(value) > _MOST_NESTED:
            raise BadRequestError(f"the body is nested more than {_MOST_NESTED} levels deep")
        return value

    def _multipart(self, text: str, content_type: str) -> Any:
        _, parameters = parse_media_type(content_type)
        if "boundary" not in parameters:
            return None
        values: dict[str, list[Any]] = {}
        for name, part_type, content in form_parts(text.encode(), parameters["boundary"]):
            part = content.decode("utf-8", EACH_BYTE)
            values.setdefault(name, []).append(self._json(part) if _JSON in part_type else part)
        if any(isinstance(part, orjson.Fragment) for parts in values.values() for part in parts):
            return orjson.Fragment(orjson.dumps(values))
        return values


def _is_truncated(headers: Mapping[str, str], size: int) -> bool:
    if "content-length" not in headers:
        return False
    length = headers["content-length"]
    if not _INTEGER.fullmatch(length) or not ~_LARGEST_INTEGER <= int(length) <= _LARGEST_INTEGER:
        raise BadRequestError("content-length is no number")
    return int(length) > size


def _plain_json(text: str) -> Any:
    """Raises `BadRequestError` also for integers that would lose digits: OPA has them whole, regorus and orjson not."""
    value = _loaded(text)
    if _LONG.search(text) is not None:
        try:
            json.loads(text, parse_int=_integer, parse_float=str, parse_constant=str)
        except RecursionError:
            raise BadRequestError(f"the body is nested more than {_MOST_NESTED} levels deep") from None
    return value


def _loaded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return orjson.loads(_without_halves(text))
        except orjson.JSONDecodeError:
            raise BadRequestError("the body is not JSON") from None


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise BadRequestError("the body holds an integer of more than 64 bits")
    return value


def _exact_json(text: str) -> Any:
    if not _INEXACT.search(text):
        return _loaded(text)
    try:
        return json.loads(
            _without_halves(text),
            parse_int=orjson.Fragment,
            parse_float=orjson.Fragment,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):
        raise BadRequestError("the body is not JSON") from None


def _any_json(text: str) -> Any:
    """With whatever numbers, and quickly where they are usual."""
    try:
        return _plain_json(text)
    except BadRequestError:
        return _exact_json(text)


def _before_null(text: str) -> str | None:
    """What is before a second value of null, None where there is none: Go's decoder, looking for the end, takes a null
    for it, whatever follows."""
    text = text.lstrip(_SPACE)
    if "null" not in text:
        return None
    try:
        _, end = _FIRST.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return text[:end] if text[end:].lstrip(_SPACE).startswith("null") else None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _without_halves(text: str) -> str:
    """Halves of surrogate pairs that stand alone: Go takes each for U+FFFD."""
    return _ESCAPE.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text)


def _levels(value: Any) -> int:
    levels, here = 0, [value]
    while here := [item for item in here if isinstance(item, dict | list)]:
        levels += 1
        here = [item for box in here for item in (box.values() if isinstance(box, dict) else box)]
    return levels


_JSON, _GRPC = "application/json", "application/grpc"
_FORM, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
# In the order in which they are looked for.
_KINDS = (_JSON, _GRPC, _FORM, _MULTIPART)
