"""The decision cache: bounded, least recently used out first, each entry with an end."""

import sys
from collections import OrderedDict

from mixer.metrics import Metrics

_ENTRY = 300  # bytes of an entry beside its texts


class DecisionCache:
    """Decisions (their JSON text) by the part of the input that they can read.

    The key is all that the decision depends on; see `policy.references`. There are `max_entries` at most, which take
    `max_bytes` at most: callers choose how long their paths and headers are. An entry ends after `ttl` seconds, or
    when the engine said that its answer does; also when the clock is set back to before it was made, or it would stay
    for as long as that. One runtime has one cache, so new policies start with none.
    """

    def __init__(
        self, max_entries: int, ttl: float, metrics: Metrics, *, max_bytes: int = 256 * 1024 * 1024
    ) -> None:
        self.ttl = ttl
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, tuple[float, float, str]] = OrderedDict()
        self._hits = metrics.cache_lookups.labels("hit")
        self._evictions = metrics.cache_evictions

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def get(self, key: bytes, now: float) -> str | None:
        """The decision, or None where there is none that holds at `now` (Unix seconds). A hit is counted."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        since, end, decision = entry
        if not since <= now < end:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        self._hits.inc()
        return decision

    def put(
        self, key: bytes, decision: str, now: float, valid_until: float | None, ttl: float | None = None
    ) -> None:
        """Keep a decision for `ttl` seconds (None: the cache's own), and not beyond `valid_until` (Unix seconds)."""
        end = now + (self.ttl if ttl is None else ttl)
        if valid_until is not None:
            end = min(end, valid_until)
        size = _size(key, decision)
        if end <= now or size > self._max_bytes:
            return
        if key in self._entries:
            self._remove(key)
        self._entries[key] = (now, end, decision)
        self._bytes += size
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))
            self._evictions.inc()

    def _remove(self, key: bytes) -> None:
        *_, decision = self._entries.pop(key)
        self._bytes -= _size(key, decision)


def _size(key: bytes, decision: str) -> int:
    return len(key) + sys.getsizeof(decision) + _ENTRY
