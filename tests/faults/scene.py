"""A Mixer on real components, and a row of the table played on it."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple

from mixer.demo.findings import Series
from tests.components.processes import Mixer, wait_until
from tests.faults.asks import Answers, Asker, asker
from tests.faults.table import Row

SETTLES = (
    40.0  # seconds until the stated answers at most: Kafka counts as away after 5, and machines are busy
)
TIMES = 3  # that an answer is given in a row until it counts as the one that is given


class Scene:
    def __init__(self, mixer: Mixer, ask: Asker) -> None:
        self.mixer = mixer
        self.ask = ask

    def play(self, row: Row, begin: Callable[[], object], end: Callable[[], object]) -> Answers:
        """Bring the fault about, see what is stated, lift it, see it be as before in time. The last answers before
        the fault's end."""
        self.is_as_before(SETTLES)
        before = self.watched(row)
        begin()
        try:
            answers = self.shows(row)
            if row.watch:
                wait_until(lambda: self.asked_and_watched(row) > before, SETTLES, f"{row.watch} moved")
        finally:
            end()
        self.is_as_before(row.back)
        return answers

    def shows(self, row: Row) -> Answers:
        """The answers, once they are as the row states them, `TIMES` in a row. No call takes longer than stated."""
        deadline, count = time.monotonic() + SETTLES, 0
        while True:
            answers = self.ask.all()
            assert answers.slowest <= row.within, f"{answers} took longer than {row.within:g} s"
            ready = self.ask.ready()
            as_stated = _codes(answers) == (row.check, row.quota, row.report, row.export) and _fits(
                row, *ready
            )
            count = count + 1 if as_stated else 0
            if count == TIMES:
                return answers
            assert time.monotonic() < deadline, f"{row}: {answers}, {ready}\n{self.mixer.tail()}"

    def is_as_before(self, within: float) -> None:
        def is_well() -> bool:
            status, said = self.ask.ready()
            well = status == 200 and "degraded" not in said
            return _codes(self.ask.all()) == ("OK",) * 4 and well

        wait_until(is_well, within, f"as before: {self.ask.all()}, {self.ask.ready()}")

    def series(self) -> Series:
        return Series(self.mixer.call("/metrics")[1])

    def asked_and_watched(self, row: Row) -> float:
        self.ask.all()
        return self.watched(row)

    def watched(self, row: Row) -> float:
        """The sum of the series that the row names."""
        name, _, labels = row.watch.partition("{")
        return self.series().total(name, **dict(re.findall(r'(\w+)="([^"]*)"', labels)))


@contextlib.contextmanager
def scene(mixer: Mixer) -> Iterator[Scene]:
    with asker(mixer) as ask:
        yield Scene(mixer, ask)


def _codes(answers: Answers) -> tuple[str, ...]:
    return astuple(answers)[:4]


def _fits(row: Row, status: int, said: str) -> bool:
    if row.ready == "ready":
        return status == 200 and "degraded" not in said
    expected = 503 if row.ready.startswith("not ready") else 200
    return status == expected and any(line.startswith(row.ready) for line in said.splitlines())
