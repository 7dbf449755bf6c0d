"""Istio's standard metrics of the proxied traffic.

Names, labels and buckets are Istio's (https://istio.io/latest/docs/reference/config/metrics/), so that its
dashboards work unchanged. Metrics that have the same labels are counted together.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import floor
from operator import itemgetter
from typing import Protocol

from mixer.exposition import Buckets, Count, Exemplar, Family, Value
from mixer.telemetry import labels
from mixer.telemetry.labelset import LabelSet
from mixer.telemetry.record import AccessRecord
from mixer.telemetry.series import BUCKETS, Table

DURATION = "istio_request_duration_milliseconds"
REQUEST_BYTES = "istio_request_bytes"
RESPONSE_BYTES = "istio_response_bytes"
REQUESTS = {
    "istio_requests_total": "Requests.",
    DURATION: "Duration of requests, in milliseconds.",
    REQUEST_BYTES: "Bytes of requests, headers included.",
    RESPONSE_BYTES: "Bytes of responses, headers included.",
}
MESSAGES = {
    "istio_request_messages_total": "gRPC messages sent by clients.",
    "istio_response_messages_total": "gRPC messages sent by servers.",
}
CONNECTIONS = {
    "istio_tcp_sent_bytes_total": "Bytes sent on TCP connections, as responses.",
    "istio_tcp_received_bytes_total": "Bytes received on TCP connections, as requests.",
    "istio_tcp_connections_opened_total": "TCP connections opened.",
    "istio_tcp_connections_closed_total": "TCP connections closed.",
}
HISTOGRAMS = frozenset((DURATION, REQUEST_BYTES, RESPONSE_BYTES))


class Group(Protocol):
    """Metrics with the same labels."""

    def expire(self, before: float) -> None:
        """Forget series that were not counted in since then."""

    def families(self, before: float) -> Iterable[Family]:
        """Those of its metrics that are shown, with the series that were counted in since then. May run in another
        thread than the one that counts."""


Traced = list[tuple[str, float, float] | None]


class _Request:
    __slots__ = (
        "duration",
        "duration_sum",
        "exemplars",
        "received",
        "received_sum",
        "requests",
        "sent",
        "sent_sum",
        "touched",
        "traced",
    )

    def __init__(self, sizes: Sequence[int]) -> None:
        """How many buckets each histogram has."""
        self.requests = 0
        self.duration, self.received, self.sent = ([0] * size for size in sizes)
        self.duration_sum = 0.0
        self.received_sum = self.sent_sum = 0
        self.traced: Traced = [None] * sizes[0]  # by bucket, the first since it was last looked at
        self.exemplars: dict[int, Exemplar] = {}
        self.touched = 0.0


class Requests:
    """Those of `REQUESTS` in `shown`, which have the same labels. `bounds`: of buckets that are not Istio's."""

    def __init__(
        self,
        shown: Sequence[str],
        label_set: LabelSet,
        bounds: Mapping[str, tuple[float, ...]],
        limit: int,
        overflowed: Callable[[], None],
    ) -> None:
        self._shown = tuple(shown)
        self._labels = label_set
        histograms = (DURATION, REQUEST_BYTES, RESPONSE_BYTES)
        self._bounds = {name: bounds.get(name, BUCKETS) for name in histograms}
        # A bound compares fastest with its like; sizes are whole, so that the whole part of a bound bounds them too.
        self._compared = (
            tuple(map(float, self._bounds[DURATION])),
            tuple(map(floor, self._bounds[REQUEST_BYTES])),
            tuple(map(floor, self._bounds[RESPONSE_BYTES])),
        )
        self._observed = any(name in shown for name in histograms)
        sizes = [len(self._bounds[name]) + 1 if self._observed else 0 for name in histograms]
        self._table: Table[_Request] = Table(label_set.names, limit, lambda: _Request(sizes), overflowed)
        self.expire = self._table.expire

    def count(self, records: Iterable[AccessRecord], now: float, moment: float) -> None:
        """Requests that are over. `now`: of the clock of `expire`; `moment`: in Unix time.

        The hot path of Report: a record is taken apart at once, and there is no call for each of its numbers.
        """
        known, reads, observed, place_of = (
            self._table.known.get,
            self._labels.read,
            self._observed,
            bisect_left,
        )
        durations, requests, responses = self._compared
        found: tuple[str, ...] = ()
        for record in records:
            origin, shape, fields, peers, _, cluster, duration, received, sent, _, _ = record
            get = fields.get
            # As labels.key has it.
            key: tuple[object, ...] = (
                origin,
                cluster,
                shape.host,
                shape.status,
                get("envoy_response_flags"),
                get("rpc_system"),
                get("rpc_grpc_status_code"),
                peers,
            )
            if reads:
                found = tuple([read(record) for read in reads])
                key += found
            series = known(key)
            if series is None:
                series = self._table.get(key, self._labels.pick(labels.http(record), found))
            series.touched = now
            series.requests += 1
            if not observed:
                continue
            if duration is not None:
                duration *= 1000
                place = place_of(durations, duration)  # a value on a bound belongs below it
                series.duration[place] += 1
                series.duration_sum += duration
                if series.traced[place] is None and (trace := get("trace_id")):
                    series.traced[place] = trace, duration, moment
            if not received or not sent:  # an Envoy before 1.22 does not tell the bytes on the wire
                received, sent = _sizes(get, received, sent)
            series.received[place_of(requests, received)] += 1
            series.received_sum += received
            series.sent[place_of(responses, sent)] += 1
            series.sent_sum += sent

    def families(self, before: float) -> Iterable[Family]:
        items = self._table.items(before)
        if self._observed:
            for _, series in items:
                _exemplify(series)
        for name in self._shown:
            made = [(values, _state(name, series)) for values, series in items]
            kind, bounds = ("histogram", self._bounds[name]) if name in self._bounds else ("counter", ())
            yield Family(name.removesuffix("_total"), REQUESTS[name], kind, self._table.labels, made, bounds)


def _sizes(get: Callable[..., int], received: int, sent: int) -> tuple[int, int]:
    received = received or get("http_request_header_size", 0) + get("http_request_body_size", 0)
    return received, sent or get("http_response_header_size", 0) + get("http_response_body_size", 0)


def _exemplify(series: _Request) -> None:
    """Take over what was traced since the last time: each bucket keeps its exemplar until there is another."""
    fresh, series.traced = series.traced, [None] * len(series.traced)
    series.exemplars = series.exemplars | {
        place: Exemplar(*traced) for place, traced in enumerate(fresh) if traced is not None
    }


def _state(name: str, series: _Request) -> Value:
    if name == DURATION:
        return Buckets(list(series.duration), series.duration_sum, series.exemplars)
    if name == REQUEST_BYTES:
        return Buckets(list(series.received), series.received_sum)
    if name == RESPONSE_BYTES:
        return Buckets(list(series.sent), series.sent_sum)
    # Of a request there is nothing to see but that it was one.
    latest = max(series.exemplars.values(), key=itemgetter(2), default=None)
    return series.requests if latest is None else Count(series.requests, latest._replace(value=1.0))


class _Sums:
    __slots__ = ("sums", "touched")

    def __init__(self, size: int) -> None:
        self.sums = [0] * size
        self.touched = 0.0


class Sums:
    """Counters that have the same labels: those of `texts` (name to help) in `shown`."""

    def __init__(
        self,
        texts: Mapping[str, str],
        shown: Sequence[str],
        label_set: LabelSet,
        limit: int,
        overflowed: Callable[[], None],
    ) -> None:
        self._shown = tuple(shown)
        self._texts = texts
        self._labels = label_set
        places = {name: place for place, name in enumerate(texts)}
        self._places = tuple(places[name] for name in shown)
        size = len(texts)
        self._table: Table[_Sums] = Table(label_set.names, limit, lambda: _Sums(size), overflowed)
        self.expire = self._table.expire

    def add(self, record: AccessRecord, amounts: Sequence[int], now: float) -> None:
        """`amounts`: of each counter in `texts`."""
        found = tuple([read(record) for read in self._labels.read])
        key = labels.key(record) + found
        series = self._table.known.get(key)
        if series is None:
            series = self._table.get(key, self._labels.pick(labels.either(record), found))
        series.touched = now
        sums = series.sums
        for place, amount in enumerate(amounts):
            sums[place] += amount

    def families(self, before: float) -> Iterable[Family]:
        items = self._table.items(before)
        for name, place in zip(self._shown, self._places, strict=True):
            made = [(values, series.sums[place]) for values, series in items]
            yield Family(name.removesuffix("_total"), self._texts[name], "counter", self._table.labels, made)
