"""What an expression of PromQL asks for, and what Mixer can answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from mixer import config
from mixer.metrics import Metrics
from mixer.telemetry.prometheus import PrometheusSink

# Of each target, by Prometheus itself.
_SCRAPED = {"up": frozenset({"job", "instance"})}


@dataclass(frozen=True, slots=True)
class Asked:
    """A metric that an expression selects, and the labels that it is selected by."""

    name: str
    labels: frozenset[str]


def asked(expression: str) -> list[Asked]:
    """Raises ValueError where it is no PromQL."""
    found: list[Asked] = []

    def see(node: Any) -> bool:
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector):
            matchers = node.matchers
            found.append(Asked(node.name, frozenset(each.name for each in matchers.matchers)))
        return True

    promql_parser.walk(promql_parser.parse(expression), see)
    return found


def grouped(expression: str) -> set[str]:
    """The labels that its aggregations keep by name."""
    found: set[str] = set()

    def see(node: Any) -> bool:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert node.modifier.type == promql_parser.AggModifierType.By
            found.update(node.modifier.labels)
        return True

    promql_parser.walk(promql_parser.parse(expression), see)
    return found


def answered() -> Mapping[str, frozenset[str]]:
    """Each sample name that /metrics may show, and its labels as far as they are fixed."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    metrics = Metrics(registry)
    found = dict(_SCRAPED)
    for source in vars(metrics).values():
        if source is not registry:
            found |= dict(_of(source))
    for family in PrometheusSink(config.Config(), metrics).describe():
        labels = frozenset(family.labels)
        found |= {name: labels | extra for name, extra in _samples(family.name, family.type)}
    for family in registry.collect():
        if family.name.startswith(("process_", "python_")):
            found |= {sample.name: frozenset(sample.labels) for sample in family.samples}
    return {name: labels | {"job", "instance"} for name, labels in found.items()}


def _of(source: Any) -> Iterator[tuple[str, frozenset[str]]]:
    for family in source.describe():
        names = getattr(source, "_labelnames", None)
        labels = frozenset(family._labelnames if names is None else names)
        if family.type == "info":
            labels |= {"version", "python", "grpcio", "revision", "engine", "decision"}
        for name, extra in _samples(family.name, family.type):
            yield name, labels | extra


def _samples(name: str, kind: str) -> list[tuple[str, frozenset[str]]]:
    none: frozenset[str] = frozenset()
    return {
        "counter": [(f"{name}_total", none)],
        "gauge": [(name, none)],
        "info": [(f"{name}_info", none)],
        "histogram": [(f"{name}_bucket", frozenset({"le"})), (f"{name}_sum", none), (f"{name}_count", none)],
    }[kind]
