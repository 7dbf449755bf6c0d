"""What the admin listener says at a moment, and what has changed between two."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from prometheus_client.parser import text_string_to_metric_families

from mixer import config
from mixer.admin import client
from mixer.errors import StartError

Labels = tuple[tuple[str, str], ...]

CALL_SECONDS = "mixer_call_duration_seconds"
EVALUATION_SECONDS = "mixer_evaluation_duration_seconds"
# What is asked for, by the samples' names: Istio's series may be a hundred thousand lines.
NAMES = (
    "mixer_calls_total",
    "mixer_calls_in_flight",
    f"{CALL_SECONDS}_bucket",
    "mixer_decisions_total",
    "mixer_dry_run_passed_total",
    "mixer_engine_errors_total",
    f"{EVALUATION_SECONDS}_bucket",
    "mixer_decision_cache_lookups_total",
    "mixer_decision_cache_entries",
    "mixer_decision_cache_evictions_total",
    "mixer_shadow_decisions_total",
    "mixer_limit_hits_total",
    "mixer_counter_errors_total",
    "mixer_counter_breakers_open",
    "mixer_counter_on_error_total",
    "mixer_report_entries_total",
    "mixer_report_streams",
    "mixer_sink_records_total",
    "mixer_sink_dropped_total",
    "mixer_sink_buffered",
    "mixer_sink_buffer_capacity",
    "mixer_series_overflow_total",
    "mixer_build_info",
    "mixer_policy_info",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
)


@dataclass(frozen=True, slots=True)
class Scrape:
    """`at`: seconds of `time.monotonic`. `state`: the lines of `/readyz`."""

    at: float
    state: tuple[str, ...]
    samples: Mapping[str, Mapping[Labels, float]]


async def scrape(address: str, timeout: float, tls: config.Tls | None = None) -> Scrape:
    """Raises `StartError` where no Mixer answers."""
    query = [("name[]", name) for name in NAMES]
    (status, text), (_, state) = await client.read(
        address, ("/metrics", query), ("/readyz", ()), timeout=timeout, tls=tls
    )
    if status != 200:
        raise StartError(f"no Mixer answers on {address}: /metrics answers {status}")
    at = monotonic()
    samples: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(sorted((label, _printable(value)) for label, value in sample.labels.items()))
                samples.setdefault(sample.name, {})[labels] = sample.value
    except (ValueError, IndexError, KeyError) as error:
        raise StartError(f"no Mixer answers on {address}: /metrics cannot be read: {error}") from error
    if "mixer_build_info" not in samples:
        raise StartError(f"no Mixer answers on {address}: /metrics has no mixer_build_info")
    return Scrape(at, tuple(map(_printable, state.splitlines())), samples)


class Change:
    """From one scrape to a later one; counters that began anew count from 0."""

    def __init__(self, old: Scrape, new: Scrape) -> None:
        self.new = new
        restarted = _start(old) != _start(new)
        self._old: Mapping[str, Mapping[Labels, float]] = {} if restarted else old.samples
        self.seconds = max(new.at - old.at, 1e-9)

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of what has these labels, now; None where there is nothing."""
        found = [value for have, value in self._samples(name) if labels.items() <= dict(have).items()]
        return sum(found) if found else None

    def values(self, name: str, label: str) -> dict[str, float]:
        """Now, by one label."""
        found: Counter[str] = Counter()
        for have, value in self._samples(name):
            found[dict(have).get(label, "")] += value  # type: ignore[assignment]
        return dict(found)

    def rates(self, name: str, *by: str) -> dict[tuple[str, ...], float]:
        """A second, by these labels, summed over the others."""
        found: dict[tuple[str, ...], float] = {}
        for labels, value in self._samples(name):
            have = dict(labels)
            group = tuple(have.get(label, "") for label in by)
            found[group] = found.get(group, 0.0) + self._grown(name, labels, value) / self.seconds
        return found

    def rate(self, name: str, **labels: str) -> float:
        """A second, summed over what has these labels."""
        by = tuple(labels)
        return self.rates(name, *by).get(tuple(labels.values()), 0.0)

    def quantiles(self, name: str, wanted: Sequence[float], **labels: str) -> list[float] | None:
        """Of a histogram, as PromQL's histogram_quantile has them; None where nothing was observed."""
        buckets: dict[float, float] = {}
        for have, value in self._samples(f"{name}_bucket"):
            pairs = dict(have)
            if labels.items() <= pairs.items():
                bound = float(pairs["le"])
                grown = self._grown(f"{name}_bucket", have, value)
                buckets[bound] = buckets.get(bound, 0.0) + grown
        counts = sorted(buckets.items())
        if not counts or not counts[-1][1]:
            return None
        return [_quantile(counts, each) for each in wanted]

    def _samples(self, name: str) -> Sequence[tuple[Labels, float]]:
        return tuple(self.new.samples.get(name, {}).items())

    def _grown(self, name: str, labels: Labels, value: float) -> float:
        before = self._old.get(name, {}).get(labels, 0.0)
        return value - before if value >= before else value


def _printable(text: str) -> str:
    """Limits may be named after what a request held: nothing that a terminal would obey gets to it."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "·" for each in text)


def _start(scrape: Scrape) -> Mapping[Labels, float] | None:
    return scrape.samples.get("process_start_time_seconds")


def _quantile(counts: Sequence[tuple[float, float]], wanted: float) -> float:
    """`counts`: cumulative, by ascending upper bound."""
    rank = wanted * counts[-1][1]
    below, lower = 0.0, 0.0
    for upper, count in counts:
        if count >= rank and count > below:
            if math.isinf(upper):
                return lower
            return lower + (upper - lower) * (rank - below) / (count - below)
        below, lower = count, upper
    return lower
