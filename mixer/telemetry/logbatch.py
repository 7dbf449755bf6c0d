"""Log records to records, many at a time (see `loglayout`, `logcolumns`).

Each record is what `LogReader.record` would make, for a fraction of its price: what labels come from is found for all
at once, and what only the record itself has is encoded for all at once, and never where nobody asks for it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from operator import itemgetter
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from mixer.telemetry import otlp_pb2 as otlp
from mixer.telemetry.attributes import Attribute, MalformedError, pair, told
from mixer.telemetry.entry import tell
from mixer.telemetry.logcolumns import NANOS, Parts, Values
from mixer.telemetry.loglayout import (
    MAX_NAMES,
    Columns,
    Heads,
    Joint,
    Joints,
    Layout,
    Place,
    Record,
    layout_of,
)
from mixer.telemetry.peers import Identity
from mixer.telemetry.record import AccessRecord, Fields, encoded
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.varints import MAX, varints
from mixer.telemetry.wire import alike, joined, prefixed, tag

_MAX_LAYOUTS = 64
_START, _EVENT_ID = tag("start_time"), tag("event_id")
# A record from its values, in order, without the price of a Python function.
_record: Callable[[tuple[Any, ...]], AccessRecord] = partial(tuple.__new__, AccessRecord)

Log = tuple[bytes, Identity, bytes]
"""A log record, who logged it, and its event id."""
_Row = tuple[int, Sequence[bytes], int, bytes, bytes]
"""Of a log record its place among what is to be read, its attributes, its time, the trace's id, and its event id."""


class LogBatches:
    """Reads log records together that are of one kind. `record` reads one by itself. Shared by all calls."""

    def __init__(self, redaction: Redaction, record: Record) -> None:
        self._redaction = redaction
        self._columns = Columns(redaction)
        self._joints = Joints(record)
        self._layouts: dict[Heads, Layout | None] = {}
        self._seen: set[Heads] = set()
        self._guesses: dict[int, Layout] = {}  # by the number of attributes, the latest

    def records(self, logs: Sequence[Log]) -> list[AccessRecord | None]:
        """A record of each; None for what is to be read by itself."""
        found: list[AccessRecord | None] = [None] * len(logs)
        for (identity, size), rows in _alike(logs).items():
            guess = self._guesses.get(size)
            if guess is None or not self._read(guess, identity, rows, found):
                for heads, some in _by_heads(rows).items():
                    if (known := self._layout(heads, len(some))) is not None:
                        self._guesses[size] = known
                        self._read_sound(known, identity, some, found)
        return found

    def _read(
        self, layout: Layout, identity: Identity, rows: Sequence[_Row], found: list[AccessRecord | None]
    ) -> bool:
        """Whether they could be read: all of them, or none."""
        columns = _transposed(rows)
        try:
            joints = list(map(self._joints.__getitem__, layout.keys(identity, columns)))
            records = _Table(layout, rows, columns, joints).records()
        except MalformedError:
            return False
        for row, record in zip(rows, records, strict=True):
            found[row[0]] = record
        return True

    def _read_sound(
        self, layout: Layout, identity: Identity, rows: Sequence[_Row], found: list[AccessRecord | None]
    ) -> None:
        """All but those that are malformed."""
        if self._read(layout, identity, rows, found):
            return
        columns = _transposed(rows)
        odd = _odd(self._joints, layout.keys(identity, columns))
        for at, column in layout.columns:
            try:
                column.read(columns[at])
            except MalformedError:
                odd |= _odd(column, columns[at])
        if sound := [row for place, row in enumerate(rows) if place not in odd]:
            self._read(layout, identity, sound, found)

    def _layout(self, heads: Heads, count: int) -> Layout | None:
        """None, too, for the first log record of its kind, which may be the last."""
        if heads in self._layouts:
            return self._layouts[heads]
        if count == 1 and heads not in self._seen:
            if len(self._seen) >= _MAX_LAYOUTS:
                self._seen.clear()
            self._seen.add(heads)
            return None
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
            self._guesses.clear()
        made = self._layouts[heads] = layout_of(heads, self._columns, self._redaction)
        return made


def _alike(logs: Sequence[Log]) -> dict[tuple[Identity, int], list[_Row]]:
    """By who logged them, and how many attributes they have; without those that have none, too many, or a body."""
    found: dict[tuple[Identity, int], list[_Row]] = defaultdict(list)
    parse = otlp.LogRecord.FromString
    for place, (data, identity, event_id) in enumerate(logs):
        try:
            log = parse(data)
        except DecodeError:
            continue
        attributes = log.attributes[:]
        size = len(attributes)
        if 0 < size <= MAX_NAMES and not log.HasField("body"):
            found[identity, size].append((place, attributes, log.time_unix_nano, log.trace_id, event_id))
    return found


def _by_heads(rows: Iterable[_Row]) -> dict[Heads, list[_Row]]:
    found = defaultdict(list)
    for row in rows:
        with suppress(IndexError):  # an attribute without a byte
            found[tuple([data[: data[1] + 2] for data in row[1]])].append(row)
    return found


def _transposed(rows: Sequence[_Row]) -> list[tuple[bytes, ...]]:
    return list(zip(*[row[1] for row in rows], strict=True))


def _odd(known: Mapping[Any, object], keys: Iterable[Any]) -> set[int]:
    """The places of those that are malformed."""
    found = set()
    for place, key in enumerate(keys):
        try:
            known[key]
        except MalformedError:
            found.add(place)
    return found


class _Table:
    """Log records of one layout. Raises `MalformedError` where one of them is malformed. See `record.Source`."""

    def __init__(
        self,
        layout: Layout,
        rows: Sequence[_Row],
        columns: Sequence[Sequence[bytes]],
        joints: Sequence[Joint],
    ) -> None:
        self._layout = layout
        self._rows = rows
        self._columns = columns
        self._joints = joints
        self._pieces = [column.read(columns[at]) for at, column in layout.pieces]
        self._values = {name: column.read(columns[at]) for name, (at, column) in layout.values.items()}
        self._told = [column.read(columns[at]) for at, column in layout.told]
        self._peers = [place and place[1].read(columns[place[0]]) for place in layout.peers]
        self._waiting: Sequence[Sequence[Attribute]] | None = None
        if layout.holders is not None:
            at, column = layout.holders
            self._waiting = column.read(columns[at])

    def records(self) -> list[AccessRecord]:
        values, nothing = self._values, [0] * len(self._rows)
        received = values.get("envoy_downstream_wire_bytes_received", nothing)
        sent = values.get("envoy_downstream_wire_bytes_sent", nothing)
        durations: Sequence[float | None] = [
            None if span < 0 else span // NANOS + span % NANOS / 1e9 for span in values.get("duration", ())
        ] or [None] * len(self._rows)
        fields = self._fields(received, sent)
        return [
            _record((origin, shape, told, peers, kind, cluster, duration, wire_in, wire_out, self, place))
            for place, ((origin, shape, _, peers, kind, cluster, _, _), told, duration, wire_in, wire_out)
            in enumerate(zip(self._joints, fields, durations, received, sent, strict=True))
        ]  # fmt: skip

    def _fields(self, received: Sequence[int], sent: Sequence[int]) -> Sequence[Fields]:
        """What metrics look at: most of it many records share."""
        layout, columns = self._layout, self._columns
        fields = [joint.fields for joint in self._joints]
        sized = all(received) and all(sent)  # where they are not, metrics take other sizes
        traced = layout.traced or any(map(itemgetter(3), self._rows))
        if sized and not traced and not layout.told:
            return fields
        for place, row in enumerate(self._rows):
            more: Fields = {each.field: each.value for told in self._told for each in told[place]}
            for at, header in layout.traced:
                if parent := header.text(columns[at][place]):
                    tell(b"traceparent", parent.encode(), more)
            if len(row[3]) == 16 and "trace_id" not in more:
                more["trace_id"] = row[3].hex()
            if not (received[place] and sent[place]):
                more |= {name: size for name in layout.sizes if (size := self._values[name][place])}
            if more:
                fields[place] = fields[place] | more
        return fields

    @cached_property
    def event_ids(self) -> list[bytes]:
        return [row[4] for row in self._rows]

    def ends(self, place: int) -> tuple[bytes, bytes, bytes]:
        client, peer, local = (
            tuple(self._value(at, place) for at in self._layout.ends[first : first + 2])
            for first in (0, 2, 4)
        )
        if peer == client:
            peer = "", ""
        return tuple(f"{address} {port}".encode() for address, port in (client, peer, local))  # type: ignore[return-value]

    def _value(self, at: int | None, place: int) -> object:
        found = () if at is None else told(*pair(self._columns[at][place]))
        return found[0].value if found else ""

    def holders(self, place: int) -> tuple[str, ...]:
        waiting = self._waiting[place] if self._waiting else ()
        holders: tuple[str, ...] = waiting[0].value if waiting else ()
        if self._joints[place].holds and self._layout.decision is not None:
            at, column = self._layout.decision
            if decision_id := column.text(self._columns[at][place]):
                return (*holders, decision_id)
        return holders

    @cached_property
    def encoded(self) -> list[bytes]:
        numbers = self._layout.values
        origins = [joint.encoded for joint in self._joints]
        fields: list[Parts] = [
            (origins[0] if alike(origins) else origins,),
            *self._pieces,
            *(numbers[name][1].encode(values) for name, values in self._values.items()),
            *self._ends(),
            self._starts(),
            self._ids(),
        ]
        of_all: list[bytes] = []
        of_each: list[bytes | Iterable[bytes]] = []
        for parts in fields:
            first = parts[0]
            if len(parts) == 1 and isinstance(first, bytes):
                of_all.append(first)
            else:
                of_each += parts
        return joined((*of_all, *of_each), len(self._rows))

    def _ids(self) -> Parts:
        ids = self.event_ids
        sizes = list(map(len, ids))
        if alike(sizes):
            return _EVENT_ID + prefixed(sizes[0]), ids
        return [_EVENT_ID + prefixed(size) for size in sizes], ids

    def _starts(self) -> Parts:
        """When each began."""
        times = [row[2] for row in self._rows]
        if min(times) and max(times) < MAX * NANOS:
            seconds = [time // NANOS for time in times]
            more, nanos = varints(
                [time - second * NANOS for time, second in zip(times, seconds, strict=True)]
            )
            size, whole = varints(seconds[:1] if alike(seconds) else seconds)
            start = _START + prefixed(2 + size + more) + b"\x08"
            if len(whole) == 1:
                return start + whole[0] + b"\x10", nanos
            return start, whole, b"\x10", nanos
        return (list(map(_start, times)),)

    def _ends(self) -> Sequence[Parts]:
        """The client; of a peer that is the client nothing is told."""
        places = self._layout.peers
        if not places:
            return ()
        count, columns = len(self._rows), self._columns
        parts = [partial(_parts, place, read) for place, read in zip(places, self._peers, strict=True)]
        told = [None if each is None else list(map(each[1].value, columns[each[0]])) for each in places]
        if told[:2] == told[2:] and None not in told:
            return parts[0](), parts[1]()
        return ((list(map(_apart, *(joined(each(), count) for each in parts))),),)


def _parts(place: Place | None, read: Any) -> Parts:
    if place is None:
        return (b"",)
    _, column = place
    made: Parts = column.encode(read) if isinstance(column, Values) else read
    return made


def _start(time: int) -> bytes:
    seconds, nanos = divmod(time, NANOS)
    return encoded({"start_time": Timestamp(seconds=seconds, nanos=nanos)}) if time else b""


def _apart(address: bytes, port: bytes, peer: bytes, peer_port: bytes) -> bytes:
    """Behind its tag a field's value is the same for both."""
    if address[2:] == peer[2:] and port[2:] == peer_port[2:]:
        return address + port
    return address + port + peer + peer_port
