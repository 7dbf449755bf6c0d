"""Names of counters: one text for each domain and descriptor, and where counters lie in Redis.

`mixer`: a name reads `domain|key=value|key=value|`. `%`, `|` and, in a key, `=` are percent-escaped, so that no value
from the network can take another descriptor's name. Where that grows long, a hash of it stands in.

`ratelimit`: as envoyproxy/ratelimit writes it (`GenerateCacheKey` in its `cache_key.go`), so that both may count in the
same Redis while one takes the other's place. Its weaknesses come with it: (a, b_c) and (a_b, c) share a counter, and a
long value makes a long key.

In Redis 7.0 (MEMORY USAGE), `shop|user=alice@example.com|path=/orders|` with the prefix `mixer:` takes 120 bytes as a
fixed window, 140 as a sliding one, and 150 as a bucket; slots take 50 bytes each (150 where a counter has more than
128), and 300 for the holder.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Protocol

MAX_BYTES = (
    400  # of a name as it reads; a longer one is hashed, so that nobody fills the store with long values
)
_MAX_UTF8 = 4  # bytes a character takes at most


class Entry(Protocol):
    """One key and value of a request's descriptor, as in `envoy.extensions.common.ratelimit.v3`."""

    @property
    def key(self) -> str: ...
    @property
    def value(self) -> str: ...


class Format:
    """How names and Redis keys are written; see `mixer` above."""

    def domain_part(self, domain: str) -> str:
        return _escape(domain) + "|"

    def entry_part(self, key: str, value: str) -> str:
        return f"{_escape(key).replace('=', '%3D')}={_escape(value)}|"

    def shared_part(self, key: str, pattern: str) -> str:
        """That of a key which a `*` stands for, where values share a counter. No value is written like it."""
        return f"{_escape(key).replace('=', '%3D')}=%*{_escape(pattern)}|"

    def bounded(self, name: str) -> str:
        """The name that these parts make, or `#` and its hash where it is too long (a name as it reads has a `|`)."""
        return bounded(name)

    def of_entries(self, domain: str, entries: Iterable[Entry]) -> str:
        """The name of a descriptor as it stands in the request."""
        parts = (self.entry_part(entry.key, entry.value) for entry in entries)
        return self.bounded(self.domain_part(domain) + "".join(parts))

    def of_window(self, prefix: str, seconds: int, start: int) -> tuple[str, str]:
        """The Redis key of a fixed window: what stands before the name, and after it. `start` in seconds."""
        return f"{prefix}{seconds}|{start}|", ""


class RatelimitFormat(Format):
    """See `ratelimit` above."""

    def domain_part(self, domain: str) -> str:
        return f"{domain}_"

    def entry_part(self, key: str, value: str) -> str:
        return f"{key}_{value}_"

    def shared_part(self, key: str, pattern: str) -> str:
        return self.entry_part(key, pattern)

    def bounded(self, name: str) -> str:
        return name

    def of_window(self, prefix: str, seconds: int, start: int) -> tuple[str, str]:
        return prefix, str(start)


MIXER = Format()
FORMATS: dict[str, Format] = {"mixer": MIXER, "ratelimit": RatelimitFormat()}


def of_state(prefix: str, kind: str, seconds: int, name: str) -> str:
    """The Redis key of a sliding window (`kind` s) or a bucket (b)."""
    return f"{prefix}{kind}{seconds}|{name}"


# Slots and who holds them are touched by one script, so that a cluster must keep them on one node: by this hash tag.
_SLOTS = "{c}"


def of_slots(prefix: str, seconds: int, name: str) -> str:
    """The Redis key of a counter of slots."""
    return f"{prefix}{_SLOTS}{seconds}|{name}"


def of_holder(prefix: str, holder: str) -> str:
    """The Redis key of the set of counters in which a holder has slots."""
    return f"{prefix}{_SLOTS}h|{holder}"


def bounded(name: str) -> str:
    """The text, or `#` and its hash where it is longer than `MAX_BYTES`."""
    if len(name) * _MAX_UTF8 <= MAX_BYTES or len(encoded := name.encode()) <= MAX_BYTES:
        return name
    return "#" + blake2b(encoded, digest_size=20).hexdigest()


def _escape(text: str) -> str:
    if "%" in text or "|" in text:
        return text.replace("%", "%25").replace("|", "%7C")
    return text
