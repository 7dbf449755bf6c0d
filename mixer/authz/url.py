"""Paths and queries as Go's `net/url` parses them, which is what policies written for the plugin expect."""

import codecs
import re
from urllib.parse import unquote, unquote_plus

# Bytes that are no UTF-8: U+FFFD for each, where "replace" makes one of what could have begun a character.
EACH_BYTE = "mixer-each-byte"
_MOST_PARAMETERS = 10_000
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadRequestError(ValueError):
    """A request whose path, query or body cannot be parsed: HTTP 400, as in the plugin."""


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _each_byte)


def parse_path(path: str) -> list[str]:
    """Percent-decoded, leading slashes off, split at the rest (`url.PathUnescape`)."""
    if "%" in path:
        if _BAD_ESCAPE.search(path):
            raise BadRequestError("the path has an invalid percent-escape")
        path = unquote(path, errors=EACH_BYTE)
    return path.lstrip("/").split("/")


def parse_query(query: str) -> dict[str, list[str]]:
    """Name to values in order (`url.ParseQuery`): `+` is a space, and a `;` is an error."""
    if query.count("&") >= _MOST_PARAMETERS:
        raise BadRequestError(f"the query has more than {_MOST_PARAMETERS} parameters")
    result: dict[str, list[str]] = {}
    for pair in query.split("&"):
        if ";" in pair:
            raise BadRequestError("the query has a semicolon, which is no separator")
        if not pair:
            continue
        if "%" in pair and _BAD_ESCAPE.search(pair):
            raise BadRequestError("the query has an invalid percent-escape")
        name, _, value = pair.partition("=")
        result.setdefault(_text(name), []).append(_text(value))
    return result


def _text(escaped: str) -> str:
    return unquote_plus(escaped, errors=EACH_BYTE)
