"""What Mixer made of the traffic: the records in its file, and the series on /metrics."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Record = dict[str, Any]


class RecordFile:
    """The file sink's file, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[Record]:
        """The records that have come since the last call; a line that is not complete yet comes with the next."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [json.loads(line) for line in complete.splitlines()]


def key(record: Record) -> str:
    """What `Outcome.key` is: the request's id, or the address and port that a connection came from."""
    if record.get("network.protocol.name") == "tcp":
        return f"{record.get('client.address')}:{record.get('client.port')}"
    return str(record.get("envoy.request_id", ""))


def decision(record: Record) -> str:
    """allowed, denied, or none: what the policy said, whatever came after it."""
    if "mixer.decision_id" not in record:
        return "none"
    return "denied" if "UAEX" in str(record.get("envoy.response_flags", "")).split(",") else "allowed"


class Series:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def by(self, name: str, labels: Iterable[str]) -> Counter[tuple[str, ...]]:
        """The metric's values summed over all labels but those given."""
        labels = tuple(labels)
        result: Counter[tuple[str, ...]] = Counter()
        for sample in self._samples:
            if sample.name == name:
                result[tuple(sample.labels.get(label, "") for label in labels)] += sample.value  # type: ignore[assignment]
        return result

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of the metric that have these labels."""
        return self.by(name, labels)[tuple(labels.values())]
