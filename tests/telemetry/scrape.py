"""A sink, its metrics page, and what is in it."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from mixer import config
from mixer.exposition import page
from mixer.telemetry.decode import Decoder
from mixer.telemetry.entry import EntryReader
from mixer.telemetry.prometheus import PrometheusSink
from tests.telemetry.entries import Identifier, identifier, new_metrics, read


class Scrape:
    def __init__(
        self, settings: config.Config | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.metrics = new_metrics()
        self.sink = PrometheusSink(settings or config.Config(), self.metrics, clock=clock)
        asyncio.run(self.sink.start())

    def write(self, entries: Iterable[Any], who: Identifier | None = None) -> "Scrape":
        """Entries of one stream."""
        reader = EntryReader(who or identifier(), Decoder())
        self.sink.write([read(reader, entry) for entry in entries])
        return self

    def page(self, accept: str = "") -> str:
        text, _ = page(self.metrics.registry, accept)
        return text.decode()

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(self.page())
            for sample in family.samples
            if sample.name == name
        ]

    def one(self, name: str) -> tuple[dict[str, str], float]:
        (sample,) = self.samples(name)
        return sample
