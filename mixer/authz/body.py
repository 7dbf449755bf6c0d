"""`parsed_body` and `truncated_body`, as OPA's Envoy plugin gives them (`envoyauth/request.go`, getParsedBody)."""

import re
from collections.abc import Mapping
from email.parser import BytesParser
from typing import Any

import orjson

from mixer.authz.url import BadRequestError, parse_query

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")


def parse_body(headers: Mapping[str, str], body: str, raw_body: bytes) -> tuple[Any, bool]:
    """The parsed body (None where there is none, or none that is understood) and whether it was truncated.

    Raises `BadRequestError` for a body that is not what its content-type says.
    """
    if headers.get("x-envoy-auth-partial-body") == "true":
        return None, True
    content_type = headers.get("content-type", "")
    kind = next((kind for kind in _PARSERS if kind in content_type), None)
    text = body or raw_body.decode("utf-8", "replace")
    if kind is None or not text:
        return None, False
    if _is_truncated(headers, len(body.encode()) if body else len(raw_body)):
        return None, True
    return _PARSERS[kind](text, content_type), False


def _is_truncated(headers: Mapping[str, str], size: int) -> bool:
    if "content-length" not in headers:
        return False
    length = headers["content-length"]
    if not _INTEGER.fullmatch(length):
        raise BadRequestError("content-length is no number")
    return int(length) > size


def _json(text: str | bytes, _: str = "") -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadRequestError("the body is not JSON") from None


def _form(text: str, _: str) -> dict[str, list[str]]:
    return parse_query(text)


def _multipart(text: str, content_type: str) -> dict[str, list[Any]] | None:
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + text.encode())
    if message.get_boundary() is None:
        return None
    if not message.is_multipart() or message.defects:
        raise BadRequestError("the body is not multipart/form-data")
    values: dict[str, list[Any]] = {}
    parts: Any = message.get_payload()
    for part in parts:
        name = part.get_param("name", header="content-disposition")
        if not isinstance(name, str) or not name or part.get_content_disposition() != "form-data":
            continue
        if part.get("content-transfer-encoding", "").lower() != "quoted-printable":
            del part["content-transfer-encoding"]  # Go's reader knows no other
        content = part.get_payload(decode=True)
        is_json = "application/json" in part.get("content-type", "")
        values.setdefault(name, []).append(_json(content) if is_json else content.decode("utf-8", "replace"))
    return values


_PARSERS = {
    "application/json": _json,
    "application/grpc": lambda _text, _type: (
        None
    ),  # needs a descriptor set; without one the plugin gives null too
    "application/x-www-form-urlencoded": _form,
    "multipart/form-data": _multipart,
}
