"""The seam between what makes records (Report, the decision log) and where they go."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

OK = "ok"


class Record(Protocol):
    """What every sink asks of a record. Sinks share it: they read, and do not change it."""

    @property
    def event_id(self) -> bytes:
        """Tells a record that was delivered twice."""
        ...

    def to_json(self) -> bytes:
        """One JSON object on one line, without a line end."""
        ...


RecordT = TypeVar("RecordT", bound=Record)
TakenT_contra = TypeVar("TakenT_contra", bound=Record, contravariant=True)


@dataclass(frozen=True, slots=True)
class Kind(Generic[RecordT]):
    """A kind of records, as a sink that sends messages must know it.

    `schema` names it to who reads the messages. `formats`: how records are written, by the setting's name. `accessor`
    answers a function for a field's value (None: absent), and raises `KeyError` for a name that no field has; `example`
    says in an error what a name looks like. `sender` tells those apart whose records come together in one `write`.
    """

    schema: str
    formats: Mapping[str, Callable[[Sequence[RecordT]], list[bytes]]]
    accessor: Callable[[str], Callable[[RecordT], object]]
    example: str
    sender: Callable[[RecordT], object] = lambda _: None


class Receipt:
    """What a sink did with the records that were written with it: told record by record, from the loop's thread."""

    def __init__(self, records: int) -> None:
        self.open = records
        self.lost: Counter[str] = Counter()  # records by reason, as in `mixer_sink_dropped`
        self._settled = asyncio.Event()
        self.durable(0)

    def durable(self, records: int) -> None:
        """So many are where they outlive this process."""
        self.open -= records
        if not self.open:
            self._settled.set()

    def lose(self, reason: str, records: int) -> None:
        """So many will not be delivered."""
        if records:
            self.lost[reason] += records
            self.durable(records)

    async def settled(self) -> None:
        """Returns when every record is durable or lost."""
        await self._settled.wait()


class Sink(Protocol[TakenT_contra]):
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

    def write(self, records: Sequence[TakenT_contra], receipt: Receipt | None = None) -> None:
        """Take records, in their order. Returns at once and does not raise. `receipt`, made for them, is told what
        becomes of each.

        The buffer is bounded: what does not fit any more is dropped, the newest first, and counted in
        `mixer_sink_dropped` with its reason. To be taken does not mean to be delivered: what is delivered is counted
        in `mixer_sink_records`, so that taken = delivered + dropped + buffered (+ dead letters, where the sink has
        them) holds at any time. A record may be delivered more than once; its `event_id` tells.
        """
        ...

    async def room(self) -> None:
        """Wait until the sink has room, if its buffer is to block when it is full; returns at once otherwise.

        What is written without waiting is taken nevertheless: the bound is then passed by that much. Ends when the
        sink is closed.
        """
        ...

    async def accepted(self) -> None:
        """Wait until what was written so far is as safe as the buffer makes it: on disk, where it is there.

        Does not wait for its delivery, and ends when the sink is closed.
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


@runtime_checkable
class Reopens(Protocol):
    """A sink that writes to a file which may be renamed."""

    def reopen(self) -> None:
        """Write on to a file of that name, which is made where there is none. Returns at once."""
        ...
