"""`parsed_body` and `truncated_body`, as OPA's Envoy plugin gives them (`envoyauth/request.go`, getParsedBody)."""

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from mixer.authz.messages import Messages
from mixer.authz.multipart import form_parts, parse_media_type
from mixer.authz.url import EACH_BYTE, BadRequestError, parse_path, parse_query

_INTEGER = re.compile(r"[+-]?0*[0-9]{1,19}")
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_LONG = re.compile(r"(?<![\w\".+-])-?[0-9]{19}")
_LARGEST_INTEGER = 2**63 - 1
# Levels of JSON; regorus takes up to 127, and what the engine cannot read must not be its error.
_MOST_NESTED = 100


class Bodies:
    """Parses bodies; those of gRPC calls only with `messages`, without them they are None as in the plugin."""

    def __init__(self, messages: Messages | None = None) -> None:
        self._messages = messages

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
            return _bounded(message), truncated
        text = body or raw_body.decode("utf-8", EACH_BYTE)
        if kind not in _PARSERS or not text:
            return None, False
        if _is_truncated(headers, len(body.encode()) if body else len(raw_body)):
            return None, True
        return _PARSERS[kind](text, content_type), False


def _is_truncated(headers: Mapping[str, str], size: int) -> bool:
    if "content-length" not in headers:
        return False
    length = headers["content-length"]
    if not _INTEGER.fullmatch(length) or abs(int(length)) > _LARGEST_INTEGER:
        raise BadRequestError("content-length is no number")
    return int(length) > size


def _json(text: str, _: str = "") -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = _json_of_halves(text)
    if _LONG.search(text) is not None:
        _check_integers(text)
    return _bounded(value) if text.count("[") + text.count("{") > _MOST_NESTED else value


def _check_integers(text: str) -> None:
    """Raises `BadRequestError` for integers that would lose digits; OPA has them whole, regorus and orjson do not."""
    try:
        json.loads(text, parse_int=_integer, parse_float=str, parse_constant=str)
    except RecursionError:
        raise BadRequestError(f"the body is nested more than {_MOST_NESTED} levels deep") from None


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise BadRequestError("the body holds an integer of more than 64 bits")
    return value


def _json_of_halves(text: str) -> Any:
    """JSON in which halves of surrogate pairs stand alone: Go takes each for U+FFFD."""
    try:
        return orjson.loads(_ESCAPE.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text))
    except orjson.JSONDecodeError:
        raise BadRequestError("the body is not JSON") from None


def _bounded(value: Any) -> Any:
    if _levels(value) > _MOST_NESTED:
        raise BadRequestError(f"the body is nested more than {_MOST_NESTED} levels deep")
    return value


def _levels(value: Any) -> int:
    levels, here = 0, [value]
    while here := [item for item in here if isinstance(item, dict | list)]:
        levels += 1
        here = [item for box in here for item in (box.values() if isinstance(box, dict) else box)]
    return levels


def _form(text: str, _: str) -> dict[str, list[str]]:
    return parse_query(text)


def _multipart(text: str, content_type: str) -> dict[str, list[Any]] | None:
    _, parameters = parse_media_type(content_type)
    if "boundary" not in parameters:
        return None
    values: dict[str, list[Any]] = {}
    for name, part_type, content in form_parts(text.encode(), parameters["boundary"]):
        part = content.decode("utf-8", EACH_BYTE)
        values.setdefault(name, []).append(_json(part) if "application/json" in part_type else part)
    return values


_GRPC = "application/grpc"
# In the order in which they are looked for.
_KINDS = ("application/json", _GRPC, "application/x-www-form-urlencoded", "multipart/form-data")
_PARSERS = {
    "application/json": _json,
    "application/x-www-form-urlencoded": _form,
    "multipart/form-data": _multipart,
}
