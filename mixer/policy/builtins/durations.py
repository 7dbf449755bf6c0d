"""Durations as Go's `time.ParseDuration` reads them: "1h2m", "1.5s", "-300ms"."""

import re
from fractions import Fraction

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"[+-]?(?:0|(?:{_PART})+)")


def nanoseconds(text: str) -> int | None:
    """None for what is no duration."""
    if len(text) > 1000 or not _DURATION.fullmatch(text):
        return None
    parts = re.findall(r"([0-9.]+)([^0-9.]+)", text.lstrip("+-"))
    total = sum(int(Fraction(number) * _NANOSECONDS[unit]) for number, unit in parts)
    signed = -total if text.startswith("-") else total
    return signed if -(2**63) <= signed < 2**63 else None
