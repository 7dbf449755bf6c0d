"""Numbers by how they are written: OPA keeps `1.50`, `1e3` and `2.0` as they stand, and regorus their value alone.

Nothing but text made of a number (`json.marshal`, `sprintf`, …) and a few places that want an integer show the
difference. So what is written in an unusual way is known by its value, and told where it would be shown.
"""

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

# What a number written in an unusual way has in it; it may be in a string as well.
_SUSPECT = r"[0-9](?:[eE][-+0-9]|\.[0-9]*0(?:[^0-9]|$)|[0-9]{18})|0\.0000|-0(?:[^.0-9]|$)|[0-9.]{17}"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|(-?[0-9][-+.0-9eE]*)', re.DOTALL)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_KEY = re.compile(r'"(-?[0-9][-+.0-9eE]*)"\s*:')
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


class Number(NamedTuple):
    """`exponent`: it has one."""

    value: float
    exponent: bool

    @property
    def is_whole(self) -> bool:
        return float(self.value).is_integer()


def is_usual(text: str) -> bool:
    """Whether the number is written as every engine would write it."""
    if _INTEGER.fullmatch(text):
        return text != "-0" and -(2**63) <= int(text) < 2**64
    try:
        value = float(text)
    except ValueError:
        return False
    return text == repr(value) and not value.is_integer() and abs(value) >= 1e-4 and "e" not in text


def unusual(text: str) -> Iterator[Number]:
    """The numbers of a JSON text that are not written as usual; those beyond doubles are not among them."""
    if not _is_suspect(text):
        return
    for found in _TOKEN.finditer(text):
        token = found[1]
        if token is not None and not is_usual(token) and (number := read(token)) is not None:
            yield number


def _is_suspect(text: str) -> bool:
    return _suspect().search(text) is not None


@cache
def _suspect() -> Any:
    import re2  # 3 MB of memory that not every policy needs; 3 ns a character, and 70 by `re`

    return re2.compile(_SUSPECT)


def read(token: str) -> Number | None:
    """None for what is no number, or beyond doubles."""
    if not _NUMBER.fullmatch(token) or len(token) > 1000:
        return None
    exact = Decimal(token)
    if exact.adjusted() > 307:
        return None
    value = int(exact) if exact == exact.to_integral_value() else float(exact)
    return Number(value, "e" in token.lower())


def keys(text: str) -> Iterable[float]:
    """The numbers that are keys in a JSON text."""
    return [float(found[1]) for found in _KEY.finditer(text) if _NUMBER.fullmatch(found[1])]


def in_order(text: str) -> str:
    """A JSON text with the keys of every object in their order, numbers as they stand.

    Raises `ValueError` for a key that is there twice.
    """
    value = json.loads(text, parse_int=_Written, parse_float=_Written, object_pairs_hook=_members)
    return _text(value)


class _Written(str):
    """A number."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return {key: members[key] for key in sorted(members, key=str.encode)}


def _text(value: Any) -> str:
    if isinstance(value, _Written):
        return value
    if isinstance(value, dict):
        return "{%s}" % ",".join(f"{_text(key)}:{_text(item)}" for key, item in value.items())  # noqa: UP031
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return json.dumps(value, ensure_ascii=False)
