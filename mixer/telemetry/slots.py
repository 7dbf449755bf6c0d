"""Whose slots of concurrency limits come back: requests and connections that a record says are over."""

from collections.abc import Callable, Sequence

from mixer.telemetry.record import AccessRecord
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema

Release = Callable[[Sequence[str]], None]
"""Is told holders of slots. Returns at once; to tell it twice does no harm."""

# Entries that are written when a request or a connection is over. Others come while it lasts, or for each attempt to
# reach an upstream.
_ENDS = frozenset((Schema.NotSet, Schema.DownstreamEnd, Schema.TcpConnectionEnd))


def over(records: Sequence[AccessRecord]) -> list[str]:
    """The holders of slots whose requests are over."""
    return [holder for each in records if each.type in _ENDS for holder in each.holders]
