"""Memory stays flat, whatever clients send."""

import gc
import tracemalloc
from collections.abc import Iterator

from mixer import config
from mixer.exposition import page
from mixer.telemetry.decode import Decoder
from mixer.telemetry.entry import EntryReader
from mixer.telemetry.prometheus import PrometheusSink
from mixer.telemetry.record import AccessRecord
from tests.telemetry.entries import http_entry, identifier, new_metrics, read, value
from tests.telemetry.scrape import Scrape

MILLION = 1_000_000
BATCH = 1000
SERIES = 1000
SLACK = 2 * 1024 * 1024  # bytes


def flood(count: int) -> Iterator[list[AccessRecord]]:
    """Requests of which each has a path, a user and an upstream cluster that no other has."""
    sample = read(EntryReader(identifier(), Decoder()), http_entry())
    for start in range(0, count, BATCH):
        yield [
            AccessRecord(
                sample.origin,
                sample.shape,
                {
                    "url_path": f"/orders/{n}",
                    "istio_source_principal": (user := f"spiffe://mesh/ns/a/sa/{n}"),
                },
                (user,),
                sample.type,
                f"outbound|80||s{n}.shop.svc.cluster.local",
                0.012,
                321,
                4321,
                sample.source,
                sample.place,
            )
            for n in range(start, start + BATCH)
        ]


def test_a_million_distinct_paths_users_and_clusters_take_no_more_memory_than_some_thousands() -> None:
    labels = {"path": "url.path"}
    telemetry = {"max_series": SERIES, "overrides": [{"labels": labels}]}
    metrics = new_metrics()
    sink = PrometheusSink(config.Config.model_validate({"telemetry": telemetry}), metrics)
    metrics.registry.register(sink)
    warm = 20 * SERIES
    for batch in flood(warm):
        sink.write(batch)
    for batch in flood(MILLION - warm - 10 * SERIES):
        sink.write(batch)
    first = page(metrics.registry, "")[0]
    gc.collect()
    tracemalloc.start()
    for batch in flood(10 * SERIES):
        sink.write(batch)
    del batch
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < SLACK
    assert abs(len(page(metrics.registry, "")[0]) - len(first)) < 0.01 * len(first)
    counted = [
        sample
        for family in sink.collect()
        for sample in family.samples
        if sample.name == "istio_requests_total"
    ]
    assert len(counted) == SERIES + 1
    assert sum(sample.value for sample in counted) == MILLION
    (rest,) = [sample.value for sample in counted if sample.labels["path"] == "overflow"]
    assert (
        rest == value(metrics, "mixer_series_overflow_total", metric="istio_requests_total") > 0.9 * MILLION
    )


def test_route_templates_bound_a_label_by_themselves() -> None:
    labels = {"route": {"field": "url.path", "templates": ["/orders/{id}"]}}
    scrape = Scrape(config.Config.model_validate({"telemetry": {"overrides": [{"labels": labels}]}}))
    scrape.write([http_entry(path=f"/{kind}/{n}") for n in range(500) for kind in ("orders", "made-up")])
    told = {labels["route"]: count for labels, count in scrape.samples("istio_requests_total")}
    assert told == {"/orders/{id}": 500, "other": 500}
