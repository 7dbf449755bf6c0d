"""`urlquery.decode` and `urlquery.decode_object`, as Go's `net/url` reads a query: a bad escape is an error."""

import re
from urllib.parse import unquote_plus

from mixer.policy.builtins.operands import BuiltinError, string

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _decode(text: object) -> str:
    encoded = string(text)
    if _BAD_ESCAPE.search(encoded):
        raise BuiltinError("not a query: an escape is wrong")
    return unquote_plus(encoded)


def _decode_object(text: object) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for pair in string(text).split("&"):
        if ";" in pair:
            raise BuiltinError("not a query: a semicolon is no separator")
        if pair:
            name, _, value = pair.partition("=")
            result.setdefault(_decode(name), []).append(_decode(value))
    return result


BUILTINS = {"urlquery.decode": _decode, "urlquery.decode_object": _decode_object}
