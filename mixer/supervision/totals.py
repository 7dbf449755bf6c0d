"""The metrics of several processes as those of one."""

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_Key = tuple[str, tuple[tuple[str, str], ...]]
_EARLIEST = ("process_start_time_seconds", "mixer_certificate_not_after_timestamp_seconds")


class Totals:
    """What processes that are gone had counted: their counters and histograms go on from there."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def add(self, exposition: str) -> None:
        """The last that a process said."""
        gone = [family for family in text_string_to_metric_families(exposition) if _is_sum(family)]
        self._families = {family.name: family for family in merged([*self._families.values()], gone)}

    def families(self) -> list[Metric]:
        return list(self._families.values())


def merged(*processes: Iterable[Metric]) -> Iterator[Metric]:
    """Counters, histograms and gauges are added up. What tells of versions and revisions stands once, for each that
    there is; times are the earliest."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[_Key, float]] = {}
    for family in (family for process in processes for family in process):
        families.setdefault(family.name, family)
        seen = values.setdefault(family.name, {})
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            if key not in seen:
                seen[key] = sample.value
            elif sample.name in _EARLIEST or sample.name.endswith("_created"):
                seen[key] = min(seen[key], sample.value)
            elif not sample.name.endswith("_info"):
                seen[key] += sample.value
    for name, family in families.items():
        whole = Metric(name, family.documentation, family.type)
        whole.samples = [
            Sample(sample, dict(labels), value) for (sample, labels), value in values[name].items()
        ]
        yield whole


def _is_sum(family: Metric) -> bool:
    return family.type in ("counter", "histogram", "summary") and not family.name.startswith("python_gc")
