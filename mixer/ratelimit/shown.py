"""What is loaded, for people and machines: each limit with where it comes from and how it is counted."""

import re
from collections.abc import Iterable
from typing import Any

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

from mixer.ratelimit.limits import Limits
from mixer.ratelimit.tree import UNITS, Limit

_FLAGS = ("unlimited", "shadow_mode", "quota_mode", "share_threshold", "detailed_metric", "value_to_metric")
_UNIT_NAMES = {number: name for name, (number, _) in UNITS.items()}
_LENGTHS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def in_order(limits: Limits) -> list[tuple[str, Limit]]:
    """All limits with their domains, as they stand in the files."""
    found = [(name, limit) for name, domain in limits.domains.items() for limit in domain.limits()]
    return sorted(found, key=lambda one: (one[1].file, _numbers(one[1].path)))


def described(domain: str, limit: Limit) -> dict[str, Any]:
    """A limit as plain values. Windows and leases in seconds."""
    found: dict[str, Any] = {
        "domain": domain,
        "keys": [{"key": key, "value": value} if value else {"key": key} for key, value in limit.keys],
    }
    if limit.name:
        found["name"] = limit.name
    found["rate"] = rate(limit)
    if (rule := limit.rule) is not None:
        found |= {"algorithm": rule.algorithm, "requests_per_unit": limit.requests_per_unit}
        if limit.unit:
            found["unit"] = _UNIT_NAMES[limit.unit]
        found["lease" if rule.algorithm == "concurrency" else "window"] = rule.seconds
        if rule.burst is not None:
            found["burst"] = rule.burst
        if rule.lot > 1:
            found["lot"] = rule.lot
        if rule.algorithm != "concurrency":
            found["count_over_limit"] = rule.counts_over
    if limit.on_error:
        found["on_error"] = limit.on_error
    found |= {flag: True for flag in _FLAGS if getattr(limit, flag)}
    if limit.replaces:
        found["replaces"] = sorted(limit.replaces)
    if limit.metadata:
        found["metadata"] = limit.metadata
    if limit.file:
        found |= {"file": limit.file, "path": limit.path}
    return found


def table(limits: Limits) -> list[str]:
    """Lines for a person: the limits in columns."""
    rows = [("DOMAIN", "DESCRIPTOR", "LIMIT", "ALGORITHM", "NAME", "FLAGS", "FROM")]
    for domain, limit in in_order(limits):
        rows.append(
            (
                domain,
                " > ".join(f"{key}={value}" if value else key for key, value in limit.keys),
                rate(limit),
                limit.rule.algorithm if limit.rule is not None else "-",
                limit.name or "-",
                ", ".join(_flags(limit)) or "-",
                f"{limit.file}: {limit.path}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def rate(limit: Limit) -> str:
    """How much a limit lets pass, in a few words."""
    if (rule := limit.rule) is None:
        return "unlimited"
    seconds = rule.seconds
    length = next(f"{seconds // each}{unit}" for each, unit in _LENGTHS if seconds % each == 0)
    if rule.algorithm == "concurrency":
        return f"{rule.limit} at once, for {length} at most"
    per = _UNIT_NAMES.get(limit.unit, length)
    return f"{rule.limit} per {per}" + (f", burst {rule.burst}" if rule.burst is not None else "")


def dump(limits: Limits) -> str:
    """As envoyproxy/ratelimit's `/rlconfig`; a limit of a kind that it has not says further what it is."""
    lines = []
    for _, limit in in_order(limits):
        unit = RateLimitResponse.RateLimit.Unit.Name(limit.unit)
        line = (
            f"{limit.full_key}: unit={unit} requests_per_unit={limit.requests_per_unit}, "
            f"shadow_mode: {_json(limit.shadow_mode)}, quota_mode: {_json(limit.quota_mode)}"
        )
        if (rule := limit.rule) is not None and not limit.unit:
            line += f", algorithm: {rule.algorithm}, seconds: {rule.seconds}"
        lines.append(f"{line}\n")
    return "".join(lines)


def _flags(limit: Limit) -> Iterable[str]:
    yield from (flag for flag in _FLAGS[1:] if getattr(limit, flag))
    if limit.replaces:
        yield f"replaces {' and '.join(sorted(limit.replaces))}"
    if (rule := limit.rule) is not None:
        if rule.algorithm != "concurrency" and rule.counts_over != (rule.algorithm == "fixed_window"):
            yield f"count_over_limit: {_json(rule.counts_over)}"
        if rule.lot > 1:
            yield f"lot {rule.lot}"
    if limit.on_error:
        yield f"on_error: {limit.on_error}"


def _json(value: bool) -> str:
    return "true" if value else "false"


def _numbers(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\[(\d+)\]", path)]
