"""The limits as a tree, and how a request's descriptor finds its limit in it.

Matching is envoyproxy/ratelimit's (`GetLimit` in its `config_impl.go`): level by level, the descriptor with
exactly this key and value, then those with a `*` in the order of the file, then the one with the key alone.
It does not go back, and the limit counts only where the request's descriptor ends. One thing differs: that
server joins key and value with `_` before it compares, so that key `a_b` there also meets the entry (a, b).
Here a key is compared with a key and a value with a value.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mixer.ratelimit import keys
from mixer.ratelimit.counters import SECOND, Rule
from mixer.ratelimit.keys import Entry, Format

# Unit by its name in YAML: its number in `envoy.type.v3.RateLimitUnit`, and seconds.
UNITS = {
    "second": (1, 1),
    "minute": (2, 60),
    "hour": (3, 3600),
    "day": (4, 86400),
    "week": (7, 604800),
    "month": (5, 2592000),  # 30 days
    "year": (6, 31536000),  # 365 days
}
SECONDS = dict(UNITS.values())


@dataclass(frozen=True, slots=True)
class OverLimit:
    """What the client gets over a limit. The status is for Check; on Quota Envoy's filter has it
    (`rate_limited_status`)."""

    status: int = 429
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """A `rate_limit` with what its descriptor says about it. Compared by identity."""

    full_key: str  # its place in the tree, as envoyproxy/ratelimit writes it: "domain.key_value.key"
    requests_per_unit: int = 0
    unit: int = 0  # `envoy.type.v3.RateLimitUnit`; 0 for an unlimited one
    name: str = ""
    rule: Rule | None = None  # how it is counted; None for an unlimited one
    unlimited: bool = False
    shadow_mode: bool = False
    quota_mode: bool = False
    replaces: frozenset[str] = frozenset()
    share_threshold: bool = False
    metadata: Mapping[str, Any] | None = None
    on_error: str = ""  # error, allow, deny or local; empty: as the settings say
    over_limit: OverLimit | None = None  # limits of a policy alone
    # Its statistics are kept by the values in the request: all of them, or those of the descriptors that say so.
    detailed_metric: bool = False
    value_to_metric: bool = False
    # Its place once more, as keys and values ("": the key alone), and where it is written. Empty for a request's own.
    keys: tuple[tuple[str, str], ...] = ()
    file: str = ""
    path: str = ""  # in the file: "descriptors[0].rate_limit"

    @property
    def label(self) -> str:
        """How people recognise it: its name if it has one."""
        return self.name or self.full_key


class Wildcard:
    """Text in which each `*` stands for any characters, also for none.

    Compared piece by piece and never tried again, in time that grows with the text's length alone: a regular
    expression with several `.*` would let a client choose how long a failing comparison takes.
    """

    __slots__ = ("_middle", "_prefix", "_shortest", "_suffix", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._prefix, *self._middle, self._suffix = text.split("*")
        self._shortest = len(text) - text.count("*")

    def matches(self, text: str) -> bool:
        if len(text) < self._shortest or not text.startswith(self._prefix) or not text.endswith(self._suffix):
            return False
        start, end = len(self._prefix), len(text) - len(self._suffix)
        for piece in self._middle:
            start = text.find(piece, start, end)
            if start < 0:
                return False
            start += len(piece)
        return True


class Descriptor:
    """A descriptor of the file: perhaps a limit, perhaps descriptors below it.

    With `shared`, all values that it takes share one counter.
    """

    __slots__ = ("_format", "limit", "nested", "part", "shared_value", "value", "value_to_metric")

    def __init__(self, key: str, value: str, shared: bool, value_to_metric: bool, key_format: Format) -> None:
        self.limit: Limit | None = None
        self.nested = Level()
        self.value = value
        self.value_to_metric = value_to_metric
        self._format = key_format
        # What stands for the value in the counter's name when all values share one counter.
        of_key = f"{key}_{value}" if value else key  # as envoyproxy/ratelimit has it
        self.shared_value = (of_key if "*" in key else value or "*") if shared else None
        # The entry's part of the counter's name, where every request that comes here has the same.
        self.part: str | None = None
        if "*" not in key and (shared or (value and "*" not in value)):
            self.part = key_format.entry_part(key, self.shared_value or value)

    def part_for(self, key: str, value: str) -> str:
        """The entry's part of the counter's name where `part` is None."""
        if self.shared_value is None:
            return self._format.entry_part(key, value)
        return self._format.shared_part(key, self.shared_value)


class _Values:
    """The descriptors of one key on one level."""

    __slots__ = ("default", "exact", "wildcards")

    def __init__(self) -> None:
        self.exact: dict[str, Descriptor] = {}
        self.wildcards: list[tuple[Wildcard, Descriptor]] = []
        self.default: Descriptor | None = None


class Level:
    """Descriptors side by side: those of a domain, or those below a descriptor."""

    __slots__ = ("_has_key_wildcards", "_keys", "_wildcards")

    def __init__(self) -> None:
        self._keys: dict[str, _Values] = {}
        self._wildcards: list[tuple[Callable[[str], bool], Callable[[str], bool] | None, Descriptor]] = []
        self._has_key_wildcards = False

    def add(self, key: str, value: str, descriptor: Descriptor) -> None:
        """Take a descriptor in, after those that came before it. An empty value means: the key alone."""
        values = self._keys.setdefault(key, _Values())
        if value:
            values.exact[value] = descriptor
        else:
            values.default = descriptor
        if "*" in value:
            values.wildcards.append((Wildcard(value), descriptor))
        if "*" in key or "*" in value:
            self._wildcards.append((_matcher(key), _matcher(value) if value else None, descriptor))
            self._has_key_wildcards |= "*" in key

    def descriptors(self) -> Iterator[Descriptor]:
        """Those of this level and all levels below."""
        for values in self._keys.values():
            for descriptor in (*values.exact.values(), values.default):
                if descriptor is not None:
                    yield descriptor
                    yield from descriptor.nested.descriptors()

    def find(self, key: str, value: str) -> Descriptor | None:
        values = self._keys.get(key)
        if values is not None and (found := values.exact.get(value)) is not None:
            return found
        if self._has_key_wildcards:
            for key_matches, value_matches, descriptor in self._wildcards:
                if key_matches(key) and (value_matches is None or value_matches(value)):
                    return descriptor
        if values is None:
            return None
        for wildcard, descriptor in values.wildcards:
            if wildcard.matches(value):
                return descriptor
        return values.default


def _matcher(text: str) -> Callable[[str], bool]:
    return Wildcard(text).matches if "*" in text else text.__eq__


class Domain:
    """The limits of one domain. `counts_over` is for limits that requests bring."""

    __slots__ = ("_counts_over", "_format", "_part", "level", "name")

    def __init__(self, name: str, counts_over: bool = True, key_format: Format = keys.MIXER) -> None:
        self.name = name
        self.level = Level()
        self._counts_over = counts_over
        self._format = key_format
        self._part = key_format.domain_part(name)

    def limits(self) -> Iterator[Limit]:
        return (descriptor.limit for descriptor in self.level.descriptors() if descriptor.limit is not None)

    def match(self, entries: Iterable[Entry]) -> tuple[Limit, str] | None:
        """The limit that applies to a request's descriptor, and the name of its counter; None if none does."""
        level = self.level
        found: Descriptor | None = None
        name = self._part
        for entry in entries:
            key, value = entry.key, entry.value
            found = level.find(key, value)
            if found is None:
                return None
            name += found.part or found.part_for(key, value)
            level = found.nested
        if found is None or found.limit is None:
            return None
        return found.limit, self._format.bounded(name)

    def metric_label(self, entries: Iterable[Entry], limit: Limit) -> str:
        """Under which name statistics of a limit are kept for a request's descriptor that it applies to
        (`GetLimit` in envoyproxy/ratelimit's `config_impl.go`)."""
        level = self.level
        parts = [self.name]
        for entry in entries:
            found = level.find(entry.key, entry.value)
            if found is None:
                break
            value = found.shared_value or found.value
            if not found.shared_value and (limit.detailed_metric or found.value_to_metric):
                value = entry.value
            parts.append(f"{entry.key}_{value}" if value else entry.key)
            level = found.nested
        return ".".join(parts)

    def override(self, entries: Iterable[Entry], requests_per_unit: int, unit: int) -> tuple[Limit, str]:
        """A limit that the request itself brings, and the name of its counter.

        It stands in for whatever the file says about the descriptor, name and modes included.
        """
        entries = tuple(entries)
        path = ".".join(f"{entry.key}_{entry.value}" if entry.value else entry.key for entry in entries)
        rule = Rule(requests_per_unit, SECONDS[unit] * SECOND, counts_over=self._counts_over)
        limit = Limit(f"{self.name}.{path}", requests_per_unit, unit, rule=rule)
        return limit, self._format.of_entries(self.name, entries)
