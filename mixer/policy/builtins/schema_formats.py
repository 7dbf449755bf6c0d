"""Formats and patterns of JSON Schema as gojsonschema checks them: Go's regular expressions, times, URLs, addresses."""

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from functools import cache, lru_cache

from regorus import Engine

from mixer.policy.builtins.operands import BuiltinError, UnsupportedError
from mixer.policy.builtins.uri import parse
from mixer.policy.patterns import rust

_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:[.,][0-9]+)?(Z|[+-]([0-9]{2}):([0-9]{2}))?")
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_UUID = re.compile(r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}", re.IGNORECASE | re.ASCII)
_POINTER = re.compile(r"(?:/(?:[^~/]|~0|~1)*)*", re.DOTALL)
_RELATIVE = re.compile(r"(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~0|~1)*)*)", re.DOTALL)
_TEMPLATE = re.compile(r"(?:[^{]*(?:\{[^}]*\})?)*", re.DOTALL)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_ATOM}(?:\.{_ATOM})*")


@cache
def _engine() -> Engine:
    engine = Engine()
    rules = "valid := regex.is_valid(input.pattern)\nmatch := regex.match(input.pattern, input.text)"
    engine.add_policy("<patterns>", f"package patterns\nimport rego.v1\n{rules}")
    return engine


@lru_cache(1000)
def valid_pattern(pattern: str) -> bool:
    return _asked("valid", pattern, "")


def matches(pattern: str, text: str) -> bool:
    """Whether a valid pattern is found in a text."""
    return _asked("match", pattern, text)


def _asked(rule: str, pattern: str, text: str) -> bool:
    engine = _engine().clone()
    engine.set_input({"pattern": rust(pattern), "text": text})
    try:
        return engine.eval_rule(f"data.patterns.{rule}") is True
    except RuntimeError:
        return False


def shown(value: float) -> str:
    """A number as Go's `encoding/json` writes a float64."""
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    if 1e-6 <= abs(value) < 1e21:
        return text if "e" not in text else format(value, ".25f").rstrip("0")
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa.removesuffix('.0')}e{exponent[0]}{exponent[1:].lstrip('0')}"


def _date(text: str) -> bool:
    if (found := _DATE.fullmatch(text)) is None:
        return False
    year, month, day = map(int, found.groups())
    try:
        date(year or 4, month, day)  # the year 0 has a 29th of February
    except ValueError:
        return False
    return True


def _time(text: str, zone: bool | None = None) -> bool:
    """`zone`: whether there must be one; None: either way."""
    if (found := _TIME.fullmatch(text)) is None or (zone is True and found[4] is None):
        return False
    within = int(found[1]) < 24 and int(found[2]) < 60 and int(found[3]) < 60
    return within and int(found[5] or 0) <= 24 and int(found[6] or 0) <= 60


def _date_time(text: str) -> bool:
    day, mark, time = text.partition("T")
    return _time(text) or _date(text) or (bool(mark) and _date(day) and _time(time, zone=True))


def _email(text: str) -> bool:
    if _EMAIL.fullmatch(text):
        return True
    if "@" not in text:
        return False
    raise UnsupportedError("the format email of what is not a plain address")


def _address(text: str, mark: str) -> bool:
    if mark not in text or "%" in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _url(text: str, scheme: bool = False) -> bool:
    try:
        url = parse(text)
    except BuiltinError:
        return False
    return (bool(url.scheme) or not scheme) and "\\" not in text


def _uri_template(text: str) -> bool:
    return _url(text) and _TEMPLATE.fullmatch(parse(text).path) is not None


FORMATS: dict[str, Callable[[str], bool]] = {
    "date": _date,
    "time": _time,
    "date-time": _date_time,
    "hostname": lambda text: _HOSTNAME.fullmatch(text) is not None and len(text.encode()) < 256,
    "email": _email,
    "idn-email": _email,
    "ipv4": lambda text: _address(text, "."),
    "ipv6": lambda text: _address(text, ":"),
    "uri": lambda text: _url(text, scheme=True),
    "uri-reference": _url,
    "iri": lambda text: _url(text, scheme=True),
    "iri-reference": _url,
    "uri-template": _uri_template,
    "uuid": lambda text: _UUID.fullmatch(text) is not None,
    "regex": lambda text: not text or valid_pattern(text),
    "json-pointer": lambda text: _POINTER.fullmatch(text) is not None,
    "relative-json-pointer": lambda text: _RELATIVE.fullmatch(text) is not None,
}
