"""`semver.*`: versions as OPA's `internal/semver` reads and orders them; a "v" may lead."""

import re
from typing import NamedTuple

from mixer.policy.builtins.operands import BuiltinError, string

_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(
    rf"v?(?P<numbers>(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){{2}})(?:-(?P<pre>{_IDENTIFIERS}))?(?:\+{_IDENTIFIERS})?"
)


class Version(NamedTuple):
    numbers: tuple[int, ...]
    release: bool
    pre: tuple[tuple[bool, int, str], ...]  # numeric identifiers come before others


def _parse(text: str) -> Version:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise BuiltinError("not a semantic version")
    numbers = tuple(_number(digits) for digits in match["numbers"].split("."))
    identifiers = match["pre"].split(".") if match["pre"] else []
    if max(numbers) >= 2**63 or any(
        len(item) > 1 and item[0] == "0" and item.isdigit() for item in identifiers
    ):
        raise BuiltinError("not a semantic version")
    # A number beyond 64 bits counts as the largest one (Go's `strconv.Atoi`, whose error is not looked at).
    pre = tuple(
        (not item.isdigit(), min(_number(item), 2**63 - 1), "") if item.isdigit() else (True, 0, item)
        for item in identifiers
    )
    return Version(numbers, not pre, pre)


def _number(digits: str) -> int:
    """What is beyond 64 bits is just large: Python refuses to read thousands of digits."""
    return int(digits.lstrip("0")[:20] or "0")


def _compare(one: object, other: object) -> int:
    a, b = _parse(string(one)), _parse(string(other))
    return (a > b) - (a < b)


def _is_valid(value: object) -> bool:
    try:
        _parse(string(value))
    except BuiltinError:
        return False
    return True


BUILTINS = {"semver.compare": _compare, "semver.is_valid": _is_valid}
