"""The seam between Report and where records go."""

from collections.abc import Sequence
from typing import Protocol

from mixer.telemetry.record import AccessRecord

OK = "ok"


class Sink(Protocol):
    """A destination of records.

    All methods are called from the thread of one event loop. `write` may be called from `start` to `close`.
    """

    name: str
    """Names the sink in metrics, logs and `/readyz`."""

    async def start(self) -> None:
        """Open the sink.

        Raises `SinkError` when it can never work as it is set up (a path that cannot be opened, a name that does
        not exist). A destination that is away for now is not an error: the sink starts, buffers and keeps trying.
        """
        ...

    def write(self, records: Sequence[AccessRecord]) -> None:
        """Take records, in their order. Returns at once and does not raise.

        The buffer is bounded: what does not fit any more is dropped, the newest first, and counted in
        `mixer_sink_dropped` with its reason. To be taken does not mean to be delivered: what is delivered is counted
        in `mixer_sink_records`, so that taken = delivered + dropped + buffered holds at any time. A record may be
        delivered more than once; its `event_id` tells.
        """
        ...

    def status(self) -> str:
        """`ok`, or in a few words why records wait."""
        ...

    async def close(self, timeout: float) -> None:
        """Deliver what is buffered, for `timeout` seconds at most; count the rest as dropped, and let go of everything.

        Does not raise. A record written later is dropped and counted.
        """
        ...
