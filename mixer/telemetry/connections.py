"""How much of a connection was counted already.

Envoy may tell of a connection several times (when it is connected, periodically, at its end), each time with
the bytes so far.
"""

from mixer.telemetry.record import AccessRecord
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema

MAX_CONNECTIONS = 65_536

_OPEN = (Schema.TcpUpstreamConnected, Schema.TcpPeriodic)
_END = (Schema.NotSet, Schema.TcpConnectionEnd)


class Connections:
    """Connections that an entry told of and that have not ended, the latest ones.

    When one is forgotten, because there are more than `limit` or its Envoy is gone, and tells of itself again, it
    is counted anew: too much, once, where otherwise memory would not be bounded.
    """

    def __init__(self, limit: int = MAX_CONNECTIONS) -> None:
        self._limit = limit
        self._counted: dict[tuple[object, ...], tuple[int, int]] = {}

    def advance(self, record: AccessRecord, received: int, sent: int) -> tuple[bool, bool, int, int] | None:
        """What is new: opened, closed, bytes received, bytes sent. None for an entry that tells of no connection."""
        if record.type in _END:
            if not self._counted:
                return True, True, received, sent
            before = self._counted.pop(_key(record), None)
            if before is None:
                return True, True, received, sent
            return False, True, max(0, received - before[0]), max(0, sent - before[1])
        if record.type not in _OPEN:
            return None
        key = _key(record)
        before = self._counted.pop(key, None)
        if before is None and len(self._counted) >= self._limit:
            del self._counted[next(iter(self._counted))]  # the one that was heard of the longest ago
        self._counted[key] = (received, sent)
        if before is None:
            return True, False, received, sent
        return False, False, max(0, received - before[0]), max(0, sent - before[1])


def _key(record: AccessRecord) -> tuple[object, ...]:
    return record.origin.fields.get("envoy_node_id"), record.ends
