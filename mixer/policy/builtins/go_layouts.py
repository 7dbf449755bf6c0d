"""Times by a layout, as Go's package `time` writes and reads them: "2006-01-02T15:04:05Z07:00".

Source: Go's `time/format.go`.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import NamedTuple

from mixer.policy.builtins.operands import BuiltinError, UnsupportedError

MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()  # noqa: SIM905
SECOND = 10**9  # nanoseconds
# What stands in a layout for a part of a time. Longer ones come first; "Jan" and "Mon" are no part of a word.
_PART = re.compile(
    r"""January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|002|0[1-6]|15|1|2006|2|(?<=_)2006|__2|_2(?!006)|3|4|5|PM|pm
    |(?:-|Z)07(?:0000|:00:00|00|:00)?|[.,](?:0+|9+)(?![0-9])""",
    re.VERBOSE,
)
_ABBREVIATION = re.compile(r"[A-Z]{4}T(?![A-Z])|(?:[A-Z]{3}T|WITA)(?![A-Z])|[A-Z]{3}(?![A-Z])")
_OFFSET = re.compile(r"[+-](?:0*(?:2[0-3]|1?[0-9]))(?![0-9])")
_LONGEST = 10_000
_YEAR = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Moment:
    """A time in a zone. `offset`: seconds east of UTC; `zone`: its abbreviation."""

    day: date
    hour: int
    minute: int
    second: int
    nanosecond: int
    offset: int
    zone: str


class _Layout(NamedTuple):
    """What stands before each part, the parts, and what stands after the last."""

    before: tuple[str, ...]
    parts: tuple[str, ...]
    rest: str


@lru_cache(256)
def _read(layout: str) -> _Layout:
    before, parts, at = [], [], 0
    for found in _PART.finditer(layout):
        before.append(layout[at : found.start()])
        parts.append(found[0])
        at = found.end()
    return _Layout(tuple(before), tuple(parts), layout[at:])


def formatted(moment: Moment, layout: str) -> str:
    before, parts, rest = _read(layout)
    shown = [
        text for prefix, part in zip(before, parts, strict=True) for text in (prefix, _shown(moment, part))
    ]
    return "".join((*shown, rest))


_SHOWN: dict[str, Callable[[Moment], str]] = {
    "2006": lambda it: f"{it.day.year:04}",
    "06": lambda it: f"{it.day.year % 100:02}",
    "January": lambda it: MONTHS[it.day.month - 1],
    "Jan": lambda it: MONTHS[it.day.month - 1][:3],
    "1": lambda it: str(it.day.month),
    "01": lambda it: f"{it.day.month:02}",
    "Monday": lambda it: WEEKDAYS[it.day.weekday()],
    "Mon": lambda it: WEEKDAYS[it.day.weekday()][:3],
    "2": lambda it: str(it.day.day),
    "_2": lambda it: f"{it.day.day:2}",
    "02": lambda it: f"{it.day.day:02}",
    "__2": lambda it: f"{it.day.timetuple().tm_yday:3}",
    "002": lambda it: f"{it.day.timetuple().tm_yday:03}",
    "15": lambda it: f"{it.hour:02}",
    "3": lambda it: str(it.hour % 12 or 12),
    "03": lambda it: f"{it.hour % 12 or 12:02}",
    "4": lambda it: str(it.minute),
    "04": lambda it: f"{it.minute:02}",
    "5": lambda it: str(it.second),
    "05": lambda it: f"{it.second:02}",
    "PM": lambda it: "PM" if it.hour >= 12 else "AM",
    "pm": lambda it: "pm" if it.hour >= 12 else "am",
    "MST": lambda it: it.zone,
}


def _shown(moment: Moment, part: str) -> str:
    if (show := _SHOWN.get(part)) is not None:
        return show(moment)
    if part[0] in ".,":
        digits = f"{moment.nanosecond:09}"[: len(part) - 1].ljust(len(part) - 1, "0")
        if part[1] == "0":
            return part[0] + digits
        digits = digits.rstrip("0")
        return part[0] + digits if digits else ""
    if part[0] == "Z" and moment.offset == 0:
        return "Z"
    minutes, seconds = divmod(abs(moment.offset), 60)
    numbers = [f"{minutes // 60:02}", f"{minutes % 60:02}", f"{seconds:02}"]
    sign = "-" if moment.offset < 0 and (minutes or seconds) else "+"
    return sign + (":" if ":" in part else "").join(numbers[: (len(part.replace(":", "")) - 1) // 2])


class _Reader:
    """Reads one text. Every failure is a `BuiltinError`."""

    def __init__(self, layout: _Layout, text: str) -> None:
        self._layout, self._rest = layout, text
        self.year, self.month, self.day, self.of_year = 0, 0, 0, -1
        self.hour = self.minute = self.second = self.nanosecond = 0
        self.afternoon: bool | None = None
        self.offset: int | None = None  # seconds east of UTC
        self.zone = ""
        self._has_day = False

    def read(self) -> int:
        """Nanoseconds since 1970."""
        for index, part in enumerate(self._layout.parts):
            self._skip(self._layout.before[index])
            self._part(part, index)
        self._skip(self._layout.rest)
        if self._rest:
            raise BuiltinError("text after the time")
        return self._moment()

    def _skip(self, prefix: str) -> None:
        """Spaces stand for any number of them."""
        while prefix:
            if prefix[0] == " ":
                if self._rest and self._rest[0] != " ":
                    raise BuiltinError("not a time of this layout")
                prefix, self._rest = prefix.lstrip(" "), self._rest.lstrip(" ")
                continue
            if not self._rest or self._rest[0] != prefix[0]:
                raise BuiltinError("not a time of this layout")
            prefix, self._rest = prefix[1:], self._rest[1:]

    def _take(self, count: int) -> str:
        if len(self._rest) < count:
            raise BuiltinError("not a time of this layout")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def _digits(self, most: int, least: int = 1) -> int:
        count = 0
        while count < most and count < len(self._rest) and self._rest[count] in "0123456789":
            count += 1
        if count < least:
            raise BuiltinError("not a time of this layout")
        return int(self._take(count))

    def _named(self, names: list[str], length: int | None = None) -> int:
        for index, name in enumerate(names):
            wanted = name[:length]
            if self._rest[: len(wanted)].lower() == wanted.lower() and self._rest[: len(wanted)].isascii():
                self._take(len(wanted))
                return index
        raise BuiltinError("not a time of this layout")

    def _within(self, number: int, least: int, most: int) -> int:
        if not least <= number <= most:
            raise BuiltinError("a part of the time is out of range")
        return number

    def _part(self, part: str, index: int) -> None:  # noqa: PLR0912, PLR0915 (one for each part of a layout)
        fixed = 2 if part[0] == "0" else 1
        match part:
            case "06":
                year = _number(self._take(2))
                self.year = year + (1900 if year >= 69 else 2000)
            case "2006":
                if not self._rest[:1].isdigit():
                    raise BuiltinError("not a time of this layout")
                self.year = _number(self._take(4))
            case "Jan":
                self.month = self._named(MONTHS, 3) + 1
            case "January":
                self.month = self._named(MONTHS) + 1
            case "1" | "01":
                self.month = self._within(self._digits(2, fixed), 1, 12)
            case "Mon":
                self._named(WEEKDAYS, 3)
            case "Monday":
                self._named(WEEKDAYS)
            case "2" | "_2" | "02":
                if part == "_2" and self._rest[:1] == " ":
                    self._take(1)
                self.day, self._has_day = self._digits(2, fixed), True
            case "__2" | "002":
                for _ in range(2):
                    if part == "__2" and self._rest[:1] == " ":
                        self._take(1)
                self.of_year = self._digits(3, 3 if part == "002" else 1)
            case "15":
                self.hour = self._within(self._digits(2), 0, 23)
            case "3" | "03":
                self.hour = self._within(self._digits(2, fixed), 0, 12)
            case "4" | "04":
                self.minute = self._within(self._digits(2, fixed), 0, 59)
            case "5" | "05":
                self.second = self._within(self._digits(2, fixed), 0, 59)
                following = self._layout.parts[index + 1 : index + 2]
                if not (following and following[0][0] in ".,"):
                    self._fraction()
            case "PM" | "pm":
                half = self._take(2)
                if half not in ((part, "AM") if part == "PM" else (part, "am")):
                    raise BuiltinError("not a time of this layout")
                self.afternoon = half == part
            case "MST":
                self._zone()
            case _ if part[0] in "Z-":
                self._offset(part)
            case _ if part[1] == "0":
                self.nanosecond = _nanoseconds(self._take(len(part)))
            case _:
                self._fraction()

    def _fraction(self) -> None:
        """One may stand after the seconds, whether the layout has one or not."""
        if found := re.match(r"[.,][0-9]+", self._rest):
            self.nanosecond = _nanoseconds(self._take(found.end()))

    def _offset(self, part: str) -> None:
        if part[0] == "Z" and self._rest[:1] == "Z":
            self._take(1)
            self.offset = 0
            return
        sign, total, scale = self._take(1), 0, 3600
        numbers = (len(part.replace(":", "")) - 1) // 2
        for place in range(numbers):
            if place and ":" in part and self._take(1) != ":":
                raise BuiltinError("not a time of this layout")
            total += self._within(self._digits(2, 2), 0, 60 if place else 24) * scale
            scale //= 60
        if sign not in "+-":
            raise BuiltinError("not a time of this layout")
        self.offset = total if sign == "+" else -total

    def _zone(self) -> None:
        text = self._rest
        if text.startswith("UTC"):
            self._take(3)
            self.offset = 0
            return
        if text.startswith("GMT"):
            found = _OFFSET.match(text, 3)
            self.zone = self._take(found.end() if found else 3)
        elif text[:4] in ("ChST", "MeST"):
            self.zone = self._take(4)
        else:
            found = (_OFFSET if text[:1] in ("+", "-") else _ABBREVIATION).match(text)
            if found is None or len(text) < 3:
                raise BuiltinError("not a time of this layout")
            self.zone = self._take(found.end())

    def _moment(self) -> int:
        hour = self.hour
        if self.afternoon is not None:
            hour = (
                hour + 12
                if self.afternoon and hour < 12
                else 0
                if not self.afternoon and hour == 12
                else hour
            )
        days = self._date()
        seconds = ((days * 24 + hour) * 60 + self.minute) * 60 + self.second
        return (seconds - self._east()) * SECOND + self.nanosecond

    def _date(self) -> int:
        """Days since 1970."""
        first = days_since_1970(self.year, 1, 1)
        leap = days_since_1970(self.year + 1, 1, 1) - first == 366
        if self.of_year >= 0:
            # Go takes the 366th day of a leap year for one, and of no other.
            self._within(self.of_year, 1, 366 if leap else 365)
            days = first + self.of_year - 1
            if self.month and not 0 <= days - days_since_1970(self.year, self.month, 1) < _length(
                self.year, self.month
            ):
                raise BuiltinError("the day of the year is in another month")
            if self._has_day:
                month = self.month or next(
                    month for month in range(12, 0, -1) if days_since_1970(self.year, month, 1) <= days
                )
                if days_since_1970(self.year, month, 1) + self.day - 1 != days:
                    raise BuiltinError("the day of the year is another day")
            return days
        month, day = self.month or 1, self.day if self._has_day else 1
        self._within(day, 1, _length(self.year, month))
        return days_since_1970(self.year, month, day)

    def _east(self) -> int:
        if self.offset is not None or not self.zone:
            return self.offset or 0
        if self.zone in time.tzname and (time.timezone or time.daylight):
            # Go reads an abbreviation of the machine's own zone by that.
            raise UnsupportedError("the abbreviation of a local zone")
        return 0  # no abbreviation moves the time, and "GMT+3" neither


def _number(text: str) -> int:
    if not _YEAR.fullmatch(text) or not text.isascii():
        raise BuiltinError("not a time of this layout")
    return int(text)


def _nanoseconds(text: str) -> int:
    """Of a fraction with its point; further digits have no effect."""
    if text[0] not in ".," or not text[1:].isascii() or not text[1:].isdigit():
        raise BuiltinError("not a time of this layout")
    return int(text[1:10].ljust(9, "0"))


def _length(year: int, month: int) -> int:
    return days_since_1970(year, month + 1, 1) - days_since_1970(year, month, 1)


def days_since_1970(year: int, month: int, day: int) -> int:
    """Of any month and day: the 14th month is the second of the next year. (Proleptic Gregorian, any year.)"""
    year, month = year + (month - 1) // 12, (month - 1) % 12
    # Years begin in March, so that the day that leap years have more is their last.
    year, month = (year, month - 2) if month >= 2 else (year - 1, month + 10)
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - 719468


def parsed(text: str, layout: str) -> int:
    """Nanoseconds since 1970, of whatever size. Raises `BuiltinError` for what is not of this layout."""
    if len(text) > _LONGEST or len(layout) > _LONGEST:
        raise UnsupportedError("a time of so many characters")
    return _Reader(_read(layout), text).read()
