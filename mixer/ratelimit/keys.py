"""Names of counters: one text for each domain and descriptor, and never the same for two of them.

A name reads `domain|key=value|key=value|`. `%`, `|` and, in a key, `=` are percent-escaped, so that no value
from the network can take another descriptor's name. Where that grows long, a hash of it stands in.
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


def domain_part(domain: str) -> str:
    return escape_value(domain) + "|"


def escape_value(text: str) -> str:
    if "%" in text or "|" in text:
        return text.replace("%", "%25").replace("|", "%7C")
    return text


def escape_key(text: str) -> str:
    return escape_value(text).replace("=", "%3D")


def entry_part(key: str, value: str) -> str:
    return f"{escape_key(key)}={escape_value(value)}|"


def of_entries(domain: str, entries: Iterable[Entry]) -> str:
    """The name of a descriptor as it stands in the request."""
    return bounded(domain_part(domain) + "".join(entry_part(entry.key, entry.value) for entry in entries))


def bounded(name: str) -> str:
    """The name, or `#` and its hash where it is longer than `MAX_BYTES` (a name as it reads has a `|`)."""
    if len(name) * _MAX_UTF8 <= MAX_BYTES or len(encoded := name.encode()) <= MAX_BYTES:
        return name
    return "#" + blake2b(encoded, digest_size=20).hexdigest()
