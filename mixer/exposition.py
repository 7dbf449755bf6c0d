"""Metrics of many series: in plain data that processes can send and add up, and as the text of a scrape.

prometheus_client makes an object of every line of its page, 5 ms of them for the metrics of one label set of requests:
for 10,000 of them a page takes it a minute. Here a family is its label names once, and for each series the label values
with a number or the counts of the buckets. It still is a `Metric`: what goes by prometheus_client's samples sees them,
made when they are asked for.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar as ClientExemplar
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

_CHUNK = 1 << 18  # characters
_EOF = b"# EOF\n"


class Exemplar(NamedTuple):
    """One observation, by the trace that it belongs to."""

    trace_id: str
    value: float
    timestamp: float
    """Unix seconds."""


class Buckets(NamedTuple):
    """A histogram's state."""

    counts: Sequence[int]
    """Of each bucket alone; the last is above all bounds."""
    sum: float
    exemplars: Mapping[int, Exemplar] = {}
    """By the place of the bucket in `counts`."""


class Count(NamedTuple):
    """A counter's state, where it has an exemplar; else the number alone stands for it."""

    value: float
    exemplar: Exemplar


Values = tuple[str, ...]
Value = float | Count | Buckets


class Family(Metric):
    """A metric with all its series. A counter's `name` is without `_total`, as prometheus_client has it.

    `bounds`: of a histogram's buckets, ascending, without the infinite one; shown as they are: 1 is not 1.0.
    """

    def __init__(  # noqa: PLR0917 (in the order of a page)
        self,
        name: str,
        documentation: str,
        kind: str,
        labels: Values,
        series: Sequence[tuple[Values, Value]],
        bounds: tuple[float, ...] = (),
    ) -> None:
        super().__init__(name, documentation, kind)
        self.labels = labels
        self.series = series
        self.bounds = bounds
        self.shown = (*(str(b) if isinstance(b, int) else go_float(b) for b in bounds), "+Inf")  # as `le`

    @property
    def samples(self) -> list[Sample]:
        return list(self._samples())

    @samples.setter
    def samples(self, _: list[Sample]) -> None:
        """`Metric` begins with none."""

    def _samples(self) -> Iterator[Sample]:
        suffix = {"counter": "_total", "info": "_info"}.get(self.type, "")
        for values, value in self.series:
            labels = dict(zip(self.labels, values, strict=True))
            if isinstance(value, Buckets):
                yield from self._of_buckets(labels, value)
            elif isinstance(value, Count):
                yield Sample(
                    self.name + suffix, labels, value.value, None, _client_exemplar(value.exemplar), None
                )
            else:
                yield Sample(self.name + suffix, labels, value, None, None, None)

    def _of_buckets(self, labels: dict[str, str], value: Buckets) -> Iterator[Sample]:
        total = 0
        for place, (le, count) in enumerate(zip(self.shown, value.counts, strict=True)):
            total += count
            exemplar = value.exemplars.get(place)
            told = _client_exemplar(exemplar) if exemplar else None
            yield Sample(f"{self.name}_bucket", {**labels, "le": le}, total, None, told, None)
        yield Sample(f"{self.name}_count", labels, total, None, None, None)
        yield Sample(f"{self.name}_sum", labels, value.sum, None, None, None)


def _client_exemplar(exemplar: Exemplar) -> ClientExemplar:
    return ClientExemplar({"trace_id": exemplar.trace_id}, exemplar.value, exemplar.timestamp)


def go_float(number: float) -> str:
    return str(floatToGoString(number))  # type: ignore[no-untyped-call]


def compact(metric: Metric) -> Family:
    """Any metric as a family. Raises `ValueError` for a kind that Mixer has none of. When a series was created is left
    out: Prometheus does not use it."""
    if isinstance(metric, Family):
        return metric
    if metric.type not in ("counter", "gauge", "info", "histogram"):
        raise ValueError(f"{metric.name} is a {metric.type}: expected a counter, gauge, info or histogram")
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    labels: Values = ()
    plain: dict[Values, float] = {}
    buckets: dict[Values, dict[str, float]] = {}
    sums: dict[Values, float] = {}
    for sample in metric.samples:
        own = {name: value for name, value in sample.labels.items() if name != "le"}
        labels, values = tuple(own), tuple(own.values())
        if metric.type != "histogram":
            if sample.name == metric.name + suffix:
                plain[values] = sample.value
        elif sample.name.endswith("_bucket"):
            buckets.setdefault(values, {})[sample.labels["le"]] = sample.value
        elif sample.name.endswith("_sum"):
            sums[values] = sample.value
    series: list[tuple[Values, Value]] = [*plain.items()]
    bounds: tuple[float, ...] = ()
    for values, cumulative in buckets.items():
        bounds = tuple(map(_bound, cumulative))[:-1]
        counts, before = [], 0
        for total in map(int, cumulative.values()):
            counts.append(total - before)
            before = total
        series.append((values, Buckets(counts, sums[values])))
    return Family(metric.name, metric.documentation, metric.type, labels, series, bounds)


def _bound(le: str) -> float:
    return int(le) if le.isdecimal() else float(le)


def page(registry: CollectorRegistry, accept: str, names: Collection[str] = ()) -> tuple[bytes, str]:
    """The text of a scrape and its content type, by what the scraper accepts; of `names` alone, where there are any."""
    encode, content_type = choose_encoder(accept)
    openmetrics = content_type.startswith("application/openmetrics-text")
    families, others = [], []
    for metric in registry.collect():
        if isinstance(metric, Family):
            families.append(metric)
        elif not names:
            others.append(metric)
        elif kept := [sample for sample in metric.samples if sample.name in names]:
            metric.samples = kept
            others.append(metric)
    own: bytes = encode(SimpleNamespace(collect=lambda: others))
    if not openmetrics:
        return own + b"".join(text(families, names, openmetrics=False)), content_type
    return own.removesuffix(_EOF) + b"".join(text(families, names, openmetrics=True)) + _EOF, content_type


def text(families: Iterable[Family], names: Collection[str] = (), *, openmetrics: bool) -> Iterator[bytes]:
    """The lines of families, some hundred KiB at a time, without an end."""
    lines: list[str] = []
    size = 0
    for family in families:
        first = True
        for line in _lines(family, names, openmetrics):
            if first:
                lines.append(_head(family, openmetrics))
                first = False
            lines.append(line)
            size += len(line)
            if size >= _CHUNK:
                yield "".join(lines).encode()
                lines, size = [], 0
        if first and not names:
            lines.append(_head(family, openmetrics))
    yield "".join(lines).encode()


def _head(family: Family, openmetrics: bool) -> str:
    name, kind = family.name, family.type
    if not openmetrics:
        name += {"counter": "_total", "info": "_info"}.get(kind, "")
        kind = "gauge" if kind == "info" else kind
    described = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        described = described.replace('"', r"\"")
    return f"# HELP {name} {described}\n# TYPE {name} {kind}\n"


def _lines(family: Family, names: Collection[str], openmetrics: bool) -> Iterator[str]:
    """One string a series."""
    template = ",".join(f'{name}="%s"' for name in family.labels)
    if family.type == "histogram":
        wanted = [not names or family.name + suffix in names for suffix in ("_bucket", "_count", "_sum")]
        if any(wanted):
            for values, state in family.series:
                if isinstance(state, Buckets):
                    yield _histogram(family, template % _escaped(values), state, wanted, openmetrics)
        return
    name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
    if names and name not in names:
        return
    start, end = (f"{name}{{{template}}} %s", "\n") if template else (f"{name} %s", "\n")
    for values, state in family.series:
        told = ""
        if isinstance(state, Buckets):
            continue
        if isinstance(state, Count):
            told, value = _exemplar(state.exemplar) if openmetrics else "", state.value
        else:
            value = state
        yield start % (*_escaped(values), value if isinstance(value, int) else go_float(value)) + told + end


def _histogram(family: Family, labels: str, value: Buckets, wanted: Sequence[bool], openmetrics: bool) -> str:
    name = family.name
    around = f"{{{labels}}} " if labels else " "
    lines = []
    total = 0
    start = f'{name}_bucket{{{labels}{"," if labels else ""}le="'
    with_exemplars = openmetrics and value.exemplars
    for place, (le, count) in enumerate(zip(family.shown, value.counts, strict=True)):
        total += count
        if with_exemplars and (exemplar := value.exemplars.get(place)):
            lines.append(f'{start}{le}"}} {total}{_exemplar(exemplar)}\n')
        else:
            lines.append(f'{start}{le}"}} {total}\n')
    if not wanted[0]:
        lines.clear()
    if wanted[1]:
        lines.append(f"{name}_count{around}{total}\n")
    if wanted[2]:
        lines.append(f"{name}_sum{around}{go_float(value.sum)}\n")
    return "".join(lines)


def _exemplar(exemplar: Exemplar) -> str:
    trace_id, value, timestamp = exemplar
    return f' # {{trace_id="{trace_id}"}} {go_float(value)} {timestamp:.3f}'


def _escaped(values: Values) -> Values:
    joined = "".join(values)
    if "\\" not in joined and '"' not in joined and "\n" not in joined:
        return values
    return tuple(each.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for each in values)


def dump(registry: CollectorRegistry) -> bytes:
    """All metrics of a process, as JSON: for `load` in another process."""
    return orjson.dumps(
        [
            (
                *(family.name, family.documentation, family.type, family.labels, family.bounds),
                [(values, _plain(value)) for values, value in family.series],
            )
            for family in map(compact, registry.collect())
        ]
    )


def load(data: bytes) -> list[Family]:
    """What `dump` of another process made."""
    return [
        Family(
            name, text, kind, tuple(labels), [(tuple(v), _value(value)) for v, value in series], tuple(bounds)
        )
        for name, text, kind, labels, bounds, series in orjson.loads(data)
    ]


def _plain(value: Value) -> Any:
    if isinstance(value, Buckets):
        return list(value.counts), value.sum, [(place, *each) for place, each in value.exemplars.items()]
    return (value.value, tuple(value.exemplar)) if isinstance(value, Count) else value


def _value(sent: Any) -> Value:
    if not isinstance(sent, list):
        return float("nan") if sent is None else float(sent) if isinstance(sent, float) else int(sent)
    if len(sent) == 2:
        return Count(sent[0], Exemplar(*sent[1]))
    counts, total, exemplars = sent
    return Buckets(counts, total, {place: Exemplar(*each) for place, *each in exemplars})
