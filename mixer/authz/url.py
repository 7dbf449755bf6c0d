"""Paths and queries as Go's `net/url` parses them, which is what policies written for the plugin expect."""

import re
from urllib.parse import unquote, unquote_plus

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadRequestError(ValueError):
    """A request whose path, query or body cannot be parsed: HTTP 400, as in the plugin."""


def parse_path(path: str) -> list[str]:
    """Percent-decoded, leading slashes off, split at the rest (`url.PathUnescape`)."""
    if "%" in path:
        if _BAD_ESCAPE.search(path):
            raise BadRequestError("the path has an invalid percent-escape")
        path = unquote(path)
    return path.lstrip("/").split("/")


def parse_query(query: str) -> dict[str, list[str]]:
    """Name to values in order (`url.ParseQuery`): `+` is a space, and a `;` is an error."""
    result: dict[str, list[str]] = {}
    for pair in query.split("&"):
        if ";" in pair:
            raise BadRequestError("the query has a semicolon, which is no separator")
        if not pair:
            continue
        if "%" in pair and _BAD_ESCAPE.search(pair):
            raise BadRequestError("the query has an invalid percent-escape")
        name, _, value = pair.partition("=")
        result.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return result
