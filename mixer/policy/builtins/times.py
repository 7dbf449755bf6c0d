"""`time.*` as Go's package `time` has it, with the zones of the IANA database.

Source: OPA's `topdown/time.go`.
"""

import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from mixer.policy.builtins.durations import nanoseconds
from mixer.policy.builtins.go_layouts import SECOND, WEEKDAYS, Moment, days_since_1970, formatted, parsed
from mixer.policy.builtins.operands import BuiltinError, integer, string

_LEAST, _MOST = -(2**63), 2**63 - 1  # nanoseconds since 1970: from 1677 to 2262
_RFC3339 = "2006-01-02T15:04:05Z07:00"
_RFC3339_NANO = "2006-01-02T15:04:05.999999999Z07:00"
_LAYOUTS = {
    "ANSIC": "Mon Jan _2 15:04:05 2006",
    "UnixDate": "Mon Jan _2 15:04:05 MST 2006",
    "RubyDate": "Mon Jan 02 15:04:05 -0700 2006",
    "RFC822": "02 Jan 06 15:04 MST",
    "RFC822Z": "02 Jan 06 15:04 -0700",
    "RFC850": "Monday, 02-Jan-06 15:04:05 MST",
    "RFC1123": "Mon, 02 Jan 2006 15:04:05 MST",
    "RFC1123Z": "Mon, 02 Jan 2006 15:04:05 -0700",
    "RFC3339": _RFC3339,
    "RFC3339Nano": _RFC3339_NANO,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The usual form, of which no part needs a closer look than `datetime` has.
_PLAIN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_HOURS = {"d": 24, "w": 7 * 24, "y": 365 * 24}
_SEGMENT = re.compile(r"((?:[0-9]+\.?[0-9]*|\.[0-9]+))(ns|us|µs|μs|ms|[smhdwy])")
_EXTENDED = re.compile(rf"[+-]?(?:{_SEGMENT.pattern})+")


@lru_cache(512)
def _zone(name: str) -> tzinfo | None:
    """None is the machine's own."""
    if name in ("", "UTC"):
        return UTC
    if name == "Local":
        return None
    if ".." in name or name[0] in "/\\":
        raise BuiltinError("not a zone")
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise BuiltinError("not a zone") from None


class _Time:
    """`[ns]`, `[ns, zone]`, `[ns, zone, layout]` or `ns`."""

    def __init__(self, operand: object) -> None:
        given = operand if isinstance(operand, list) else [operand]
        if not given:
            raise BuiltinError("operand must be a number, or an array that begins with one")
        self.zone: tzinfo | None = _zone(string(given[1])) if len(given) > 1 else UTC
        self.layout = string(given[2]) if len(given) > 2 else ""
        self.nanoseconds = integer(given[0])
        if not _LEAST <= self.nanoseconds <= _MOST:
            raise BuiltinError("timestamp too big")

    def moment(self) -> Moment:
        return self.moment_in(self.zone)

    def moment_in(self, zone: tzinfo | None) -> Moment:
        seconds, nanosecond = divmod(self.nanoseconds, SECOND)
        at = (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)
        offset = at.utcoffset()
        assert offset is not None  # noqa: S101 (it has a zone)
        east = offset // timedelta(seconds=1)
        return Moment(at.date(), at.hour, at.minute, at.second, nanosecond, east, at.tzname() or "")


def _within(value: int) -> int:
    if not _LEAST <= value <= _MOST:
        raise BuiltinError("time outside of valid range")
    return value


def _clock(operand: object) -> list[int]:
    moment = _Time(operand).moment()
    return [moment.hour, moment.minute, moment.second]


def _date(operand: object) -> list[int]:
    day = _Time(operand).moment().day
    return [day.year, day.month, day.day]


def _weekday(operand: object) -> str:
    return WEEKDAYS[_Time(operand).moment().day.weekday()]


def _format(operand: object) -> str:
    given = _Time(operand)
    layout = given.layout or _RFC3339_NANO
    return formatted(given.moment(), _LAYOUTS.get(layout, layout))


def _parse_ns(layout: object, text: object) -> int:
    name = string(layout)
    return _within(parsed(string(text), _LAYOUTS.get(name, name)))


def _parse_rfc3339_ns(operand: object) -> int:
    text = string(operand)
    if _PLAIN.fullmatch(text):
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            pass  # its parts say why
        else:
            return _within((at - _EPOCH) // timedelta(seconds=1) * SECOND)
    return _within(parsed(text, _RFC3339))


def _parse_duration_ns(operand: object) -> int:
    """Days, weeks and years too, which are 24, 168 and 8760 hours, as doubles have them."""
    text = string(operand)
    if _HOURS.keys() & {*text}:
        if len(text) > 1000 or not _EXTENDED.fullmatch(text):
            raise BuiltinError("not a duration")
        sign = text[0] if text[0] in "+-" else ""
        text = sign + "".join(_in_hours(number, unit) for number, unit in _SEGMENT.findall(text))
    found = nanoseconds(text)
    if found is None:
        raise BuiltinError("not a duration")
    return found


def _in_hours(number: str, unit: str) -> str:
    if unit not in _HOURS:
        return number + unit
    hours = float(number) * _HOURS[unit]
    if math.isinf(hours):
        raise BuiltinError("not a duration")
    return f"{_written(hours)}h"


def _written(value: float) -> str:
    """The fewest digits that are this number, without an exponent."""
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def _add_date(operand: object, years: object, months: object, days: object) -> int:
    given = _Time(operand)
    added = [integer(number) for number in (years, months, days)]
    moment = given.moment()
    day = moment.day
    since = days_since_1970(day.year + added[0], day.month + added[1], day.day + added[2])
    wall = since * 86400 + moment.hour * 3600 + moment.minute * 60 + moment.second
    # Where the clock is put forward or back, Go takes the offset that holds after the one it tries first.
    offset = _offset(wall, given.zone)
    if offset:
        offset = _offset(wall - offset, given.zone)
    return _within((wall - offset) * SECOND + moment.nanosecond)


def _offset(seconds: int, zone: tzinfo | None) -> int:
    """Seconds east of UTC at a moment."""
    try:
        at = (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)
    except OverflowError:
        raise BuiltinError("time outside of valid range") from None
    offset = at.utcoffset()
    return 0 if offset is None else offset // timedelta(seconds=1)


def _diff(one: object, other: object) -> list[int]:
    """Years, months, days, hours, minutes and seconds, by the calendar of the first one's zone."""
    first, second = _Time(one), _Time(other)
    zone = first.zone
    if first.nanoseconds > second.nanoseconds:
        first, second = second, first
    start, end = first.moment_in(zone), second.moment_in(zone)
    differences = [b - a for a, b in zip(_parts(start), _parts(end), strict=True)]
    length = days_since_1970(start.day.year, start.day.month + 1, 1) - days_since_1970(
        start.day.year, start.day.month, 1
    )
    for place, size in ((5, 60), (4, 60), (3, 24), (2, length), (1, 12)):
        if differences[place] < 0:
            differences[place] += size
            differences[place - 1] -= 1
    return differences


def _parts(moment: Moment) -> tuple[int, ...]:
    day = moment.day
    return day.year, day.month, day.day, moment.hour, moment.minute, moment.second


BUILTINS: dict[str, Any] = {
    "time.add_date": _add_date,
    "time.clock": _clock,
    "time.date": _date,
    "time.diff": _diff,
    "time.format": _format,
    "time.parse_duration_ns": _parse_duration_ns,
    "time.parse_ns": _parse_ns,
    "time.parse_rfc3339_ns": _parse_rfc3339_ns,
    "time.weekday": _weekday,
}
