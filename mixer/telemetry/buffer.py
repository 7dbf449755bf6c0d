"""What the sinks that buffer have in common: the bound, and the account of every record."""

from typing import Literal, get_args

from mixer import config
from mixer.metrics import Metrics
from mixer.telemetry.sink import Receipt

Reason = Literal["buffer_full", "too_large", "refused", "corrupt", "shutdown"]


class Account:
    """How much a sink holds, against its bound, and what became of what it was given:
    received + recovered = delivered + held + dropped + dead letters.

    The owner serialises calls; reading the gauges from another thread is safe.
    """

    def __init__(self, name: str, settings: config.Buffer, metrics: Metrics) -> None:
        self.records = 0
        self.bytes = 0
        self.delivered_records = 0
        self._max_records = settings.max_records
        self._max_bytes = settings.max_bytes
        self._delivered = metrics.sink_records.labels(name)
        self._received = metrics.sink_received.labels(name)
        self._recovered = metrics.sink_recovered.labels(name)
        self._dropped = {reason: metrics.sink_dropped.labels(name, reason) for reason in get_args(Reason)}
        self._dead = {
            reason: metrics.sink_dead_letters.labels(name, reason) for reason in ("too_large", "refused")
        }
        metrics.sink_capacity.labels(name).set(settings.max_records)
        metrics.sink_buffered.labels(name).set_function(lambda: self.records)

    @property
    def full(self) -> bool:
        """Whether not even an empty record fits."""
        return self.records >= self._max_records or self.bytes >= self._max_bytes

    @property
    def free(self) -> int:
        """About how many records fit, if they are like those that are held."""
        records = self._max_records - self.records
        if self.records:
            records = min(records, (self._max_bytes - self.bytes) * self.records // max(1, self.bytes))
        return max(0, records)

    def take(self, size: int, beyond: bool = False, records: int = 1) -> bool:
        """Hold more records, of `size` bytes together; False when not all fit, and are not to go `beyond` the bound."""
        if (self.records + records > self._max_records or self.bytes + size > self._max_bytes) and not beyond:
            return False
        self.records += records
        self.bytes += size
        return True

    def received(self, records: int) -> None:
        """Records were given to the sink; what becomes of each is told by the other methods."""
        self._received.inc(records)

    def recovered(self, records: int, size: int) -> None:
        """Records of an earlier process are held."""
        self.records += records
        self.bytes += size
        self._recovered.inc(records)

    def dead(self, reason: Reason, size: int) -> None:
        """A record that was held is in the file of dead letters."""
        self.records -= 1
        self.bytes -= size
        self._dead[reason].inc()

    def delivered(self, records: int, size: int) -> None:
        """Records are durable, and no longer held."""
        self.records -= records
        self.bytes -= size
        self.delivered_records += records
        self._delivered.inc(records)

    def lost(self, reason: Reason, records: int, size: int) -> None:
        """Records that were held are given up."""
        self.records -= records
        self.bytes -= size
        self._dropped[reason].inc(records)

    def refused(self, reason: Reason, records: int, receipt: Receipt | None = None) -> None:
        """Records were never taken."""
        self._dropped[reason].inc(records)
        if receipt is not None:
            receipt.lose(reason, records)
